"""Read-ahead as the node does it: begun when a start is decided, in threads, and forgotten by whoever is faster.

What a start uses, and in which order, is told by the process of an earlier good start (``worker/firstuse.py``) and kept
as ``S/readahead/<revision>.json``, mode 0600, for as long as the revision is deployed. Until then, and after what was
told, the model's files are read from front to back.

What a function's process says is the function's word: of the files that it names, only those are read that its process
could have been given by the node or the system: its code, blobs, snapshots, the interpreter and its packages, the
system's libraries. Links are resolved before that is decided.

Most of the time of a reading is spent in system calls without the interpreter's lock, and nothing waits for it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import os
import secrets
import sys
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path

from glowplug.cache.disk import read_profile
from glowplug.cache.prefetch import Extent, ReadAheadResult, ReadOrder, available_memory_bytes, file_order, read_ahead
from glowplug.cache.residency import resident_bytes

from .routing.ports import Weights
from .routing.records import ReadAhead
from .spec import FunctionSpec

MAX_ORDER_BYTES = 4 * 1024 * 1024
"""Of a kept order: the largest frame that a process could tell it in."""

THREADS = 4
"""Starts that are read ahead for at the same time, each with readers of its own; a disk serves no more any faster."""

_SUFFIX = ".json"
_SYSTEM = ("/usr/lib", "/usr/lib64", "/lib", "/lib64")

_log = logging.getLogger(__name__)


class FileReading:
    """One start's read-ahead. ``ended`` never fails."""

    def __init__(self, work: asyncio.Future[ReadAhead | None], cancelled: threading.Event) -> None:
        self.ended: asyncio.Future[ReadAhead | None] = asyncio.get_running_loop().create_future()
        self._cancelled = cancelled
        work.add_done_callback(self._over)

    def __repr__(self) -> str:
        return f"<FileReading {'ended' if self.ended.done() else 'under way'}>"

    def cancel(self) -> None:
        """Stop after the piece at hand."""
        self._cancelled.set()

    def _over(self, work: asyncio.Future[ReadAhead | None]) -> None:
        if self.ended.done():
            return
        if work.cancelled():
            self.ended.set_result(None)
        elif (error := work.exception()) is not None:
            _log.warning("read-ahead failed; the start goes on without: %r", error, exc_info=error)
            self.ended.set_result(None)
        else:
            self.ended.set_result(work.result())


