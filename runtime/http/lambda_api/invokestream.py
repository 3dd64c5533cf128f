"""``InvokeWithResponseStream``: the answer as events, a ``PayloadChunk`` for each part and one ``InvokeComplete``.

The bytes are those of the handler, its HTTP prelude included (spec 1.7). A function that fails has status 200 all the
same, and says so in the last event.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator
from http import HTTPStatus

from glowplug.runtime.errors import FunctionFault
from glowplug.runtime.http.eventstream import CONTENT_TYPE, event
from glowplug.runtime.http.invoking import start_headers, timing_headers
from glowplug.runtime.http.messages import Reply, StreamCut, compact_json
from glowplug.runtime.http.streaming import Live
from glowplug.runtime.invocation import Outcome

from .call import Call, Services
from .invoke import prepared

_INVOCATION_TYPES = ("RequestResponse", "DryRun")


async def invoke_with_response_stream(services: Services, call: Call) -> Reply:
    """Check as ``Invoke`` does; DryRun stops, the rest runs."""
    invocation = await prepared(services, call, _INVOCATION_TYPES)
    if isinstance(invocation, Reply):
        return invocation
    headers = [("X-Amz-Executed-Version", invocation.version), ("X-Amzn-Trace-Id", invocation.trace_id)]
    try:
        live = await services.streams.open(invocation)
    except FunctionFault as fault:
        return Reply(HTTPStatus.OK, _complete(fault.body(), with_log=None), headers, CONTENT_TYPE)
    if live.streamed:
        origin = live.stream.origin
        headers += timing_headers("hot" if origin is None else origin.tier, live.phases)
        return Reply(HTTPStatus.OK, b"", headers, CONTENT_TYPE, Events(live, with_log=invocation.log_tail))
    await live.aclose()
    assert live.outcome is not None  # noqa: S101  (an answer without parts is over)
    return Reply(
        HTTPStatus.OK,
        _whole(live.outcome, with_log=invocation.log_tail),
        [*headers, *start_headers(live.outcome)],
        CONTENT_TYPE,
    )


class Events:
    """The parts of an answer as events, and its end as the last one: nothing here is cut."""

    def __init__(self, live: Live, *, with_log: bool) -> None:
        self._live = live
        self._with_log = with_log
        self._over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if self._over:
            raise StopAsyncIteration
        try:
            data = await self._live.part()
        except StreamCut:
            data = None
            if self._live.outcome is None:
                raise
        if data is not None:
            return _chunk(data)
        self._over = True
        assert self._live.outcome is not None  # noqa: S101  (an answer without more parts is over)
        return _end(self._live.outcome, with_log=self._with_log)

    async def aclose(self) -> None:
        """Close the answer."""
        await self._live.aclose()


def _whole(outcome: Outcome, *, with_log: bool) -> bytes:
    end = _end(outcome, with_log=with_log)
    return end if outcome.function_error is not None or not outcome.payload else _chunk(outcome.payload) + end


def _chunk(data: bytes) -> bytes:
    return event("PayloadChunk", "application/octet-stream", data)


def _end(outcome: Outcome, *, with_log: bool) -> bytes:
    error = outcome.payload if outcome.function_error is not None else b""
    return _complete(error, with_log=outcome.log_tail if with_log else None)


def _complete(error: bytes, *, with_log: bytes | None) -> bytes:
    fields = {"ErrorCode": "Unhandled", "ErrorDetails": error.decode(errors="replace")} if error else {}
    if with_log is not None:
        fields["LogResult"] = base64.b64encode(with_log).decode()
    return event("InvokeComplete", "application/json", compact_json(fields))
