"""What is deployed, on disk: the ``Catalog`` of a node, in one SQLite file.

One connection, owned by one thread: every method that touches the file runs there, so statements of two callers never
interleave. Transactions are written out (``isolation_level=None``, BEGIN IMMEDIATE), the journal is a WAL and each
commit reaches the disk (``synchronous=FULL``): after a kill the file holds the state before a change or the one after
it. A damaged file is an error that says what to do; it is never made anew, because an empty registry looks like
"nothing is deployed".

The request path never waits for SQLite: ``target``, ``url`` and ``api`` answer from the catalog in memory, loaded at
``open`` and replaced after each commit.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from .catalog import LATEST, Catalog, Function, Url, Version
from .errors import FunctionNotFound, StateError
from .rows import load, write
from .schema import migrate, unusable
from .spec import FunctionSpec

__all__ = ["Decide", "Registry"]

T = TypeVar("T")
Decide = Callable[[Catalog], tuple[Catalog, T]]
"""A change, decided: returns the next catalog and what to tell the caller. Pure; raises ``GlowplugError`` to refuse."""

_DAMAGED = "it is damaged; restore it from a copy, or move it away and deploy your templates again"
_log = logging.getLogger(__name__)


class Registry:
    """The deployed functions of one node. Made by ``await Registry.open(path)``; ended by ``await close()``.

    Methods that read are synchronous and answer from memory; methods that write are coroutines.
    """

    def __init__(self, path: Path, *, arn_prefix: str, now: Callable[[], float]) -> None:
        self._path = path
        self._arn_prefix = arn_prefix
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="registry")
        self._connection: sqlite3.Connection | None = None
        self._shown = Catalog()  # what readers see; replaced on the event loop, so that whoever put it acts on it first
        self._committed = self._shown  # the registry's own thread: what the file holds
        self._changes: set[asyncio.Task[Any]] = set()  # under way, whether or not anybody waits for them
        self.now = now

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
        state, catalog = "closed" if self._connection is None else "open", self._shown
        return f"<Registry {self._path} {state}, {len(catalog.functions)} functions, {len(catalog.stacks)} stacks>"

    async def close(self) -> None:
        """Let commits under way end, move the write-ahead log into the file and close it. May be called twice."""
        while self._changes:  # one whose caller was cancelled still has to be shown
            await asyncio.wait(self._changes)
        if self._connection is not None:
            await self._run(self._close)
        self._thread.shutdown(wait=True)

    # --- answered from memory -----------------------------------------------------------------------------------------

    @property
    def catalog(self) -> Catalog:
        """What is deployed now."""
        return self._shown

    def functions(self) -> list[Function]:
        """Return every function, by name."""
        return [function for _, function in sorted(self._shown.functions.items())]

    def get(self, name: str) -> Function:
        """Return one function. Raises ``FunctionNotFound``."""
        function = self._shown.functions.get(name)
        if function is None:
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}")
        return function

    def target(self, name: str, qualifier: str = LATEST) -> Version:
        """Return the version that one request for ``qualifier`` of ``name`` is to run on: another one each time where
        an alias has weights. Raises ``FunctionNotFound`` naming both."""
        function = self._shown.functions.get(name)
        version = None if function is None else function.qualified(qualifier)
        if version is None:
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}:{qualifier}")
        return version

    def resolve(self, name: str, qualifier: str = LATEST) -> FunctionSpec:
        """Return the spec of ``target``."""
        return self.target(name, qualifier).spec

    def url(self, url_id: str) -> Url | None:
        """Return a function URL, or None."""
        return self._shown.urls.get(url_id)

    def api(self, api_id: str) -> Mapping[str, Any] | None:
        """Return an API as its template put it, or None."""
        return self._shown.documents.get(f"api/{api_id}")

    def slot(self, name: str) -> int:
        """Return the slot of a function, also of one that was deleted and still drains. Raises ``FunctionNotFound``."""
        try:
            return self._shown.slots[name]
        except KeyError:
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{name}") from None

    # --- written ------------------------------------------------------------------------------------------------------

    async def change(self, decide: Decide[T]) -> T:
        """Make the catalog what ``decide`` says, in one transaction, and return what it says to return.

        ``decide`` runs in the registry's thread, one change after the other, on what is on disk. It raises what this
        raises, or this raises ``StateError`` when the file cannot be written; nothing has changed then. Cancelling the
        caller does not stop a change under way.
        """
        if self._connection is None:
            raise StateError(f"{self._path}: the registry is closed")
        changing = asyncio.create_task(self._change_and_show(decide), name="registry change")
        self._changes.add(changing)
        changing.add_done_callback(self._changes.discard)
        return await asyncio.shield(changing)

    async def _change_and_show(self, decide: Decide[T]) -> T:
        try:
            return await self._run(lambda: self._change(decide))
        finally:
            self._shown = self._committed  # in the step in which the commit is heard of, waited for or not

    async def _run(self, work: Callable[[], T]) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, work)
        except sqlite3.DatabaseError as error:
            raise unusable(self._path, error, damaged=_DAMAGED) from error

    # --- in the registry's own thread ---------------------------------------------------------------------------------

    def _open(self) -> None:
        connection = sqlite3.connect(self._path, isolation_level=None, timeout=5.0)
        self._connection = connection
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA wal_autocheckpoint = 0")  # after each change, by this thread
        damage = [row[0] for row in connection.execute("PRAGMA quick_check(3)")]
        if damage != ["ok"]:
            raise sqlite3.DatabaseError("; ".join(damage))
        migrate(connection, self._path)
        self._shown = self._committed = load(connection, self._path)

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            try:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            finally:
                connection.close()

    def _change(self, decide: Decide[T]) -> T:
        connection = self._connection
        if connection is None:  # closed while this waited for the thread
            raise StateError(f"{self._path}: the registry is closed")
        after, result = decide(self._committed)
        if after is self._committed:
            return result
        connection.execute("BEGIN IMMEDIATE")
        try:
            write(connection, self._committed, after)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:  # a full disk has rolled back by itself
                connection.execute("ROLLBACK")
            raise
        self._committed = after
        try:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.DatabaseError as error:  # committed all the same: the log is read until a checkpoint succeeds
            _log.warning("%s: the write-ahead log stays: %s", self._path, error)
        return result
