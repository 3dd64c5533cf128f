"""The context argument of a handler."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from glowplug.runtime.process.wire import Invoke
from glowplug.runtime.worker.context import Instance, LambdaContext
from glowplug.runtime.worker.faults import ContextUnmarshalError

INSTANCE = Instance("f", "$LATEST", "128", "/aws/lambda/f", "2026/01/01/[$LATEST]0")


def context_of(*, deadline_ms: int = 0, client_context: bytes = b"", identity: bytes = b"") -> LambdaContext:
    return LambdaContext(INSTANCE, Invoke("r-1", [], deadline_ms, "arn:f", "", client_context, identity, 1))


def test_plain_fields() -> None:
    made = context_of()

    assert ("r-1", "f", "$LATEST", "arn:f", "128", "/aws/lambda/f", "2026/01/01/[$LATEST]0") == (
        made.aws_request_id,
        made.function_name,
        made.function_version,
        made.invoked_function_arn,
        made.memory_limit_in_mb,
        made.log_group_name,
        made.log_stream_name,
    )
    assert (None, None, None, {}) == (
        made.client_context,
        made.identity.cognito_identity_id,
        made.tenant_id,
        made.w3c(),
    )


@pytest.mark.parametrize(("deadline_ms", "left"), [(1_000_250, 250), (1_000_000, 0), (5, 0)])
def test_remaining_time_never_falls_below_zero(monkeypatch: pytest.MonkeyPatch, deadline_ms: Any, left: Any) -> None:
    monkeypatch.setattr(time, "time", lambda: 1000.0)

    assert left == context_of(deadline_ms=deadline_ms).get_remaining_time_in_millis()


def test_client_context_and_identity() -> None:
    given = {
        "custom": {"a": 1},
        "env": {"b": "2"},
        "client": {"app_title": "mine"},
        "w3c": {"traceparent": "00-1", "x": "y"},
    }
    made = context_of(
        client_context=json.dumps(given).encode(), identity=b'{"cognitoIdentityId": "i", "cognitoIdentityPoolId": "p"}'
    )

    assert made.client_context is not None
    assert made.client_context.client is not None
    assert ({"a": 1}, {"b": "2"}) == (made.client_context.custom, made.client_context.env)
    assert ("mine", None) == (made.client_context.client.app_title, made.client_context.client.app_package_name)
    assert ("i", "p") == (made.identity.cognito_identity_id, made.identity.cognito_identity_pool_id)
    assert {"traceparent": "00-1"} == made.w3c()


@pytest.mark.parametrize("text", [b"{", b"[]", b"\xff"])
def test_a_client_context_that_is_no_object_is_named(text: Any) -> None:
    with pytest.raises(ContextUnmarshalError, match="client context"):
        context_of(client_context=text)


def test_log_writes_the_message_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    context_of().log({"a": 1})

    assert "{'a': 1}" == capsys.readouterr().out
