"""What is in the page cache: three ways to ask that agree, and none that guesses or waits."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glowplug.cache import residency
from glowplug.cache.residency import PAGE_BYTES, drop, opened, populate, resident_bytes

MIB = 1024 * 1024


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of 4 MiB and 100 bytes of which nothing is in the page cache."""
    path = tmp_path / "cold"
    path.write_bytes(os.urandom(4 * MIB + 100))
    if drop(path):
        pytest.skip("this file system keeps files in memory")
    return path


def near(expected: int, actual: int) -> bool:
    """Return whether two counts of bytes differ by a few pages at most: a kernel that reclaims ahead of need may take
    pages right after they came in, and a probe of an absent page begins to read it."""
    return abs(expected - actual) <= 16 * PAGE_BYTES


def refuse(*_: object) -> int:
    raise OSError(errno.EPERM, "not allowed")


def allowed(ask: Callable[[int, int, int], int], descriptor: int) -> bool:
    """Return whether this kernel, or the sandbox around it, answers the call."""
    try:
        return ask(descriptor, 0, 1) >= 0
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return False
        raise


def read_some(path: Path, count: int) -> None:
    """Bring in the first ``count`` bytes and nothing beyond."""
    with path.open("rb", buffering=0) as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        assert count == len(file.read(count))


def test_a_range_is_resident_after_it_was_populated_and_gone_after_a_drop(cold: Path) -> None:
    assert 0 == resident_bytes(cold)
    with opened(cold) as descriptor:
        populate(descriptor, 0, cold.stat().st_size)
    assert near(cold.stat().st_size, resident_bytes(cold))
    assert 0 == drop(cold)
    assert 0 == resident_bytes(cold)


def test_what_was_just_written_is_dropped_too(tmp_path: Path) -> None:
    path = tmp_path / "dirty"
    path.write_bytes(b"x" * MIB)
    assert near(MIB, resident_bytes(path))
    if os.statvfs(path).f_bfree == 0 or drop(path):
        pytest.skip("this file system keeps files in memory")
    assert 0 == resident_bytes(path)


def test_ranges_are_counted_by_themselves_and_cut_at_the_end_of_the_file(cold: Path) -> None:
    read_some(cold, MIB)
    size = cold.stat().st_size
    assert near(MIB, resident_bytes(cold, 0, MIB))
    assert 10 == resident_bytes(cold, 5, 10)
    assert 0 == resident_bytes(cold, 2 * MIB)
    assert 0 == resident_bytes(cold, size, MIB)
    assert 0 == resident_bytes(cold, size + PAGE_BYTES)
    assert 0 == resident_bytes(cold, 0, 0)
    with opened(cold) as descriptor:
        populate(descriptor, size - 1, 1)
    assert 100 == resident_bytes(cold, size - 100, 5000)


@pytest.mark.parametrize("ask", [residency.cachestat_pages, residency.mincore_pages, residency.probed_pages])
def test_every_way_of_asking_counts_the_same(cold: Path, ask: Callable[[int, int, int], int]) -> None:
    read_some(cold, MIB)
    with opened(cold) as descriptor:
        if not allowed(ask, descriptor):
            pytest.skip(f"{ask.__name__} is not allowed here")
        assert near(MIB, PAGE_BYTES * ask(descriptor, 0, 2 * MIB))
        populate(descriptor, PAGE_BYTES, PAGE_BYTES)
        assert 1 == ask(descriptor, PAGE_BYTES + 7, 10)


def test_large_ranges_are_sampled_by_probes_and_scaled(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_some(cold, 2 * MIB)
    monkeypatch.setattr(residency, "_PROBES", 16)
    with opened(cold) as descriptor:
        found = residency.probed_pages(descriptor, 0, 4 * MIB)
    assert 6 <= 16 * found * PAGE_BYTES // (4 * MIB) <= 10  # of 16 probes, half


def test_mincore_asks_in_windows(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read_some(cold, 3 * MIB)
    monkeypatch.setattr(residency, "_WINDOW_BYTES", MIB)
    with opened(cold) as descriptor:
        assert near(3 * MIB, PAGE_BYTES * residency.mincore_pages(descriptor, 0, 4 * MIB))


def test_where_cachestat_is_refused_mincore_answers_for_our_own_files(
    cold: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(residency, "cachestat_pages", refuse)
    monkeypatch.setattr(residency, "probed_pages", refuse)
    read_some(cold, MIB)
    assert near(MIB, resident_bytes(cold))


def test_mincore_is_not_believed_about_files_that_are_not_ours(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(residency, "cachestat_pages", refuse)
    monkeypatch.setattr(residency, "mincore_pages", refuse)
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    monkeypatch.setattr(os, "access", lambda *_: False)
    read_some(cold, MIB)
    assert near(MIB, resident_bytes(cold))


def test_a_file_system_without_nowait_reads_counts_as_absent(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(*_: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "not supported")

    monkeypatch.setattr(os, "preadv", unsupported)
    with opened(cold) as descriptor:
        assert 0 == residency.probed_pages(descriptor, 0, MIB)


def test_other_errors_of_the_kernel_are_raised(cold: Path) -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        residency.cachestat_pages(-1, 0, 1)
    with opened(cold) as descriptor, pytest.raises(OSError, match="Invalid argument"):
        residency.mapped(descriptor, 0, 0).__enter__()
    with pytest.raises(OSError, match="Bad file descriptor"):
        populate(9999, 0, 100)


def test_what_cannot_be_mapped_is_read(cold: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unmappable(*_: object) -> None:
        raise OSError(errno.ENODEV, "no such device")

    monkeypatch.setattr(residency, "mapped", unmappable)
    with opened(cold) as descriptor:
        populate(descriptor, 100, 3 * MIB)
        assert near(3 * MIB, resident_bytes(cold, 100, 3 * MIB))
        populate(descriptor, 0, 1000 * MIB)  # shorter than was thought: ends at the end
    assert near(cold.stat().st_size, resident_bytes(cold))


def test_a_file_that_is_cut_short_meanwhile_is_no_signal(cold: Path) -> None:
    with opened(cold) as descriptor:
        os.truncate(cold, MIB)
        populate(descriptor, 0, 4 * MIB)
    assert near(MIB, resident_bytes(cold))


def test_only_regular_files_are_opened_and_nothing_is_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for path in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(OSError, match="not a regular file"):
            resident_bytes(path)
    with pytest.raises(FileNotFoundError):
        drop(tmp_path / "none")
