"""The disks that a node works on: room and kind of the state directory's, and how fast the cache's reads.

The speed bounds a start from ``stored`` when the page cache is cold. ``cache/disk.py`` measures it; what it finds is
kept in the store, because read-ahead reads with as many readers as were found best.
"""

from __future__ import annotations

import os
from pathlib import Path

from glowplug.cache.disk import MEASURED_BYTES, DiskProfile, measure, write_profile
from glowplug.cache.errors import StoreError
from glowplug.cache.residency import cachestat_pages

from .machine import Finding
from .output import size

_FREE_WARN_BYTES = 5_000_000_000
_SLOW_BYTES_PER_S = 500_000_000  # below this, weights of 1 GB take longer than the two seconds of a torch import
_IN_MEMORY = ("tmpfs", "ramfs")


def state_disk(state: Path) -> Finding:
    """Look at the disk of the state directory, or of where it would be made."""
    directory = _existing(state)
    free_bytes = _free_bytes(directory)
    kind = file_system(directory)
    found = f"{state}: {kind}, {size(free_bytes)} free"
    if not os.access(directory, os.W_OK | os.X_OK):
        advice = "choose a directory that you can write to with --state"
        return Finding("State directory", "warn", f"{directory}: cannot be written", advice)
    if kind in _IN_MEMORY:
        return Finding("State directory", "warn", found, "it is in memory: lost at a restart, and weights count twice")
    if free_bytes < _FREE_WARN_BYTES:
        return Finding("State directory", "warn", found, "free some space: weights and snapshots are kept there")
    return Finding("State directory", "ok", found)


def cache_disk(cache: Path, state: Path) -> Finding:
    """Measure how the disk of the store at ``cache`` is best read, and keep that in the store for read-ahead.

    Takes some seconds. A store that is not there yet is made, as a node would make it.
    """
    try:
        if cache.is_relative_to(state):
            state.mkdir(mode=0o700, parents=True, exist_ok=True)
        cache.mkdir(mode=0o755, parents=True, exist_ok=True)
        profile = measure(cache, size_bytes=min(MEASURED_BYTES, _free_bytes(cache) // 4))  # never fills a disk
        if not profile.measured:
            return Finding("Cache disk", "ok", f"{cache}: {file_system(cache)}, cannot be measured: it stays in memory")
        write_profile(cache, profile)
    except (OSError, StoreError) as error:
        reason = f"{cache}: {error.strerror}" if isinstance(error, OSError) else str(error)
        return Finding("Cache disk", "warn", f"not measured: {reason}", "read-ahead goes by a default until it is")
    rate, readers = speed(profile)
    found = f"{cache}: {rate} {readers}; read-ahead uses it"
    if profile.bytes_per_s < _SLOW_BYTES_PER_S:
        return Finding("Cache disk", "warn", found, "first starts wait for this disk; an SSD reads at GB/s")
    return Finding("Cache disk", "ok", found)


def speed(profile: DiskProfile) -> tuple[str, str]:
    """Return a measured profile in words: the speed, and with how many readers: ``1.20 GB/s``, ``with 1 reader
    (4 readers: 1.05)``."""
    others = ", ".join(
        f"{_readers(count)}: {rate / 1e9:.2f}" for count, rate in profile.rates if count != profile.readers
    )
    return f"{profile.bytes_per_s / 1e9:.2f} GB/s", f"with {_readers(profile.readers)}" + (
        f" ({others})" * bool(others)
    )


def residency() -> Finding:
    """Say how the page cache is asked what it has: read-ahead skips that."""
    descriptor = os.memfd_create("residency", os.MFD_CLOEXEC)
    try:
        cachestat_pages(descriptor, 0, 1)
    except OSError as error:
        found = f"no cachestat ({error.strerror}); read-ahead asks mincore instead, which needs a mapping"
        return Finding("Page cache", "ok", found)
    finally:
        os.close(descriptor)
    return Finding("Page cache", "ok", "cachestat tells read-ahead what is in memory already")


def file_system(path: Path, mounts: Path = Path("/proc/self/mounts")) -> str:
    """Return the type of the file system that holds ``path``, such as ``ext4``."""
    resolved = path.resolve()
    best, kind = -1, "unknown file system"
    for line in mounts.read_text(errors="replace").splitlines():
        fields = line.split(" ")
        point = Path(fields[1].encode().decode("unicode_escape"))  # a space in a mount point is \040
        if resolved.is_relative_to(point) and len(point.parts) >= best:
            best, kind = len(point.parts), fields[2]
    return kind


def _readers(count: int) -> str:
    return f"{count} reader{'' if count == 1 else 's'}"


def _existing(path: Path) -> Path:
    return next(above for above in (path, *path.parents) if above.is_dir())


def _free_bytes(directory: Path) -> int:
    status = os.statvfs(directory)
    return status.f_bavail * status.f_frsize
