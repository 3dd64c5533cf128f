"""What goes by itself: messages past their retention, expired records, de-duplication ids, messages of no queue."""

from __future__ import annotations

import sqlite3

from .book import Book, Change
from .groups import Groups
from .records import Records
from .steps import Sweep


def sweep(connection: sqlite3.Connection, book: Book, records: Records, step: Sweep, change: Change) -> int:
    """Remove up to ``step.limit`` of each kind; return how many there were. Within a transaction."""
    now_ms, limit = change.now_ms, step.limit
    gone = records.expire(now_ms, limit)
    gone += connection.execute(
        "DELETE FROM duplicates WHERE (queue, key) IN"
        " (SELECT queue, key FROM duplicates WHERE expires_ms <= ? LIMIT ?)",
        (now_ms, limit),
    ).rowcount
    for queue in book.queues.values():
        if book.totals[queue.number] > 0:
            gone += _too_old(connection, queue.number, now_ms - round(queue.settings.retention_s * 1000), limit, change)
    gone += _orphans(connection, book, limit, change)
    book.set_mark("clock", now_ms)
    return gone


def _too_old(connection: sqlite3.Connection, queue: int, before_ms: int, limit: int, change: Change) -> int:
    """Nothing is visible before it was sent, so the index by visibility has all of them, those in flight aside.

    Unless the clock was set, and what was sent moved with it: then that counts.
    """
    rows = connection.execute(
        "DELETE FROM messages WHERE sequence IN (SELECT sequence FROM messages WHERE queue = ? AND visible_ms <= ?"
        " AND sent_ms <= ? LIMIT ?) RETURNING ordered",
        (queue, before_ms, before_ms, limit),
    ).fetchall()
    change.totals[queue] -= len(rows)
    groups = Groups(connection)
    for (ordered,) in {row for row in rows if row[0] is not None}:
        groups.refresh(queue, ordered, change)
    return len(rows)


def _orphans(connection: sqlite3.Connection, book: Book, limit: int, change: Change) -> int:
    """Remove messages of queues that were deleted; what counts them is what is in memory."""
    known = {queue.number for queue in book.queues.values()}
    gone = 0
    for queue in [number for number, total in book.totals.items() if total > 0 and number not in known]:
        removed = connection.execute(
            "DELETE FROM messages WHERE sequence IN (SELECT sequence FROM messages WHERE queue = ? LIMIT ?)",
            (queue, limit),
        ).rowcount
        change.totals[queue] -= removed
        gone += removed
        if removed < limit:
            connection.execute("DELETE FROM groups WHERE queue = ?", (queue,))
            connection.execute("DELETE FROM duplicates WHERE queue = ?", (queue,))
    return gone
