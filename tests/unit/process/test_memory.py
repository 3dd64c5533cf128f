"""What counts as memory that a worker added, and who is killed for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from glowplug.runtime.process.memory import INTERVAL_S, REASON, MemoryWatch, Sample, over_limit, used_bytes
from glowplug.runtime.testing import ManualClock

STATUS = "Name:\tpython\nVmRSS:\t  99999 kB\nRssAnon:\t{anon:8} kB\nRssFile:\t 5000 kB\nRssShmem:\t{shmem} kB\nVmSwap:\t4 kB\n"
MIB = 1024 * 1024


class Worker:
    """A worker as the watch sees it, and its ``/proc`` file."""

    def __init__(self, proc: Path, pid: int) -> None:
        self.pid, self.alive, self.busy, self.killed_for = pid, True, True, ""
        self._directory = proc / str(pid)
        self._directory.mkdir()
        self.uses(10)

    def uses(self, mib: int, *, shared: int = 0) -> None:
        text = STATUS.format(anon=mib * 1024, shmem=shared * 1024)
        (self._directory / "status").write_text(text)

    def ends(self) -> None:
        (self._directory / "status").write_text("Name:\tpython\nState:\tZ (zombie)\n")

    def kill(self, reason: str) -> None:
        self.killed_for = reason


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def watch(tmp_path: Path, clock: ManualClock) -> MemoryWatch:
    return MemoryWatch(clock=clock, proc=tmp_path)


def test_anonymous_shared_and_swapped_memory_counts_and_files_do_not(tmp_path: Path) -> None:
    Worker(tmp_path, 7).uses(10, shared=3)
    assert 13 * MIB + 4096 == used_bytes(7, proc=tmp_path)


def test_a_process_that_is_gone_or_a_zombie_uses_nothing(tmp_path: Path) -> None:
    Worker(tmp_path, 7).ends()
    assert (None, None) == (used_bytes(7, proc=tmp_path), used_bytes(8, proc=tmp_path))


@pytest.mark.parametrize(
    ("used", "limit", "over"), [(128, 128, []), (129, 128, []), (130, 128, [7]), (4, 128, []), (10_000, 0, [])]
)
def test_only_what_was_added_counts_and_no_limit_bounds_nothing(used: int, limit: int, over: list[int]) -> None:
    assert over == over_limit([Sample(7, 0.0, base_bytes=1, used_bytes=used, peak_bytes=used, limit_bytes=limit)])


async def test_a_busy_worker_over_its_limit_is_killed_and_nobody_else(
    watch: MemoryWatch, clock: ManualClock, tmp_path: Path
) -> None:
    greedy, modest, idle = (Worker(tmp_path, pid) for pid in (7, 8, 9))
    idle.busy = False
    for worker in (greedy, modest, idle):
        watch.admit(worker, 100 * MIB)
    greedy.uses(111)
    modest.uses(110)
    idle.uses(500)
    await clock.advance(INTERVAL_S)
    assert (REASON, "", "") == (greedy.killed_for, modest.killed_for, idle.killed_for)


async def test_the_peak_is_kept_when_memory_is_given_back(
    watch: MemoryWatch, clock: ManualClock, tmp_path: Path
) -> None:
    worker = Worker(tmp_path, 7)
    watch.admit(worker, 0)
    worker.uses(60)
    assert 10 * MIB + 4096 == watch.peak_bytes(worker)  # sampled a moment ago
    await clock.advance(INTERVAL_S)
    worker.uses(20)
    await clock.advance(INTERVAL_S)
    assert 60 * MIB + 4096 == watch.peak_bytes(worker)


async def test_the_peak_of_a_worker_that_adds_nothing_is_what_it_uses(watch: MemoryWatch, tmp_path: Path) -> None:
    worker = Worker(tmp_path, 7)
    watch.admit(worker, 1)
    assert 10 * MIB + 4096 == watch.peak_bytes(worker)


async def test_the_peak_of_an_idle_worker_is_sampled_when_it_is_asked_for(
    watch: MemoryWatch, clock: ManualClock, tmp_path: Path
) -> None:
    worker = Worker(tmp_path, 7)
    worker.busy = False
    watch.admit(worker, 0)
    worker.uses(60)
    await clock.advance(INTERVAL_S)
    assert 60 * MIB + 4096 == watch.peak_bytes(worker)
    assert 0 == watch.peak_bytes(Worker(tmp_path, 8))


async def test_no_timer_runs_without_workers(watch: MemoryWatch, clock: ManualClock, tmp_path: Path) -> None:
    worker = Worker(tmp_path, 7)
    watch.admit(worker, 0)
    assert "MemoryWatch(workers=1, sampling=True)" == repr(watch)
    worker.alive = False
    worker.ends()
    await clock.advance(INTERVAL_S)
    assert "MemoryWatch(workers=0, sampling=False)" == repr(watch)
    assert "0 alarms" in repr(clock)
    watch.admit(worker, 0)  # dead already
    watch.close()
    assert "MemoryWatch(workers=0, sampling=False)" == repr(watch)
