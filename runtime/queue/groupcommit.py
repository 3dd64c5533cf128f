"""Which units go over to the thread together, and when: group commit.

The file has one connection in one thread (``engine.py``). What is asked for while the thread works waits, and all of it
goes over in one piece when the thread gets free: one hand-over, one transaction and one wait for the disk for as many
units as there are. A caller resumes after its unit is on disk. Callers that were just answered mostly ask again: the
next hand-over waits for them, at most 3 ms and a third of what the disk took.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import StateError

from .bells import Bells
from .engine import Batch, Engine, Outcome
from .model import Queue, Received
from .salvage import opened
from .steps import Release, Unit

_BATCH = 1_000  # units of one transaction: the last one to come waits for all of them

_GATHER_SHARE = 0.3  # of the time that the last transaction took, and
_GATHER_S = 0.003  # at most this, is waited for the callers of the last one

_log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class _Waiting:
    unit: Unit
    future: asyncio.Future[list[Any]]


@dataclass(slots=True)
class Statistics:
    """What was done since the file was opened."""

    units: int = 0
    batches: int = 0
    #: Messages that went to the dead-letter queue, by the queue that they came from.
    dead_letters: Counter[str] = field(default_factory=Counter)


class GroupCommit:
    """Hands the units of one file over to its thread. ``bells`` are rung for what may be received then."""

    def __init__(self, path: Path, clock: Clock, bells: Bells) -> None:
        self._path = path
        self._clock = clock
        self._bells = bells
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="queue")
        self._loop = asyncio.get_running_loop()
        self._engine: Engine | None = None
        self._waiting: list[_Waiting] = []
        self._busy = False  # units are in the thread, or about to be handed over
        self._expected = 0  # how many callers there were a moment ago
        self._gather_until_s = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self.closing = False
        """No unit is taken any more."""
        self.statistics = Statistics()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else f"{len(self._waiting)} units waiting"
        done = f"{self.statistics.units} units in {self.statistics.batches} batches"
        return f"<GroupCommit {self._path} {state}, {done}>"

    async def open(self) -> None:
        """Open the file. Raises ``StateError`` as ``salvage.opened`` does."""
        try:
            self._engine = await self._loop.run_in_executor(self._thread, opened, self._path, self._clock)
        except BaseException:
            self._thread.shutdown(wait=True)
            raise

    async def close(self) -> None:
        """Let units under way end, and close the file. May be called twice."""
        self.closing = True
        while self.busy:
            await self._idle.wait()
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._loop.run_in_executor(self._thread, engine.close)
        self._thread.shutdown(wait=True)

    @property
    def busy(self) -> bool:
        """Whether units wait, or are under way."""
        return self._busy or bool(self._waiting)

    @property
    def queues(self) -> Sequence[Queue]:
        """All queues; none of a file that is closed."""
        return () if self._engine is None else self._engine.queues

    def known(self, name: str) -> bool:
        """Return whether there is a queue of that name."""
        return self._engine is not None and self._engine.known(name)

    @property
    def engine(self) -> Engine:
        """The engine, for what it says from memory. Raises ``StateError`` when it is closed."""
        if self._engine is None:
            raise StateError(f"{self._path}: the queue is closed")
        return self._engine

    def submit(self, unit: Unit) -> asyncio.Future[list[Any]]:
        """Carry out a unit; the future gives what each step gave once it is on disk."""
        if self._engine is None or self.closing:
            raise StateError(f"{self._path}: the queue is closed")
        future: asyncio.Future[list[Any]] = self._loop.create_future()
        self._waiting.append(_Waiting(unit, future))
        if not self._busy:
            self._busy = True
            self._idle.clear()
            self._gather()
        elif self._gathering is not None and len(self._waiting) >= self._expected:
            self._gathering.cancel()
            self._gather()
        return future

    def give_back(self, outcome: Outcome) -> None:
        """Release messages that were received for somebody who has gone; nobody has their leases."""
        if isinstance(outcome, Exception) or self.closing:
            return
        for result in outcome:
            for received in result if isinstance(result, list) else ():
                if isinstance(received, Received):
                    given = self.submit((Release(received.lease, uncounted=True),))
                    given.add_done_callback(_heard)

    def _gather(self) -> None:
        """Hand over at the end of this turn of the loop or, where those who were just answered may ask again at once,
        a moment later: one wait for the disk for all of them, and not two in turns for half of them each."""
        if len(self._waiting) < self._expected and self._loop.time() < self._gather_until_s:
            self._gathering = self._loop.call_at(self._gather_until_s, self._hand_over)
        else:
            self._gathering = None
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        """Give the thread everything that waits."""
        self._gathering = None
        batch, self._waiting = self._waiting[:_BATCH], self._waiting[_BATCH:]
        self._thread.submit(self._work, self.engine, batch)

    def _work(self, engine: Engine, batch: list[_Waiting]) -> None:
        """In the thread."""
        begun_s = time.perf_counter()
        try:
            done = engine.run([waiting.unit for waiting in batch])
        except Exception as error:  # a fault of ours; those who wait must hear of it all the same
            done = Batch([error for _ in batch])
        self._loop.call_soon_threadsafe(self._finished, batch, done, time.perf_counter() - begun_s)

    def _finished(self, batch: list[_Waiting], done: Batch, took_s: float) -> None:
        self.statistics.batches += 1
        self.statistics.units += len(batch)
        self.statistics.dead_letters.update(done.dead_letters)
        for waiting, outcome in zip(batch, done.outcomes, strict=True):
            if waiting.future.done():  # whoever asked has gone
                self.give_back(outcome)
            elif isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        if not self.closing:
            for name, count in done.ready.items():
                self._bells.of(name).ring(count)
            for name, at_ms in done.soonest_ms.items():
                self._bells.of(name).at(at_ms, done.now_ms)
        self._expected = len(batch) + len(self._waiting)
        self._gather_until_s = self._loop.time() + min(took_s * _GATHER_SHARE, _GATHER_S)
        if self._waiting:
            self._gather()
        else:
            self._busy = False
            self._idle.set()


def _heard(given: asyncio.Future[list[Any]]) -> None:
    if not given.cancelled() and given.exception() is not None:
        _log.info("a message that nobody waited for stays leased: %s", given.exception())
