"""The shipped functions in a plain Python process: right vectors, right answers to bad input, truncation."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from glowplug.handlers import echo, embed

FOX = "The quick brown fox jumps over the lazy dog."
FOX_AGAIN = "A fast auburn fox leaps above a sleepy hound."
RATES = "Interest rates rose by a quarter point."


def by_url(body: str | None = None, *, base64_encoded: bool = False, **headers: str) -> dict[str, Any]:
    event: dict[str, Any] = {
        "version": "2.0",
        "headers": headers,
        "requestContext": {"http": {"method": "POST", "path": "/"}},
        "isBase64Encoded": base64_encoded,
    }
    return event if body is None else event | {"body": body}


def test_close_sentences_are_close() -> None:
    fox, again, rates = torch.tensor(embed.handler({"texts": [FOX, FOX_AGAIN, RATES]}, None)["embeddings"])
    assert pytest.approx(0.6996, abs=0.001) == float(fox @ again)
    assert pytest.approx(0.1056, abs=0.001) == float(fox @ rates)
    assert pytest.approx(1.0, abs=1e-5) == float(fox @ fox)


def test_padding_in_a_batch_changes_nothing() -> None:
    texts = [FOX, "fox", RATES * 9]
    together = torch.tensor(embed.handler({"texts": texts}, None)["embeddings"])
    alone = torch.tensor([embed.handler({"text": text}, None)["embedding"] for text in texts])
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_url_call_gets_the_same_answer_as_a_plain_dictionary() -> None:
    direct = embed.handler({"text": FOX}, None)
    body = json.dumps({"text": FOX})
    assert direct == embed.handler(by_url(body), None)
    assert direct == embed.handler(by_url(base64.b64encode(body.encode()).decode(), base64_encoded=True), None)
    assert ["embedding"] == list(direct)
    assert 384 == len(direct["embedding"])


def test_texts_are_cut_at_256_tokens() -> None:
    start = "fox " * 254  # and two for the marks at begin and end
    assert embed.handler({"text": start}, None) == embed.handler({"text": start + "rates " * 50}, None)
    assert embed.handler({"text": start}, None) != embed.handler({"text": start[4:] + "rates"}, None)


def test_an_empty_text_has_a_vector_too() -> None:
    vector = torch.tensor(embed.handler({"text": ""}, None)["embedding"])
    assert pytest.approx(1.0, abs=1e-5) == float(vector @ vector)


BAD = [
    ({}, "send"),
    ({"text": FOX, "texts": [FOX]}, "send"),
    ([FOX], "send"),
    (None, "send"),
    ({"text": 3}, "text is int, not a string"),
    ({"texts": FOX}, "texts is not a list of strings"),
    ({"texts": [FOX, None]}, "texts is not a list of strings"),
    ({"texts": []}, "0 texts; send 1 to 256"),
    ({"texts": ["x"] * 257}, "257 texts; send 1 to 256"),
]


@pytest.mark.parametrize(("request_", "message"), BAD)
def test_bad_input_raises_in_a_direct_call(request_: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        embed.handler(request_, None)


@pytest.mark.parametrize(("request_", "message"), BAD)
def test_bad_input_is_a_400_for_a_url(request_: Any, message: str) -> None:
    answer = embed.handler(by_url(json.dumps(request_)), None)
    assert 400 == answer["statusCode"]
    assert message in json.loads(answer["body"])["message"]


@pytest.mark.parametrize(
    ("event", "message"),
    [
        (by_url(), "not JSON"),
        (by_url("{"), "not JSON"),
        (by_url("[" * 100_000), "not JSON"),
        (by_url("////", base64_encoded=True), "not UTF-8"),
        (by_url("?", base64_encoded=True), "not UTF-8"),
    ],
)
def test_a_body_that_is_not_json_is_a_400(event: dict[str, Any], message: str) -> None:
    answer = embed.handler(event, None)
    assert 400 == answer["statusCode"]
    assert message in json.loads(answer["body"])["message"]


@pytest.mark.parametrize("request_", [{"requestContext": 3}, {"requestContext": {"authorizer": {}}}])
def test_an_event_of_something_else_is_a_direct_call(request_: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="send"):
        embed.handler(request_, None)


def test_as_deployed_the_module_is_top_level_and_single_threaded() -> None:
    code = (
        "import os, embed; assert 'minilm' == embed.MiniLM.__module__; "
        "assert 1 == len(os.listdir('/proc/self/task')), os.listdir('/proc/self/task')"
    )
    environment = {"PYTHONPATH": str(Path(embed.__file__).parent), "OPENBLAS_NUM_THREADS": "1", "PATH": "/usr/bin:/bin"}
    assert 0 == subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode


@pytest.mark.parametrize("event", [None, 3, "text", [1], {"a": 1}, {"requestContext": "x"}])
def test_echo_returns_a_direct_event(event: Any) -> None:
    assert event is echo.handler(event, None)


def test_echo_returns_the_body_of_a_url_call() -> None:
    event = by_url("AAEC", base64_encoded=True, **{"content-type": "image/png"})
    expected = {
        "statusCode": 200,
        "headers": {"content-type": "image/png"},
        "body": "AAEC",
        "isBase64Encoded": True,
    }
    assert expected == echo.handler(event, None)
    assert "" == echo.handler(by_url(), None)["body"]
