"""How a message is added, and what a send is refused for. Called by the engine within a transaction."""

from __future__ import annotations

import hashlib
import os
import sqlite3

from glowplug.runtime.errors import InvalidParameter, QueueFull, RequestTooLarge

from .book import Book, Change
from .groups import Groups
from .model import DEDUPLICATION_MS, Queue, Sent
from .rows import packed
from .steps import Send


class Sending:
    """Adds messages to the queues of a file. A send that is refused raises before it has written anything."""

    def __init__(self, connection: sqlite3.Connection, book: Book, groups: Groups) -> None:
        self._connection = connection
        self._book = book
        self._groups = groups

    def is_sure(self, step: Send) -> bool:
        """Return whether ``step`` cannot be refused, whatever others of its unit do."""
        queue = self._book.queues.get(step.queue)
        if queue is None or queue.settings.fifo or queue.settings.capacity is not None:
            return False
        return len(step.body) <= queue.settings.max_message_bytes

    def send(self, step: Send, change: Change, under_way: Change) -> Sent:
        """Add a message."""
        self._check(step, change, under_way)
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

    def _check(self, step: Send, change: Change, under_way: Change) -> None:
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
