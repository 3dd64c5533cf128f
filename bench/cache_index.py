"""A store of 100,000 blobs: what it costs to find one, and to build the index anew."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from glowplug.cache.index import Index
from glowplug.cache.store import Blob, BlobStore

from .cache_files import Workspace
from .figures import Figure, at_most, median, percentile

BLOBS = 100_000
LOOKUPS = 2000
_CONTENT = b"64 bytes, so that a hundred thousand of them fit on any disk....\n"


def figures(space: Workspace) -> list[Figure]:
    """Fill a store, build its index, and hold blobs that are there; the system calls alone are the baseline."""
    store = BlobStore(space.directory / "many")
    blobs = _fill(store, space.scaled(BLOBS, least=100))
    try:
        rebuild_s = _seconds(lambda: Index(store.root).rebuild())
        walk_s = _seconds(lambda: _walk(store.root / "blobs"))
        held, looked = [], []
        for blob in random.Random(1).choices(blobs, k=LOOKUPS):
            held.append(_seconds(lambda blob=blob: _hold(store, blob)) * 1e3)  # type: ignore[misc]
            looked.append(_seconds(lambda blob=blob: store.path(blob.sha256).stat()) * 1e3)  # type: ignore[misc]
    finally:
        shutil.rmtree(store.root)
    section = f"a store of {len(blobs):,} blobs"
    return [
        at_most(section, "ensure of a present blob (hold and path), p99", percentile(held, 0.99), "ms", 1),
        Figure(section, "ensure of a present blob, p50", median(held), "ms"),
        Figure(section, "stat of its path alone, p50", median(looked), "ms"),
        at_most(section, "index built anew from the store", rebuild_s, "s", 10),
        Figure(section, "stat of every blob alone", walk_s, "s"),
    ]


def _fill(store: BlobStore, count: int) -> list[Blob]:
    """Put ``count`` files where blobs are; their names are digests of nothing, which neither bench reads."""
    blobs = [Blob(hashlib.sha256(str(number).encode()).hexdigest(), len(_CONTENT)) for number in range(count)]
    for blob in blobs:
        path = store.path(blob.sha256)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_CONTENT)
        path.chmod(0o444)
    return blobs


def _hold(store: BlobStore, blob: Blob) -> None:
    with store.hold([blob]) as hold:
        assert hold.paths[blob.sha256]


def _walk(directory: Path) -> None:
    for parent in os.scandir(directory):
        for entry in os.scandir(parent):
            entry.stat()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
