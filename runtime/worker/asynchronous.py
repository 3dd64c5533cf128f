"""Streams of asynchronous generators: the worker's event loop, which runs while one of them is drained.

One loop per process, made in the first such call, so that clients and locks of the module's that belong to a loop
outlive a call. Between calls nothing runs in it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from .outlet import Cancelled, Collector, Outlet
from .streaming import pieces

_loops: list[asyncio.AbstractEventLoop] = []


def drain(source: AsyncIterator[Any], outlet: Outlet | Collector) -> None:
    """Pass everything that ``source`` yields to ``outlet``; a cancelled stream ends it where it waits.

    Raises what the handler raises.
    """
    if not _loops:
        _loops.append(asyncio.new_event_loop())
    _Draining(source, outlet, _loops[0]).run()


class _Draining:
    """One stream in the loop, which hears the node while the handler waits for something else."""

    def __init__(self, source: AsyncIterator[Any], outlet: Outlet | Collector, loop: asyncio.AbstractEventLoop) -> None:
        self._source = source
        self._outlet = outlet
        self._loop = loop
        self._heard = asyncio.Event()
        self._listening = outlet.fileno() if isinstance(outlet, Outlet) else -1
        self._failure: Exception | None = None
        self._task: asyncio.Task[None] | None = None

    def run(self) -> None:
        self._task = self._loop.create_task(self._guarded())
        if self._listening >= 0:
            self._loop.add_reader(self._listening, self._hear)
        try:
            self._loop.run_until_complete(self._task)
        except asyncio.CancelledError:
            if not self._outlet.cancelled and self._failure is None:
                raise RuntimeError("the handler cancelled the task that it runs in") from None
        finally:
            self._stop_listening()
        if self._failure is not None:
            raise self._failure

    async def _guarded(self) -> None:
        try:
            await self._drain()
        except Exception as failure:  # raised again outside of asyncio, whose frames are not the author's
            self._failure = failure

    async def _drain(self) -> None:
        first = True
        try:
            async for item in self._source:
                rest = self._outlet.send_some(pieces(item, self._outlet, first=first))
                first = first and item is None
                while rest:
                    await self._heard.wait()
                    self._heard.clear()
                    rest = self._outlet.send_some(rest)
        except Cancelled:
            pass
        finally:
            close = getattr(self._source, "aclose", None)
            if close is not None:
                await close()

    def _hear(self) -> None:
        try:
            self._outlet.look()
        except Exception as failure:
            self._failure = failure
        self._heard.set()
        if (self._failure is not None or self._outlet.cancelled) and self._task is not None:
            self._stop_listening()  # one cancellation: the handler's own cleaning up is not to be cut
            self._task.cancel()

    def _stop_listening(self) -> None:
        if self._listening >= 0:
            self._loop.remove_reader(self._listening)
            self._listening = -1
