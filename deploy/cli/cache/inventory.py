"""What a store holds, as values: read from its directories without changing any of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from glowplug.cache.holds import unheld
from glowplug.cache.index import scan
from glowplug.cache.manifests import Manifest, manifests
from glowplug.cache.pins import pinned
from glowplug.cache.store import BlobStore


@dataclass(frozen=True, slots=True)
class StoredBlob:
    """A blob that is there. ``used_s`` is when it was last used (seconds since 1970), ``urls`` are the sources that
    name it."""

    sha256: str
    size_bytes: int
    used_s: float
    held: bool
    pinned_by: tuple[str, ...]
    urls: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoredSource:
    """A source that was fetched once. A blob that several of its files share counts once in the sizes; ``used_s`` is
    that of the blob used last, None when none is there."""

    url: str
    digest: str
    files: int
    size_bytes: int
    present_bytes: int
    present: Literal["all", "part", "gone"]
    used_s: float | None
    held: bool
    pinned_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything in a store, what was used last first."""

    sources: tuple[StoredSource, ...]
    blobs: tuple[StoredBlob, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all blobs."""
        return sum(blob.size_bytes for blob in self.blobs)

    @property
    def held_bytes(self) -> int:
        """Bytes of the blobs that some process holds."""
        return sum(blob.size_bytes for blob in self.blobs if blob.held)

    @property
    def pinned_bytes(self) -> int:
        """Bytes of the blobs that somebody pins."""
        return sum(blob.size_bytes for blob in self.blobs if blob.pinned_by)

    @property
    def evictable_bytes(self) -> int:
        """Bytes of the blobs that nobody holds or pins."""
        return sum(blob.size_bytes for blob in self.blobs if not blob.held and not blob.pinned_by)

    @property
    def unreferenced(self) -> tuple[StoredBlob, ...]:
        """The blobs that no source names: made here, or of a source that holds other files now."""
        return tuple(blob for blob in self.blobs if not blob.urls)


def take(store: BlobStore) -> Inventory:
    """Return what the store holds now; what changes meanwhile may or may not be in it. Raises ``StoreError``."""
    known = manifests(store.root)
    urls: dict[str, set[str]] = defaultdict(set)
    for manifest in known:
        for blob in manifest.blobs:
            urls[blob.sha256].add(manifest.url)
    owners = pinned(store.root)
    blobs = {
        entry.sha256: StoredBlob(
            entry.sha256,
            entry.size,
            entry.used_s,
            is_held(store.path(entry.sha256)),
            owners.get(entry.sha256, ()),
            tuple(sorted(urls.get(entry.sha256, ()))),
        )
        for entry in scan(store.root)
    }
    sources = [_source(manifest, blobs) for manifest in known]
    return Inventory(
        tuple(sorted(sources, key=lambda one: (-(one.used_s or 0.0), one.url))),
        tuple(sorted(blobs.values(), key=lambda one: (-one.used_s, one.sha256))),
    )


def _source(manifest: Manifest, blobs: Mapping[str, StoredBlob]) -> StoredSource:
    wanted = manifest.blobs
    found = [blobs[one.sha256] for one in wanted if one.sha256 in blobs and blobs[one.sha256].size_bytes == one.size]
    return StoredSource(
        url=manifest.url,
        digest=manifest.digest,
        files=len(manifest.files),
        size_bytes=sum(one.size for one in wanted),
        present_bytes=sum(one.size_bytes for one in found),
        present="all" if len(found) == len(wanted) else "part" if found else "gone",
        used_s=max((one.used_s for one in found), default=None),
        held=any(one.held for one in found),
        pinned_by=tuple(sorted({owner for one in found for owner in one.pinned_by})),
    )


def is_held(path: Path) -> bool:
    """Return whether a process holds the blob at ``path``; how many do is not to be seen.

    Asked by trying for the lock that an eviction would need. Whoever wants to hold the blob at this very moment waits
    some microseconds; an eviction passes it over.
    """
    try:
        with unheld(path) as status:
            return status is None
    except OSError:
        return False  # evicted since the directory was read, or not ours to open and so not ours to evict
