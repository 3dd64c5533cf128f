"""Background work with an owner: every task has a name, is kept until it ends, and its failure is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Coroutine
from typing import Any

log = logging.getLogger(__name__)


class OwnedTasks:
    """The tasks of one owner. What a task is for decides what its failure means, so tasks handle their own errors;
    one that escapes is a fault of the runtime: it is logged with its traceback and counted."""

    def __init__(self) -> None:
        self.faults = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<OwnedTasks {sorted(task.get_name() for task in self._tasks)}>"

    def __len__(self) -> int:
        return len(self._tasks)

    def spawn(self, work: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        """Begin ``work``; it is owned until it ends."""
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    async def ended(self) -> None:
        """Return when nothing is left, without ending anything."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def close(self) -> None:
        """Cancel what is left and wait until it has ended."""
        while self._tasks:
            left = list(self._tasks)
            for task in left:
                task.cancel()
            await asyncio.gather(*left, return_exceptions=True)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.faults += 1
            log.error("task %s failed: %r", task.get_name(), error, exc_info=error)


async def first_of(work: Awaitable[object], limit: Awaitable[object]) -> None:
    """Return when one of the two is done; the other is cancelled."""
    both = [asyncio.ensure_future(work), asyncio.ensure_future(limit)]
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for one in both:
            one.cancel()
        await asyncio.gather(*both, return_exceptions=True)
