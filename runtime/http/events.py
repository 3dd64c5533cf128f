"""Long work as a stream of JSON lines: progress while it goes on, then its result or its error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Any

from glowplug.runtime.errors import GlowplugError, InternalError

from .faults import error_fields
from .messages import compact_json

log = logging.getLogger(__name__)

_WAITING = 1024
"""Progress events kept for a slow client; further ones are dropped, as the next one says more than they did."""


async def events_of(
    work: Callable[[Callable[[Mapping[str, Any]], None]], Awaitable[Mapping[str, Any]]],
) -> AsyncGenerator[bytes, None]:
    """Run ``work`` and yield its events, one line each. A client that goes away cancels it."""
    waiting: asyncio.Queue[Mapping[str, Any] | None] = asyncio.Queue()

    def tell(event: Mapping[str, Any]) -> None:
        if waiting.qsize() < _WAITING:
            waiting.put_nowait(event)

    async def run() -> Mapping[str, Any]:
        return await work(tell)

    task = asyncio.create_task(run(), name="admin work")
    task.add_done_callback(lambda _: waiting.put_nowait(None))
    try:
        while (event := await waiting.get()) is not None:
            yield _line({"event": "progress", **event})
        yield _line(_ending(task))
    finally:
        task.cancel()


def _ending(task: asyncio.Task[Mapping[str, Any]]) -> Mapping[str, Any]:
    error = task.exception()
    if error is None:
        return {"event": "result", **task.result()}
    if not isinstance(error, GlowplugError):
        log.error("admin work failed", exc_info=error)
        error = InternalError("Internal error; the node's log says more")
    return {"event": "error", "status": error.status, "code": error.code, **error_fields(error)}


def _line(event: Mapping[str, Any]) -> bytes:
    return compact_json(event) + b"\n"
