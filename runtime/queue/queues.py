"""The steps of queues, as statements. Called by the engine within a transaction, in its thread."""

from __future__ import annotations

import sqlite3

from glowplug.runtime.errors import InvalidParameter, QueueExists

from .book import Book, Change, text_of
from .model import Counts, Queue
from .steps import ChangeQueue, Count, CreateQueue, DeleteQueue


class Queues:
    """The queues of a file."""

    def __init__(self, connection: sqlite3.Connection, book: Book) -> None:
        self._connection = connection
        self._book = book

    def create(self, step: CreateQueue, now_ms: int) -> Queue:
        """Make a queue that is not there."""
        there = self._book.queues.get(step.name)
        if there is not None:
            if there.settings == step.settings:
                return there
            if not step.replace:
                raise QueueExists(f"Queue {step.name} exists with other settings")
            return self.change(ChangeQueue(step.name, step.settings), now_ms)
        (number,) = self._connection.execute(
            "INSERT INTO queues (name, created_ms, modified_ms, settings) VALUES (?, ?, ?, ?) RETURNING number",
            (step.name, now_ms, now_ms, text_of(step.settings)),
        ).fetchone()
        return Queue(number, step.name, step.settings, now_ms, now_ms)

    def change(self, step: ChangeQueue, now_ms: int) -> Queue:
        """Give a queue other settings."""
        there = self._book.queue(step.name)
        if there.settings.fifo != step.settings.fifo:
            raise InvalidParameter(f"Queue {step.name}: whether a queue is FIFO cannot be changed")
        self._connection.execute(
            "UPDATE queues SET settings = ?, modified_ms = ? WHERE number = ?",
            (text_of(step.settings), now_ms, there.number),
        )
        return Queue(there.number, there.name, step.settings, there.created_ms, now_ms)

    def delete(self, step: DeleteQueue) -> bool:
        """Forget the queue; its number is never given again, and its messages are swept away."""
        queue = self._book.queue(step.name)
        if step.only_empty and self._book.totals[queue.number] > 0:
            return False
        self._connection.execute("DELETE FROM queues WHERE number = ?", (queue.number,))
        return True

    def count(self, step: Count, change: Change, done: Change) -> Counts | dict[str, Counts]:
        """Count the messages of one queue, or of each."""

        def of(queue: Queue) -> Counts:
            number = queue.number
            total = self._book.totals[number] + done.totals[number]
            if change is not done:
                total += change.totals[number]
            if total == 0:
                return Counts(0, 0, 0, 0.0)
            hidden, flying = self._connection.execute(
                "SELECT count(*), coalesce(sum(receives > 0), 0) FROM messages WHERE queue = ? AND visible_ms > ?",
                (number, change.now_ms),
            ).fetchone()
            (oldest_ms,) = self._connection.execute(
                "SELECT min(sent_ms) FROM (SELECT sent_ms FROM messages WHERE queue = ?"
                " ORDER BY visible_ms, receives LIMIT 100)",
                (number,),
            ).fetchone()
            age_s = 0.0 if oldest_ms is None else max(0, change.now_ms - oldest_ms) / 1000
            return Counts(total - hidden, flying, hidden - flying, age_s)

        if step.queue is not None:
            return of(self._book.queue(step.queue))
        return {name: of(queue) for name, queue in sorted(self._book.queues.items())}
