"""What the holder of a lease may do with its message, and who has looked at one that nobody received since. Called by
the engine within a transaction."""

from __future__ import annotations

import sqlite3

from glowplug.runtime.errors import StaleLease

from .book import Book, Change
from .groups import Groups
from .model import LONGEST_LEASE_S, Lease, Unchanged
from .rows import pack, parts_of
from .steps import Delete, Extend, Release, Withdraw


class Leases:
    """The leases of a file. A step whose lease is stale raises before it has written anything."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups

    def delete(self, step: Delete, change: Change) -> int:
        """Acknowledge a message."""
        lease = step.lease
        row = self._connection.execute(
            "DELETE FROM messages WHERE sequence = ? AND receives = ? AND receives > 0 RETURNING queue, ordered",
            (lease.sequence, lease.token),
        ).fetchone()
        if row is None:
            raise self._stale(lease)
        change.totals[row[0]] -= 1
        if row[1] is not None:
            self._groups.refresh(row[0], row[1], change)
        return lease.sequence

    def extend(self, step: Extend, change: Change) -> Lease:
        """Let a lease last from now."""
        lease = step.lease
        until_ms = change.now_ms + round(min(step.visibility_s, LONGEST_LEASE_S) * 1000)
        row = self._connection.execute(
            "UPDATE messages SET visible_ms = ? WHERE sequence = ? AND receives = ? AND receives > 0"
            " RETURNING queue, ordered",
            (until_ms, lease.sequence, lease.token),
        ).fetchone()
        self._shown(row, lease, until_ms, change)
        return Lease(lease.queue, lease.sequence, lease.token, until_ms)

    def release(self, step: Release, change: Change) -> None:
        """End a lease."""
        lease = step.lease
        until_ms = change.now_ms + round(step.delay_s * 1000)
        held = self._connection.execute(
            "SELECT attributes FROM messages WHERE sequence = ? AND receives = ? AND receives > 0",
            (lease.sequence, lease.token),
        ).fetchone()
        if held is None:
            raise self._stale(lease)
        data = held[0]
        if not isinstance(step.attributes, Unchanged):
            parts = parts_of(data)
            parts.pop("a", None)
            data = pack({**parts, "a": dict(step.attributes)} if step.attributes else parts)
        row = self._connection.execute(
            # In a group those that were received ever must stay the first ones, see groups.py.
            "UPDATE messages SET visible_ms = ?, receives = receives - iif(ordered IS NULL, ?, 0), attributes = ?"
            " WHERE sequence = ? RETURNING queue, ordered",
            (until_ms, int(step.uncounted), data, lease.sequence),
        ).fetchone()
        self._shown(row, lease, until_ms, change)

    def withdraw(self, step: Withdraw, change: Change) -> int:
        """Delete a message that is as it was."""
        queue = self._book.queue(step.queue)
        row = self._connection.execute(
            "DELETE FROM messages WHERE sequence = ? AND receives = ? AND queue = ? RETURNING ordered",
            (step.sequence, step.receives, queue.number),
        ).fetchone()
        if row is None:
            raise self._stale(Lease(queue.name, step.sequence, step.receives, 0))
        change.totals[queue.number] -= 1
        if row[0] is not None:
            self._groups.refresh(queue.number, row[0], change)
        return step.sequence

    def _shown(self, row: tuple[int, int | None] | None, lease: Lease, until_ms: int, change: Change) -> None:
        if row is None:
            raise self._stale(lease)
        if row[1] is None:
            change.visible(row[0], until_ms)
        else:
            self._groups.refresh(row[0], row[1], change)

    def _stale(self, lease: Lease) -> StaleLease:
        there = self._connection.execute(
            "SELECT receives FROM messages WHERE sequence = ?", (lease.sequence,)
        ).fetchone()
        why = "is not there any more" if there is None else f"was received again since ({there[0]} times in all)"
        return StaleLease(f"Queue {lease.queue}: the lease is stale: message {lease.sequence} {why}")
