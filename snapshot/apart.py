"""Run a piece of work in a forked child: it may crash, hang or eat memory, and costs whoever asked nothing but time.

Compilers, exporters and engines are other people's native code. One that ends its process must cost a bake one
candidate, not all of them. The child has what its parent has imported and made, so it begins at once.

Whoever forks must have started no thread pool (``torch.set_num_threads(1)`` before the first operation): a child would
wait for threads that it does not have. A thread that only waits, as the baker's watch for the end of the node, does no
harm.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import select
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import SnapshotError

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True)


class Died(Exception):
    """The child ended without an answer; the message says how."""


class Reported(Exception):
    """The work raised. ``error_type`` is the class name."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(message)
        self.error_type = error_type

    def __str__(self) -> str:
        return f"{self.error_type}: {self.args[0]}"


def apart(work: Callable[[], Any], *, seconds: float) -> Any:
    """Return what ``work`` returns in a child of its own; it must be JSON-able.

    Raises ``Reported`` for what it raises, ``Died`` when the child crashes or takes longer than ``seconds``; it and
    what it started are killed then.
    """
    receive, send = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        _answer(work, receive, send)
    os.close(send)
    with os.fdopen(receive, "rb", buffering=0) as pipe:
        deadline = _Deadline(pid, seconds)
        try:
            text = deadline.read(pipe.fileno())
        finally:
            status = deadline.end()
    if deadline.passed:
        raise Died(f"no answer within {seconds:.0f} s")
    if not text:
        raise Died(_ending(status))
    said = json.loads(text)
    if "raised" in said:
        raise Reported(*said["raised"])
    return said["value"]


def _answer(work: Callable[[], Any], receive: int, send: int) -> None:
    """Be the child: answer and end, past everything that the parent has set up for its own end."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.close(receive)
    status = 0
    try:
        said = {"value": work()}
    except SnapshotError as error:
        said = {"raised": [type(error).__name__, str(error)]}
    except BaseException as error:  # the seam between two processes: whatever it was, the parent says it
        sys.excepthook(type(error), error, error.__traceback__)
        said = {"raised": [type(error).__name__, str(error)]}
        status = 1
    try:
        with os.fdopen(send, "wb") as pipe:
            pipe.write(json.dumps(said).encode())
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(status)


class _Deadline:
    """Waits for a child's answer, and for its end."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds
        self.passed = False

    def read(self, descriptor: int) -> bytes:
        """Return everything up to the end of the pipe, or nothing when the time is over."""
        found = bytearray()
        pidfd = os.pidfd_open(self._pid)
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.register(pidfd, select.POLLIN)  # a compiler that outlives the child may hold the pipe open
            while ready := poll.poll(self._seconds * 1e3):
                if any(number == descriptor for number, _ in ready):
                    part = os.read(descriptor, 65536)
                    if not part:
                        return bytes(found)
                    found += part
                else:
                    return bytes(found)
        finally:
            os.close(pidfd)
        self.passed = True
        return b""

    def end(self) -> int:
        """Kill what is left of the child and reap it; returns its status."""
        if self.passed:
            for pid in (*descendants(self._pid), self._pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])


def descendants(pid: int) -> list[int]:
    """Return the processes below ``pid``, deepest last."""
    found: list[int] = []
    with contextlib.suppress(OSError):  # it ended meanwhile, and its children have another parent
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found += [int(child), *descendants(int(child))]
    return found


def _ending(status: int) -> str:
    return f"crashed with {signal.Signals(-status).name}" if status < 0 else f"exited with status {status}"
