"""A function URL with ``InvokeMode: RESPONSE_STREAM``: an answer's parts become a response (spec 2.4).

What the handler returns is not mapped as with ``BUFFERED``: a stream's status and headers are in its prelude, and an
answer that is no stream is sent as the JSON that it is.
"""

from __future__ import annotations

import logging
from http import HTTPStatus

from glowplug.runtime.invocation import Invocation

from .invoking import start_headers, timing_headers
from .messages import Reply, StreamCut
from .prelude import BYTES, CONTENT_TYPE, PreludeParser
from .streaming import Live, Streams
from .url_event import UnmappableResult

log = logging.getLogger(__name__)

_FAILED = b"Internal Server Error"


def failed(headers: list[tuple[str, str]] | None = None) -> Reply:
    """Return what the public learns of a function that failed."""
    return Reply(HTTPStatus.BAD_GATEWAY, _FAILED, headers or (), "text/plain; charset=utf-8")


async def streamed(streams: Streams, invocation: Invocation) -> Reply:
    """Run ``invocation`` and return its response, whose body may still come. Raises as ``Streams.open``."""
    live = await streams.open(invocation)
    try:
        reply = await _response(live)
    except UnmappableResult as error:
        log.warning("%s: request %s: no response: %s", invocation.function, invocation.request_id, error)
        reply = failed(_timing(live))
    except BaseException:
        await live.aclose()
        raise
    if reply.stream is None:
        await live.aclose()
    return reply


async def _response(live: Live) -> Reply:
    if not live.streamed:
        return _whole(live)
    timing = _timing(live)
    if live.stream.content_type != CONTENT_TYPE:  # a worker's word is not put into a header
        return Reply(HTTPStatus.OK, b"", timing, BYTES, live)
    parser = PreludeParser()
    try:
        while (data := await live.part()) is not None:
            if (found := parser.feed(data)) is not None:
                head, rest = found
                live.put_back(rest)
                return Reply(head.status, b"", [*head.headers, *timing], head.content_type, live)
    except StreamCut:
        return failed(timing)
    raise UnmappableResult("the stream ended in its prelude")


def _whole(live: Live) -> Reply:
    outcome = live.outcome
    if outcome is None or outcome.function_error is not None:
        return failed(None if outcome is None else start_headers(outcome))
    if not outcome.payload:
        return Reply(HTTPStatus.OK, b"", start_headers(outcome), BYTES)
    return Reply(HTTPStatus.OK, outcome.payload, start_headers(outcome))


def _timing(live: Live) -> list[tuple[str, str]]:
    return timing_headers(live.stream.origin.tier if live.stream.origin is not None else "hot", live.phases)
