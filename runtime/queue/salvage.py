"""Opening the file, also a damaged one: what can be read of it is saved into a new file, and it is kept aside.

Rows are read by their number, table by table. Where a page cannot be read, the next number is looked for from which
reading works again. A queue, group or owner whose row is gone is made anew as ``recovered-N``: a message without a
queue would be swept away.

The new file takes the place of the old one by renames; a node killed between them ends that at its next start.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import StateError
from glowplug.runtime.schema import migrate, unusable

from .book import settings_of, text_of
from .engine import Engine
from .model import QueueSettings
from .tables import MIGRATIONS

_TABLES = {
    "queues": "number, name, created_ms, modified_ms, settings",
    "groups": "number, queue, name, visible_ms",
    "owners": "number, name",
    "messages": "sequence, queue, visible_ms, receives, sent_ms, first_ms, ordered, id, attributes, body",
    "records": "number, id, owner, state, created_ms, expires_ms, attributes, body",
}
_DAMAGED_CODES = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)
_END = 2**62
_LOST_NUMBERS = 10**9  # how many messages may have had numbers that nobody can read any more

_log = logging.getLogger(__name__)


def opened(path: Path, clock: Clock) -> Engine:
    """Open a file; one that is damaged is saved first.

    Raises ``StateError`` where the file is of a newer release, cannot be written, or nothing of it can be read.
    """
    saved = path.with_name(path.name + ".saved")
    try:
        if saved.exists():
            _exchange(path, saved, clock)
        try:
            return Engine.open(path, clock)
        except sqlite3.DatabaseError as error:
            if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF not in _DAMAGED_CODES:
                raise
            _log.error("%s is damaged (%s); saving what can be read", path, error)
        rows = _save(path, saved)
        aside = _exchange(path, saved, clock)
        summary = ", ".join(f"{count} {table}" for table, count in rows.items())
        _log.error("%s was damaged: saved %s; the damaged file is kept as %s", path, summary, aside)
        return Engine.open(path, clock)
    except sqlite3.DatabaseError as error:
        raise unusable(path, error, damaged="it cannot be saved; move it away to start without messages") from error


def _save(path: Path, saved: Path) -> dict[str, int]:
    """Copy what can be read into ``saved``, which is there only when it is complete. Returns rows by table."""
    saving = path.with_name(path.name + ".saving")
    for left in _parts(saving):
        left.unlink(missing_ok=True)
    damaged = sqlite3.connect(path, isolation_level=None)
    target = sqlite3.connect(saving, isolation_level=None)
    try:
        damaged.text_factory = _text
        damaged.execute("PRAGMA query_only = ON")
        damaged.execute("PRAGMA cell_size_check = ON")
        target.execute("PRAGMA synchronous = FULL")
        migrate(target, saving, MIGRATIONS)
        target.execute("BEGIN IMMEDIATE")
        rows = {table: _copy(damaged, target, table, columns) for table, columns in _TABLES.items()}
        if not any(rows.values()):
            raise StateError(
                f"{path}: it is damaged and nothing of it can be read; restore it from a copy, or move it away to start"
                " without messages"
            )
        _mend(target)
        target.execute("COMMIT")
    finally:
        target.close()
        damaged.close()
    saving.rename(saved)
    return rows


def _copy(damaged: sqlite3.Connection, target: sqlite3.Connection, table: str, columns: str) -> int:
    marks = ", ".join("?" for _ in columns.split(","))
    count = 0
    for row in _readable(damaged, table, columns):
        values = _whole(row) if table == "queues" else row
        try:
            added = target.execute(f"INSERT OR IGNORE INTO {table} ({columns}) VALUES ({marks})", values)  # noqa: S608
            count += added.rowcount
        except sqlite3.IntegrityError as error:  # bytes of another row: of a type that the column does not take
            _log.warning("%s %s is not readable: %s", table, row[0], error)
    return count


def _text(data: bytes) -> str:
    return data.decode(errors="replace")


def _whole(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return the row of a queue, with the defaults where its settings are damaged: its name is what brings its messages
    to whom they are for."""
    *others, settings = row
    try:
        settings_of(settings)
    except (ValueError, TypeError) as error:
        _log.warning("queue %s has the default settings now: its own are damaged: %s", row[1], error)
        settings = text_of(QueueSettings(fifo=str(row[1]).endswith(".fifo")))
    return (*others, settings)


def _readable(damaged: sqlite3.Connection, table: str, columns: str) -> Iterator[tuple[Any, ...]]:
    """Give the rows of a table that can be read, by their number."""
    query = f"SELECT {columns} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"  # noqa: S608 - of _TABLES
    start = 0
    while start < _END:
        try:
            for row in damaged.execute(query, (start,)):
                yield row
                start = row[0] + 1
            return
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            start = _after(damaged, query, start)


def _after(damaged: sqlite3.Connection, query: str, broken: int) -> int:
    """Return the first number behind ``broken`` from which a row can be read; ``_END`` without one."""

    def works(start: int) -> bool:
        try:
            return damaged.execute(query, (start,)).fetchone() is not None
        except (sqlite3.DatabaseError, UnicodeDecodeError):
            return False

    step = 1
    while not works(broken + step):
        step *= 2
        if broken + step >= _END:
            return _END
    low, high = broken + step // 2, broken + step
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if works(middle) else (middle, high)
    return high


def _mend(target: sqlite3.Connection) -> None:
    """Make what rows refer to and what was not readable."""
    settings = text_of(QueueSettings())
    target.execute(
        "INSERT INTO queues (number, name, created_ms, modified_ms, settings)"
        " SELECT DISTINCT queue, 'recovered-' || queue, 0, 0, ? FROM messages"
        " WHERE queue NOT IN (SELECT number FROM queues)",
        (settings,),
    )
    target.execute(
        "INSERT INTO groups (number, queue, name, visible_ms)"
        " SELECT ordered, max(queue), 'recovered-' || ordered, 0 FROM messages"
        " WHERE ordered IS NOT NULL AND ordered NOT IN (SELECT number FROM groups) GROUP BY ordered"
    )
    target.execute("DELETE FROM groups WHERE number NOT IN (SELECT ordered FROM messages WHERE ordered IS NOT NULL)")
    target.execute(
        "INSERT INTO owners (number, name) SELECT DISTINCT owner, 'recovered-' || owner FROM records"
        " WHERE owner NOT IN (SELECT number FROM owners)"
    )
    target.execute(
        "INSERT OR REPLACE INTO meta (key, value) SELECT 'sequence', coalesce(max(sequence), 0) + ? FROM messages",
        (_LOST_NUMBERS,),
    )


def _exchange(path: Path, saved: Path, clock: Clock) -> Path:
    """Put the saved file in the damaged one's place. Returns where that is kept."""
    aside = path.with_name(f"{path.name}.damaged-{round(clock.time())}")
    for part, kept in zip(_parts(path), _parts(aside), strict=True):
        if part.exists():
            part.rename(kept)
    saved.rename(path)
    return aside


def _parts(path: Path) -> tuple[Path, Path, Path]:
    """A database, its log and the log's index."""
    return path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")
