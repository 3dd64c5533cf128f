"""How far a fetch is, said to its caller and to the processes that wait for it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass

from .flight import Lead, Line

PROGRESS_S = 0.1
"""Least time between two reports about one file."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a fetch is: the file at hand, and bytes of all files: in the store, to be there, over the network.

    ``total_bytes`` is what the source says, 0 until it has. ``following``: another process does the work, and all of
    this is its progress.
    """

    file: str
    done_bytes: int
    total_bytes: int
    fetched_bytes: int = 0
    following: bool = False


Report = Callable[[Progress], None]


class Reports:
    """Passes progress on, a file's at most every ``PROGRESS_S`` and its first and last in any case.

    ``leads`` are the locks that this process holds; whoever waits for one of them reads the same progress there.
    """

    def __init__(self, report: Report, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._report = report
        self._clock = clock
        self._last: tuple[str, bool] | None = None
        self._last_s = 0.0
        self.leads: list[Lead] = []

    def say(self, progress: Progress, file_bytes: int, *, edge: bool = False) -> None:
        """Report ``progress``, with ``file_bytes`` of the file at hand; ``edge``: whatever was reported just now."""
        if not edge and not self._due(progress):
            return
        self._note(progress)
        line = {
            "pid": os.getpid(),
            "file": progress.file,
            "file_bytes": file_bytes,
            "done_bytes": progress.done_bytes,
            "total_bytes": progress.total_bytes,
            "fetched_bytes": progress.fetched_bytes,
        }
        for lead in self.leads:
            lead.say(line)
        self._report(progress)

    def follow(self, line: Line, *, within: Progress | None = None) -> None:
        """Report what a leader said of itself.

        ``within``: the leader brings a single file of this process's own fetch, which is at ``within`` without it.
        """
        file, fetched = str(line.get("file", "")), _bytes(line, "fetched_bytes")
        if within is None:
            progress = Progress(file, _bytes(line, "done_bytes"), _bytes(line, "total_bytes"), fetched, True)
        else:
            done = within.done_bytes + _bytes(line, "file_bytes")
            progress = Progress(within.file, done, within.total_bytes, fetched, True)
        if self._due(progress):
            self._note(progress)
            self._report(progress)

    def _due(self, progress: Progress) -> bool:
        same = self._last == (progress.file, progress.following)
        return not same or self._clock() - self._last_s >= PROGRESS_S

    def _note(self, progress: Progress) -> None:
        self._last, self._last_s = (progress.file, progress.following), self._clock()


def _bytes(line: Line, name: str) -> int:
    """Return a number that a leader published; 0 when the lock file holds something else."""
    value = line.get(name)
    return value if type(value) is int and value >= 0 else 0
