"""Which messages a receive leases, and what becomes of those that nobody is to get. Called by the engine within a
transaction."""

from __future__ import annotations

import itertools
import sqlite3

from .book import Book, Change
from .groups import Groups
from .model import LONGEST_LEASE_S, Lease, Queue, Received
from .moving import Moving
from .rows import MESSAGE, Row, message
from .steps import Receive

_ROUNDS = 50  # of one receive: each may find only messages that are too old or were received too often

_LEASE = f"""UPDATE messages SET visible_ms = ?, receives = receives + 1, first_ms = coalesce(first_ms, ?)
    WHERE sequence IN (
        SELECT sequence FROM messages WHERE queue = ? AND visible_ms <= ?
        ORDER BY visible_ms, receives, sequence LIMIT ?
    ) RETURNING {MESSAGE}"""  # noqa: S608 - names of columns
_HEAD = f"SELECT {MESSAGE} FROM messages WHERE ordered = ? ORDER BY sequence LIMIT ?"  # noqa: S608


class Receiving:
    """Leases messages of the queues of a file."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups, moving: Moving) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups
        self._moving = moving

    def receive(self, step: Receive, change: Change) -> list[Received]:
        """Lease visible messages, the longest visible first."""
        queue = self._book.queue(step.queue)
        seconds = queue.settings.visibility_s if step.visibility_s is None else step.visibility_s
        # Never at once: the message must not be found again by this very step, or by another of the transaction.
        until_ms = change.now_ms + max(1, round(min(seconds, LONGEST_LEASE_S) * 1000))
        found: list[Received] = []
        for _ in range(_ROUNDS):
            wanted = step.limit - len(found)
            if wanted <= 0:
                break
            leased = self._lease_ordered if queue.settings.fifo else self._lease
            rows = leased(queue, until_ms, change, wanted)
            if not rows:
                break
            touched = set()
            for row, group in rows:
                if row[5] is not None:
                    touched.add(row[5])
                if self._alive(row, queue, group, change):
                    lease = Lease(queue.name, row[0], row[2], until_ms)
                    found.append(Received(message(row, queue.name, group), lease))
            for number in touched:
                self._groups.refresh(queue.number, number, change)
        if found:
            change.visible(queue.number, until_ms)
        else:
            self._next(queue, change)
        return found

    def _lease(self, queue: Queue, until_ms: int, change: Change, limit: int) -> list[tuple[Row, str | None]]:
        now_ms = change.now_ms
        rows = self._connection.execute(_LEASE, (until_ms, now_ms, queue.number, now_ms, limit)).fetchall()
        rows.sort()  # RETURNING has no order of its own; the numbers are in the order of sending
        return [(row, None) for row in rows]

    def _lease_ordered(self, queue: Queue, until_ms: int, change: Change, limit: int) -> list[tuple[Row, str | None]]:
        now_ms = change.now_ms
        found: list[tuple[Row, str | None]] = []
        for number, name in self._groups.open(queue.number, now_ms, limit):
            head: list[Row] = self._connection.execute(_HEAD, (number, limit - len(found))).fetchall()
            ready = list(itertools.takewhile(lambda row: row[1] <= now_ms, head))  # nobody overtakes one with a delay
            self._connection.execute(
                "UPDATE messages SET visible_ms = ?, receives = receives + 1, first_ms = coalesce(first_ms, ?)"
                " WHERE ordered = ? AND sequence <= ?",
                (until_ms, now_ms, number, ready[-1][0]),
            )
            found += [((row[0], until_ms, row[2] + 1, row[3], row[4] or now_ms, *row[5:]), name) for row in ready]
            if len(found) >= limit:
                break
        return found

    def _alive(self, row: Row, queue: Queue, group: str | None, change: Change) -> bool:
        """Return whether a message that was just leased may be handed out; put it where it belongs otherwise."""
        settings = queue.settings
        if row[3] + round(settings.retention_s * 1000) <= change.now_ms:
            self._connection.execute("DELETE FROM messages WHERE sequence = ?", (row[0],))
            change.totals[queue.number] -= 1
            return False
        if settings.max_receives is None or settings.dead_letter is None or row[2] <= settings.max_receives:
            return True
        target = self._book.queues.get(settings.dead_letter)
        if target is None or target.number == queue.number:
            return True  # rather handed out once more than lost
        self._moving.transfer(row, queue, target, group, queue.name, change)
        change.buried[queue.number] += 1
        return False

    def _next(self, queue: Queue, change: Change) -> None:
        """Note when the next message of a queue may be received."""
        table = "groups" if queue.settings.fifo else "messages"
        (at_ms,) = self._connection.execute(
            f"SELECT min(visible_ms) FROM {table} WHERE queue = ?",  # noqa: S608 - one of two names
            (queue.number,),
        ).fetchone()
        if at_ms is not None:
            change.visible(queue.number, at_ms)
