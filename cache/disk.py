"""How this disk is best read: measured once by ``glowplug doctor``, kept as ``disk.json`` in the store's root.

One reader is the fastest on many disks, eight are on others (an NVMe drive answers deep queues; a virtual disk with one
queue gains nothing and pays with CPU). So it is measured, with the very call that reads ahead (``residency.populate``):

1. Write a file of random bytes, so that compression gains nothing. It is one random block of 4 MiB again and again: a
   disk or file system that stores equal pages once (VDO, ZFS with dedup) sees through that and is measured too high.
2. In each of ``ROUNDS`` rounds, with 1, 2, 4 and 8 readers: put it out of the page cache, make sure that it is out,
   read it, take the time. Rounds alternate between the candidates, so that a slow minute of a shared machine hits all.
3. A candidate's speed is its best round; the choice is the fewest readers that come within 10 % of the best
   (a shared machine's rounds differ by as much).

What it cannot see: caches below this kernel (of a host, a RAID controller, the drive) hold a file that has just been
written, so ``bytes_per_s`` is an upper bound for files read for the first time since long. Other load on the machine
lowers it: measure again when it looks wrong.

``disk.json``: ``{"version": 1, "device": "259:0", "readers", "chunk_bytes", "bytes_per_s", "rates": [[readers,
bytes_per_s], …]}``. A file that cannot be read, or of another device than the store is on now, counts as none.
"""

from __future__ import annotations

import math
import os
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .files import read_json, write_json
from .residency import drop, opened, populate

MEASURED_BYTES = 256 * 1024 * 1024
"""Written at most: enough to be past a drive's own buffers."""

WRITING_S = 2.0
"""The longest that writing goes on; a slow disk is measured with less."""

READING_S = 0.5
"""About how long one reading takes at most; 13 of them are made."""

ROUNDS = 3
CHUNK_BYTES = 8 * 1024 * 1024
"""Read by one call: 4 ms at 2 GB/s, so readers stay in order and a cancelled read-ahead ends at once. Between 8 and
64 MiB the speed is the same."""

MAX_READERS = 64
_CANDIDATES = (1, 2, 4, 8)
_WITHIN = 0.9
_BLOCK_BYTES = 4 * 1024 * 1024
_LEAST_BYTES = 4 * 1024 * 1024  # with less, the timing measures threads instead of the disk
_STILL_RESIDENT = 0.01  # of a file that was put out; more means that it cannot be


@dataclass(frozen=True, slots=True)
class DiskProfile:
    """How to read from a disk: ``readers`` threads, ``chunk_bytes`` by each call.

    ``bytes_per_s`` is what that reaches, 0.0 when it was not ``measured``; ``rates`` has the best speed of each number
    of readers that was tried; ``device`` is ``major:minor`` of the file system.
    """

    readers: int = 1
    chunk_bytes: int = CHUNK_BYTES
    bytes_per_s: float = 0.0
    measured: bool = False
    device: str = ""
    rates: tuple[tuple[int, float], ...] = ()


def measure(
    directory: Path, *, size_bytes: int = MEASURED_BYTES, report: Callable[[int, int], None] = lambda done, total: None
) -> DiskProfile:
    """Measure the disk that holds ``directory`` and return its profile; takes some 2 to 10 s, leaves nothing behind.

    ``report(done, total)`` is called with the number of readings done. Where nothing can be measured (a file system in
    memory, less than 4 MiB written in time) the profile says so: ``measured`` is False. Raises ``OSError``.
    """
    path = directory / f".disk-{secrets.token_hex(6)}"
    try:
        written = _write(path, size_bytes)
        return _measured(path, written, report)
    finally:
        path.unlink(missing_ok=True)


def choose(rates: dict[int, float]) -> int:
    """Return the fewest readers whose speed is within 10 % of the best: each further one costs CPU."""
    best = max(rates.values())
    return min(readers for readers, rate in rates.items() if rate >= _WITHIN * best)


def read_profile(root: Path) -> DiskProfile:
    """Return the profile in the store at ``root``, or ``default_profile`` when there is none that can be used."""
    try:
        profile = _parsed(read_json(root / "disk.json"))
        return profile if profile.device == device_of(root) else default_profile(root)
    except (OSError, ValueError, TypeError, KeyError, OverflowError):
        return default_profile(root)  # a measurement that is lost or damaged can be made again


