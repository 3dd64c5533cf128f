"""Read-ahead: bring what a start will need into the page cache, in the order in which it will be needed.

    extents = (*order.extents, *file_order(paths))    # recorded at an earlier good start; then whatever it left out
    result = read_ahead(extents, read_profile(root), limit_bytes=available_memory_bytes(), cancelled=cancelled)

Runs in a thread while the start goes on in other processes. The readers take pieces from one queue, so reading keeps
the order with any number of them; almost all of their time is spent in one system call for a piece, without the
interpreter lock. Nothing here raises for the sake of a file: a start that finds less than it hoped is slower, not
broken. What is there already is asked of the kernel, not guessed.

Only regular files are opened, and what is read goes nowhere but into the page cache.
"""

from __future__ import annotations

import bisect
import contextlib
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from .disk import DiskProfile
from .readorder import Extent, ReadOrder, file_order
from .residency import PAGE_BYTES, opened, populate, resident_bytes

__all__ = [
    "Extent",
    "Piece",
    "ReadAheadResult",
    "ReadOrder",
    "Verdict",
    "available_memory_bytes",
    "file_order",
    "plan",
    "read_ahead",
]

GRAIN_BYTES = 1024 * 1024
"""Extents are widened to multiples of this: a bias of 3 kB costs a disk as much as the megabyte around it, whose other
tensors are needed next anyway."""

_FLOOR_BYTES = 1024**3
_FLOOR_FRACTION = 10  # at most this part of the memory is left alone


class Verdict(Enum):
    """What becomes of a piece."""

    READ = "read"
    PRESENT = "present in the page cache"
    OVER = "over the limit"
    GONE = "its file is gone"


@dataclass(frozen=True, slots=True)
class Piece:
    """A step of a plan. ``missing_bytes`` of the extent are not in the page cache, ``resident_bytes`` are."""

    extent: Extent
    verdict: Verdict
    missing_bytes: int = 0
    resident_bytes: int = 0


Look = Callable[[Extent], tuple[int, int] | None]
"""Says of an extent how many of its bytes the file has, and how many of those are resident; None: no such file."""


@dataclass(frozen=True, slots=True)
class ReadAheadResult:
    """What a read-ahead did. ``skipped_bytes`` were over the limit, ``missing_files`` could not be read; of a cancelled
    one the rest is in none of the numbers."""

    read_bytes: int
    resident_bytes: int
    skipped_bytes: int
    missing_files: int
    took_s: float
    readers: int
    cancelled: bool = False

    @property
    def bytes_per_s(self) -> float:
        """The speed of what was read; 0.0 when nothing had to be."""
        return self.read_bytes / self.took_s if self.read_bytes and self.took_s > 0 else 0.0


