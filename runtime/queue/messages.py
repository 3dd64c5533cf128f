"""The steps of messages, as statements. Called by the engine within a transaction, in its thread.

A step that is refused raises before it has written anything.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import sqlite3

from glowplug.runtime.errors import InvalidParameter, QueueFull, RequestTooLarge, StaleLease

from .book import Book, Change
from .groups import Groups
from .model import DEDUPLICATION_MS, LONGEST_LEASE_S, Lease, Message, Queue, Received, Sent, Unchanged
from .rows import MESSAGE, Row, message, pack, packed, unpack
from .steps import Delete, Discard, Extend, Find, Move, Peek, Receive, Release, Send, Withdraw
from .tables import TIME_ORDERED

_ROUNDS = 50  # of one receive: each may find only messages that are too old or were received too often

_LEASE = f"""UPDATE messages SET visible_ms = ?, receives = receives + 1, first_ms = coalesce(first_ms, ?)
    WHERE sequence IN (
        SELECT sequence FROM messages WHERE queue = ? AND visible_ms <= ?
        ORDER BY visible_ms, receives, sequence LIMIT ?
    ) RETURNING {MESSAGE}"""  # noqa: S608 - names of columns
_HEAD = f"SELECT {MESSAGE} FROM messages WHERE ordered = ? ORDER BY sequence LIMIT ?"  # noqa: S608


class Messages:
    """Messages of all queues of a file."""

    def __init__(self, connection: sqlite3.Connection, book: Book) -> None:
        self._connection = connection
        self._book = book
        self._groups = Groups(connection)

    # --- sending ------------------------------------------------------------------------------------------------------

    def is_sure(self, step: Send) -> bool:
        """Return whether ``step`` cannot be refused, whatever others of its unit do."""
        queue = self._book.queues.get(step.queue)
        if queue is None or queue.settings.fifo or queue.settings.capacity is not None:
            return False
        return len(step.body) <= queue.settings.max_message_bytes

    def check(self, step: Send, change: Change, under_way: Change) -> None:
        """Raise what ``step`` is refused for, before anything is written.

        ``under_way``: what other units of the transaction have done, or ``change`` with these.
        """
        queue = self._book.queue(step.queue)
        settings = queue.settings
        if len(step.body) > settings.max_message_bytes:
            raise RequestTooLarge(
                f"Queue {queue.name} takes messages of at most {settings.max_message_bytes} bytes, not {len(step.body)}"
            )
        if settings.capacity is not None:
            there = self._book.totals[queue.number] + change.totals[queue.number]
            if under_way is not change:
                there += under_way.totals[queue.number]
            if there >= settings.capacity:
                raise QueueFull(queue.name, settings.capacity)
        if settings.fifo and step.group is None:
            raise InvalidParameter(f"Queue {queue.name} is FIFO: a message needs a group")
        if settings.fifo and step.deduplication is None and not settings.content_deduplication:
            raise InvalidParameter(f"Queue {queue.name} is FIFO: a message needs a de-duplication id")

    def send(self, step: Send, change: Change, under_way: Change) -> Sent:
        """Add a message."""
        self.check(step, change, under_way)
        queue = self._book.queue(step.queue)
        now_ms = change.now_ms
        delay_s = queue.settings.delay_s if step.delay_s is None else step.delay_s
        visible_ms = now_ms + round(delay_s * 1000)
        key = step.id if step.id is not None else os.urandom(16)
        if queue.settings.fifo and step.group is not None:
            return self._send_ordered(step, queue, step.group, key, visible_ms, change)
        sequence = self._book.next_sequence()
        data = packed(step.attributes, step.deduplication, group=step.group)
        self._insert(sequence, queue.number, visible_ms, now_ms, None, key, data, step.body)
        change.totals[queue.number] += 1
        change.visible(queue.number, visible_ms)
        return Sent(key, sequence)

    def _send_ordered(
        self, step: Send, queue: Queue, group_name: str, key: bytes, visible_ms: int, change: Change
    ) -> Sent:
        name = step.deduplication
        if name is None:
            name = hashlib.sha256(step.body).hexdigest()
        digest = hashlib.blake2b(name.encode(), digest_size=16).digest()
        earlier = self._connection.execute(
            "SELECT id, sequence, expires_ms FROM duplicates WHERE queue = ? AND key = ?", (queue.number, digest)
        ).fetchone()
        if earlier is not None and earlier[2] > change.now_ms:
            return Sent(earlier[0], earlier[1], duplicate=True)
        sequence = self._book.next_sequence()
        self._connection.execute(
            "INSERT OR REPLACE INTO duplicates (queue, key, expires_ms, sequence, id) VALUES (?, ?, ?, ?, ?)",
            (queue.number, digest, change.now_ms + DEDUPLICATION_MS, sequence, key),
        )
        group = self._groups.enter(queue.number, group_name, visible_ms, change)
        data = packed(step.attributes, name)
        self._insert(sequence, queue.number, visible_ms, change.now_ms, group, key, data, step.body)
        change.totals[queue.number] += 1
        return Sent(key, sequence)

    def _insert(
        self,
        sequence: int,
        queue: int,
        visible_ms: int,
        now_ms: int,
        ordered: int | None,
        key: bytes,
        data: bytes | None,
        body: bytes,
    ) -> None:
        self._connection.execute(
            "INSERT INTO messages (sequence, queue, visible_ms, receives, sent_ms, ordered, id, attributes, body)"
            " VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)",
            (sequence, queue, visible_ms, now_ms, ordered, key, data, body),
        )

    # --- receiving ----------------------------------------------------------------------------------------------------

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
        self._transfer(row, queue, target, group, queue.name, change)
        change.buried[queue.number] += 1
        return False

    def _transfer(
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

    def _next(self, queue: Queue, change: Change) -> None:
        """Note when the next message of a queue may be received."""
        table = "groups" if queue.settings.fifo else "messages"
        (at_ms,) = self._connection.execute(
            f"SELECT min(visible_ms) FROM {table} WHERE queue = ?",  # noqa: S608 - one of two names
            (queue.number,),
        ).fetchone()
        if at_ms is not None:
            change.visible(queue.number, at_ms)

    # --- under a lease ------------------------------------------------------------------------------------------------

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
            parts = unpack(data)
            parts.pop("a", None)
            data = pack({**parts, "a": dict(step.attributes)} if step.attributes else parts)
        row = self._connection.execute(
            # In a group those that were received ever must stay the first ones, see groups.py.
            "UPDATE messages SET visible_ms = ?, receives = receives - iif(ordered IS NULL, ?, 0), attributes = ?"
            " WHERE sequence = ? RETURNING queue, ordered",
            (until_ms, int(step.uncounted), data, lease.sequence),
        ).fetchone()
        self._shown(row, lease, until_ms, change)

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

    # --- by the queue -------------------------------------------------------------------------------------------------

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
            self._transfer(row, queue, to, group, None, change)
            if row[5] is not None:
                self._groups.refresh(queue.number, row[5], change)
            moved += 1
        return moved

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
        columns = MESSAGE if step.bodies else MESSAGE.replace("body", "x''")
        rows: list[Row] = self._connection.execute(
            f"SELECT {columns} FROM messages WHERE queue = ?"  # noqa: S608 - names of columns
            " ORDER BY visible_ms, receives, sequence LIMIT ? OFFSET ?",
            (queue.number, step.limit, step.after),
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
