"""NodeClient against an HTTP server that answers as a test tells it to (``scripted`` in conftest.py)."""

from __future__ import annotations

import base64
import json
import socket
from typing import Any

import pytest

from glowplug.deploy.client import NodeClient
from glowplug.deploy.errors import NodeUnreachable
from glowplug.deploy.exchange import refusal
from glowplug.runtime.errors import (
    Conflict,
    DefinitionError,
    FunctionNotFound,
    GlowplugError,
    InternalError,
    InvalidParameter,
    LoadFailed,
    RequestTooLarge,
    ResourceNotFound,
    Throttled,
)

NDJSON = {"Content_Type": "application/x-ndjson"}


def lines(*events: dict[str, Any]) -> bytes:
    return b"".join(json.dumps(event).encode() + b"\n" for event in events)


@pytest.mark.parametrize(
    ("given", "endpoint"),
    [
        ("http://127.0.0.1:9000", "http://127.0.0.1:9000"),
        ("http://127.0.0.1:9000/", "http://127.0.0.1:9000"),
        ("localhost:8", "http://localhost:8"),
        ("http://[::1]:8", "http://[::1]:8"),
        ("host", "http://host:9000"),
    ],
)
def test_endpoints_are_read_leniently_and_written_in_one_form(given: str, endpoint: str) -> None:
    assert NodeClient(given).endpoint == endpoint


@pytest.mark.parametrize("given", ["https://x", "http://", "http://x/path", "ftp://x", "http://x:99999", "http://x:y"])
def test_what_is_no_endpoint_is_named(given: str) -> None:
    with pytest.raises(NodeUnreachable) as caught:
        NodeClient(given)
    assert given in str(caught.value)


def test_names_and_queries_are_quoted(scripted: Any) -> None:
    scripted.client.cool("a/b?c", "parked")
    scripted.say(b"text")
    scripted.client.logs("embed", request_id="x&y", last=3)
    scripted.client.logs("embed")
    assert [(method, path) for method, path, _, _ in scripted.asked] == [
        ("POST", "/_glowplug/functions/a%2Fb%3Fc/cool"),
        ("GET", "/_glowplug/functions/embed/logs?request_id=x%26y&last=3"),
        ("GET", "/_glowplug/functions/embed/logs"),
    ]
    assert json.loads(scripted.asked[0][3]) == {"to": "parked"}


def test_invoke_returns_what_lambda_says(scripted: Any) -> None:
    tail = base64.b64encode(b"START\nEND\n").decode()
    scripted.say(
        b'{"errorType": "KeyError"}',
        X_Amz_Function_Error="Unhandled",
        X_Amz_Executed_Version="$LATEST",
        X_Amz_Log_Result=tail,
        x_amzn_RequestId="r-1",
        X_Glowplug_Tier="parked",
        Server_Timing="fork;dur=4",
    )
    answer = scripted.client.invoke("embed", b'{"a": 1}', qualifier="$LATEST", tail=True)
    method, path, headers, body = scripted.asked[0]
    assert (method, path) == ("POST", "/2015-03-31/functions/embed/invocations?Qualifier=%24LATEST")
    assert (headers["X-Amz-Log-Type"], body) == ("Tail", b'{"a": 1}')
    assert (answer.function_error, answer.log_tail, answer.request_id) == ("Unhandled", "START\nEND\n", "r-1")
    assert (answer.tier, answer.server_timing) == ("parked", "fork;dur=4")


def test_has_code_and_stack_turn_404_into_no(scripted: Any) -> None:
    scripted.say({"Message": "no"}, 404, x_amzn_ErrorType="ResourceNotFoundException")
    assert scripted.client.has_code("a" * 64) is False
    assert scripted.client.stack("main") is None
    scripted.say({"Functions": {}})
    assert scripted.client.has_code("a" * 64) is True
    assert scripted.client.stack("main") == {"Functions": {}}


def test_code_is_sent_as_it_is(scripted: Any) -> None:
    scripted.client.put_code("a" * 64, b"PK\x03\x04")
    assert [(method, path, body) for method, path, _, body in scripted.asked] == [
        ("PUT", f"/_glowplug/code/{'a' * 64}", b"PK\x03\x04")
    ]


