"""From one queue to another: dead letters, and messages that are moved on purpose. Called by the engine within a
transaction."""

from __future__ import annotations

import sqlite3

from .book import Book, Change
from .groups import Groups
from .model import Queue
from .rows import MESSAGE, Row, packed, unpack
from .steps import Move


class Moving:
    """Moves messages between the queues of a file."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups

    def move(self, step: Move, change: Change) -> int:
        """Move visible messages to another queue, or back to where they came from."""
        queue = self._book.queue(step.queue)
        target = None if step.target is None else self._book.queue(step.target)
        rows: list[Row] = self._connection.execute(
            f"SELECT {MESSAGE} FROM messages WHERE queue = ? AND visible_ms <= ?"  # noqa: S608 - names of columns
            " ORDER BY visible_ms, receives, sequence LIMIT ?",
            (queue.number, change.now_ms, step.limit),
        ).fetchall()
        moved = 0
        for row in sorted(rows):
            group = None if row[5] is None else self._groups.name(row[5])
            source = unpack(row[7]).get("s")
            to = target or (self._book.queues.get(source) if source is not None else None)
            if to is None or to.number == queue.number:
                continue
            self.transfer(row, queue, to, group, None, change)
            if row[5] is not None:
                self._groups.refresh(queue.number, row[5], change)
            moved += 1
        return moved

    def transfer(
        self, row: Row, queue: Queue, target: Queue, group: str | None, source: str | None, change: Change
    ) -> None:
        """Give a message to another queue. It gets a new number, so that no lease of it is valid any more."""
        parts = unpack(row[7])
        name = group if group is not None else parts.get("g")
        ordered = None
        if target.settings.fifo:
            name = name if name is not None else row[6].hex()
            ordered = self._groups.enter(target.number, name, change.now_ms, change)
        data = packed(parts.get("a", {}), parts.get("d"), source, name if ordered is None else None)
        self._connection.execute(
            "UPDATE messages SET sequence = ?, queue = ?, visible_ms = ?, receives = 0, first_ms = NULL, ordered = ?,"
            " attributes = ? WHERE sequence = ?",
            (self._book.next_sequence(), target.number, change.now_ms, ordered, data, row[0]),
        )
        change.totals[queue.number] -= 1
        change.totals[target.number] += 1
        change.visible(target.number, change.now_ms)
