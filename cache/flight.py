"""Single flight: of all processes that want the same thing at the same moment, one does the work.

That one, the leader, holds an exclusive flock on a file below ``locks/`` for as long as it works. The kernel frees the
lock when the leader dies, however it dies, and the next one in line becomes the leader; nothing has to be timed out or
guessed from a pid. Several nodes may share a store, because a flock is between open files, not between parents and
children.

The lock file's content is the leader's progress: one line of JSON, padded with spaces to ``LINE_BYTES`` and written in
place, so that whoever waits can show it. It is a hint: a reader that meets half a write skips it.

Two rules for callers:

- A lock must not be held across a fork without exec: the child would share it, and the kernel would keep it locked
  until the child ends too. The descriptor is close-on-exec, so starting a program is fine.
- Lock files stay. Removing one that somebody has just opened would let two in.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .errors import StoreFull
from .files import open_lock, store_errors

LINE_BYTES = 8192
"""A progress line: a file name of 1,024 characters takes at most 4 KiB as UTF-8."""

POLL_S = (0.02, 0.1)
"""How often a waiter asks: at first, and at most. The lock is tried rather than waited for, so that the waiter can
report in between and can be told to stop."""

Line = Mapping[str, Any]


class Lead:
    """The right to do the work. ``waited_s``: how long somebody else had it."""

    def __init__(self, descriptor: int, path: Path, waited_s: float) -> None:
        self._descriptor = descriptor
        self._path = path
        self.waited_s = waited_s

    def __repr__(self) -> str:
        return f"Lead({str(self._path)!r}, waited_s={self.waited_s:.3f})"

    def say(self, line: Line) -> None:
        """Publish ``line`` as this leader's progress. Raises ``StoreError`` subclasses, ``ValueError`` (too long)."""
        text = json.dumps(line, ensure_ascii=False).encode()
        if len(text) > LINE_BYTES:
            raise ValueError(f"a progress line of {len(text)} bytes; limit {LINE_BYTES}")
        # a disk that is full ends the transfer that fills it, not the hint of how far it is
        with contextlib.suppress(StoreFull), store_errors(self._path):
            os.pwrite(self._descriptor, text.ljust(LINE_BYTES), 0)


@contextlib.contextmanager
def alone(
    path: Path,
    *,
    follow: Callable[[Line], None] = lambda line: None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], object] = time.sleep,
) -> Iterator[Lead]:
    """Hold the lock at ``path`` for the block, after waiting for whoever has it; ``follow`` gets that one's progress.

    Not reentrant: a thread that has the lock and asks again waits for ever. Raises ``StoreUnwritable``, ``StoreFull``,
    ``StoreError``.
    """
    descriptor = open_lock(path)
    try:
        waited_s = _wait(descriptor, follow, clock, sleep)
        with store_errors(path):
            os.ftruncate(descriptor, 0)  # what a dead leader said last is not this one's progress
        try:
            yield Lead(descriptor, path, waited_s)
        finally:
            with store_errors(path):
                os.ftruncate(descriptor, 0)
    finally:
        os.close(descriptor)


def _wait(
    descriptor: int, follow: Callable[[Line], None], clock: Callable[[], float], sleep: Callable[[float], object]
) -> float:
    if _taken(descriptor):
        return 0.0
    began, poll_s = clock(), POLL_S[0]
    while not _taken(descriptor):
        line = _read_line(descriptor)
        if line is not None:
            follow(line)
        sleep(poll_s)
        poll_s = min(POLL_S[1], poll_s * 1.5)
    return clock() - began


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read_line(descriptor: int) -> Line | None:
    try:
        line = json.loads(os.pread(descriptor, LINE_BYTES, 0))
    except ValueError:  # nothing yet, or half a write
        return None
    return line if isinstance(line, dict) else None