def test_a_stack_streams_progress_and_then_its_result(scripted: Any) -> None:
    scripted.say(
        lines(
            {"event": "progress", "file": "m", "done_bytes": 1, "total_bytes": 2},
            {"event": "unheard of"},
            {"event": "result", "changes": []},
        ),
        **NDJSON,
    )
    seen: list[Any] = []
    assert scripted.client.put_stack("main", {"Functions": {}}, seen.append) == {"changes": []}
    assert seen == [{"file": "m", "done_bytes": 1, "total_bytes": 2}]
    assert scripted.asked[0][2]["Accept"] == "application/x-ndjson"


def test_a_node_that_answers_a_stream_with_plain_json_is_understood(scripted: Any) -> None:
    scripted.say({"changes": []}, Content_Type="application/json")
    assert scripted.client.put_stack("main", {}) == {"changes": []}


def test_an_error_in_the_stream_is_raised_with_its_field(scripted: Any) -> None:
    error = {"event": "error", "status": 400, "message": "Embed.Glowplug.Model: no", "field": "Embed.Glowplug.Model"}
    scripted.say(lines({"event": "progress"}, error), **NDJSON)
    with pytest.raises(DefinitionError) as caught:
        scripted.client.put_stack("main", {})
    assert (caught.value.field, caught.value.problem) == ("Embed.Glowplug.Model", "no")


@pytest.mark.parametrize("sent", [b"", lines({"event": "progress"}), b'{"event": "resu'])
def test_a_node_that_dies_in_the_middle_of_a_deploy_is_reported(scripted: Any, sent: bytes) -> None:
    scripted.say(sent, **NDJSON)
    with pytest.raises(NodeUnreachable):
        scripted.client.put_stack("main", {})


@pytest.mark.parametrize("sent", [b"<html>", b"[]", b"\xff", b""])
def test_another_server_on_the_port_is_no_node(scripted: Any, sent: bytes) -> None:
    scripted.say(sent)
    with pytest.raises(NodeUnreachable, match="is no glowplug node"):
        scripted.client.health()


def test_nobody_on_the_port_says_how_to_start_a_node() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(NodeUnreachable, match="start one with `glowplug up`"):
        NodeClient(f"http://127.0.0.1:{port}").health()


def test_a_name_that_does_not_resolve_is_reported() -> None:
    with pytest.raises(NodeUnreachable, match="did not answer"):
        NodeClient("http://no-such-host.invalid:9000").health()


@pytest.mark.parametrize(
    ("status", "code", "body", "kind"),
    [
        (404, "ResourceNotFoundException", {"Message": "Function not found: arn"}, FunctionNotFound),
        (404, "ResourceNotFoundException", {"Message": "no stack x"}, ResourceNotFound),
        (404, "", {}, ResourceNotFound),
        (409, "ResourceConflictException", {"message": "cannot be parked"}, Conflict),
        (400, "InvalidParameterValueException", {"message": "m"}, InvalidParameter),
        (400, "InvalidParameterValueException", {"message": "A.B: m", "field": "A.B"}, DefinitionError),
        (400, "ValidationException", {"message": "1 validation error detected: m"}, InvalidParameter),
        (413, "RequestEntityTooLargeException", {"message": "m"}, RequestTooLarge),
        (429, "TooManyRequestsException", {"message": "m", "Reason": "r"}, Throttled),
        (502, "LoadFailed", {"errorType": "Runtime.ImportModuleError", "errorMessage": "m"}, LoadFailed),
        (500, "ServiceException", {"Message": "disk"}, InternalError),
        (418, "Unheard", {"message": "m"}, InternalError),
    ],
)
def test_a_refusal_becomes_the_error_it_was(
    status: int, code: str, body: dict[str, str], kind: type[GlowplugError]
) -> None:
    error = refusal(status, body, {"X-Amzn-ErrorType": code, "Retry-After": "7"})
    assert type(error) is kind
    if isinstance(error, Throttled):
        assert (error.reason, error.retry_after_s) == ("r", 7.0)
    if isinstance(error, LoadFailed):
        assert error.reported_type == "Runtime.ImportModuleError"


def test_a_refusal_reaches_the_caller(scripted: Any) -> None:
    scripted.say({"Type": "User", "message": "echo: never parked"}, 409, x_amzn_ErrorType="ResourceConflictException")
    with pytest.raises(Conflict, match="never parked"):
        scripted.client.cool("echo", "parked")
