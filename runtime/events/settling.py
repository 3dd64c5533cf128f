"""Ending attempts on disk: many in one transaction, each of them whole or not at all.

Whoever settles hands over the steps and goes on. All that came since the last transaction go in one unit; where one of
them is refused, each is tried by itself. One that cannot be written (a full disk) is tried again until it can: its
event is still leased, and what was decided is not forgotten.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError, InternalError, StateError
from glowplug.runtime.queue.steps import Step
from glowplug.runtime.queue.store import QueueStore

_MOST = 200  # of one unit: the engine does nothing else meanwhile
_AGAIN_S = 1.0

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Settlement:
    """What ends one attempt. ``done`` is called when it is on disk, ``refused`` with the error when it was not carried
    out; what that returns is tried instead, None ends it."""

    steps: tuple[Step, ...]
    done: Callable[[], None]
    refused: Callable[[GlowplugError], Settlement | None]


class Settler:
    """Carries settlements out in the order in which they came. ``close`` returns when all are on disk."""

    def __init__(self, store: QueueStore, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._waiting: list[Settlement] = []
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Settler {len(self._waiting)} waiting>"

    def put(self, settlement: Settlement) -> None:
        """Carry out a settlement soon."""
        self._waiting.append(settlement)
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name="settle events")

    async def close(self, limit_s: float) -> None:
        """Return when everything is on disk, after ``limit_s`` at the latest: what is not, runs again."""
        if self._task is not None:
            await asyncio.wait((self._task,), timeout=limit_s)
            if self._task is not None:
                self._task.cancel()

    async def _run(self) -> None:
        try:
            while self._waiting:
                batch, self._waiting = self._waiting[:_MOST], self._waiting[_MOST:]
                await self._carry_out(batch)
        finally:
            self._task = None

    async def _carry_out(self, batch: list[Settlement]) -> None:
        try:
            await self._store.apply(*(step for settlement in batch for step in settlement.steps))
        except Exception as error:  # also a fault of ours, which must not keep the others from their ends
            if len(batch) > 1 and not isinstance(error, StateError):
                await asyncio.gather(*(self._carry_out([one]) for one in batch))
            elif isinstance(error, GlowplugError):
                await self._refused(batch, error)
            else:
                log.exception("an attempt could not be written down")
                await self._refused(batch, InternalError(f"{type(error).__name__}: {error}"))
            return
        for settlement in batch:
            settlement.done()

    async def _refused(self, batch: list[Settlement], error: GlowplugError) -> None:
        if isinstance(error, StateError):
            log.warning("%d attempts wait to be written down: %s", len(batch), error)
            await self._clock.sleep(_AGAIN_S)
            self._waiting = batch + self._waiting
            return
        for settlement in batch:
            instead = settlement.refused(error)
            if instead is not None:
                self._waiting.append(instead)