class Pages:
    """Reads ahead and learns. ``orders`` is the directory of recorded orders, ``store`` the cache's root, ``roots``
    returns the directories of which a function's process may name files besides those of the interpreter and system."""

    def __init__(
        self,
        orders: Path,
        store: Path,
        *,
        roots: Callable[[FunctionSpec], Sequence[Path]],
        available_bytes: Callable[[], int] = available_memory_bytes,
    ) -> None:
        self.read_bytes = 0
        self.seconds = 0.0
        self._orders = orders
        self._store = store
        self._roots = roots
        self._available_bytes = available_bytes
        self._known = {path.stem for path in orders.glob(f"*{_SUFFIX}")}
        self._under_way: set[threading.Event] = set()
        self._threads = ThreadPoolExecutor(THREADS, thread_name_prefix="pages")

    def __repr__(self) -> str:
        return f"Pages(orders={len(self._known)}, under_way={len(self._under_way)})"

    def begin(self, spec: FunctionSpec, weights: Weights, /, *, imported: bool = False) -> FileReading:
        """Begin to read what a start of ``spec`` uses, its weights alone where its handler is ``imported`` already.

        Costs the loop the start of a thread at most.
        """
        cancelled = threading.Event()
        self._under_way.add(cancelled)
        paths = [path for files in weights.paths.values() for path in files.values()]
        work = partial(self._read, "" if imported else spec.revision, paths, cancelled)
        reading = FileReading(asyncio.get_running_loop().run_in_executor(self._threads, work), cancelled)
        reading.ended.add_done_callback(lambda _: self._under_way.discard(cancelled))
        return reading

    def unknown(self, spec: FunctionSpec, /) -> bool:
        """Return whether no order is kept for ``spec``."""
        return spec.revision not in self._known

    def learn(self, spec: FunctionSpec, reads: Sequence[Sequence[object]], /) -> None:
        """Keep what a process says to have read, as far as it is to be believed; written in a thread."""
        self._known.add(spec.revision)
        roots = [*interpreter_roots(), *self._roots(spec)]
        keeping = self._threads.submit(self._keep, spec.revision, list(reads), roots)
        keeping.add_done_callback(partial(_logged, spec.name))

    def only(self, revisions: Collection[str]) -> None:
        """Forget the orders of all other revisions. Raises ``OSError``."""
        for path in self._orders.glob(f"*{_SUFFIX}"):
            if path.stem not in revisions:
                path.unlink(missing_ok=True)
        self._known &= set(revisions)

    def close(self) -> None:
        """Stop all readings and wait for their threads: as long as a disk takes for one piece."""
        for cancelled in self._under_way:
            cancelled.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    # --- in threads ---------------------------------------------------------------------------------------------------

    def _read(self, revision: str, paths: Sequence[str], cancelled: threading.Event) -> ReadAhead | None:
        """Read what the order of ``revision`` says, then the files at ``paths``; those alone without a revision."""
        extents = file_order(paths)
        if not revision:  # in the shortest way there is: a start from a parked zygote is over in milliseconds
            began_s, size = time.monotonic(), sum(extent.length for extent in extents)
            if sum(map(_resident_bytes, paths)) >= size:
                return ReadAhead(0, size, 0, time.monotonic() - began_s) if size else None
        else:
            extents = (*self._order(revision).extents, *extents)
        profile = read_profile(self._store)
        result = read_ahead(extents, profile, limit_bytes=self._available_bytes(), cancelled=cancelled)
        self.read_bytes += result.read_bytes
        self.seconds += result.took_s if result.read_bytes else 0.0
        return _told(result, profile.bytes_per_s if profile.measured else 0.0)

    def _order(self, revision: str) -> ReadOrder:
        try:
            with self._path(revision).open("rb") as file:
                return ReadOrder.from_json(file.read(MAX_ORDER_BYTES + 1))
        except OSError:
            return ReadOrder()  # none yet, or none that can be read: front to back then

    def _keep(self, revision: str, reads: Sequence[Sequence[object]], roots: Sequence[Path]) -> None:
        order = believable(reads, roots)
        text = order.to_json()
        if not order.extents or len(text) > MAX_ORDER_BYTES:
            return
        path = self._path(revision)
        fresh = path.with_suffix(f".{secrets.token_hex(6)}")
        try:
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(text)
            fresh.replace(path)
        finally:
            fresh.unlink(missing_ok=True)

    def _path(self, revision: str) -> Path:
        return self._orders / f"{revision}{_SUFFIX}"


def believable(reads: Sequence[Sequence[object]], roots: Sequence[Path]) -> ReadOrder:
    """Return the rows that name regular files below ``roots``, links resolved on both sides; nothing at all when a row
    is out of form."""
    real = [os.path.realpath(root) for root in roots]
    resolved: dict[str, str] = {}
    extents = []
    for extent in ReadOrder.from_rows(reads).extents:
        if extent.path not in resolved:
            resolved[extent.path] = os.path.realpath(extent.path)
        extents.append(Extent(resolved[extent.path], extent.offset, extent.length))
    within = ReadOrder(tuple(extents)).within(real)
    regular = {path for path in {extent.path for extent in within.extents} if os.path.isfile(path)}
    return ReadOrder(tuple(extent for extent in within.extents if extent.path in regular))


def interpreter_roots() -> list[Path]:
    """Return where the interpreter, its packages and the system's libraries are, torch's included wherever it is."""
    torch = importlib.util.find_spec("torch")
    places = [] if torch is None or torch.origin is None else [Path(torch.origin).parent]
    return [Path(sys.prefix), Path(sys.base_prefix), *places, *map(Path, _SYSTEM)]


def _resident_bytes(path: str) -> int:
    try:
        return resident_bytes(path)
    except OSError:
        return 0  # gone, or not to be asked: the reading finds out


def _told(result: ReadAheadResult, disk_bytes_per_s: float) -> ReadAhead | None:
    if not (result.read_bytes or result.resident_bytes or result.skipped_bytes):
        return None
    return ReadAhead(
        read_bytes=result.read_bytes,
        resident_bytes=result.resident_bytes,
        skipped_bytes=result.skipped_bytes,
        took_s=result.took_s,
        disk_bytes_per_s=disk_bytes_per_s,
    )


def _logged(function: str, keeping: Future[None]) -> None:
    error = None if keeping.cancelled() else keeping.exception()
    if error is not None:
        _log.warning("%s: what its start read was not kept: %s", function, error)
