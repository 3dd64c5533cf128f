"""How the node knows that a process is gone, and how it ended.

Who tells depends on who the parent is:

- a forked process: its zygote reaps it and sends ``wire.Exited`` (``zygotes.Spawner`` passes that on);
- an exec'ed process (base zygote, exec'ed worker): the node is the parent and reaps it when its pidfd is readable;
- a forked process whose zygote died first: the kernel hands it to the nearest subreaper above, a base zygote
  or the node. Its pidfd still tells that it is dead; its status is only known when it was handed to the node.

A pidfd names one process for ever, so no signal sent through one can hit a process that was given the same number later
(pidfd_open(2)). End of file on a socket is a hint, never proof: a child of the worker may hold the socket open.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import select
import signal
from collections.abc import Callable
from dataclasses import dataclass

from glowplug.runtime.errors import WorkerExited

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


@dataclass(frozen=True, slots=True)
class Exit:
    """How a process ended. ``status`` is as from ``os.waitpid``, None when somebody else reaped it.

    ``max_rss_kib`` is the largest resident size it had, 0 when unknown.
    """

    status: int | None
    max_rss_kib: int = 0

    @property
    def code(self) -> int | None:
        """The exit status, when it exited by itself."""
        return os.WEXITSTATUS(self.status) if self.status is not None and os.WIFEXITED(self.status) else None

    @property
    def signal(self) -> int | None:
        """The signal that ended it."""
        return os.WTERMSIG(self.status) if self.status is not None and os.WIFSIGNALED(self.status) else None

    def describe(self) -> str:
        """Return ``exit status 3`` or ``signal: killed``, as Lambda words it."""
        if self.signal is not None:
            return f"signal: {(signal.strsignal(self.signal) or str(self.signal)).lower()}"
        return "exit status unknown" if self.code is None else f"exit status {self.code}"


class WorkerDied(WorkerExited):
    """The process ended before it answered.

    ``killed_for`` is the reason the node killed it for, empty when the node did not. ``sent`` is False when what was
    asked of it certainly never reached it, so that asking another process is safe.
    """

    def __init__(self, child_id: str, ended: Exit, *, killed_for: str = "", sent: bool = True) -> None:
        reason = f" (killed: {killed_for})" if killed_for else ""
        super().__init__(f"{child_id}: {ended.describe()}{reason}")
        self.child_id = child_id
        self.exit = ended
        self.killed_for = killed_for
        self.sent = sent


def become_subreaper() -> None:
    """Make this process the new parent of orphans below it. Raises ``OSError`` where the kernel refuses."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def is_dead(pidfd: int) -> bool:
    """Tell whether the process of ``pidfd`` has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def send_signal(pidfd: int, number: signal.Signals) -> None:
    """Send a signal through a pidfd; a process that is gone already is no error."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, number)


def reap(pidfd: int, pid: int) -> Exit | None:
    """Reap a dead child of the node, after killing what is left of its process group. None when it is not our child.

    The group is killed while the leader is still a zombie: its number cannot be given to anybody else yet.
    """
    try:
        waiting = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT | os.WNOHANG)
    except ChildProcessError:
        return None
    if waiting is None:
        return None
    kill_group(pid)
    _, status, usage = os.wait4(pid, 0)
    return Exit(status, usage.ru_maxrss)


def kill_group(pid: int) -> None:
    """Send SIGKILL to the process group that ``pid`` leads, if there is one."""
    with contextlib.suppress(ProcessLookupError, PermissionError):  # EPERM: only members under another user are left
        os.killpg(pid, signal.SIGKILL)


def reap_strays() -> list[asyncio.Future[None]]:
    """Kill orphans that the kernel handed to the node; they are reaped when the returned futures are done.

    An orphan is a child of the node in a foreign session whose leader is no child of the node any more: what is left of
    an exec'ed worker, of a base zygote that died, or of a baker. Programs that the node itself started are in the
    node's session or lead their own, and are left alone; so is an orphan that made itself a leader (a daemon), which
    only a base zygote, being the parent of everything below it, can tell from the node's own programs.
    """
    loop = asyncio.get_running_loop()
    children = {int(pid) for task in os.listdir("/proc/self/task") for pid in _children_of(task)}
    reaped = []
    for pid in children:
        with contextlib.suppress(ProcessLookupError):  # reaped by its owner meanwhile
            session = os.getsid(pid)
            if session != os.getsid(0) and session not in children:
                pidfd = os.pidfd_open(pid)
                send_signal(pidfd, signal.SIGKILL)
                reaped.append(_reaped(loop, pidfd, pid))
    return reaped


def _reaped(loop: asyncio.AbstractEventLoop, pidfd: int, pid: int) -> asyncio.Future[None]:
    future: asyncio.Future[None] = loop.create_future()

    def dead() -> None:
        reap(pidfd, pid)
        os.close(pidfd)
        if not future.done():
            future.set_result(None)

    PidWatch(loop, pidfd, dead)
    return future


def _children_of(task: str) -> list[str]:
    with open(f"/proc/self/task/{task}/children") as file:
        return file.read().split()


class PidWatch:
    """Calls back once when the process of a pidfd has ended.."""

    def __init__(self, loop: asyncio.AbstractEventLoop, pidfd: int, on_dead: Callable[[], None]) -> None:
        self._loop = loop
        self._pidfd = pidfd
        self._on_dead = on_dead
        self._watching = True
        loop.add_reader(pidfd, self._ready)

    def close(self) -> None:
        """Stop watching. The pidfd stays open: it belongs to whoever gave it."""
        if self._watching:
            self._watching = False
            self._loop.remove_reader(self._pidfd)

    def _ready(self) -> None:
        self.close()
        self._on_dead()
