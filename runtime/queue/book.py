"""What the engine knows without asking the file: its queues, how many messages each has, and what a unit changes.

Memory follows the disk: what a unit does is noted in a ``Change`` and becomes part of the ``Book`` when the transaction
has been committed, or is forgotten with it.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from glowplug.runtime.errors import QueueNotFound

from .model import Queue, QueueSettings

_RESERVED = 100_000  # sequence numbers taken at a time, so that most transactions need not write the mark


def _numbers() -> dict[int, int]:
    return defaultdict(int)  # a Counter costs several times as much, and one is made for every unit


@dataclass(slots=True)
class Change:
    """What a unit, or a transaction, has done. Queues by number; times in Unix ms."""

    now_ms: int
    totals: dict[int, int] = field(default_factory=_numbers)
    #: Messages that may be received at once.
    ready: dict[int, int] = field(default_factory=_numbers)
    #: The next moment at which one may be.
    soonest: dict[int, int] = field(default_factory=dict)
    #: Messages that went to a dead-letter queue, by the queue that they left.
    buried: dict[int, int] = field(default_factory=_numbers)

    def visible(self, queue: int, at_ms: int) -> None:
        """Note that a message may be received from ``at_ms`` on."""
        if at_ms <= self.now_ms:
            self.ready[queue] += 1
        elif at_ms < self.soonest.get(queue, at_ms + 1):
            self.soonest[queue] = at_ms

    def absorb(self, other: Change) -> None:
        """Take over what a unit has done."""
        for number, count in other.totals.items():
            self.totals[number] += count
        for number, count in other.ready.items():
            self.ready[number] += count
        for number, count in other.buried.items():
            self.buried[number] += count
        for number, at_ms in other.soonest.items():
            self.soonest[number] = min(at_ms, self.soonest.get(number, at_ms))


class Book:
    """The queues of a file. ``queues`` is replaced, never changed, so that another thread may read it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.queues: Mapping[str, Queue] = {}
        self.totals: Counter[int] = Counter()
        self._next_sequence = 1
        self._reserved_until = 1

    def load(self) -> None:
        """Read everything from the file."""
        self.reread()
        rows = self._connection.execute("SELECT queue, count(*) FROM messages GROUP BY queue")
        self.totals = Counter(dict(rows.fetchall()))
        (highest,) = self._connection.execute("SELECT coalesce(max(sequence), 0) FROM messages").fetchone()
        # A number is never given twice, not even one whose message is gone: a lease names its message by it.
        self._next_sequence = self._reserved_until = max(highest + 1, self.mark("sequence"))

    def reread(self) -> None:
        """Read the queues. Raises ``sqlite3.DatabaseError`` where they are damaged."""
        rows = self._connection.execute("SELECT number, name, settings, created_ms, modified_ms FROM queues")
        try:
            self.queues = {
                name: Queue(number, name, settings_of(text), created, modified)
                for number, name, text, created, modified in rows
            }
        except (ValueError, TypeError) as error:
            raise sqlite3.DatabaseError(f"the settings of a queue are damaged: {error}") from error

    def queue(self, name: str) -> Queue:
        """Return a queue. Raises ``QueueNotFound``."""
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(name) from None

    def named(self, number: int) -> str | None:
        """Return the name of a queue, None when it was deleted."""
        return next((queue.name for queue in self.queues.values() if queue.number == number), None)

    @property
    def newest(self) -> int:
        """The number of the last message."""
        return self._next_sequence - 1

    def mark(self, key: str) -> int:
        """Return a number kept under ``key``, 0 without one."""
        row = self._connection.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return row[0] if row else 0

    def set_mark(self, key: str, value: int) -> None:
        """Keep a number under ``key``."""
        self._connection.execute("INSERT OR REPLACE INTO meta (key, value) VALUES (?, ?)", (key, value))

    def next_sequence(self) -> int:
        """Return a number that no message ever had."""
        number = self._next_sequence
        if number >= self._reserved_until:
            self.set_mark("sequence", number + _RESERVED)
            self._reserved_until = number + _RESERVED
        self._next_sequence = number + 1
        return number

    def rolled_back(self) -> None:
        """Forget that numbers were reserved: the mark may have gone with the transaction."""
        self._reserved_until = self._next_sequence

    def committed(self, change: Change) -> None:
        """Take over what a transaction has done."""
        for number, count in change.totals.items():
            self.totals[number] += count


def text_of(settings: QueueSettings) -> str:
    """Return the settings as they are kept."""
    return json.dumps(asdict(settings), sort_keys=True, separators=(",", ":"))


def settings_of(text: str) -> QueueSettings:
    """Return the settings that were kept."""
    values: dict[str, Any] = json.loads(text)
    return QueueSettings(**values)
