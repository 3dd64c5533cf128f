"""The index: what blobs there are, how large and when last used, without reading 256 directories.

``index.db`` is SQLite, used by several processes at once. It is an accelerator and never an authority:

- It names every blob or does not exist. A row is inserted before its blob's rename (``publishing``): a crash between
  the two leaves a row without a blob, which is dropped when somebody looks at it; a blob that no eviction knows of is
  never left. A publisher that cannot write its row removes the database instead of failing, and one that finds no
  database inserts nothing: whoever asks next scans ``blobs/`` and writes a new one.
- ``locks/index`` is held shared from the row to the rename, and exclusively while the database is made anew or rows
  are dropped: a scan that runs between a row and its rename would lose that blob.
- A database that is missing, damaged, of another schema or of another boot is removed and made anew by scanning. Where
  that fails too (a full disk), the scan itself is the answer. So nothing here can fail a fetch.
- Another boot: WAL with ``synchronous=NORMAL`` may lose its last rows in a power cut (https://sqlite.org/wal.html,
  "performance considerations"), which is the price of not syncing at each row, and cheap where a scan brings them back.
- A process may find that its open database is no longer the one at the path (removed by an operator, made anew by
  another process). It compares inodes before each use and opens the new one. Closing the old one is harmless: SQLite
  leaves the ``-wal`` file of a database that was moved away alone.
- A connection is used by one thread at a time, and never in a fork of the process that opened it
  (https://sqlite.org/howtocorrupt.html, section 2.6).

WAL needs memory shared between all users of the file: a store belongs to one machine.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from .digest import is_digest
from .evict import Entry
from .files import boot_id, locked, make_directory, store_errors

T = TypeVar("T")

SCHEMA = 1
"""Stored as ``user_version``; any other is made anew."""

BUSY_S = 5.0
"""How long to wait for another process's write before the database is taken for stuck and made anew."""

_LOCK = "index"
_UNUSABLE = (sqlite3.Error, OSError, ValueError)
_inherited: list[sqlite3.Connection] = []  # opened before a fork: neither used nor closed here


class Index:
    """The index of the store at ``root``. Any number of processes and threads may use one store's at once."""

    def __init__(self, root: Path) -> None:
        self.path = root / "index.db"
        self._root = root
        self._lock = threading.Lock()  # taken after locks/index, never before it
        self._connection: sqlite3.Connection | None = None
        self._identity = (0, 0)
        self._process = os.getpid()
        self._finalizer: weakref.finalize[..., Index] | None = None

    def __repr__(self) -> str:
        return f"Index({str(self.path)!r}, open={self._connection is not None})"

    def close(self) -> None:
        """Close the database; the next use opens it again."""
        with self._lock:
            self._close()

    @contextlib.contextmanager
    def publishing(self, entry: Entry) -> Iterator[None]:
        """Make a blob known, then keep every rebuild out while the block renames it into place.

        Raises ``StoreError`` subclasses only when neither a row can be written nor the database be removed, which would
        leave an unknown blob.
        """
        with locked(self._root, _LOCK, shared=True):
            try:
                self._run(lambda database: database.execute(_INSERT, _row(entry)))
            except _UNUSABLE:
                self._remove()
            yield

    def add(self, entry: Entry) -> None:
        """Note a blob that is there, or a later use of it. Raises as ``publishing``."""
        with self.publishing(entry):
            pass

    def drop(self, digests: Iterable[str]) -> None:
        """Forget those of ``digests`` whose blobs are gone. Raises ``StoreError`` subclasses as ``publishing``."""
        with locked(self._root, _LOCK):
            # looked at under the lock: somebody may have published one again since it was evicted
            gone = [(digest,) for digest in digests if not os.path.lexists(blob_path(self._root, digest))]
            try:
                self._run(lambda database: _transact(database, "DELETE FROM blobs WHERE sha256 = ?", gone))
            except _UNUSABLE:
                self._remove()

    def entries(self) -> list[Entry]:
        """Return all blobs, in no order, some of which may be gone by now.

        Raises ``StoreError`` only when the blobs' directories cannot be read either.
        """
        try:
            return self._run(_entries)
        except _UNUSABLE:
            return self._made(unless_usable=True)

    def totals(self) -> tuple[int, int]:
        """Return how many blobs there are and their bytes, some of which may be gone by now. Raises as ``entries``."""
        try:
            return self._run(_totals)
        except _UNUSABLE:
            found = self._made(unless_usable=True)
            return len(found), sum(entry.size for entry in found)

    def rebuild(self) -> list[Entry]:
        """Make the index anew from what is in ``blobs/`` and return that. Raises as ``entries``."""
        return self._made(unless_usable=False)

    def _made(self, *, unless_usable: bool) -> list[Entry]:
        """Make the database anew by scanning; return its entries, also when it cannot be written."""
        with locked(self._root, _LOCK):
            if unless_usable:
                with contextlib.suppress(*_UNUSABLE):  # somebody made it while this process waited for the lock
                    return self._run(_entries)
            self._remove()
            found = list(scan(self._root))
            with self._lock:
                try:
                    self._create(found)
                except _UNUSABLE:
                    self._close()
                    self._unlink()  # half made; the scan is the answer, this time and the next
            return found

    def _run(self, operation: Callable[[sqlite3.Connection], T]) -> T:
        """Return what ``operation`` says of the database at the path. Raises one of ``_UNUSABLE``."""
        with self._lock:
            try:
                return operation(self._current())
            except _UNUSABLE:
                self._close()
                raise

    def _current(self) -> sqlite3.Connection:
        """Return a connection to the database that is at the path now. Raises one of ``_UNUSABLE``."""
        identity = _identity(os.stat(self.path))
        if self._connection is None or self._process != os.getpid() or self._identity != identity:
            self._close()
            return self._open(identity)
        return self._connection

    def _open(self, identity: tuple[int, int]) -> sqlite3.Connection:
        connection = self._connect("rw")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema != SCHEMA or connection.execute("SELECT boot FROM made").fetchone() != (boot_id(),):
            raise ValueError(f"{self.path}: made by another version or in another boot")
        if _identity(os.stat(self.path)) != identity:
            raise ValueError(f"{self.path}: replaced while it was opened")
        self._identity = identity
        return connection

    def _create(self, entries: Iterable[Entry]) -> None:
        """Write a database of ``entries``. One transaction: who opens it half made finds no schema in it."""
        make_directory(self._root)
        connection = self._connect("rwc")
        connection.execute("PRAGMA journal_mode = WAL")  # stays with the file
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("CREATE TABLE made (boot TEXT NOT NULL)")
        connection.execute("INSERT INTO made VALUES (?)", (boot_id(),))
        connection.execute(
            "CREATE TABLE blobs (sha256 TEXT PRIMARY KEY, size INTEGER NOT NULL, used_s REAL NOT NULL) WITHOUT ROWID"
        )
        connection.executemany(_INSERT, map(_row, entries))
        connection.execute(f"PRAGMA user_version = {SCHEMA}")
        connection.execute("COMMIT")
        self._identity = _identity(os.stat(self.path))

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.absolute().as_uri()}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )
        self._connection, self._process = connection, os.getpid()
        self._finalizer = weakref.finalize(self, _close, connection, self._process)
        connection.execute("PRAGMA synchronous = NORMAL")
        return connection

    def _close(self) -> None:
        if self._finalizer is not None:
            self._finalizer()
        self._connection = self._finalizer = None

    def _remove(self) -> None:
        with self._lock:
            self._close()
            with store_errors(self.path):
                self._unlink()

    def _unlink(self) -> None:
        for suffix in ("", "-wal", "-shm"):  # a log left alone would be replayed into the next database of this name
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}{suffix}")


