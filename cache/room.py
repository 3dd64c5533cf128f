"""Room on the disk: whether a fetch may begin, and what goes to make place for it.

``make_room`` is the admission: it answers before a byte is transferred. In this order:

1. What is short is the larger of two: what the disk lacks with its reserve untouched, and what the budget lacks.
2. Downloads that nobody has worked on for a day go.
3. ``evict`` chooses among the blobs that nobody pins. The index says what there is; each victim is then looked at,
   because a row may be behind: one that was used since gets its real time, one that is gone is forgotten, one that a
   process holds stays. That repeats until a choice stands. Nothing has been removed so far.
4. Not enough? The index is made anew by scanning (it may have lost a row to a fault), and 3 repeats. Still not? Then
   downloads that died less than a day ago go, as far as that helps. Still not: ``StoreFull``, and no blob was removed.
5. Each victim is locked exclusively and unlinked while it is locked. One that somebody took hold of in between stays,
   and 3 repeats for what is missing, which may now end in ``StoreFull`` too.

All of it happens under ``locks/store``: two processes that make room at once would otherwise both evict for both.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .candidates import Candidates
from .errors import StoreFull
from .evict import NOTHING, Entry, Eviction
from .files import locked, make_directory, store_errors
from .pins import EVICTION_LOCK, forget_gone
from .store import ABANDONED_S, BlobStore

MAX_RESERVE_BYTES = 1024**3
RESERVE_SHARE = 0.05
"""What is left free of a disk unless the operator says otherwise: 5 %, at most 1 GiB. The state directory's databases
and logs and other programs need some, and file systems slow down when nothing is left."""

_NAMED_OWNERS = 3


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a store may take: ``max_bytes`` for blobs and downloads together (None: whatever the disk has), and
    ``reserve_bytes`` of the disk that stay free (None: 5 % of the disk, at most 1 GiB)."""

    max_bytes: int | None = None
    reserve_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Disk:
    """A store's disk in bytes: its size, what is free for us, and what of that stays free."""

    size_bytes: int
    free_bytes: int
    reserve_bytes: int

    def short_bytes(self, need_bytes: int) -> int:
        """Return how much too little there is for ``need_bytes`` more."""
        return max(0, need_bytes + self.reserve_bytes - self.free_bytes)


def disk(root: Path, budget: Budget = Budget()) -> Disk:
    """Return the disk of the store at ``root``, which is created if need be. Raises ``StoreError`` subclasses."""
    with store_errors(root):
        make_directory(root)
        status = os.statvfs(root)
    size = status.f_blocks * status.f_frsize
    reserve = budget.reserve_bytes
    if reserve is None:
        reserve = min(MAX_RESERVE_BYTES, int(size * RESERVE_SHARE))
    return Disk(size, status.f_bavail * status.f_frsize, reserve)


def make_room(store: BlobStore, need_bytes: int, budget: Budget) -> Eviction:
    """Make sure that ``need_bytes`` more can be written, evicting what it takes; return what was evicted.

    ``need_bytes`` is what will be allocated anew: what a resumed download has allocated is not part of it. Nothing is
    set aside: two fetches that were both let in may still meet ``StoreFull`` while they write.

    Raises ``StoreFull`` that says what is needed, free, held and pinned; then no blob was removed, unless somebody took
    hold of others in the very moment between the choice and the removal. Raises other ``StoreError`` subclasses when
    the store cannot be looked at. A need of 0 never raises.
    """
    if need_bytes <= 0:
        return NOTHING
    admission = _Admission(store, need_bytes, budget)
    blobs_bytes = store.index.totals()[1] if budget.max_bytes is not None else 0
    if admission.short_bytes(blobs_bytes) == 0:
        return NOTHING
    with locked(store.root, EVICTION_LOCK):
        return admission.admit()


def prune(store: BlobStore, *, to_bytes: int) -> Eviction:
    """Evict until blobs and downloads take ``to_bytes`` or nothing more may go; return what was evicted.

    Raises ``StoreError`` subclasses, never ``StoreFull``: ``short_bytes`` of the answer says what is still too much.
    """
    with locked(store.root, EVICTION_LOCK):
        store.sweep()
        forget_gone(store.root, before_s=time.time() - ABANDONED_S)
        blobs = Candidates(store, store.index.rebuild())
        return blobs.evict(lambda: blobs.size_bytes + store.partial_bytes() - to_bytes, partly=True)


@dataclass(frozen=True, slots=True)
class Removal:
    """What went, and why the others stay: digest -> reason."""

    freed: Eviction
    kept: Mapping[str, str]


