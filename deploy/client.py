"""A node's admin API, as plain method calls. What the node answers is its JSON as it came.

Synchronous, with nothing but the standard library (``exchange``): the command line starts fast, and ``up`` calls it
from a thread.

    >>> NodeClient("http://127.0.0.1:9000").endpoint
    'http://127.0.0.1:9000'
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any
from urllib.parse import quote, urlencode

from glowplug.runtime.errors import ResourceNotFound
from glowplug.runtime.sigv4 import Key

from .errors import NodeUnreachable
from .exchange import ANSWER_BYTES, Exchange, Progress, refusal

_PIECE_BYTES = 1024 * 1024


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
        self._exchange = Exchange(endpoint, key)
        self.endpoint = self._exchange.endpoint

    def __repr__(self) -> str:
        return f"<NodeClient {self.endpoint}>"

    def health(self) -> dict[str, Any]:
        """Return the node's account of itself."""
        return self._exchange.ask("GET", "/_glowplug/health")

    def functions(self) -> list[dict[str, Any]]:
        """Return every function with its tier and instances."""
        return list(self._exchange.ask("GET", "/_glowplug/functions")["functions"])

    def starts(self) -> list[dict[str, Any]]:
        """Return the latest starts, newest first."""
        return list(self._exchange.ask("GET", "/_glowplug/starts")["starts"])

    def start(self, request_id: str) -> dict[str, Any]:
        """Return the record of the start that a request waited for. Raises ``ResourceNotFound``."""
        return self._exchange.ask("GET", f"/_glowplug/starts/{quote(request_id, safe='')}")

    def explain(self, request_id: str) -> str:
        """Return in words what a request waited for. Raises ``ResourceNotFound``."""
        return self._exchange.read("GET", f"/_glowplug/explain/{quote(request_id, safe='')}").decode()

    def warm(self, name: str) -> dict[str, Any]:
        """Start an instance when there is none; returns when it is ready."""
        return self._exchange.ask("POST", f"{_function(name)}/warm", {})

    def cool(self, name: str, to: str) -> dict[str, Any]:
        """Sink a function to the tier ``to``. Raises ``Conflict`` when it cannot be there."""
        return self._exchange.ask("POST", f"{_function(name)}/cool", {"to": to})

    def bake(self, name: str, *, wait: bool, engine: str = "", on_progress: Progress | None = None) -> dict[str, Any]:
        """Make engines for a function's models; with ``wait`` return when they are made. ``engine`` is the label of one
        to serve with if it passes."""
        return self._exchange.stream("POST", f"{_function(name)}/bake", {"wait": wait, "engine": engine}, on_progress)

    def schedules(self) -> list[dict[str, Any]]:
        """Return every schedule with its next and last runs."""
        return list(self._exchange.ask("GET", "/_glowplug/schedules")["schedules"])

    def run_piece(self, job: str, query: Mapping[str, str], body: bytes) -> Iterator[dict[str, Any]]:
        """Run a piece of a batch job, one JSON value a line; yield a result for each line, in their order.

        Raises ``NodeUnreachable`` where the node ends before all are there.
        """
        path = f"/_glowplug/jobs/{quote(job, safe='')}?{urlencode(query)}"
        left = body.count(b"\n")
        with self._exchange.opened("POST", path, body, {"Content-Type": "application/x-ndjson"}) as response:
            for line in response:
                result = self._exchange.object_of(line)
                if result.get("event") == "error":
                    raise refusal(int(result.get("status", 500)), result, {})
                yield result
                left -= 1
        if left > 0:
            raise NodeUnreachable(f"the node at {self.endpoint} ended before it answered")

    def engines(self, name: str) -> dict[str, Any]:
        """Return the engines of a function's models with what they were measured at."""
        return self._exchange.ask("GET", f"{_function(name)}/bake")

    @contextmanager
    def export_snapshot(self, name: str, model: str | None) -> Iterator[Iterator[bytes]]:
        """Give the pieces of a model's snapshot file, which lacks its signature. Raises ``Conflict`` without one."""
        query = "" if model is None else f"?{urlencode({'model': model})}"
        with self._exchange.opened("GET", f"{_function(name)}/snapshot{query}", None, {}) as response:
            yield iter(lambda: response.read(_PIECE_BYTES), b"")

    def import_snapshot(self, file: IO[bytes], size: int, *, wait: bool) -> dict[str, Any]:
        """Send a snapshot file of ``size`` bytes; with ``wait`` return when it is known which functions use it.

        Raises ``InvalidParameter``, ``Forbidden``, ``Conflict`` or ``RequestTooLarge`` when it is not taken in.
        """
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        path = f"/_glowplug/snapshots?wait={'true' if wait else 'false'}"
        with self._exchange.opened("POST", path, file, headers) as response:
            return self._exchange.object_of(response.read(ANSWER_BYTES))

    def logs(self, name: str, *, request_id: str | None = None, last: int | None = None) -> str:
        """Return a function's log: all that is kept, one request's, or the ``last`` lines."""
        chosen = {"request_id": request_id, "last": last}
        query = urlencode({key: value for key, value in chosen.items() if value is not None})
        return self._exchange.read("GET", f"{_function(name)}/logs{'?' if query else ''}{query}").decode(
            errors="replace"
        )

    def has_code(self, digest: str) -> bool:
        """Return whether the node holds the code with this SHA-256 (hex)."""
        try:
            self._exchange.read("HEAD", f"/_glowplug/code/{digest}")
        except ResourceNotFound:
            return False
        return True

    def put_code(self, digest: str, data: bytes) -> None:
        """Upload a zip. Raises ``InvalidParameter`` for what code may not hold, ``RequestTooLarge``."""
        self._exchange.read("PUT", f"/_glowplug/code/{digest}", data, {"Content-Type": "application/zip"})

    def stacks(self) -> list[dict[str, Any]]:
        """Return every stack."""
        return list(self._exchange.ask("GET", "/_glowplug/stacks")["stacks"])

    def stack(self, name: str) -> dict[str, Any] | None:
        """Return one stack with its functions' specs, or None."""
        try:
            return self._exchange.ask("GET", f"/_glowplug/stacks/{quote(name, safe='')}")
        except ResourceNotFound:
            return None

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> dict[str, Any]:
        """Make the stack exactly ``body``. Raises ``DefinitionError`` where the node refuses a definition."""
        return self._exchange.stream("PUT", f"/_glowplug/stacks/{quote(name, safe='')}", body, on_progress)

    def delete_stack(self, name: str) -> list[dict[str, Any]]:
        """Take a stack out; return what that did. Raises ``ResourceNotFound``, or ``Conflict`` where others need it."""
        return list(self._exchange.ask("DELETE", f"/_glowplug/stacks/{quote(name, safe='')}")["changes"])

    def invoke(self, name: str, payload: bytes, *, qualifier: str | None = None, tail: bool = False) -> Invoked:
        """Call a function through the Lambda API and wait for its answer."""
        path = f"/2015-03-31/functions/{quote(name, safe='')}/invocations"
        headers = {"Content-Type": "application/json"} | ({"X-Amz-Log-Type": "Tail"} if tail else {})
        if qualifier:
            path += f"?{urlencode({'Qualifier': qualifier})}"
        with self._exchange.opened("POST", path, payload, headers) as response:
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
        with self._exchange.opened("POST", path, payload, headers) as response:
            return response.headers.get("x-amzn-RequestId", "")

    def events(self, function: str | None, state: str | None, limit: int) -> list[dict[str, Any]]:
        """Return events, newest first, without their answers."""
        chosen = {"function": function, "state": state, "limit": limit}
        query = urlencode({key: value for key, value in chosen.items() if value is not None})
        return list(self._exchange.ask("GET", f"/_glowplug/async?{query}")["events"])

    def event(self, request_id: str, wait_s: float = 0) -> dict[str, Any]:
        """Return an event, once it is over or after ``wait_s``. Raises ``ResourceNotFound``."""
        return self._exchange.ask("GET", f"/_glowplug/async/{quote(request_id, safe='')}?wait={wait_s:g}")

    def wait_for(self, request_id: str) -> dict[str, Any]:
        """Return an event that is over, however long that takes."""
        while "finishedAt" not in (event := self.event(request_id, 60)):
            pass
        return event

    def cancel(self, request_id: str) -> dict[str, Any]:
        """Cancel an event. Raises ``ResourceNotFound``, ``Conflict`` when it is over."""
        return self._exchange.ask("DELETE", f"/_glowplug/async/{quote(request_id, safe='')}")

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """Call an admin route that has no method of its own here; ``path`` is quoted."""
        return self._exchange.ask(method, path, body)


def _function(name: str) -> str:
    return f"/_glowplug/functions/{quote(name, safe='')}"


def _decoded(log_result: str) -> str:
    return base64.b64decode(log_result).decode(errors="replace")
