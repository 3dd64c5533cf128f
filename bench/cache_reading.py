"""A cold checkpoint into the page cache: ours against dd, parallel pread and touching a mapping."""

from __future__ import annotations

import itertools
import mmap
import os
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from glowplug.cache.disk import DiskProfile
from glowplug.cache.prefetch import file_order, read_ahead

from .cache_files import ATTEMPTS, Workspace, drop, is_resident
from .figures import Figure, at_least, median

ROUNDS = 3
CHUNK_BYTES = 8 * 1024 * 1024
"""For dd and pread: large enough that a system call more or less does not matter."""


def figures(space: Workspace) -> list[Figure]:
    """Read the cold file by each means in turn; every run begins with no byte of it resident and ends with all."""
    file = space.checkpoint
    profile = space.profile
    means: dict[str, Callable[[Path], None]] = {
        "dd bs=8M": _dd,
        "pread, 2 threads": lambda path: _pread(path, 2),
        "pread, 4 threads": lambda path: _pread(path, 4),
        "pread, 8 threads": lambda path: _pread(path, 8),
        "touching a mapping": _touch,
        "glowplug": lambda path: _own(path, profile),
    }
    speeds: dict[str, list[float]] = {name: [] for name in means}
    discarded = 0
    cold_s(_dd, file.path)  # once uncounted: what is below this machine's own page cache has seen the file, too
    for turn in range(ROUNDS):
        order = list(means)
        for name in order[turn:] + order[:turn]:
            took_s, again = cold_s(means[name], file.path)
            speeds[name].append(file.size / took_s / 1e9)
            discarded += again
    return _rows(f"{file}, cold, until every byte is in the page cache", speeds, profile, discarded)


def _rows(section: str, speeds: Mapping[str, list[float]], profile: DiskProfile, discarded: int) -> list[Figure]:
    own = median(speeds["glowplug"])
    baselines = {name: median(values) for name, values in speeds.items() if name != "glowplug"}
    best = max(baselines, key=lambda name: baselines[name])
    note = f"readers, as measured on this disk: {profile.readers}, of {profile.chunk_bytes / 2**20:g} MiB"
    if discarded:
        note += f"; runs (of all means) repeated, because the kernel took pages back: {discarded}"
    return [
        *(Figure(section, f"{name} (best {max(v):.2f})", median(v), "GB/s") for name, v in speeds.items()),
        at_least(section, f"glowplug / the best of the others ({best})", own / baselines[best], "x", 0.9, note=note),
    ]


def cold_s(read: Callable[[Path], None], path: Path) -> tuple[float, int]:
    """Return seconds until ``read`` has made every byte of the cold file resident, and how many runs were repeated.

    Both ends are verified: a run after which something is missing has read less than it should, or the kernel has taken
    pages back. It does not count. Raises ``RuntimeError`` after ``ATTEMPTS`` of those.
    """
    for again in range(ATTEMPTS):
        drop(path)
        begun = time.perf_counter()
        read(path)
        took_s = time.perf_counter() - begun
        if is_resident(path):
            return took_s, again
    raise RuntimeError(f"{path}: is never all in the page cache after it was read {ATTEMPTS} times")


def _own(path: Path, profile: DiskProfile) -> None:
    read_ahead(file_order([str(path)]), profile, limit_bytes=path.stat().st_size)


def _dd(path: Path) -> None:
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=8M"], check=True, capture_output=True)


def _touch(path: Path) -> None:
    """Read one byte of every page, in C: a slice with a step."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        _ = mapping[:: mmap.PAGESIZE]


def _pread(path: Path, threads: int) -> None:
    """Read chunks in order of offset by as many threads; each takes the next chunk that nobody has taken."""
    size = path.stat().st_size
    offsets = itertools.count(0, CHUNK_BYTES)  # next() on it is atomic
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read() -> None:
        buffer = bytearray(CHUNK_BYTES)
        while (offset := next(offsets)) < size:
            done = 0
            while done < min(CHUNK_BYTES, size - offset):
                done += os.preadv(descriptor, [memoryview(buffer)[done:]], offset + done)

    try:
        readers = [threading.Thread(target=read) for _ in range(threads)]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()
    finally:
        os.close(descriptor)
