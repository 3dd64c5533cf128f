"""How much memory a worker uses, and the end of one that has added more than its MemorySize since its start.

MemorySize bounds what a worker adds, not what it inherited or shares: its zygote's pages and the mapped weights are
there whether it runs or not. The measure is the growth, since the worker was ready, of

    RssAnon + RssShmem + VmSwap      (/proc/<pid>/status)

that is anonymous memory (heap, stacks, private copies of file pages that it wrote to), shared memory that it made, and
what of both was swapped out. Two other measures were looked at and are worse:

- *private pages* (``Private_Dirty`` of ``smaps_rollup``) fall when the worker forks, and jump by all that was inherited
  at the moment its zygote ends, since pages with one user left count as private: an innocent worker would be killed;
- ``smaps_rollup`` walks the page tables: over a millisecond for a torch process, with the event loop waiting, and it
  cannot be read of another user's process. ``status`` holds counters and takes 60 us.

What is not seen: inherited pages that the worker writes to (each replaces one; they are bounded by what was inherited),
and what programs that it starts use. RLIMIT_DATA, set by the worker itself, is the backstop between two samples.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from glowplug.runtime.clock import Alarm, Clock

INTERVAL_S = 0.25
REASON = "memory"
"""What ``Worker.killed_for`` is when this module killed it."""

_COUNTED = ("RssAnon", "RssShmem", "VmSwap")
_PROC = Path("/proc")


class Watched(Protocol):
    """What is asked of a worker."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def alive(self) -> bool:
        """Whether it is not known to be dead."""

    @property
    def busy(self) -> bool:
        """Whether an invocation is in flight."""

    def kill(self, reason: str) -> None:
        """End it."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A worker's memory: at its start, at ``at_s`` (the clock's monotonic seconds), the most seen, what it may add."""

    pid: int
    at_s: float
    base_bytes: int
    used_bytes: int
    peak_bytes: int
    limit_bytes: int

    @property
    def added_bytes(self) -> int:
        """What it added since its start."""
        return max(0, self.used_bytes - self.base_bytes)


def over_limit(samples: Iterable[Sample]) -> list[int]:
    """Return the pids of those that added more than they may. A limit of 0 bounds nothing."""
    return [sample.pid for sample in samples if sample.limit_bytes and sample.added_bytes > sample.limit_bytes]


def used_bytes(pid: int, *, proc: Path = _PROC) -> int | None:
    """Return what a process uses by the measure above; None when it is gone, or dead and not reaped yet."""
    try:
        text = (proc / str(pid) / "status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = dict(line.split(":", 1) for line in text.splitlines())
    if _COUNTED[0] not in fields:
        return None
    return sum(int(fields[name].split()[0]) * 1024 for name in _COUNTED)


class MemoryWatch:
    """Samples the busy workers, and kills with ``REASON`` those that are over. No timer runs while there are none."""

    def __init__(self, *, clock: Clock, proc: Path = _PROC) -> None:
        self._clock = clock
        self._proc = proc
        self._samples: dict[Watched, Sample] = {}
        self._alarm: Alarm | None = None

    def __repr__(self) -> str:
        return f"MemoryWatch(workers={len(self._samples)}, sampling={self._alarm is not None})"

    def admit(self, worker: Watched, limit_bytes: int) -> None:
        """Begin to watch a worker that is ready: what it uses now is what it started with."""
        used = used_bytes(worker.pid, proc=self._proc)
        if used is not None:
            self._samples[worker] = Sample(worker.pid, self._clock.monotonic(), used, used, used, limit_bytes)
            if self._alarm is None:
                self._alarm = self._clock.call_later(INTERVAL_S, self._tick)

    def peak_bytes(self, worker: Watched) -> int:
        """Return the most that the worker was seen to use, inherited pages included; 0 for one that is not watched.

        This is REPORT's Max Memory Used, what people compare with other programs; what its limit bounds is less. Cheap
        enough for every invocation: a sample is taken when the last one is older than ``INTERVAL_S``.
        """
        sample = self._samples.get(worker)
        if sample is None:
            return 0
        if self._clock.monotonic() - sample.at_s >= INTERVAL_S:
            sample = self._sample(worker, sample)
        return sample.peak_bytes

    def close(self) -> None:
        """Stop sampling and forget everybody."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self._samples.clear()

    def _tick(self) -> None:
        for worker in [worker for worker in self._samples if not worker.alive]:
            del self._samples[worker]
        self._alarm = self._clock.call_later(INTERVAL_S, self._tick) if self._samples else None
        busy = {worker.pid: worker for worker in self._samples if worker.busy}
        taken = [self._sample(worker, self._samples[worker]) for worker in busy.values()]
        for pid in over_limit(taken):
            busy[pid].kill(REASON)

    def _sample(self, worker: Watched, before: Sample) -> Sample:
        used = used_bytes(worker.pid, proc=self._proc) if worker.alive else None
        if used is None:
            return before
        now_s, peak = self._clock.monotonic(), max(before.peak_bytes, used)
        sample = replace(before, at_s=now_s, used_bytes=used, peak_bytes=peak)
        self._samples[worker] = sample
        return sample
