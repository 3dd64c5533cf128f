"""A node's admin API over HTTP, as plain method calls.

Synchronous, with nothing but the standard library: the command line starts fast, and ``up`` calls it from a thread.
Answers are the node's JSON as it came. What the node refuses is raised as the error class that refused it there;
a node that cannot be reached, or dies before it has answered, is ``NodeUnreachable``.

A client with a key signs what it asks, with the node's own signer: botocore would take longer to import than most
commands take.

    >>> NodeClient("http://127.0.0.1:9000").endpoint
    'http://127.0.0.1:9000'
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, urlencode, urlsplit

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

CONNECT_TIMEOUT_S = 5.0
"""A node is on this machine or next to it; one that takes longer to accept is not going to."""

ANSWER_TIMEOUT_S = 3600.0
"""The longest silence while waiting for an answer: a first start may fetch weights and takes InitTimeoutSeconds (900 s
unless set), a bake compiles."""

_REGION = "us-east-1"  # a signature has to name one; the node takes any
_NO_KEY = (
    "the node at {0} wants to know who asks: set GLOWPLUG_ACCESS_KEY_ID and GLOWPLUG_SECRET_ACCESS_KEY, or name its "
    "state directory with --state"
)
_ANSWER_BYTES = 64 * 1024 * 1024  # a list of all starts is below 8 MiB; more than this is not our node
_PIECE_BYTES = 1024 * 1024
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


@dataclass(frozen=True, slots=True)
class Invoked:
    """The answer to a synchronous invocation. ``function_error`` is empty when the handler returned.

    ``log_tail`` is decoded; ``server_timing`` and ``tier`` are the node's headers of those names.
    """

    request_id: str
    payload: bytes
    function_error: str
    executed_version: str
    tier: str
    server_timing: str
    log_tail: str


class NodeClient:
    """One node, by its control endpoint. Holds no connection between calls, so it may be used by several threads.

    With a ``key`` every request is signed.
    """

    def __init__(self, endpoint: str, key: Key | None = None) -> None:
        parts = urlsplit(endpoint if "://" in endpoint else f"http://{endpoint}")
        if parts.scheme != "http" or not parts.hostname or parts.path not in ("", "/") or parts.query:
            raise NodeUnreachable(f"{endpoint}: an endpoint looks like http://127.0.0.1:9000")
        try:
            port = parts.port or 9000
        except ValueError:
            raise NodeUnreachable(f"{endpoint}: the port is not one") from None
        self._address = (parts.hostname, port)
        self._key = key
        self.endpoint = f"http://{f'[{parts.hostname}]' if ':' in parts.hostname else parts.hostname}:{port}"

    def __repr__(self) -> str:
        return f"<NodeClient {self.endpoint}>"

    def health(self) -> dict[str, Any]:
        """Return the node's account of itself."""
        return self._json("GET", "/_glowplug/health")

    def functions(self) -> list[dict[str, Any]]:
        """Return every function with its tier and instances."""
        return list(self._json("GET", "/_glowplug/functions")["functions"])

    def starts(self) -> list[dict[str, Any]]:
        """Return the latest starts, newest first."""
        return list(self._json("GET", "/_glowplug/starts")["starts"])

    def start(self, request_id: str) -> dict[str, Any]:
        """Return the record of the start that a request waited for. Raises ``ResourceNotFound``."""
        return self._json("GET", f"/_glowplug/starts/{quote(request_id, safe='')}")

    def explain(self, request_id: str) -> str:
        """Return in words what a request waited for. Raises ``ResourceNotFound``."""
        return self._bytes("GET", f"/_glowplug/explain/{quote(request_id, safe='')}").decode()

    def warm(self, name: str) -> dict[str, Any]:
        """Start an instance when there is none; returns when it is ready."""
        return self._json("POST", f"{_function(name)}/warm", {})

    def cool(self, name: str, to: str) -> dict[str, Any]:
        """Sink a function to the tier ``to``. Raises ``Conflict`` when it cannot be there."""
        return self._json("POST", f"{_function(name)}/cool", {"to": to})

    def bake(self, name: str, *, wait: bool, engine: str = "", on_progress: Progress | None = None) -> dict[str, Any]:
        """Make engines for a function's models; with ``wait`` return when they are made. ``engine`` is the label of one
        to serve with if it passes."""
        return self._stream("POST", f"{_function(name)}/bake", {"wait": wait, "engine": engine}, on_progress)

    def schedules(self) -> list[dict[str, Any]]:
        """Return every schedule with its next and last runs."""
        return list(self._json("GET", "/_glowplug/schedules")["schedules"])

    def run_piece(self, job: str, query: Mapping[str, str], body: bytes) -> Iterator[dict[str, Any]]:
        """Run a piece of a batch job, one JSON value a line; yield a result for each line, in their order.

        Raises ``NodeUnreachable`` where the node ends before all are there.
        """
        path = f"/_glowplug/jobs/{quote(job, safe='')}?{urlencode(query)}"
        left = body.count(b"\n")
        with self._exchange("POST", path, body, {"Content-Type": "application/x-ndjson"}) as response:
            for line in response:
                result = self._object(line)
                if result.get("event") == "error":
                    raise refusal(int(result.get("status", 500)), result, {})
                yield result
                left -= 1
        if left > 0:
            raise NodeUnreachable(f"the node at {self.endpoint} ended before it answered")

    def engines(self, name: str) -> dict[str, Any]:
        """Return the engines of a function's models with what they were measured at."""
        return self._json("GET", f"{_function(name)}/bake")

    @contextmanager
    def export_snapshot(self, name: str, model: str | None) -> Iterator[Iterator[bytes]]:
        """Give the pieces of a model's snapshot file, which lacks its signature. Raises ``Conflict`` without one."""
        query = "" if model is None else f"?{urlencode({'model': model})}"
        with self._exchange("GET", f"{_function(name)}/snapshot{query}", None, {}) as response:
            yield iter(lambda: response.read(_PIECE_BYTES), b"")

    def import_snapshot(self, file: IO[bytes], size: int, *, wait: bool) -> dict[str, Any]:
        """Send a snapshot file of ``size`` bytes; with ``wait`` return when it is known which functions use it.

        Raises ``InvalidParameter``, ``Forbidden``, ``Conflict`` or ``RequestTooLarge`` when it is not taken in.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        path = f"/_glowplug/snapshots?wait={'true' if wait else 'false'}"
        with self._exchange("POST", path, file, headers) as response:
            return self._object(response.read(_ANSWER_BYTES))

    def logs(self, name: str, *, request_id: str | None = None, last: int | None = None) -> str:
        """Return a function's log: all that is kept, one request's, or the ``last`` lines."""
        chosen = {"request_id": request_id, "last": last}
        query = urlencode({key: value for key, value in chosen.items() if value is not None})
        return self._bytes("GET", f"{_function(name)}/logs{'?' if query else ''}{query}").decode(errors="replace")

    def has_code(self, digest: str) -> bool:
        """Return whether the node holds the code with this SHA-256 (hex)."""
        try:
            self._bytes("HEAD", f"/_glowplug/code/{digest}")
        except ResourceNotFound:
            return False
        return True

    def put_code(self, digest: str, data: bytes) -> None:
        """Upload a zip. Raises ``InvalidParameter`` for what code may not hold, ``RequestTooLarge``."""
        self._bytes("PUT", f"/_glowplug/code/{digest}", data, {"Content-Type": "application/zip"})

    def stacks(self) -> list[dict[str, Any]]:
        """Return every stack."""
        return list(self._json("GET", "/_glowplug/stacks")["stacks"])

    def stack(self, name: str) -> dict[str, Any] | None:
        """Return one stack with its functions' specs, or None."""
        try:
            return self._json("GET", f"/_glowplug/stacks/{quote(name, safe='')}")
        except ResourceNotFound:
            return None

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> dict[str, Any]:
        """Make the stack exactly ``body``. Raises ``DefinitionError`` where the node refuses a definition."""
        return self._stream("PUT", f"/_glowplug/stacks/{quote(name, safe='')}", body, on_progress)

    def delete_stack(self, name: str) -> list[dict[str, Any]]:
        """Take a stack out; return what that did. Raises ``ResourceNotFound``, or ``Conflict`` where others need it."""
        return list(self._json("DELETE", f"/_glowplug/stacks/{quote(name, safe='')}")["changes"])

    def invoke(self, name: str, payload: bytes, *, qualifier: str | None = None, tail: bool = False) -> Invoked:
        """Call a function through the Lambda API and wait for its answer."""
        path = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
        headers = {"Content-Type": "application/json"} | ({"X-Amz-Log-Type": "Tail"} if tail else {})
        if qualifier:
            path += f"?{urlencode({'Qualifier': qualifier})}"
        with self._exchange("POST", path, payload, headers) as response:
            data = response.read()
            given = response.headers
        return Invoked(
            request_id=given.get("x-amzn-RequestId", ""),
            payload=data,
            function_error=given.get("X-Amz-Function-Error", ""),
            executed_version=given.get("X-Amz-Executed-Version", ""),
            tier=given.get("X-Glowplug-Tier", ""),
            server_timing=given.get("Server-Timing", ""),
            log_tail=_decoded(given.get("X-Amz-Log-Result", "")),
        )

    def enqueue(self, name: str, payload: bytes) -> str:
        """Let the node run a function later; return the request id, once the event is on the node's disk."""
        path = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
        headers = {"Content-Type": "application/json", "X-Amz-Invocation-Type": "Event"}
        with self._exchange("POST", path, payload, headers) as response:
            return response.headers.get("x-amzn-RequestId", "")

    def events(self, function: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        """Return events, newest first, without their answers."""
        chosen = {"function": function, "state": state, "limit": limit}
        query = urlencode({key: value for key, value in chosen.items() if value is not None})
        return list(self._json("GET", f"/_glowplug/async?{query}")["events"])

    def event(self, request_id: str, wait_s: float = 0) -> dict[str, Any]:
        """Return an event, once it is over or after ``wait_s``. Raises ``ResourceNotFound``."""
        return self._json("GET", f"/_glowplug/async/{quote(request_id, safe='')}?wait={wait_s:g}")

    def wait_for(self, request_id: str) -> dict[str, Any]:
        """Return an event that is over, however long that takes."""
        while "finishedAt" not in (event := self.event(request_id, 60)):
            pass
        return event

    def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel an event. Raises ``ResourceNotFound``, ``Conflict`` when it is over."""
        return self._json("DELETE", f"/_glowplug/async/{quote(request_id, safe='')}")

    # --- the exchange -------------------------------------------------------------------------------------------------

    def _json(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        data = self._bytes(method, path, None if body is None else json.dumps(body).encode(), headers)
        return self._object(data)

    def _bytes(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> bytes:
        with self._exchange(method, path, body, headers or {}) as response:
            return response.read(_ANSWER_BYTES)

    def _stream(self, method: str, path: str, body: Mapping[str, Any], on_progress: Progress | None) -> dict[str, Any]:
        """Send a request whose answer comes as lines of JSON: any number of progress events, then the result."""
        headers = {"Content-Type": "application/json", "Accept": "application/x-ndjson"}
        with self._exchange(method, path, json.dumps(body).encode(), headers) as response:
            if not response.headers.get("Content-Type", "").startswith("application/x-ndjson"):
                return self._object(response.read(_ANSWER_BYTES))
            for line in response:
                event = self._object(line)
                kind = event.pop("event", None)
                if kind == "result":
                    return event
                if kind == "error":
                    raise refusal(int(event.get("status", 500)), event, {})
                if kind == "progress" and on_progress is not None:
                    on_progress(event)
        raise NodeUnreachable(f"the node at {self.endpoint} ended before it answered")

    @contextmanager
    def _exchange(
        self, method: str, path: str, body: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> Iterator[http.client.HTTPResponse]:
        connection = http.client.HTTPConnection(*self._address, timeout=CONNECT_TIMEOUT_S)
        try:
            connection.connect()
            connection.sock.settimeout(ANSWER_TIMEOUT_S)
            with suppress(
                BrokenPipeError, ConnectionResetError
            ):  # refused half-way; the answer may be there and says why
                connection.request(method, path, body, self._signed(method, path, body, headers))
            with connection.getresponse() as response:
                if response.status >= 300:
                    error = refusal(response.status, _body(response.read(_ANSWER_BYTES)), dict(response.headers))
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

    def _signed(
        self, method: str, path: str, body: bytes | IO[bytes] | None, headers: Mapping[str, str]
    ) -> dict[str, str]:
        """Return the headers to send. A file that is sent has its own signature and is not read twice for ours."""
        if self._key is None:
            return dict(headers)
        given = {name.lower(): value for name, value in headers.items()}
        given["host"] = self.endpoint.removeprefix("http://")
        raw_path, _, query = path.partition("?")
        known = b"" if body is None else body if isinstance(body, bytes) else None
        digest = UNSIGNED_PAYLOAD if known is None else hashlib.sha256(known).hexdigest()
        request = Signable(method, raw_path, query, given)
        added = sign(self._key, request, region=_REGION, service="lambda", now_s=time.time(), payload_hash=digest)
        return given | added

    def _object(self, data: bytes) -> dict[str, Any]:
        try:
            value = json.loads(data)
        except ValueError:
            value = None
        if not isinstance(value, dict):
            raise NodeUnreachable(f"what answers at {self.endpoint} is no glowplug node")
        return value


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


def _function(name: str) -> str:
    return f"/_glowplug/functions/{quote(name, safe='')}"


def _body(data: bytes) -> dict[str, Any]:
    """Return a refused request's body; an answer without JSON (HEAD, another server) has none."""
    try:
        value = json.loads(data)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _decoded(log_result: str) -> str:
    return base64.b64decode(log_result).decode(errors="replace")


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
