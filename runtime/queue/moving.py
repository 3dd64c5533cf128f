"""From one queue to another: dead letters, and messages that are moved on purpose. Called by the engine within a
transaction."""

from __future__ import annotations

import sqlite3
from contextlib import closing

from .book import Book, Change
from .groups import Groups
from .model import Moved, Queue
from .rows import WITHOUT_BODY, Row, packed, parts_of
from .steps import Move

_LOOKED_AT = 1_000  # in one step, where most of them stay: others wait for the transaction
_LAST = 2**63 - 1
_NEXT = f"""SELECT {WITHOUT_BODY} FROM messages
    WHERE queue = ? AND visible_ms <= ? AND (visible_ms, receives, sequence) > (?, ?, ?) AND sequence <= ?
    ORDER BY visible_ms, receives, sequence LIMIT ?"""  # noqa: S608 - names of columns


class Moving:
    """Moves messages between the queues of a file."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups

    def move(self, step: Move, change: Change) -> Moved:
        """Move visible messages to another queue, or back to where they came from."""
        queue = self._book.queue(step.queue)
        target = None if step.target is None else self._book.queue(step.target)
        beyond, until = step.beyond, _LAST if step.until is None else step.until
        going: list[tuple[Row, Queue]] = []
        looked_at = 0
        with closing(
            self._connection.execute(_NEXT, (queue.number, change.now_ms, *beyond, until, _LOOKED_AT))
        ) as rows:
            for row in rows:
                looked_at += 1
                beyond = (row[1], row[2], row[0])
                if (to := target or self._origin(row)) is not None and to.number != queue.number:
                    going.append((row, to))
                    if len(going) >= step.limit:
                        break
        for row, to in sorted(going, key=lambda one: one[0][0]):  # they keep the order in which they were sent
            self.transfer(row, queue, to, None if row[5] is None else self._groups.name(row[5]), None, change)
            if row[5] is not None:
                self._groups.refresh(queue.number, row[5], change)
        more = looked_at == _LOOKED_AT or len(going) == step.limit
        return Moved(len(going), beyond if more else None)

    def _origin(self, row: Row) -> Queue | None:
        source = parts_of(row[7]).get("s")
        return None if source is None else self._book.queues.get(source)

    def transfer(
        self, row: Row, queue: Queue, target: Queue, group: str | None, source: str | None, change: Change
    ) -> None:
        """Give a message to another queue, as a dead letter of ``source`` if that is given. It gets a new number, so
        that no lease of it is valid any more.

        As at SQS its age begins anew, but for a dead letter of a queue without order, which is as old as it was.
        """
        parts = parts_of(row[7])
        name = group if group is not None else parts.get("g")
        ordered = None
        if target.settings.fifo:
            name = name if name is not None else row[6].hex()
            ordered = self._groups.enter(target.number, name, change.now_ms, change)
        data = packed(parts.get("a", {}), parts.get("d"), source, name if ordered is None else None)
        now_ms = change.now_ms
        sent_ms = row[3] if source is not None and ordered is None else now_ms
        self._connection.execute(
            "UPDATE messages SET sequence = ?, queue = ?, visible_ms = ?, receives = 0, sent_ms = ?, first_ms = NULL,"
            " ordered = ?, attributes = ? WHERE sequence = ?",
            (self._book.next_sequence(), target.number, now_ms, sent_ms, ordered, data, row[0]),
        )
        change.totals[queue.number] -= 1
        change.totals[target.number] += 1
        change.visible(target.number, change.now_ms)
