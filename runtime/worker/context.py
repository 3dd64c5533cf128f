"""The ``context`` argument of a handler, with the fields and spelling of AWS' Python runtime (spec 6.4)."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.process.wire import Invoke

from .faults import ContextUnmarshalError

_TRACE_CONTEXT = ("traceparent", "tracestate", "baggage")
_CLIENT = ("installation_id", "app_title", "app_version_name", "app_version_code", "app_package_name")


@dataclass(slots=True)
class CognitoIdentity:
    """Who called through the AWS mobile SDK; both None for every other caller."""

    cognito_identity_id: str | None = None
    cognito_identity_pool_id: str | None = None


@dataclass(slots=True)
class Client:
    """The calling application, as the AWS mobile SDK describes it."""

    installation_id: str | None = None
    app_title: str | None = None
    app_version_name: str | None = None
    app_version_code: str | None = None
    app_package_name: str | None = None


@dataclass(slots=True)
class ClientContext:
    """What the caller gave as ``ClientContext``."""

    custom: Any = None
    env: Any = None
    client: Client | None = None


@dataclass(frozen=True, slots=True)
class Instance:
    """The fields of a context that stay the same from call to call."""

    function_name: str
    function_version: str
    memory_limit_in_mb: str
    log_group_name: str
    log_stream_name: str


class LambdaContext:
    """One invocation, as its handler sees it.

    Attributes: ``aws_request_id``, ``function_name``, ``function_version``, ``invoked_function_arn``,
    ``memory_limit_in_mb`` (text, as on AWS), ``log_group_name``, ``log_stream_name``, ``client_context`` (or None),
    ``identity`` and ``tenant_id``.
    """

    def __init__(self, instance: Instance, invoke: Invoke) -> None:
        self.aws_request_id = invoke.invocation_id
        self.function_name = instance.function_name
        self.function_version = instance.function_version
        self.invoked_function_arn = invoke.function_arn
        self.memory_limit_in_mb = instance.memory_limit_in_mb
        self.log_group_name = instance.log_group_name
        self.log_stream_name = instance.log_stream_name
        self.tenant_id: str | None = None
        self.client_context: ClientContext | None = None
        self.identity = CognitoIdentity()
        self._deadline_ms = invoke.deadline_ms
        self._trace_context: dict[str, str] = {}
        if invoke.client_context:
            self._read_client(_object(invoke.client_context, "client context"))
        if invoke.identity:
            identity = _object(invoke.identity, "identity")
            self.identity = CognitoIdentity(identity.get("cognitoIdentityId"), identity.get("cognitoIdentityPoolId"))

    def __repr__(self) -> str:
        return f"LambdaContext(aws_request_id={self.aws_request_id!r}, function_name={self.function_name!r})"

    def get_remaining_time_in_millis(self) -> int:
        """Return the milliseconds until the function's timeout, never less than 0."""
        return max(0, self._deadline_ms - int(time.time() * 1000))

    def log(self, message: object) -> None:
        """Write ``message`` to the function's log, without a prefix or a line end."""
        sys.stdout.write(str(message))

    def w3c(self) -> dict[str, str]:
        """Return the caller's W3C trace context: those of traceparent, tracestate and baggage that it sent."""
        return dict(self._trace_context)

    def _read_client(self, given: dict[str, Any]) -> None:
        trace = given.pop("w3c", None)
        if isinstance(trace, dict):
            self._trace_context = {name: trace[name] for name in _TRACE_CONTEXT if isinstance(trace.get(name), str)}
        client = given.get("client")
        self.client_context = ClientContext(
            custom=given.get("custom"),
            env=given.get("env"),
            client=Client(*(client.get(name) for name in _CLIENT)) if isinstance(client, dict) else None,
        )


def _object(text: bytes, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise ContextUnmarshalError(f"the {what} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ContextUnmarshalError(f"the {what} is not a JSON object")
    return value
