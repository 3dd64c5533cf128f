"""How fast the state directory's disk reads: what bounds a start from `stored` when the page cache is cold."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from .machine import Finding
from .output import size

MEASURED_BYTES = 256 * 1024 * 1024
"""Written and read at most: enough to leave the disk's own cache behind, a second on any SSD."""

BUDGET_S = 2.0
"""The longest that writing, and then reading, go on; a slow disk is measured with less."""

_CHUNK_BYTES = 4 * 1024 * 1024
_FREE_WARN_BYTES = 5_000_000_000
_SLOW_BYTES_PER_S = 500_000_000  # below this, weights of 1 GB take longer than the two seconds of a torch import
_IN_MEMORY = ("tmpfs", "ramfs")


@dataclass(frozen=True, slots=True)
class ReadSpeed:
    """What was read from the disk itself, past the page cache, and how long it took."""

    read_bytes: int
    elapsed_s: float

    @property
    def bytes_per_s(self) -> float:
        """The speed of one reader in bytes per second."""
        return self.read_bytes / self.elapsed_s if self.elapsed_s > 0 else 0.0


def state_disk(state: Path) -> Finding:
    """Measure the disk of the state directory, or of where it would be made."""
    directory = next(path for path in (state, *state.parents) if path.is_dir())
    free_bytes = os.statvfs(directory).f_bavail * os.statvfs(directory).f_frsize
    kind = file_system(directory)
    try:
        speed = measure(directory, min(MEASURED_BYTES, free_bytes // 4))
    except OSError as error:
        advice = "choose a directory that you can write to with --state"
        return Finding("State directory", "warn", f"{directory}: {error.strerror}", advice)
    found = f"{state}: {kind}, {size(free_bytes)} free, reads {size(speed.bytes_per_s)}/s"
    if kind in _IN_MEMORY:
        return Finding("State directory", "warn", found, "it is in memory: lost at a restart, and weights count twice")
    if free_bytes < _FREE_WARN_BYTES:
        return Finding("State directory", "warn", found, "free some space: weights and snapshots are kept there")
    if speed.bytes_per_s < _SLOW_BYTES_PER_S:
        return Finding("State directory", "warn", found, "first starts wait for this disk; an SSD reads at GB/s")
    return Finding("State directory", "ok", found)


def measure(directory: Path, limit_bytes: int = MEASURED_BYTES, budget_s: float = BUDGET_S) -> ReadSpeed:
    """Write a temporary file and read it back from the disk. Raises ``OSError``. Nothing is left behind."""
    path = directory / f".doctor-{secrets.token_hex(4)}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        path.unlink()  # the file lives as long as the descriptor
        written = _write(descriptor, limit_bytes, budget_s)
        os.fsync(descriptor)  # only clean pages can be dropped
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        return _read(descriptor, written, budget_s)
    finally:
        os.close(descriptor)


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


def _write(descriptor: int, limit_bytes: int, budget_s: float) -> int:
    chunk = secrets.token_bytes(_CHUNK_BYTES)  # some disks and file systems compress
    written, started_s = 0, time.monotonic()
    while written < limit_bytes and time.monotonic() - started_s < budget_s:
        written += os.write(descriptor, chunk[: limit_bytes - written])
    return written


def _read(descriptor: int, limit_bytes: int, budget_s: float) -> ReadSpeed:
    buffer = bytearray(_CHUNK_BYTES)
    done, started_s = 0, time.monotonic()
    while done < limit_bytes and time.monotonic() - started_s < budget_s:
        count = os.preadv(descriptor, [buffer], done)
        if not count:
            break
        done += count
    return ReadSpeed(done, time.monotonic() - started_s)
