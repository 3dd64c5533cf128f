"""Order within a group: the rows of ``groups``.

A group is blocked while any of its messages is leased, or its first is invisible. Messages are received in order, so
those that were received ever are the first ones of their group: looking at the group's state means walking over these
and one more.
"""

from __future__ import annotations

import sqlite3

from .book import Change


class Groups:
    """The groups of FIFO queues that have messages."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def enter(self, queue: int, name: str, visible_ms: int, change: Change) -> int:
        """Return the number of a group that is about to get a message."""
        row = self._connection.execute(
            "SELECT number FROM groups WHERE queue = ? AND name = ?", (queue, name)
        ).fetchone()
        if row is not None:
            return int(row[0])
        change.visible(queue, visible_ms)
        added: tuple[int] = self._connection.execute(
            "INSERT INTO groups (queue, name, visible_ms) VALUES (?, ?, ?) RETURNING number", (queue, name, visible_ms)
        ).fetchone()
        return added[0]

    def open(self, queue: int, now_ms: int, limit: int) -> list[tuple[int, str]]:
        """Return (number, name) of groups that are not blocked, those first that have waited longest."""
        return self._connection.execute(
            "SELECT number, name FROM groups WHERE queue = ? AND visible_ms <= ? ORDER BY visible_ms, number LIMIT ?",
            (queue, now_ms, limit),
        ).fetchall()

    def name(self, number: int) -> str | None:
        """Return the name of a group."""
        row = self._connection.execute("SELECT name FROM groups WHERE number = ?", (number,)).fetchone()
        return row[0] if row else None

    def refresh(self, queue: int, number: int, change: Change) -> None:
        """Look again at when a group's next message may be received; forget a group that has none."""
        free_ms = -1
        for visible_ms, receives in self._connection.execute(
            "SELECT visible_ms, receives FROM messages WHERE ordered = ? ORDER BY sequence", (number,)
        ):
            if receives > 0 or free_ms < 0:
                free_ms = max(free_ms, visible_ms)
            if receives == 0:
                break
        if free_ms < 0:
            self._connection.execute("DELETE FROM groups WHERE number = ?", (number,))
        else:
            self._connection.execute("UPDATE groups SET visible_ms = ? WHERE number = ?", (free_ms, number))
            change.visible(queue, free_ms)
