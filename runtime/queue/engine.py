"""The queue's file and the units that change it: synchronous, for one thread. All others use ``store.QueueStore``.

``run`` carries out all units that wait, in one transaction, and returns when they are on disk (group commit: a WAL,
``synchronous=FULL``). A unit that is refused leaves nothing behind and the others alone. Where a statement fails for
another reason (a full disk, a value that SQLite does not take) everything is rolled back, and each unit has a
transaction of its own: what cannot be written fails, and nothing else does.

**Time.** Visibility is kept in Unix ms. Whenever the wall clock was set (it moved against the monotonic clock by more
than ``JUMP_MS``), moments that lie ahead are moved by as much: a lease lasts as long as it was given for, whatever the
clock does. For a clock that was set while the node was down, the file keeps the last time that it knows: it cannot have
been later than now.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError, InvalidParameter, QueueExists
from glowplug.runtime.schema import migrate, unusable

from .book import Book, Change, text_of
from .groups import Groups
from .messages import Messages
from .model import LONGEST_LEASE_S, Counts, Queue
from .records import Records, is_id
from .steps import (
    ChangeQueue,
    Count,
    CreateQueue,
    Delete,
    DeleteQueue,
    DeleteRecord,
    Discard,
    Extend,
    Find,
    GetRecord,
    InsertRecord,
    Move,
    Peek,
    PutRecord,
    QueueStep,
    Receive,
    Release,
    ScanRecords,
    Send,
    Step,
    Sweep,
    Unit,
    Withdraw,
)
from .sweeping import sweep
from .tables import MIGRATIONS

JUMP_MS = 1_000
"""A difference between wall and monotonic clock that is no drift."""
_CHECKPOINT_PAGES = 4_000  # 16 MB of log before it is moved into the file; moving costs a stop of some ms
_LOG_BYTES = 64 * 2**20  # what the log is cut to afterwards
_CACHE_KIB = 32_768
DAMAGED = "it is damaged; restart the node, which saves what is readable"
_LEASED_BEYOND = """SELECT sequence FROM messages
    WHERE queue IN (SELECT number FROM queues) AND visible_ms > ? AND receives > 0"""

_SURE = (DeleteRecord, GetRecord, ScanRecords)

Outcome = list[Any] | Exception
"""What each step of a unit gave, or why the unit was not carried out."""

_log = logging.getLogger(__name__)


@dataclass(slots=True)
class Batch:
    """What ``run`` did. ``ready``: messages that may be received now, by queue; ``soonest_ms``: when the next may."""

    outcomes: list[Outcome]
    ready: dict[str, int] = field(default_factory=dict)
    soonest_ms: dict[str, int] = field(default_factory=dict)
    dead_letters: dict[str, int] = field(default_factory=dict)
    now_ms: int = 0


class Engine:
    """One open file. All methods in one thread; ``queues`` may be read from others."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=True)
        self._book = Book(self._connection)
        self._messages = Messages(self._connection, self._book)
        self._records = Records(self._connection)
        self._offset_ms = 0  # between the wall clock and the monotonic one
        self._steps = self._table()

    def __repr__(self) -> str:
        return f"<Engine {self._path}, {len(self._book.queues)} queues, {self._book.totals.total()} messages>"

    @classmethod
    def open(cls, path: Path, clock: Clock) -> Engine:
        """Open a file, making or migrating it.

        Raises ``StateError`` for one of a newer release or one that cannot be written, ``sqlite3.DatabaseError`` for a
        damaged one.
        """
        engine = cls(path, clock)
        try:
            engine._prepare()
        except BaseException:
            engine._connection.close()
            raise
        return engine

    def _prepare(self) -> None:
        connection = self._connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
        connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        damage = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if damage != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(damage))
        migrate(connection, self._path, MIGRATIONS)
        self._book.load()
        self._records.load()
        self._catch_up()

    def close(self) -> None:
        """Keep the time, move the log into the file and close it."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._book.set_mark("clock", round(self._clock.time() * 1000))
            self._connection.execute("COMMIT")
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:  # nothing that was promised is lost: the log is read at the next start
            _log.warning("%s: the write-ahead log stays: %s", self._path, error)
        finally:
            self._connection.close()

    @property
    def queues(self) -> Sequence[Queue]:
        """All queues."""
        return tuple(self._book.queues.values())

    def queue(self, name: str) -> Queue:
        """Return a queue. Raises ``QueueNotFound``. Any thread."""
        return self._book.queue(name)

    def known(self, name: str) -> bool:
        """Return whether there is a queue of that name. Any thread."""
        return name in self._book.queues

    @property
    def newest(self) -> int:
        """The number of the last message. Any thread."""
        return self._book.newest

    # --- units --------------------------------------------------------------------------------------------------------

    def run(self, units: Sequence[Unit]) -> Batch:
        """Carry out all units; none is on disk before this returns."""
        batch = Batch([[] for _ in units])
        plain: list[int] = []
        for number, unit in enumerate(units):
            if any(isinstance(step, QueueStep) for step in unit):
                self._transact(plain, units, batch)
                self._transact([number], units, batch)
                self._book.reread()
                plain = []
            else:
                plain.append(number)
        self._transact(plain, units, batch)
        return batch

    def _transact(self, numbers: Sequence[int], units: Sequence[Unit], batch: Batch) -> None:
        """Carry out some units in one transaction; each in one of its own if that fails."""
        if not numbers:
            return
        offset_ms = self._offset_ms
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            done = Change(self._now())
            for number in numbers:
                batch.outcomes[number] = self._unit(units[number], done)
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            self._offset_ms = offset_ms  # what moved with a clock that was set has moved back
            if len(numbers) > 1:
                for number in numbers:
                    self._transact([number], units, batch)
            elif isinstance(error, sqlite3.OperationalError | sqlite3.DatabaseError):
                batch.outcomes[numbers[0]] = unusable(self._path, error, damaged=DAMAGED)
            else:
                batch.outcomes[numbers[0]] = error
            return
        self._book.committed(done)
        self._report(done, batch)

    def _unit(self, unit: Unit, done: Change) -> Outcome:
        """Carry out a unit. A step that is refused has written nothing; what the steps before it wrote is undone."""
        if len(unit) == 1:
            step = unit[0]
            try:
                return [self._steps[type(step)](step, done, done)]
            except GlowplugError as refusal:
                return refusal
        change = Change(done.now_ms)
        guarded = not self._is_sure(unit)
        if guarded:
            self._connection.execute("SAVEPOINT unit")
        try:
            results = [self._steps[type(step)](step, change, done) for step in unit]
        except GlowplugError as refusal:
            if guarded:
                self._connection.execute("ROLLBACK TO unit")
                self._connection.execute("RELEASE unit")
            self._records.load()
            self._book.rolled_back()
            return refusal
        if guarded:
            self._connection.execute("RELEASE unit")
        done.absorb(change)
        return results

    def _is_sure(self, unit: Unit) -> bool:
        """Return whether no step behind the first can be refused: then there is never anything to undo, and the unit
        needs no savepoint, which would be two more statements."""
        return all(
            isinstance(step, _SURE)
            or (isinstance(step, Send) and self._messages.is_sure(step))
            or (isinstance(step, PutRecord) and is_id(step.record.id))
            for step in unit[1:]
        )

    def _roll_back(self) -> None:
        if self._connection.in_transaction:  # a full disk has rolled back by itself
            self._connection.execute("ROLLBACK")
        self._book.rolled_back()
        try:
            self._records.load()
            self._book.reread()
        except sqlite3.Error as error:
            _log.error("%s: %s", self._path, unusable(self._path, error, damaged=DAMAGED))

    def _report(self, done: Change, batch: Batch) -> None:
        batch.now_ms = done.now_ms
        if not (done.ready or done.soonest or done.buried):
            return
        names = {queue.number: queue.name for queue in self._book.queues.values()}
        for counts, shown in ((done.ready, batch.ready), (done.buried, batch.dead_letters)):
            for number, count in counts.items():
                if number in names:
                    shown[names[number]] = shown.get(names[number], 0) + count
        for number, at_ms in done.soonest.items():
            if number in names:
                name = names[number]
                batch.soonest_ms[name] = min(at_ms, batch.soonest_ms.get(name, at_ms))

    def _table(self) -> dict[type[Step], Callable[[Any, Change, Change], Any]]:
        messages, records = self._messages, self._records
        return {
            Send: messages.send,
            Receive: lambda step, change, _: messages.receive(step, change),
            Delete: lambda step, change, _: messages.delete(step, change),
            Extend: lambda step, change, _: messages.extend(step, change),
            Release: lambda step, change, _: messages.release(step, change),
            Move: lambda step, change, _: messages.move(step, change),
            Discard: lambda step, change, _: messages.discard(step, change),
            Peek: lambda step, *_: messages.peek(step),
            Find: lambda step, *_: messages.find(step),
            Withdraw: lambda step, change, _: messages.withdraw(step, change),
            InsertRecord: lambda step, *_: records.insert(step),
            PutRecord: lambda step, *_: records.put(step),
            DeleteRecord: lambda step, *_: records.delete(step.id),
            GetRecord: lambda step, *_: records.get(step.id),
            ScanRecords: lambda step, *_: records.scan(step),
            Count: lambda step, change, done: self._count(step, change, done),
            Sweep: lambda step, change, _: sweep(self._connection, self._book, records, step, change),
            CreateQueue: lambda step, change, _: self._create(step, change.now_ms),
            ChangeQueue: lambda step, change, _: self._change(step, change.now_ms),
            DeleteQueue: lambda step, *_: self._delete(step),
        }

    # --- queues -------------------------------------------------------------------------------------------------------

    def _create(self, step: CreateQueue, now_ms: int) -> Queue:
        there = self._book.queues.get(step.name)
        if there is not None:
            if there.settings == step.settings:
                return there
            if not step.replace:
                raise QueueExists(f"Queue {step.name} exists with other settings")
            return self._change(ChangeQueue(step.name, step.settings), now_ms)
        (number,) = self._connection.execute(
            "INSERT INTO queues (name, created_ms, modified_ms, settings) VALUES (?, ?, ?, ?) RETURNING number",
            (step.name, now_ms, now_ms, text_of(step.settings)),
        ).fetchone()
        return Queue(number, step.name, step.settings, now_ms, now_ms)

    def _change(self, step: ChangeQueue, now_ms: int) -> Queue:
        there = self._book.queue(step.name)
        if there.settings.fifo != step.settings.fifo:
            raise InvalidParameter(f"Queue {step.name}: whether a queue is FIFO cannot be changed")
        self._connection.execute(
            "UPDATE queues SET settings = ?, modified_ms = ? WHERE number = ?",
            (text_of(step.settings), now_ms, there.number),
        )
        return Queue(there.number, there.name, step.settings, there.created_ms, now_ms)

    def _delete(self, step: DeleteQueue) -> None:
        """Forget the queue; its number is never given again, and its messages are swept away."""
        queue = self._book.queue(step.name)
        self._connection.execute("DELETE FROM queues WHERE number = ?", (queue.number,))

    def _count(self, step: Count, change: Change, done: Change) -> Counts | dict[str, Counts]:
        def of(queue: Queue) -> Counts:
            number = queue.number
            total = self._book.totals[number] + done.totals[number]
            if change is not done:
                total += change.totals[number]
            if total == 0:
                return Counts(0, 0, 0, 0.0)
            hidden, flying = self._connection.execute(
                "SELECT count(*), coalesce(sum(receives > 0), 0) FROM messages WHERE queue = ? AND visible_ms > ?",
                (number, change.now_ms),
            ).fetchone()
            (oldest_ms,) = self._connection.execute(
                "SELECT min(sent_ms) FROM (SELECT sent_ms FROM messages WHERE queue = ?"
                " ORDER BY visible_ms, receives LIMIT 100)",
                (number,),
            ).fetchone()
            age_s = 0.0 if oldest_ms is None else max(0, change.now_ms - oldest_ms) / 1000
            return Counts(total - hidden, flying, hidden - flying, age_s)

        if step.queue is not None:
            return of(self._book.queue(step.queue))
        return {name: of(queue) for name, queue in sorted(self._book.queues.items())}

    # --- time ---------------------------------------------------------------------------------------------------------

    def _now(self) -> int:
        """Return Unix ms. Within a transaction: moments that lie ahead go with a clock that was set."""
        wall_ms = round(self._clock.time() * 1000)
        offset_ms = wall_ms - round(self._clock.monotonic() * 1000)
        shift_ms = offset_ms - self._offset_ms
        if abs(shift_ms) > JUMP_MS:
            _log.warning("%s: the clock was set by %+.1f s; leases and delays go with it", self._path, shift_ms / 1000)
            self._shift(wall_ms if shift_ms < 0 else wall_ms - shift_ms, shift_ms)
            self._book.set_mark("clock", wall_ms)
        self._offset_ms = offset_ms
        return wall_ms

    def _shift(self, after_ms: int, by_ms: int) -> None:
        """Move all moments later than ``after_ms``."""
        for table in ("messages", "groups"):
            self._connection.execute(
                f"UPDATE {table} SET visible_ms = visible_ms + ? WHERE rowid IN"  # noqa: S608 - one of two names
                f" (SELECT rowid FROM {table} WHERE queue IN (SELECT number FROM queues) AND visible_ms > ?)",
                (by_ms, after_ms),
            )
        self._connection.execute(
            "UPDATE duplicates SET expires_ms = expires_ms + ? WHERE expires_ms > ?", (by_ms, after_ms)
        )

    def _catch_up(self) -> None:
        """Make good for a clock that was set back while nobody looked, and bound what no lease can be.

        What was never received is delayed, not leased, and a delay has no bound.
        """
        now_ms = round(self._clock.time() * 1000)
        self._offset_ms = now_ms - round(self._clock.monotonic() * 1000)
        known_ms = self._book.mark("clock")  # written at each sweep
        latest_ms = now_ms + LONGEST_LEASE_S * 1000
        (beyond,) = self._connection.execute(f"SELECT EXISTS ({_LEASED_BEYOND})", (latest_ms,)).fetchone()
        if known_ms - now_ms <= JUMP_MS and not beyond:
            return  # without a write: the disk may be full
        self._connection.execute("BEGIN IMMEDIATE")
        if known_ms - now_ms > JUMP_MS:
            _log.warning("%s: the clock was set back by at least %.1f s", self._path, (known_ms - now_ms) / 1000)
            self._shift(now_ms, now_ms - known_ms)
        self._connection.execute(
            f"UPDATE messages SET visible_ms = ? WHERE sequence IN ({_LEASED_BEYOND})",  # noqa: S608 - see there
            (latest_ms, latest_ms),
        )
        groups, change = Groups(self._connection), Change(now_ms)
        for queue, number in self._connection.execute(
            "SELECT queue, number FROM groups WHERE queue IN (SELECT number FROM queues) AND visible_ms > ?",
            (latest_ms,),
        ).fetchall():
            groups.refresh(queue, number, change)
        self._book.set_mark("clock", now_ms)
        self._connection.execute("COMMIT")