def blob_path(root: Path, digest: str) -> Path:
    """Return where the blob of ``digest``, which is one, is or would be."""
    return root / "blobs" / digest[:2] / digest


def scan(root: Path) -> Iterator[Entry]:
    """Give what is in ``blobs/``: regular files named by a digest, in the directory of its first two digits. Anything
    else that lies there is left alone. Raises ``StoreError`` when a directory cannot be read."""
    blobs = root / "blobs"
    with store_errors(blobs):
        try:
            prefixes = sorted(entry.name for entry in os.scandir(blobs) if entry.is_dir(follow_symlinks=False))
        except FileNotFoundError:
            return
        for prefix in prefixes:
            if len(prefix) != 2:
                continue
            with os.scandir(blobs / prefix) as found:
                for file in found:
                    if not is_digest(file.name) or not file.name.startswith(prefix):
                        continue
                    with contextlib.suppress(FileNotFoundError):  # evicted since the directory was read
                        if file.is_file(follow_symlinks=False):
                            status = file.stat(follow_symlinks=False)
                            yield Entry(file.name, status.st_size, status.st_mtime)


_INSERT = "INSERT INTO blobs VALUES (?, ?, ?) ON CONFLICT DO UPDATE SET size = excluded.size, used_s = excluded.used_s"


def _row(entry: Entry) -> tuple[str, int, float]:
    return entry.sha256, entry.size, entry.used_s


def _transact(database: sqlite3.Connection, statement: str, rows: Iterable[tuple[object, ...]]) -> None:
    database.execute("BEGIN IMMEDIATE")
    database.executemany(statement, rows)
    database.execute("COMMIT")


def _entries(database: sqlite3.Connection) -> list[Entry]:
    found = [Entry(*row) for row in database.execute("SELECT sha256, size, used_s FROM blobs")]
    for entry in found:
        # a column's type binds nobody in SQLite, and a digest becomes a path
        if not is_digest(entry.sha256) or type(entry.size) is not int or type(entry.used_s) is not float:
            raise ValueError(f"{entry!r:.120} is not a blob")
    return found


def _totals(database: sqlite3.Connection) -> tuple[int, int]:
    count, size = database.execute("SELECT count(*), coalesce(sum(size), 0) FROM blobs").fetchone()
    if type(count) is not int or type(size) is not int:
        raise ValueError("sizes that are not numbers")
    return count, size


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


def _close(connection: sqlite3.Connection, process: int) -> None:
    if process == os.getpid():
        connection.close()
    else:
        _inherited.append(connection)  # closing it would drop the parent's locks and could remove its log
