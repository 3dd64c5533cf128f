"""The node's queue of starts: first come, first served, and at most as many at a time as there are cores.

Starting is mostly computing (importing, forking, checking an engine), so more starts at once slow each other down, and
the functions that are warm as well. A start that has had its turn for ``PATIENCE_S`` is waiting for something else (a
download, a handler that hangs in its import, or that calls another function which must start first): it goes on, but
its place is given to the next, so that one function cannot keep all others cold.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any

from glowplug.runtime.clock import Alarm, Clock

from .tasks import OwnedTasks

PATIENCE_S = 5.0
"""Longer than building any zygote from local files takes (importing torch is not part of it)."""

Decide = Callable[[], Coroutine[Any, Any, None] | None]
"""Called when a start's turn has come; returns the start, or None when it is no longer wanted."""


class StartQueue:
    """Gives starts their turn. ``slots`` is how many run at a time."""

    def __init__(self, slots: int, *, clock: Clock, tasks: OwnedTasks) -> None:
        self._free = slots
        self._clock = clock
        self._tasks = tasks
        self._queue: deque[tuple[Decide, asyncio.Future[None], str]] = deque()

    def __repr__(self) -> str:
        return f"<StartQueue free={self._free} queued={len(self._queue)}>"

    def put(self, decide: Decide, *, name: str) -> asyncio.Future[None]:
        """Queue a start; the future is done when the start has ended, well or not, or was dropped."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._queue.append((decide, ended, name))
        self._turn()
        return ended

    def _turn(self) -> None:
        while self._free > 0 and self._queue:
            decide, ended, name = self._queue.popleft()
            if ended.cancelled():
                continue
            work = decide()
            if work is None:
                ended.set_result(None)
                continue
            self._free -= 1
            slot = _Slot(self._release)
            slot.alarm = self._clock.call_later(PATIENCE_S, slot.leave)
            self._tasks.spawn(work, name).add_done_callback(partial(_finished, slot, ended))

    def _release(self) -> None:
        self._free += 1
        self._turn()


class _Slot:
    """One place; left once, by whoever comes first."""

    __slots__ = ("_leave", "alarm")

    def __init__(self, leave: Callable[[], None]) -> None:
        self.alarm: Alarm | None = None
        self._leave: Callable[[], None] | None = leave

    def leave(self) -> None:
        leave, self._leave = self._leave, None
        if leave is not None:
            leave()


def _finished(slot: _Slot, ended: asyncio.Future[None], _: asyncio.Task[Any]) -> None:
    if slot.alarm is not None:
        slot.alarm.cancel()
    slot.leave()
    if not ended.done():
        ended.set_result(None)
