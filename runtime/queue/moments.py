"""What time it is for the file, and what becomes of the moments in it when the clock was set.

Moments are kept in Unix ms. Whenever the wall clock was set (it moved against the monotonic clock by more than
``JUMP_MS``, as it does behind a machine that slept), those that lie ahead are moved by as much, and when messages were
sent: a lease lasts as long as it was given for, and nothing is too old because of what the clock says. For a clock that
was set while the node was down, the file keeps the last time that it knows: it cannot have been later than now.
"""

from __future__ import annotations

import logging
import sqlite3
from pathlib import Path

from glowplug.runtime.clock import Clock

from .book import Book, Change
from .groups import Groups
from .model import LONGEST_LEASE_S

JUMP_MS = 1_000
"""A difference between wall and monotonic clock that is no drift."""
_LEASED_BEYOND = """SELECT sequence FROM messages
    WHERE queue IN (SELECT number FROM queues) AND visible_ms > ? AND receives > 0"""

_log = logging.getLogger(__name__)


class Moments:
    """The moments of one file. ``offset_ms`` is between the wall clock and the monotonic one, as they were last seen:
    whoever undoes a transaction puts back what it was before."""

    def __init__(self, connection: sqlite3.Connection, book: Book, clock: Clock, path: Path) -> None:
        self._connection = connection
        self._book = book
        self._clock = clock
        self._path = path
        self.offset_ms = 0

    def now(self) -> int:
        """Return Unix ms. Within a transaction: moments that lie ahead go with a clock that was set."""
        wall_ms, offset_ms = self._read()
        shift_ms = offset_ms - self.offset_ms
        if abs(shift_ms) > JUMP_MS:
            _log.warning(
                "%s: the clock was set by %+.1f s; leases, delays and ages go with it", self._path, shift_ms / 1000
            )
            self._shift(wall_ms if shift_ms < 0 else wall_ms - shift_ms, shift_ms)
            self._book.set_mark("clock", wall_ms)
        self.offset_ms = offset_ms
        return wall_ms

    def _read(self) -> tuple[int, int]:
        """Return Unix ms, and how far that is from the monotonic clock. Where this thread was stopped between looking
        at the two, it looks again: that would be taken for a clock that was set."""
        while True:
            before_s, wall_s, after_s = self._clock.monotonic(), self._clock.time(), self._clock.monotonic()
            if (after_s - before_s) * 1000 < JUMP_MS / 2:
                wall_ms = round(wall_s * 1000)
                return wall_ms, wall_ms - round(after_s * 1000)

    def keep(self) -> None:
        """Remember what time it is. Within a transaction."""
        self._book.set_mark("clock", round(self._clock.time() * 1000))

    def catch_up(self) -> None:
        """Make good for a clock that was set back while nobody looked, and bound what no lease can be.

        What was never received is delayed, not leased, and a delay has no bound.
        """
        now_ms, self.offset_ms = self._read()
        known_ms = self._book.mark("clock")  # written at each sweep
        latest_ms = now_ms + LONGEST_LEASE_S * 1000
        (beyond,) = self._connection.execute(f"SELECT EXISTS ({_LEASED_BEYOND})", (latest_ms,)).fetchone()
        if known_ms - now_ms <= JUMP_MS and not beyond:
            return  # without a write: the disk may be full
        self._connection.execute("BEGIN IMMEDIATE")
        if known_ms - now_ms > JUMP_MS:
            _log.warning("%s: the clock was set back by at least %.1f s", self._path, (known_ms - now_ms) / 1000)
            self._shift(now_ms, now_ms - known_ms)
        self._connection.execute(
            f"UPDATE messages SET visible_ms = ? WHERE sequence IN ({_LEASED_BEYOND})",  # noqa: S608 - see there
            (latest_ms, latest_ms),
        )
        groups, change = Groups(self._connection), Change(now_ms)
        for queue, number in self._connection.execute(
            "SELECT queue, number FROM groups WHERE queue IN (SELECT number FROM queues) AND visible_ms > ?",
            (latest_ms,),
        ).fetchall():
            groups.refresh(queue, number, change)
        self._book.set_mark("clock", now_ms)
        self._connection.execute("COMMIT")

    def _shift(self, after_ms: int, by_ms: int) -> None:
        """Move all moments later than ``after_ms``, and those at which messages were sent and first received."""
        for table in ("messages", "groups"):
            self._connection.execute(
                f"UPDATE {table} SET visible_ms = visible_ms + ? WHERE rowid IN"  # noqa: S608 - one of two names
                f" (SELECT rowid FROM {table} WHERE queue IN (SELECT number FROM queues) AND visible_ms > ?)",
                (by_ms, after_ms),
            )
        for table in ("duplicates", "records"):
            self._connection.execute(
                f"UPDATE {table} SET expires_ms = expires_ms + ? WHERE expires_ms > ?",  # noqa: S608 - one of two names
                (by_ms, after_ms),
            )
        self._connection.execute(
            "UPDATE messages SET sent_ms = sent_ms + ?, first_ms = first_ms + ?"
            " WHERE queue IN (SELECT number FROM queues)",
            (by_ms, by_ms),
        )
