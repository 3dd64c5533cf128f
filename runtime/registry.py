"""What is deployed: functions, revisions, versions, aliases, URLs and stacks, in one SQLite file.

One connection, owned by one thread: every method that touches the file runs there, so statements of two callers never
interleave. Transactions are written out (``isolation_level=None``, BEGIN IMMEDIATE), the journal is a WAL and each
commit reaches the disk (``synchronous=FULL``): after a kill the file holds the state before a ``put_stack`` or the one
after it. A damaged file is an error that says what to do; it is never made anew, because an empty registry looks like
"nothing is deployed".

The request path never waits for SQLite: ``resolve`` and ``url`` answer from a frozen copy, loaded at ``open`` and
replaced after each commit.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from .errors import FunctionNotFound, StateError
from .rows import LATEST, FunctionChange, FunctionRecord, StackRecord, View, load, refuse_collisions, write_stack
from .schema import migrate
from .spec import FunctionSpec

__all__ = ["LATEST", "FunctionChange", "FunctionRecord", "Registry", "StackRecord", "lambda_time"]

T = TypeVar("T")

_log = logging.getLogger(__name__)


class Registry:
    """The deployed functions of one node. Made by ``await Registry.open(path)``; ended by ``await close()``.

    Methods that read are synchronous and answer from memory; methods that write are coroutines.
    """

    def __init__(self, path: Path, *, arn_prefix: str, now: Callable[[], float]) -> None:
        self._path = path
        self._arn_prefix = arn_prefix
        self._now = now
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        self._connection: sqlite3.Connection | None = None
        self._view = View()  # what readers see; replaced on the event loop, so that whoever put it acts on it first
        self._committed = self._view  # the registry's own thread: what the file holds
        self._puts: set[asyncio.Task[list[FunctionChange]]] = set()  # under way, whether or not anybody waits for them

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        arn_prefix: str = "arn:aws:lambda:us-east-1:000000000000:function:",
        now: Callable[[], float] = time.time,
    ) -> Registry:
        """Open the file, making or migrating it. ``arn_prefix`` is for the messages of ``FunctionNotFound``;
        ``now`` returns Unix seconds.

        Raises ``StateError`` when the file is damaged, of a newer release, or cannot be written.
        """
        registry = cls(path, arn_prefix=arn_prefix, now=now)
        try:
            await registry._run(registry._open)
        except BaseException:
            await registry.close()
            raise
        return registry

    def __repr__(self) -> str:
        state, view = "closed" if self._connection is None else "open", self._view
        return f"<Registry {self._path} {state}, {len(view.functions)} functions, {len(view.stacks)} stacks>"

    async def close(self) -> None:
        """Let commits under way end, move the write-ahead log into the file and close it. May be called twice."""
        while self._puts:  # one whose caller was cancelled still has to reach the view
            await asyncio.wait(self._puts)
        if self._connection is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=True)

    # --- answered from memory -----------------------------------------------------------------------------------------

    def functions(self) -> list[FunctionRecord]:
        """Return every function, by name."""
        return [record for _, record in sorted(self._view.functions.items())]

    def get(self, name: str) -> FunctionRecord:
        """Return one function. Raises ``FunctionNotFound``."""
        try:
            return self._view.functions[name]
        except KeyError:
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}") from None

    def resolve(self, name: str, qualifier: str = LATEST) -> FunctionSpec:
        """Return the spec that ``qualifier`` of ``name`` points to. Raises ``FunctionNotFound`` naming both."""
        record = self._view.functions.get(name)
        if record is None or qualifier != LATEST:  # nothing publishes versions or makes aliases yet
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}:{qualifier}")
        return record.spec

    def url(self, url_id: str) -> tuple[str, str] | None:
        """Return (function name, qualifier) behind a function URL, or None."""
        return self._view.urls.get(url_id)

    def slot(self, name: str) -> int:
        """Return the slot of a function, also of one that was deleted and still drains. Raises ``FunctionNotFound``."""
        try:
            return self._view.slots[name]
        except KeyError:
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}") from None

    def stack(self, name: str) -> StackRecord | None:
        """Return one stack, or None."""
        return self._view.stacks.get(name)

    def stacks(self) -> list[StackRecord]:
        """Return every stack, by name."""
        return [stack for _, stack in sorted(self._view.stacks.items())]

    def code_digests(self) -> frozenset[str]:
        """Return the digests of all code that some function runs; everything else may be pruned."""
        return frozenset(record.spec.code_digest for record in self._view.functions.values())

    # --- written ------------------------------------------------------------------------------------------------------

    async def put_stack(self, stack: StackRecord) -> list[FunctionChange]:
        """Make ``stack.name`` exactly ``stack``, in one transaction; an empty one deletes all its functions.

        Raises ``Conflict`` when a function belongs to another stack, ``DefinitionError`` when a URL id is taken (naming
        the logical id and the other function), ``StateError`` when it cannot be written. Nothing has changed then.
        Cancelling the caller does not stop a commit under way.
        """
        if self._connection is None:
            raise StateError(f"{self._path}: the registry is closed")
        putting = asyncio.create_task(self._put_and_show(stack), name="registry put")
        self._puts.add(putting)
        putting.add_done_callback(self._puts.discard)
        return await asyncio.shield(putting)

    async def _put_and_show(self, stack: StackRecord) -> list[FunctionChange]:
        try:
            return await self._run(lambda: self._put_stack(stack))
        finally:
            self._view = self._committed  # in the step in which the commit is heard of, waited for or not

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.DatabaseError as error:
            raise _unusable(self._path, error) from error

    # --- in the registry's own thread ---------------------------------------------------------------------------------

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # after each put_stack, by this thread
        damage = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if damage != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(damage))
        migrate(connection, self._path)
        self._view = self._committed = load(connection, self._path)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def _put_stack(self, stack: StackRecord) -> list[FunctionChange]:
        connection = self._connection
        if connection is None:  # closed while this waited for the thread
            raise StateError(f"{self._path}: the registry is closed")
        refuse_collisions(stack, self._committed)
        now = lambda_time(self._now())
        connection.execute("BEGIN IMMEDIATE")
        try:
            changes = write_stack(connection, stack, self._committed, now)
            view = load(connection, self._path)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled back by itself
                connection.execute("ROLLBACK")
            raise
        self._committed = view
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:  # committed all the same: the log is read until a checkpoint succeeds
            _log.warning("%s: the write-ahead log stays: %s", self._path, error)
        return changes


def lambda_time(unix_s: float) -> str:
    """Return Unix seconds in the form of Lambda's ``LastModified``: ``2025-11-24T23:11:20.123+0000``."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"


def _unusable(path: Path, error: sqlite3.DatabaseError) -> StateError:
    """Say what a failed statement means for whoever runs the node."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # the low byte is the primary code
    advice = {
        sqlite3.SQLITE_FULL: "the disk is full; free some space there or choose another directory with --state",
        sqlite3.SQLITE_READONLY: "it cannot be written; run as its owner or choose another directory with --state",
        sqlite3.SQLITE_CANTOPEN: "it cannot be opened; choose another directory with --state",
        sqlite3.SQLITE_BUSY: "another process has it open; stop that process",
        sqlite3.SQLITE_IOERR: "its disk reports errors; choose another directory with --state",
    }.get(code, "it is damaged; restore it from a copy, or move it away and deploy your templates again")
    return StateError(f"{path}: {advice} ({error})")
