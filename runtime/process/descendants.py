"""What lives below a zygote: finding it, killing it, reaping it.

A zygote is a subreaper: whatever a worker starts and leaves behind becomes the zygote's own child, so ``/proc`` lists
it under the zygote, zombies included. Nothing else reaps, so a pid that is listed cannot be anyone else's.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Collection

_TASKS = "/proc/self/task"


def children() -> list[int]:
    """Return the pids of this process's children, dead ones that nobody reaped included."""
    found: list[int] = []
    for task in os.listdir(_TASKS):
        # The file is missing on kernels without CONFIG_PROC_CHILDREN: strays then die with the machine only.
        with contextlib.suppress(FileNotFoundError), open(f"{_TASKS}/{task}/children", encoding="ascii") as file:
            found.extend(map(int, file.read().split()))
    return found


def reap_group(pid: int) -> tuple[int, int]:
    """Kill what is left of the process group of the dead child ``pid`` and reap the child.

    Returns its wait status and its largest resident size in KiB. The group is killed first: until the child is reaped,
    no other group can have its number.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    _, status, usage = os.wait4(pid, 0)
    return status, usage.ru_maxrss


def reap_strays(known: Collection[int], *, adopt: bool = False) -> list[int]:
    """Kill and reap every child that is not ``known`` and not in the session of one that is.

    A process whose parent died while its worker lives is still that worker's business; one that outlived its worker, or
    left its session, is nobody's. With ``adopt`` (a function zygote died), living session leaders are its workers:
    they are spared and returned.
    """
    adopted: list[int] = []
    while True:
        owners = {*known, *adopted}
        strays = [pid for pid in children() if pid not in owners and _session(pid) not in owners]
        if adopt:
            adopted += [pid for pid in strays if _session(pid) == pid and not _is_dead(pid)]
            strays = [pid for pid in strays if pid not in adopted]
        adopt = False  # what turns up in later rounds was below a stray
        if not strays:
            return adopted
        for pid in strays:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def kill_all() -> None:
    """Kill and reap everything below this process, including what is handed up to it while it does so."""
    while pids := children():
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
            os.kill(pid, signal.SIGKILL)  # before its setsid a child is no group of its own
        for pid in pids:
            os.waitpid(pid, 0)


def _session(pid: int) -> int:
    return os.getsid(pid)


def _is_dead(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