def remove(store: BlobStore, digests: Iterable[str]) -> Removal:
    """Remove those of ``digests`` that nobody holds or pins, whether or not room is needed.

    Raises ``StoreError`` subclasses, ``SourceInvalid`` for anything but digests.
    """
    with locked(store.root, EVICTION_LOCK):
        blobs = Candidates(store, _present(store, digests))
        freed = blobs.evict(lambda: blobs.size_bytes, partly=True)
    left = {entry.sha256 for entry in blobs.among(digests)}
    kept = {digest: f"pinned by {', '.join(owners)}" for digest, owners in blobs.pinned.items() if digest in left}
    kept |= dict.fromkeys(blobs.out_of_reach & left, "cannot be opened")
    return Removal(freed, kept | dict.fromkeys(blobs.held & left, "a process has them open"))


def _present(store: BlobStore, digests: Iterable[str]) -> Iterator[Entry]:
    for digest in digests:
        path = store.path(digest)
        with store_errors(path), contextlib.suppress(FileNotFoundError):
            status = os.lstat(path)
            yield Entry(digest, status.st_size, status.st_mtime)


class _Admission:
    """One question whether ``need_bytes`` fit."""

    def __init__(self, store: BlobStore, need_bytes: int, budget: Budget) -> None:
        self._store = store
        self._need_bytes = need_bytes
        self._budget = budget
        self._measure()

    def _measure(self) -> None:
        self._disk = disk(self._store.root, self._budget)
        self._partial_bytes = self._store.partial_bytes()

    def short_bytes(self, blobs_bytes: int, freed_bytes: int = 0) -> int:
        """Return what is short when the blobs take ``blobs_bytes`` and ``freed_bytes`` went since the disk was looked
        at. (Looked at once: what is unlinked while somebody has it open is freed later.)"""
        short = self._disk.short_bytes(self._need_bytes) - freed_bytes
        if self._budget.max_bytes is not None:
            used = blobs_bytes + self._partial_bytes + self._need_bytes
            short = max(short, used - self._budget.max_bytes)
        return max(0, short)

    def admit(self) -> Eviction:
        """Evict what it takes. Raises ``StoreFull``. Whoever calls this holds the eviction lock."""
        self._store.sweep()
        self._measure()
        blobs, plan = self._choose(self._store.index.entries())
        if plan.short_bytes:
            blobs, plan = self._choose(self._store.index.rebuild())
        if 0 < plan.short_bytes <= self._partial_bytes:
            self._store.sweep(abandoned_s=0)
            self._measure()
            blobs, plan = self._choose(self._store.index.entries())
        if plan.short_bytes == 0:
            plan = blobs.evict(lambda: self.short_bytes(blobs.size_bytes, blobs.freed_bytes), partly=False)
        if plan.short_bytes:
            raise StoreFull(self._refusal(blobs, plan))
        return plan

    def _choose(self, entries: list[Entry]) -> tuple[Candidates, Eviction]:
        blobs = Candidates(self._store, entries)
        return blobs, blobs.choose(lambda: self.short_bytes(blobs.size_bytes))

    def _refusal(self, blobs: Candidates, plan: Eviction) -> str:
        held, stuck = blobs.among(blobs.held), blobs.among(blobs.out_of_reach)
        limit = self._budget.max_bytes
        sentences = [
            f"{self._store.root}: no room for {_size(self._need_bytes)} more, {_size(plan.short_bytes)} are short",
            f"The disk has {_size(self._disk.free_bytes)} free, {_size(self._disk.reserve_bytes)} of which stay free",
            f"The cache takes {_size(blobs.size_bytes + self._partial_bytes)}"
            + (f" of the {_size(limit)} it may take" if limit is not None else ""),
            f"Of that, {_sum(plan.victims)} could be evicted and {_sum(held)} are held by running processes",
        ]
        if blobs.pinned:
            sentences.append(f"{_sum(blobs.among(blobs.pinned))} are pinned by {_names(blobs.pinned)}")
        if stuck:
            sentences.append(f"{_sum(stuck)} cannot be opened, such as {self._store.path(stuck[0].sha256)}")
        sentences.append(
            "Free space on the disk, raise GLOWPLUG_CACHE_BYTES, lower GLOWPLUG_CACHE_RESERVE_BYTES, stop functions "
            "that hold blobs, or let go of pins (`glowplug cache pin --remove`)"
        )
        return ". ".join(sentences)


def _names(pinned: dict[str, tuple[str, ...]]) -> str:
    owners = sorted({owner for several in pinned.values() for owner in several})
    more = f" and {len(owners) - _NAMED_OWNERS} more" if len(owners) > _NAMED_OWNERS else ""
    return ", ".join(owners[:_NAMED_OWNERS]) + more


def _sum(entries: Collection[Entry]) -> str:
    return f"{_size(sum(entry.size for entry in entries))} in {len(entries)} blobs"


def _size(size_bytes: int) -> str:
    for unit, factor in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size_bytes >= factor:
            return f"{size_bytes / factor:.1f} {unit}"
    return f"{size_bytes} bytes"
