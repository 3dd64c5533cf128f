"""Messages as a whole queue has them: looked at, found by id, discarded. Called by the engine within a transaction."""

from __future__ import annotations

import sqlite3

from .book import Book, Change
from .groups import Groups
from .model import Message
from .rows import MESSAGE, WITHOUT_BODY, Row, message
from .steps import Discard, Find, Peek
from .tables import TIME_ORDERED


class Messages:
    """The messages of a file, without regard to leases."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups

    def discard(self, step: Discard, change: Change) -> int:
        """Delete messages of a queue, leased or not."""
        queue = self._book.queue(step.queue)
        rows = self._connection.execute(
            "DELETE FROM messages WHERE sequence IN ("
            "SELECT sequence FROM messages WHERE queue = ? AND sequence <= ? LIMIT ?) RETURNING ordered",
            (queue.number, step.sequence, step.limit),
        ).fetchall()
        change.totals[queue.number] -= len(rows)
        for (ordered,) in {row for row in rows if row[0] is not None}:
            self._groups.refresh(queue.number, ordered, change)
        return len(rows)

    def peek(self, step: Peek) -> list[Message]:
        """Look at messages without leasing them."""
        queue = self._book.queue(step.queue)
        columns = MESSAGE if step.bodies else WITHOUT_BODY
        rows: list[Row] = self._connection.execute(
            f"SELECT {columns} FROM messages WHERE queue = ?"  # noqa: S608 - names of columns
            " AND (visible_ms, receives, sequence) > (?, ?, ?)"
            " ORDER BY visible_ms, receives, sequence LIMIT ? OFFSET ?",
            (queue.number, *step.beyond, step.limit, step.after),
        ).fetchall()
        names = {number: self._groups.name(number) for number in {row[5] for row in rows} if number is not None}
        return [message(row, queue.name, None if row[5] is None else names[row[5]]) for row in rows]

    def find(self, step: Find) -> Message | None:
        """Look for a message by its id."""
        queue = self._book.queue(step.queue)
        row: Row | None = self._connection.execute(
            f"SELECT {MESSAGE} FROM messages WHERE id = ? AND queue = ? AND {TIME_ORDERED} LIMIT 1",  # noqa: S608
            (step.id, queue.number),
        ).fetchone()
        group = None if row is None or row[5] is None else self._groups.name(row[5])
        return None if row is None else message(row, queue.name, group)