def available_memory_bytes(meminfo: Path = Path("/proc/meminfo"), cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how much may be read ahead without displacing what others use: MemAvailable, or what a container's
    ``memory.max`` leaves if that is less, minus a floor of 1 GiB or a tenth of the memory."""
    fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    total, available = (int(fields[name].split()[0]) * 1024 for name in ("MemTotal", "MemAvailable"))
    with contextlib.suppress(OSError, ValueError):  # no limit is "max", and the root cgroup has no such file
        limit = int((cgroup / "memory.max").read_text())
        free = limit - int((cgroup / "memory.current").read_text())
        total, available = min(total, limit), min(available, free)
    return max(0, available - min(_FLOOR_BYTES, total // _FLOOR_FRACTION))


def plan(extents: Iterable[Extent], look: Look, *, limit_bytes: int, chunk_bytes: int) -> Iterator[Piece]:
    """Yield the pieces of ``extents`` in their order, each byte of a file once, and what is to become of each.

    Cases of a piece, which has at most ``chunk_bytes``:
    1. its file is gone: ``GONE``, once for each file
    2. all of it is resident: ``PRESENT``
    3. what is missing still fits ``limit_bytes``: ``READ``
    4. it does not: as much of it as fits is ``READ``, the rest is ``OVER``, and so is all that comes after and is not
       resident. The order would be worth nothing if small extents overtook large ones.

    Looks at extents of one file that follow each other together, when the first of them is asked for: not all at once,
    so that reading begins before a thousand files have been opened; not one by one, because reading a piece makes the
    kernel read on, and what it read would then be taken for found.
    """
    left_bytes = limit_bytes
    gone: set[str] = set()
    for path, run in itertools.groupby(_once(extents), key=lambda extent: extent.path):
        if path in gone:
            continue
        found = _looked(run, look, chunk_bytes)
        if found is None:
            gone.add(path)
            yield Piece(Extent(path, 0, 0), Verdict.GONE)
            continue
        for extent, resident in found:
            for piece in _decided(extent, resident, left_bytes):
                left_bytes = 0 if piece.verdict is Verdict.OVER else left_bytes - piece.missing_bytes
                yield piece


def read_ahead(
    extents: Iterable[Extent], profile: DiskProfile, *, limit_bytes: int, cancelled: threading.Event | None = None
) -> ReadAheadResult:
    """Read what is not resident of ``extents`` into the page cache; at most ``limit_bytes`` of it
    (and what the kernel reads on by itself, up to twice the device's read-ahead window).

    Blocks until all is there or ``cancelled`` is set (seen after each piece). Files that are missing or cannot be read
    are counted and skipped.
    """
    cancelled = cancelled or threading.Event()
    started_s = time.monotonic()
    looker = _Files()
    work = _Work(plan(extents, looker.look, limit_bytes=limit_bytes, chunk_bytes=profile.chunk_bytes), cancelled)
    try:
        with ThreadPoolExecutor(profile.readers, thread_name_prefix="read-ahead") as pool:
            for reader in [pool.submit(work.run) for _ in range(profile.readers)]:
                reader.result()
    finally:
        looker.close()
    return ReadAheadResult(
        read_bytes=work.read_bytes,
        resident_bytes=work.resident_bytes,
        skipped_bytes=work.skipped_bytes,
        missing_files=len(work.missing),
        took_s=time.monotonic() - started_s,
        readers=profile.readers,
        cancelled=work.cut_short,
    )


class _Work:
    """The queue that readers share, and their counts."""

    def __init__(self, pieces: Iterator[Piece], cancelled: threading.Event) -> None:
        self._pieces = pieces
        self._cancelled = cancelled
        self._lock = threading.Lock()
        self.cut_short = False
        self.read_bytes = self.resident_bytes = self.skipped_bytes = 0
        self.missing: set[str] = set()

    def run(self) -> None:
        """Be one reader: read pieces until there are none."""
        files = _Files()
        try:
            while (piece := self._next()) is not None:
                try:
                    populate(files.descriptor(piece.extent.path), piece.extent.offset, piece.extent.length)
                except OSError:  # gone since it was looked at, or a bad spot on the disk
                    with self._lock:
                        self.missing.add(piece.extent.path)
                else:
                    with self._lock:
                        self.read_bytes += piece.missing_bytes
        finally:
            files.close()

    def _next(self) -> Piece | None:
        """Return the next piece to read, counting those before it that need no reading."""
        with self._lock:
            while (piece := next(self._pieces, None)) is not None:
                if self._cancelled.is_set():
                    self.cut_short = True
                    return None
                if piece.verdict is Verdict.GONE:
                    self.missing.add(piece.extent.path)
                    continue
                self.resident_bytes += piece.resident_bytes
                if piece.verdict is Verdict.READ:
                    return piece
                self.skipped_bytes += piece.missing_bytes
            return None


class _Files:
    """Keeps the file that was used last open: consecutive pieces are mostly of the same one."""

    def __init__(self) -> None:
        self._path = ""
        self._open = contextlib.ExitStack()
        self._descriptor = -1

    def descriptor(self, path: str) -> int:
        """Return an open descriptor of ``path``, valid until the next call. Raises ``OSError``."""
        if path != self._path:
            self.close()
            self._descriptor = self._open.enter_context(opened(path))
            self._path = path
        return self._descriptor

    def look(self, extent: Extent) -> tuple[int, int] | None:
        """Ask the kernel about an extent (``Look``)."""
        try:
            descriptor = self.descriptor(extent.path)
            length = max(0, min(extent.length, os.fstat(descriptor).st_size - extent.offset))
            return length, resident_bytes(descriptor, extent.offset, length)
        except OSError:
            return None

    def close(self) -> None:
        """Close what is open."""
        self._path = ""
        self._open.close()


def _looked(run: Iterable[Extent], look: Look, chunk_bytes: int) -> list[tuple[Extent, int]] | None:
    """Return the pieces of one file's extents that the file has, and how much of each is resident; None without it."""
    pieces = []
    for extent in run:
        end = extent.offset + extent.length
        for offset in range(extent.offset, end, chunk_bytes):
            wanted = Extent(extent.path, offset, min(chunk_bytes, end - offset))
            found = look(wanted)
            if found is None:
                return None
            length, resident = found
            pieces.append((Extent(extent.path, offset, length), resident))
            if length < wanted.length:
                break  # the file ends here, whatever the order says
    return pieces


def _decided(extent: Extent, resident: int, left_bytes: int) -> list[Piece]:
    """Return one piece as what becomes of it; two where the limit runs through it (cases 2 to 4 of ``plan``)."""
    missing = extent.length - resident
    if missing <= 0:
        return [Piece(extent, Verdict.PRESENT, 0, resident)] if resident else []
    if missing <= left_bytes:
        return [Piece(extent, Verdict.READ, missing, resident)]
    fits = left_bytes // PAGE_BYTES * PAGE_BYTES  # less than what is missing, and all of it may be missing
    rest = Extent(extent.path, extent.offset + fits, extent.length - fits)
    over = Piece(rest, Verdict.OVER, missing - fits, resident)
    return [Piece(Extent(extent.path, extent.offset, fits), Verdict.READ, fits), over] if fits else [over]


def _once(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Yield ``extents`` widened to ``GRAIN_BYTES`` without the bytes that came earlier, neighbours made one."""
    seen: dict[str, list[tuple[int, int]]] = {}
    last: Extent | None = None
    for extent in extents:
        begin = extent.offset // GRAIN_BYTES * GRAIN_BYTES
        end = -(-(extent.offset + extent.length) // GRAIN_BYTES) * GRAIN_BYTES
        for gap_begin, gap_end in _claim(seen.setdefault(extent.path, []), begin, end):
            if last is not None and last.path == extent.path and last.offset + last.length == gap_begin:
                last = Extent(last.path, last.offset, last.length + gap_end - gap_begin)
                continue
            if last is not None:
                yield last
            last = Extent(extent.path, gap_begin, gap_end - gap_begin)
    if last is not None:
        yield last


def _claim(taken: list[tuple[int, int]], begin: int, end: int) -> list[tuple[int, int]]:
    """Add ``begin`` to ``end`` to ``taken`` (disjoint, ascending) and return the parts of it that were free."""
    first = bisect.bisect_left(taken, begin, key=lambda span: span[1])
    after = bisect.bisect_right(taken, end, key=lambda span: span[0])
    touching = taken[first:after]
    gaps, reached = [], begin
    for span_begin, span_end in touching:
        if reached < span_begin:
            gaps.append((reached, span_begin))
        reached = max(reached, span_end)
    if reached < end:
        gaps.append((reached, end))
    if touching:
        begin, end = min(begin, touching[0][0]), max(end, touching[-1][1])
    taken[first:after] = [(begin, end)]
    return gaps
