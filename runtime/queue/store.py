"""The durable queue of a node: ``QueueStore``, for everything on the event loop.

Who asks at the same time shares a transaction (``groupcommit.py``), and each resumes when its unit is on disk.

    store = await QueueStore.open(path, clock)
    await store.create("jobs", QueueSettings(visibility_s=60))
    await store.apply(Send("jobs", b"..."))
    for received in await store.receive("jobs", limit=10, wait_s=20):
        ...
        await store.apply(Delete(received.lease), PutRecord(result), Send("done", b"..."))   # together or not at all

Errors are those of the steps (``steps.py``), raised for the unit, and ``StateError`` where the file cannot be written:
then nothing was promised, and the same call works again when there is room.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any

from glowplug.runtime.clock import Alarm, Clock, SystemClock
from glowplug.runtime.errors import StateError

from .bells import Bells
from .groupcommit import GroupCommit, Statistics
from .model import BEGINNING, Counts, Message, Moved, Place, Queue, QueueSettings, Received, Record
from .steps import (
    ChangeQueue,
    Count,
    CreateQueue,
    DeleteQueue,
    Discard,
    Move,
    Peek,
    Receive,
    ScanRecords,
    Step,
    Sweep,
)

SWEEP_S = 60.0
"""How often what is too old is removed."""

_log = logging.getLogger(__name__)


class QueueStore:
    """The queues and records of one file. Made by ``await QueueStore.open(path)``; ended by ``await close()``."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._bells = Bells(clock)
        self._commits = GroupCommit(path, clock, self._bells)
        self._sweeping: asyncio.Task[None] | None = None
        self._next_sweep: Alarm | None = None

    @classmethod
    async def open(cls, path: Path, clock: Clock | None = None) -> QueueStore:
        """Open the file, making, migrating or, where it is damaged, saving it.

        Raises ``StateError`` when the file is of a newer release, cannot be written, or nothing of it can be read.
        """
        store = cls(path, clock or SystemClock())
        await store._commits.open()
        store._start_sweep()
        return store

    async def __aenter__(self) -> QueueStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"<QueueStore {self._commits!r}>"

    async def close(self) -> None:
        """Let units under way end and close the file; who waits for messages gets none. May be called twice."""
        self._commits.closing = True
        self._bells.silence()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        await self._commits.close()

    # --- units --------------------------------------------------------------------------------------------------------

    async def apply(self, *steps: Step) -> list[Any]:
        """Carry out steps together or not at all; give what each gave once they are on disk.

        Cancelling the caller does not take back what it asked for, except that messages which it will not see are
        given back.
        """
        future = self._commits.submit(steps)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._commits.give_back(future.result())  # it came in the turn of the loop in which the caller went
            raise

    # --- messages -----------------------------------------------------------------------------------------------------

    async def receive(
        self, queue: str, limit: int = 1, *, wait_s: float | None = None, visibility_s: float | None = None
    ) -> list[Received]:
        """Lease up to ``limit`` messages, as soon as there is one; none after ``wait_s``. See ``Receive``."""
        if wait_s is None:
            wait_s = self.queue(queue).settings.wait_s
        deadline_s = self._clock.monotonic() + wait_s
        step = Receive(queue, limit, visibility_s)
        while True:
            bell = self._bells.of(queue) if wait_s > 0 else None
            rings = 0 if bell is None else bell.rings
            found: list[Received] = (await self.apply(step))[0]
            if found and (bell := self._bells.known(queue)) is not None:
                bell.wake()  # there may be more than this one asked for
            left_s = deadline_s - self._clock.monotonic()
            if found or bell is None or left_s <= 0:
                return found
            await bell.wait(rings, left_s)
            if self._commits.closing:
                return []

    def listen(self, queue: str, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` on the event loop whenever ``queue`` may have messages to receive; returns what ends that.

        It is called once soon. Who receives fewer than there are must ask again without being called.
        """
        end = self._bells.of(queue).listen(listener)
        self._loop.call_soon(listener)
        return end

    async def peek(
        self, queue: str, limit: int = 10, after: int = 0, *, bodies: bool = True, beyond: Place = BEGINNING
    ) -> list[Message]:
        """Look at the next messages of a queue without leasing them; see ``Peek``."""
        found: list[Message] = (await self.apply(Peek(queue, limit, after, bodies, beyond)))[0]
        return found

    # --- queues -------------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All queues, by name. From memory."""
        return tuple(sorted(self._commits.queues, key=lambda queue: queue.name))

    def known(self, name: str) -> bool:
        """Return whether there is a queue of that name. From memory."""
        return self._commits.known(name)

    def queue(self, name: str) -> Queue:
        """Return a queue. From memory. Raises ``QueueNotFound``."""
        return self._commits.engine.queue(name)

    async def create(self, name: str, settings: QueueSettings, *, replace: bool = False) -> Queue:
        """Make a queue; see ``CreateQueue``."""
        queue: Queue = (await self.apply(CreateQueue(name, settings, replace)))[0]
        return queue

    async def change(self, name: str, settings: QueueSettings) -> Queue:
        """Give a queue other settings; see ``ChangeQueue``."""
        queue: Queue = (await self.apply(ChangeQueue(name, settings)))[0]
        return queue

    async def remove(self, name: str, *, only_empty: bool = False) -> bool:
        """Delete a queue with its messages, or ``only_empty`` if it has none; return whether it is gone.

        Raises ``QueueNotFound``.
        """
        gone: bool = (await self.apply(DeleteQueue(name, only_empty)))[0]
        if gone:
            self._bells.forget(name)
            self._start_sweep()
        return gone

    async def purge(self, name: str) -> int:
        """Delete all messages that are in a queue now, leased or not; return how many. A backlog goes in pieces."""
        return await self._repeat(Discard(name, self._commits.engine.newest))

    async def redrive(self, name: str, target: str | None = None) -> int:
        """Move the visible messages of a queue to another, or back to where they came from; return how many."""
        return sum([moved async for moved in self.redriving(name, target)])

    async def redriving(self, name: str, target: str | None = None, piece: int = 100) -> AsyncIterator[int]:
        """Do the same in pieces, giving how many each had. Of what comes to the queue meanwhile nothing is moved."""
        step = Move(name, target, piece, until=self._commits.engine.newest)
        while True:
            moved: Moved = (await self.apply(step))[0]
            yield moved.count
            if moved.to is None:
                return
            step = replace(step, beyond=moved.to)

    async def counts(self, name: str) -> Counts:
        """Count the messages of a queue. Raises ``QueueNotFound``."""
        counts: Counts = (await self.apply(Count(name)))[0]
        return counts

    async def all_counts(self) -> dict[str, Counts]:
        """Count the messages of all queues."""
        counts: dict[str, Counts] = (await self.apply(Count()))[0]
        return counts

    # --- records ------------------------------------------------------------------------------------------------------

    async def records(self, scan: ScanRecords) -> list[Record]:
        """Return records of an owner; see ``ScanRecords``."""
        found: list[Record] = (await self.apply(scan))[0]
        return found

    # --- what goes by itself ------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        """What was done since the start."""
        return self._commits.statistics

    async def sweep(self) -> int:
        """Remove everything that is too old; return how much there was."""
        return await self._repeat(Sweep())

    def _start_sweep(self) -> None:
        if self._commits.closing or (self._sweeping is not None and not self._sweeping.done()):
            return
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        self._sweeping = self._loop.create_task(self._sweep(), name="queue sweep")

    async def _sweep(self) -> None:
        try:
            await self.sweep()
        except StateError as error:  # a full disk: the next sweep may find room
            _log.warning("queue sweep: %s", error)
        self._next_sweep = self._clock.call_later(SWEEP_S, self._start_sweep)

    async def _repeat(self, step: Discard | Sweep) -> int:
        total = 0
        while True:
            count: int = (await self.apply(step))[0]
            total += count
            if count < step.limit:
                return total
