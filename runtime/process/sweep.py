"""Records of the processes below the node, and the sweep of those that a killed node left behind.

Format: one file per process, ``<directory>/<pid>``, with three words: the process' start time (field 22 of
``/proc/<pid>/stat``, clock ticks since boot), the boot id of the kernel, and what the process is (``base``, ``zygote``,
``worker``), for people. A number is given to another process sooner or later; number, start time and boot together
are not. (The boot id because a node that starts with the machine gets nearly the same numbers at the same tick.)

Zygotes and workers notice by themselves that their node is gone. The sweep is for what could not: a worker that hangs
in a handler after its zygote was killed with the node.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ProcessStatus:
    """What ``/proc/<pid>/stat`` says: state, parent, process group and start time in clock ticks since boot."""

    state: str
    parent: int
    group: int
    start_ticks: int


def process_status(pid: int, *, proc: Path = _PROC) -> ProcessStatus | None:
    """Return the status of a process, None when there is none of that number."""
    try:
        text = (proc / str(pid) / "stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text[text.rindex(b")") + 2 :].split()  # the name, field 2, may hold spaces and brackets
    return ProcessStatus(fields[0].decode(), parent=int(fields[1]), group=int(fields[2]), start_ticks=int(fields[19]))


class Records:
    """The records of a running node: one is written per start and removed per death, about 0.2 ms each."""

    def __init__(self, directory: Path, *, proc: Path = _PROC) -> None:
        self._directory = directory
        self._proc = proc
        self._boot = boot_id(proc)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def add(self, pid: int, kind: str) -> None:
        """Record a process that was just started. A record that cannot be written (full disk) is logged, not fatal."""
        status = process_status(pid, proc=self._proc)
        if status is not None:
            try:
                (self._directory / str(pid)).write_text(f"{status.start_ticks} {self._boot} {kind}\n")
            except OSError as error:
                _log.warning("process %d (%s) has no record and would survive a killed node: %s", pid, kind, error)

    def remove(self, pid: int) -> None:
        """Forget a process that is dead."""
        (self._directory / str(pid)).unlink(missing_ok=True)


def sweep(directory: Path, *, wait_s: float = 5.0, proc: Path = _PROC) -> list[int]:
    """Kill every recorded process that still runs, with its process group; remove all records; return the numbers.

    Waits until the killed are dead, ``wait_s`` seconds at most; the record of one that is not by then stays.
    """
    if not directory.is_dir():
        return []
    killed: dict[int, int] = {}
    for record in sorted(directory.iterdir()):
        pidfd = _kill_if_same(record, proc)
        if pidfd is None:
            record.unlink(missing_ok=True)
        else:
            killed[int(record.name)] = pidfd
    deadline = time.monotonic() + wait_s
    for pid, pidfd in killed.items():
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            (directory / str(pid)).unlink(missing_ok=True)
        os.close(pidfd)
    return sorted(killed)


def boot_id(proc: Path = _PROC) -> str:
    """Return the id that the kernel made up when it booted."""
    return (proc / "sys/kernel/random/boot_id").read_text().strip()


def _kill_if_same(record: Path, proc: Path) -> int | None:
    """Kill the process of a record and its group; return its pidfd, None when the record is of no living process."""
    try:
        pid = int(record.name)
        ticks, boot, _ = record.read_text().split()
        if pid <= 1 or pid == os.getpid() or boot != boot_id(proc):
            return None
        pidfd = os.pidfd_open(pid)
    except (ValueError, ProcessLookupError):  # not a record of ours, or cut short by a full disk; or dead
        return None
    status = process_status(pid, proc=proc)  # read after pidfd_open: from here on the number cannot be reused unnoticed
    if status is None or status.state in "ZX" or str(status.start_ticks) != ticks:  # Z, X: dead, not reaped yet
        os.close(pidfd)
        return None
    with contextlib.suppress(ProcessLookupError, PermissionError):
        if status.group == pid:
            os.killpg(pid, signal.SIGKILL)
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    return pidfd