def write_profile(root: Path, profile: DiskProfile) -> None:
    """Keep a measured profile in the store at ``root``. Raises ``StoreError`` subclasses."""
    value = {
        "version": 1,
        "device": profile.device,
        "readers": profile.readers,
        "chunk_bytes": profile.chunk_bytes,
        "bytes_per_s": profile.bytes_per_s,
        "rates": [list(rate) for rate in profile.rates],
    }
    write_json(root, root / "disk.json", value)


def default_profile(directory: Path, sysfs: Path = Path("/sys/dev/block")) -> DiskProfile:
    """Return how to read from a disk that was never measured: 4 readers on NVMe, 1 on anything else."""
    try:
        device = device_of(directory)
        return DiskProfile(readers=4 if _is_nvme(sysfs / device) else 1, device=device)
    except OSError:
        return DiskProfile()


def device_of(directory: Path) -> str:
    """Return ``major:minor`` of the file system that holds ``directory``. Raises ``OSError``."""
    number = directory.stat().st_dev
    return f"{os.major(number)}:{os.minor(number)}"


def _measured(path: Path, written: int, report: Callable[[int, int], None]) -> DiskProfile:
    device = device_of(path.parent)
    total = 1 + ROUNDS * len(_CANDIDATES)
    first = _reading(path, written, readers=1) if written >= _LEAST_BYTES else None
    report(1, total)
    if first is None:
        return DiskProfile(device=device)
    span = max(_LEAST_BYTES, min(written, int(first * READING_S)))
    rates = dict.fromkeys(_CANDIDATES, 0.0)
    for done in range(ROUNDS * len(_CANDIDATES)):
        readers = _CANDIDATES[done % len(_CANDIDATES)]
        rates[readers] = max(rates[readers], _reading(path, span, readers=readers) or 0.0)
        report(done + 2, total)
    readers = choose(rates)
    return DiskProfile(readers, CHUNK_BYTES, rates[readers], True, device, tuple(rates.items()))


def _reading(path: Path, span: int, *, readers: int) -> float | None:
    """Return bytes per second of reading the first ``span`` bytes from the disk; None when they do not leave memory."""
    if drop(path) > _STILL_RESIDENT * path.stat().st_size:
        return None
    # Chunks small enough that every reader gets several, as in a long read-ahead.
    chunk = min(CHUNK_BYTES, max(_LEAST_BYTES // 4, span // (4 * readers) // 4096 * 4096))
    chunks = iter([(offset, min(chunk, span - offset)) for offset in range(0, span, chunk)])
    lock = threading.Lock()
    started_s = time.monotonic()
    with ThreadPoolExecutor(readers) as pool:
        for reader in [pool.submit(_pull, path, chunks, lock) for _ in range(readers)]:
            reader.result()
    return span / max(time.monotonic() - started_s, 1e-9)


def _pull(path: Path, chunks: Iterator[tuple[int, int]], lock: threading.Lock) -> None:
    with opened(path) as descriptor:
        while True:
            with lock:
                chunk = next(chunks, None)
            if chunk is None:
                return
            populate(descriptor, *chunk)


def _write(path: Path, size_bytes: int) -> int:
    block = secrets.token_bytes(_BLOCK_BYTES)
    written, deadline_s = 0, time.monotonic() + WRITING_S
    with path.open("xb", buffering=0) as file:
        while written < size_bytes and time.monotonic() < deadline_s:
            written += file.write(memoryview(block)[: size_bytes - written])
            os.fdatasync(file.fileno())  # the time limit is for the disk, not for the memory in front of it
    return written


def _is_nvme(device: Path) -> bool:
    """Return whether a block device, or one of those a mapped device (LVM, dm-crypt, RAID) is made of, is NVMe."""
    if not device.exists():
        return False  # not a block device: a network or stacked file system
    if any(part.startswith("nvme") for part in device.resolve().parts):
        return True
    slaves = device / "slaves"
    return slaves.is_dir() and any(_is_nvme(slave) for slave in slaves.iterdir())


def _parsed(value: Any) -> DiskProfile:
    readers, chunk_bytes, speed = value["readers"], value["chunk_bytes"], float(value["bytes_per_s"])
    rates = tuple((int(count), float(rate)) for count, rate in value["rates"])
    if value["version"] != 1 or type(readers) is not int or type(chunk_bytes) is not int:
        raise ValueError("not a profile")
    if not (0 < readers <= MAX_READERS and 4096 <= chunk_bytes <= 2**30 and speed > 0 and math.isfinite(speed)):
        raise ValueError("numbers that no measurement gives")
    return DiskProfile(readers, chunk_bytes, speed, True, str(value["device"]), rates)
