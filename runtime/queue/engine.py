"""The queue's file and the units that change it: synchronous, for one thread. All others use ``store.QueueStore``.

``run`` carries out all units that wait, in one transaction, and returns when they are on disk (group commit: a WAL,
``synchronous=FULL``). A unit that is refused leaves nothing behind and the others alone. Where a statement fails for
another reason (a full disk, a value that SQLite does not take) everything is rolled back, and each unit has a
transaction of its own: what cannot be written fails, and nothing else does.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.schema import migrate, unusable

from .book import Book, Change
from .groups import Groups
from .leases import Leases
from .messages import Messages
from .model import Queue
from .moments import Moments
from .moving import Moving
from .queues import Queues
from .receiving import Receiving
from .records import Records, is_id
from .sending import Sending
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

_CHECKPOINT_PAGES = 4_000  # 16 MB of log before it is moved into the file; moving costs a stop of some ms
_LOG_BYTES = 64 * 2**20  # what the log is cut to afterwards
_CACHE_KIB = 32_768
DAMAGED = "it is damaged; restart the node, which saves what is readable"
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
        self._connection = sqlite3.connect(path, isolation_level=None, timeout=5.0, check_same_thread=True)
        self._book = Book(self._connection)
        self._groups = Groups(self._connection)
        self._sending = Sending(self._connection, self._book, self._groups)
        self._records = Records(self._connection)
        self._moments = Moments(self._connection, self._book, clock, path)
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
        except UnicodeDecodeError as error:  # of what SQLite says of a damaged schema, and quotes from it
            engine._connection.close()
            raise sqlite3.DatabaseError("its schema is damaged") from error
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
        damage = [row[0] for row in connection.execute("PRAGMA integrity_check(3)")]
        if damage != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(damage))
        migrate(connection, self._path, MIGRATIONS)
        self._book.load()
        self._records.load()
        self._moments.catch_up()

    def close(self) -> None:
        """Keep the time, move the log into the file and close it."""
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._moments.keep()
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
        offset_ms = self._moments.offset_ms
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            done = Change(self._moments.now())
            for number in numbers:
                batch.outcomes[number] = self._unit(units[number], done)
            self._connection.execute("COMMIT")
        except Exception as error:
            self._roll_back()
            self._moments.offset_ms = offset_ms  # what moved with a clock that was set has moved back
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
            or (isinstance(step, Send) and self._sending.is_sure(step))
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
        connection, book, groups, records = self._connection, self._book, self._groups, self._records
        queues, moving = Queues(connection, book), Moving(connection, book, groups)
        messages, leases = Messages(connection, book, groups), Leases(connection, book, groups)
        receiving = Receiving(connection, book, groups, moving)
        return {
            Send: self._sending.send,
            Receive: lambda step, change, _: receiving.receive(step, change),
            Delete: lambda step, change, _: leases.delete(step, change),
            Extend: lambda step, change, _: leases.extend(step, change),
            Release: lambda step, change, _: leases.release(step, change),
            Withdraw: lambda step, change, _: leases.withdraw(step, change),
            Move: lambda step, change, _: moving.move(step, change),
            Discard: lambda step, change, _: messages.discard(step, change),
            Peek: lambda step, *_: messages.peek(step),
            Find: lambda step, *_: messages.find(step),
            InsertRecord: lambda step, *_: records.insert(step),
            PutRecord: lambda step, *_: records.put(step),
            DeleteRecord: lambda step, *_: records.delete(step.id),
            GetRecord: lambda step, *_: records.get(step.id),
            ScanRecords: lambda step, *_: records.scan(step),
            Count: queues.count,
            Sweep: lambda step, change, _: sweep(connection, book, records, step, change),
            CreateQueue: lambda step, change, _: queues.create(step, change.now_ms),
            ChangeQueue: lambda step, change, _: queues.change(step, change.now_ms),
            DeleteQueue: lambda step, *_: queues.delete(step),
        }
