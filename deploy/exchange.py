"""One request to a node and its answer, over HTTP.

What the node refuses is raised as the error class that refused it there; a node that cannot be reached, or dies before
it has answered, is ``NodeUnreachable``. With a key every request is signed, by the node's own signer: botocore would
take longer to import than most commands take.
"""

from __future__ import annotations

import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Any
from urllib.parse import urlsplit

from glowplug.runtime.errors import (
    Conflict,
    DefinitionError,
    Forbidden,
    FunctionNotFound,
    GlowplugError,
    IncompleteSignature,
    InternalError,
    InvalidParameter,
    InvalidRequestContent,
    InvalidSignature,
    LoadFailed,
    MissingAuthenticationToken,
    RequestTooLarge,
    ResourceNotFound,
    Throttled,
    UnrecognizedClient,
    UnsupportedMediaType,
)
from glowplug.runtime.sigv4 import UNSIGNED_PAYLOAD, Key, Signable, sign

from .errors import NodeUnreachable

Progress = Callable[[Mapping[str, Any]], None]
"""Hears of what the node reports while it works."""

CONNECT_TIMEOUT_S = 5.0
"""A node is on this machine or next to it; one that takes longer to accept is not going to."""

ANSWER_TIMEOUT_S = 3600.0
"""The longest silence while waiting for an answer: a first start may fetch weights and takes InitTimeoutSeconds (900 s
unless set), a bake compiles."""

ANSWER_BYTES = 64 * 1024 * 1024
"""The largest answer; a list of all starts is below 8 MiB, and more than this is not our node."""

_REGION = "us-east-1"  # a signature has to name one; the node takes any
_NO_KEY = (
    "the node at {0} wants to know who asks: set GLOWPLUG_ACCESS_KEY_ID and GLOWPLUG_SECRET_ACCESS_KEY, or name its "
    "state directory with --state"
)
_REFUSALS: dict[str, type[GlowplugError]] = {
    kind.code: kind
    for kind in (
        Conflict,
        Forbidden,
        IncompleteSignature,
        InternalError,
        InvalidParameter,
        InvalidRequestContent,
        InvalidSignature,
        MissingAuthenticationToken,
        RequestTooLarge,
        ResourceNotFound,
        UnrecognizedClient,
        UnsupportedMediaType,
    )
}


class Exchange:
    """Asks one node, by its control endpoint. Holds no connection between requests."""

    def __init__(self, endpoint: str, key: Key | None) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise NodeUnreachable(f"{endpoint}: an endpoint looks like http://127.0.0.1:9000")
        try:
            port = parts.port or 9000
        except ValueError:
            raise NodeUnreachable(f"{endpoint}: the port is not one") from None
        self._address = (parts.hostname, port)
        self.key = key
        self.endpoint = f"http://{f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname}:{port}"

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Send a JSON body, or none, and return the JSON that comes back."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = self.read(method, path, None if body is None else json.dumps(body).encode(), headers)
        return self.object_of(data)

    def read(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        """Send a body and return what comes back."""
        with self.opened(method, path, body, headers or {}) as response:
            return response.read(ANSWER_BYTES)

    def stream(self, method: str, path: str, body: Mapping[str, Any], on_progress: Progress | None) -> dict[str, Any]:
        """Send a request whose answer comes as lines of JSON: any number of progress events, then the result."""
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        with self.opened(method, path, json.dumps(body).encode(), headers) as response:
            if not response.headers.get("Content-Type", "").startswith("application/x-ndjson"):
                return self.object_of(response.read(ANSWER_BYTES))
            for line in response:
                event = self.object_of(line)
                kind = event.pop("event", None)
                if kind == "result":
                    return event
                if kind == "error":
                    raise refusal(int(event.get("status", 500)), event, {})
                if kind == "progress" and on_progress is not None:
                    on_progress(event)
        raise NodeUnreachable(f"the node at {self.endpoint} ended before it answered")

    @contextmanager
    def opened(
        self, method: str, path: str, body: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a body and give the response while it is read. Raises what the node refused, or ``NodeUnreachable``."""
        connection = http.client.HTTPConnection(*self._address, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            with suppress(BrokenPipeError, ConnectionResetError):  # refused half-way: the answer may be there, with why
                connection.request(method, path, body, self._signed(method, path, body, headers))
            with connection.getresponse() as response:
                if response.status >= 300:
                    error = refusal(response.status, _body(response.read(ANSWER_BYTES)), dict(response.headers))
                    if isinstance(error, MissingAuthenticationToken):
                        raise MissingAuthenticationToken(_NO_KEY.format(self.endpoint))
                    raise error
                yield response
        except ConnectionRefusedError:
            raise NodeUnreachable(f"no node answers at {self.endpoint}; start one with `glowplug up`") from None
        except (OSError, http.client.HTTPException) as error:
            raise NodeUnreachable(f"the node at {self.endpoint} did not answer: {_named(error)}") from error
        finally:
            connection.close()

    def object_of(self, data: bytes) -> dict[str, Any]:
        """Return the JSON object that an answer is. Raises ``NodeUnreachable`` for what is none."""
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise NodeUnreachable(f"what answers at {self.endpoint} is no glowplug node")
        return value

    def _signed(
        self, method: str, path: str, body: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the headers to send. A file that is sent has its own signature and is not read twice for ours."""
        if self.key is None:
            return dict(headers)
        given = {name.lower(): value for name, value in headers.items()}
        given["host"] = self.endpoint.removeprefix("http://")
        raw_path, _, query = path.partition("?")
        known = b"" if body is None else body if isinstance(body, bytes) else None
        digest = UNSIGNED_PAYLOAD if known is None else hashlib.sha256(known).hexdigest()
        request = Signable(method, raw_path, query, given)
        added = sign(self.key, request, region=_REGION, service="lambda", now_s=time.time(), payload_hash=digest)
        return given | added


def refusal(status: int, body: Mapping[str, Any], headers: Mapping[str, str]) -> GlowplugError:
    """Return the error that a refused request stands for, of the class that was raised in the node."""
    message = str(body.get("message") or body.get("Message") or body.get("errorMessage") or f"HTTP status {status}")
    lowered = {name.lower(): value for name, value in headers.items()}
    code = str(body.get("code") or lowered.get("x-amzn-errortype", "")).partition(":")[0]
    if "errorType" in body:
        stack_trace = body.get("stackTrace") or []
        return LoadFailed(str(body["errorType"]), message, [str(line) for line in stack_trace])
    if body.get("field"):
        return DefinitionError(str(body["field"]), message.removeprefix(f"{body['field']}: "))
    if status == Throttled.status:
        retry_after = lowered.get("retry-after", "1")
        return Throttled(message, reason=str(body.get("Reason", "")), retry_after_s=float(retry_after))
    if code == FunctionNotFound.code and message.startswith("Function not found"):
        return FunctionNotFound(message)
    if code == "ValidationException":  # the message has the count of problems in front already
        return InvalidParameter(message)
    if code in _REFUSALS:
        return _REFUSALS[code](message)
    return (ResourceNotFound if status == 404 else InternalError)(message)


def _body(data: bytes) -> dict[str, Any]:
    """Return a refused request's body; an answer without JSON (HEAD, another server) has none."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
