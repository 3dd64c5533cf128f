"""The durable queue of a node: ``QueueStore``, for everything on the event loop.

The file has one connection in one thread (``engine.py``). What is asked for while the thread works waits, and all of it
goes over in one piece when the thread gets free: one hand-over, one transaction and one wait for the disk for as many
units as there are. A caller resumes after its unit is on disk. Callers that were just answered mostly ask again: the
next hand-over waits for them, at most 3 ms and a third of what the disk took.

    store = await QueueStore.open(path, clock)
    await store.create("jobs", QueueSettings(visibility_s=60))
    await store.send("jobs", b"...")
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
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from glowplug.runtime.clock import Alarm, Clock, SystemClock
from glowplug.runtime.errors import StateError

from .bells import Bells
from .engine import Batch, Engine, Outcome
from .model import NOTHING, Attributes, Counts, Lease, Message, Queue, QueueSettings, Received, Record, Sent
from .salvage import opened
from .steps import (
    ChangeQueue,
    Count,
    CreateQueue,
    Delete,
    DeleteQueue,
    Discard,
    Extend,
    GetRecord,
    InsertRecord,
    Move,
    Peek,
    Receive,
    Release,
    ScanRecords,
    Send,
    Step,
    Sweep,
    Unit,
)

SWEEP_S = 60.0
"""How often what is too old is removed."""
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
    """What a store has done since it was opened."""

    units: int = 0
    batches: int = 0
    #: What was too old, or of a deleted queue.
    swept: int = 0
    #: Messages that went to the dead-letter queue, by the queue that they came from.
    dead_letters: Counter[str] = field(default_factory=Counter)


class QueueStore:
    """The queues and records of one file. Made by ``await QueueStore.open(path)``; ended by ``await close()``."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="queue")
        self._engine: Engine | None = None
        self._loop = asyncio.get_running_loop()
        self._bells = Bells(clock)
        self._waiting: list[_Waiting] = []
        self._busy = False  # units are in the thread, or about to be handed over
        self._expected = 0  # how many callers there were a moment ago
        self._gather_until_s = 0.0
        self._gathering: asyncio.TimerHandle | None = None
        self._closing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self._sweeping: asyncio.Task[None] | None = None
        self._next_sweep: Alarm | None = None
        self._statistics = Statistics()

    @classmethod
    async def open(cls, path: Path, clock: Clock | None = None) -> QueueStore:
        """Open the file, making, migrating or, where it is damaged, saving it.

        Raises ``StateError`` when the file is of a newer release, cannot be written, or nothing of it can be read.
        """
        store = cls(path, clock or SystemClock())
        try:
            store._engine = await store._loop.run_in_executor(store._thread, opened, path, store._clock)
        except BaseException:
            store._thread.shutdown(wait=True)
            raise
        store._start_sweep()
        return store

    async def __aenter__(self) -> QueueStore:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "closed" if self._engine is None else f"{len(self._waiting)} units waiting"
        return (
            f"<QueueStore {self._path} {state}, {self._statistics.units} units in {self._statistics.batches} batches>"
        )

    async def close(self) -> None:
        """Let units under way end and close the file; who waits for messages gets none. May be called twice."""
        self._closing = True
        self._bells.silence()
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        if self._sweeping is not None:
            self._sweeping.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._sweeping
        while self._busy or self._waiting:
            await self._idle.wait()
        engine, self._engine = self._engine, None
        if engine is not None:
            await self._loop.run_in_executor(self._thread, engine.close)
        self._thread.shutdown(wait=True)

    @property
    def _open_engine(self) -> Engine:
        if self._engine is None:
            raise StateError(f"{self._path}: the queue is closed")
        return self._engine

    # --- units --------------------------------------------------------------------------------------------------------

    async def apply(self, *steps: Step) -> list[Any]:
        """Carry out steps together or not at all; give what each gave once they are on disk.

        Cancelling the caller does not take back what it asked for, except that messages which it will not see are
        given back.
        """
        future = self._submit(steps)
        try:
            return await future
        except asyncio.CancelledError:
            if future.done() and not future.cancelled() and future.exception() is None:
                self._give_back(future.result())  # it came in the turn of the loop in which the caller went
            raise

    def _submit(self, unit: Unit) -> asyncio.Future[list[Any]]:
        if self._engine is None or self._closing:
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
        self._thread.submit(self._work, self._open_engine, batch)

    def _work(self, engine: Engine, batch: list[_Waiting]) -> None:
        """In the thread."""
        begun_s = time.perf_counter()
        try:
            done = engine.run([waiting.unit for waiting in batch])
        except Exception as error:  # a fault of ours; those who wait must hear of it all the same
            done = Batch([error for _ in batch])
        self._loop.call_soon_threadsafe(self._finished, batch, done, time.perf_counter() - begun_s)

    def _finished(self, batch: list[_Waiting], done: Batch, took_s: float) -> None:
        self._statistics.batches += 1
        self._statistics.units += len(batch)
        self._statistics.dead_letters.update(done.dead_letters)
        for waiting, outcome in zip(batch, done.outcomes, strict=True):
            if waiting.future.done():  # whoever asked has gone
                self._give_back(outcome)
            elif isinstance(outcome, Exception):
                waiting.future.set_exception(outcome)
            else:
                waiting.future.set_result(outcome)
        if not self._closing:
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

    def _give_back(self, outcome: Outcome) -> None:
        """Release messages that were received for somebody who has gone; nobody has their leases."""
        if isinstance(outcome, Exception) or self._closing:
            return
        for result in outcome:
            for received in result if isinstance(result, list) else ():
                if isinstance(received, Received):
                    given = self._submit((Release(received.lease, uncounted=True),))
                    given.add_done_callback(_heard)

    # --- messages -----------------------------------------------------------------------------------------------------

    async def send(
        self,
        queue: str,
        body: bytes,
        *,
        attributes: Attributes = NOTHING,
        delay_s: float | None = None,
        group: str | None = None,
        deduplication: str | None = None,
        id: bytes | None = None,  # noqa: A002 - what it is called in a message
    ) -> Sent:
        """Add a message; see ``Send``."""
        sent: Sent = (await self.apply(Send(queue, body, attributes, delay_s, group, deduplication, id)))[0]
        return sent

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
            if self._closing:
                return []

    def listen(self, queue: str, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` on the event loop whenever ``queue`` may have messages to receive; returns what ends that.

        It is called once soon. Who receives fewer than there are must ask again without being called.
        """
        end = self._bells.of(queue).listen(listener)
        self._loop.call_soon(listener)
        return end

    async def delete(self, lease: Lease) -> None:
        """Acknowledge a message. Raises ``StaleLease``."""
        await self.apply(Delete(lease))

    async def extend(self, lease: Lease, visibility_s: float) -> Lease:
        """Let a lease last ``visibility_s`` from now. Raises ``StaleLease``."""
        extended: Lease = (await self.apply(Extend(lease, visibility_s)))[0]
        return extended

    async def release(self, lease: Lease, delay_s: float = 0) -> None:
        """Make a message visible again in ``delay_s``. Raises ``StaleLease``."""
        await self.apply(Release(lease, delay_s))

    async def peek(self, queue: str, limit: int = 10, after: int = 0, *, bodies: bool = True) -> list[Message]:
        """Look at the next messages of a queue without leasing them; see ``Peek``."""
        found: list[Message] = (await self.apply(Peek(queue, limit, after, bodies)))[0]
        return found

    # --- queues -------------------------------------------------------------------------------------------------------

    @property
    def queues(self) -> tuple[Queue, ...]:
        """All queues, by name. From memory."""
        return () if self._engine is None else tuple(sorted(self._engine.queues, key=lambda queue: queue.name))

    def queue(self, name: str) -> Queue:
        """Return a queue. From memory. Raises ``QueueNotFound``."""
        return self._open_engine.queue(name)

    async def create(self, name: str, settings: QueueSettings, *, replace: bool = False) -> Queue:
        """Make a queue; see ``CreateQueue``."""
        queue: Queue = (await self.apply(CreateQueue(name, settings, replace)))[0]
        return queue

    async def change(self, name: str, settings: QueueSettings) -> Queue:
        """Give a queue other settings; see ``ChangeQueue``."""
        queue: Queue = (await self.apply(ChangeQueue(name, settings)))[0]
        return queue

    async def remove(self, name: str) -> None:
        """Delete a queue with its messages. Raises ``QueueNotFound``."""
        await self.apply(DeleteQueue(name))
        self._bells.forget(name)
        self._start_sweep()

    async def purge(self, name: str) -> int:
        """Delete all messages that are in a queue now, leased or not; return how many. A backlog goes in pieces."""
        return await self._repeat(Discard(name, self._open_engine.newest))

    async def redrive(self, name: str, target: str | None = None, most: int | None = None) -> int:
        """Move the visible messages of a queue to another, or back to where they came from; return how many."""
        moved = 0
        while most is None or moved < most:
            step = Move(name, target, 100 if most is None else min(100, most - moved))
            count: int = (await self.apply(step))[0]
            moved += count
            if count < step.limit:
                break
        return moved

    async def counts(self, name: str) -> Counts:
        """Count the messages of a queue. Raises ``QueueNotFound``."""
        counts: Counts = (await self.apply(Count(name)))[0]
        return counts

    async def all_counts(self) -> dict[str, Counts]:
        """Count the messages of all queues."""
        counts: dict[str, Counts] = (await self.apply(Count()))[0]
        return counts

    # --- records ------------------------------------------------------------------------------------------------------

    async def record(self, key: bytes) -> Record | None:
        """Return a record, or None."""
        record: Record | None = (await self.apply(GetRecord(key)))[0]
        return record

    async def insert(self, record: Record) -> None:
        """Keep a record. Raises ``RecordExists``, which has the one that is there."""
        await self.apply(InsertRecord(record))

    async def records(self, scan: ScanRecords) -> list[Record]:
        """Return records of an owner; see ``ScanRecords``."""
        found: list[Record] = (await self.apply(scan))[0]
        return found

    # --- what goes by itself ------------------------------------------------------------------------------------------

    @property
    def statistics(self) -> Statistics:
        """What was done since the start."""
        return self._statistics

    async def sweep(self) -> int:
        """Remove everything that is too old; return how much there was."""
        return await self._repeat(Sweep())

    def _start_sweep(self) -> None:
        if self._closing or (self._sweeping is not None and not self._sweeping.done()):
            return
        if self._next_sweep is not None:
            self._next_sweep.cancel()
        self._sweeping = self._loop.create_task(self._sweep(), name="queue sweep")

    async def _sweep(self) -> None:
        try:
            self._statistics.swept += await self.sweep()
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


def _heard(given: asyncio.Future[list[Any]]) -> None:
    if not given.cancelled() and given.exception() is not None:
        _log.info("a message that nobody waited for stays leased: %s", given.exception())
