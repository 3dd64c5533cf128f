"""NVIDIA's Multi-Process Service: its control daemon started, asked for its health, and restarted when it must be.

Under MPS the processes on a GPU share its engines instead of taking turns. That is density, not speed of a start; and
a fatal fault of one client ends all clients on that GPU, whoever's they are. So it is off unless the operator asks for
it, and a function can stay out of it.

What is relied on, by NVIDIA's documentation (docs.nvidia.com/deploy/mps):

- *mpsv2-interface*: ``nvidia-cuda-mps-control -d`` starts the daemon; the same program without options reads commands
  from its input, hands them to the daemon of ``CUDA_MPS_PIPE_DIRECTORY`` and prints the answer: ``get_server_list`` and
  ``get_client_list PID`` answer with process ids, ``get_server_status PID`` with a state, ``quit`` ends the daemon.
- *architecture*: the daemon starts a server when the first client connects. A server is ``INITIALIZING`` (clients
  wait), ``ACTIVE``, or in ``FAULT`` after a client's fatal fault: it refuses clients until all that were there have
  exited, and is then ``ACTIVE`` again. They are told of the fault and can do nothing any more but exit. One server
  serves one user, unless the daemon was started by root with ``-multiuser-server``.
- *appendix*: ``nvidia-cuda-mps-control.pid`` in the pipe directory; the variables that a client reads once, when it
  makes its context: ``CUDA_MPS_PIPE_DIRECTORY``, ``CUDA_MPS_LOG_DIRECTORY``, ``CUDA_MPS_ACTIVE_THREAD_PERCENTAGE``,
  ``CUDA_MPS_PINNED_DEVICE_MEM_LIMIT``.

The commands ``set_active_thread_percentage``, ``set_device_pinned_mem_limit`` and their defaults are not used: they are
of a server, so of all functions; limits of one function are in its own environment. ``terminate_client`` neither: it
ends a client's work, and what is wanted is the end of the process.

Everything here blocks, and is for one thread at a time; ``runtime/accelerator.py`` calls it from a thread.
"""

from __future__ import annotations

import contextlib
import enum
import os
import select
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import MpsUnavailable

PROGRAM = "nvidia-cuda-mps-control"
_PID_FILE = "nvidia-cuda-mps-control.pid"
_COMM = "nvidia-cuda-mps"  # what the kernel keeps of the names of daemon and server (15 characters)

COMMAND_S = 5.0
"""How long a command may take before the daemon counts as hung."""

INITIALIZE_S = 120.0
"""How long a server may be ``INITIALIZING``: seconds per GPU without a persistence daemon."""

DRAIN_S = 15.0
"""How long clients may take to exit once they are killed: the driver frees what they had first."""

RECOVER_S = 30.0
"""How long a server may take to be ``ACTIVE`` again when its last client has gone."""

RESTART_S = 2.0
"""Pause after the first restart that did not help, doubled by each further one, up to a minute."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one function may take. ``thread_percent`` of the GPU's threads, ``memory_mib`` of each device's memory."""

    thread_percent: int | None = None
    memory_mib: int | None = None


def client_environment(pipe: Path, log: Path, limits: Limits) -> dict[str, str]:
    """Return what makes a process a client of the daemon at ``pipe``, when it makes its CUDA context."""
    names = {"CUDA_MPS_PIPE_DIRECTORY": str(pipe), "CUDA_MPS_LOG_DIRECTORY": str(log)}
    if limits.thread_percent is not None:
        names["CUDA_MPS_ACTIVE_THREAD_PERCENTAGE"] = str(limits.thread_percent)
    if limits.memory_mib is not None:
        names["CUDA_MPS_PINNED_DEVICE_MEM_LIMIT"] = f"0={limits.memory_mib}M"
    return names


# --- what to do: pure -------------------------------------------------------------------------------------------------


class Server(enum.Enum):
    """The state of the MPS server. ``NONE``: no client has connected yet."""

    NONE = "NONE"
    INITIALIZING = "INITIALIZING"
    ACTIVE = "ACTIVE"
    FAULT = "FAULT"


class Phase(enum.Enum):
    """What the supervisor makes of it. Clients are welcome in ``READY`` and in ``INITIALIZING`` (they wait)."""

    STOPPED = "stopped"
    READY = "ready"
    INITIALIZING = "initialising"
    DRAINING = "waiting for the clients of a faulted server to exit"
    RECOVERING = "waiting for the server to recover from a fault"
    RESTARTING = "restarting"


class Action(enum.Enum):
    """What the supervisor has to do."""

    NOTHING = enum.auto()
    END_CLIENTS = enum.auto()
    RESTART = enum.auto()


@dataclass(frozen=True, slots=True)
class Seen:
    """One look at the daemon. ``answers`` is False when it is dead or hung; then the rest says nothing."""

    answers: bool
    server: Server = Server.NONE
    clients: tuple[int, ...] = ()


def step(phase: Phase, seen: Seen, *, for_s: float) -> tuple[Phase, Action]:
    """Return the next phase and what to do, for a supervisor that has been in ``phase`` for ``for_s`` seconds.

    1. A daemon that does not answer is started again; nobody can say what its clients are connected to, so they end.
    2. In a fault all clients must exit before the server takes new ones: they are ended, and new ones wait.
    3. A server that stays in a state that should pass (its clients do not exit, it does not recover, it never becomes
       ready) is replaced together with its daemon.
    """
    if phase is Phase.STOPPED:
        return phase, Action.NOTHING
    if not seen.answers:
        return Phase.RESTARTING, Action.RESTART
    if seen.server is Server.FAULT and seen.clients:
        if phase is Phase.DRAINING and for_s >= DRAIN_S:
            return Phase.RESTARTING, Action.RESTART
        return Phase.DRAINING, Action.END_CLIENTS
    if seen.server is Server.FAULT:
        stuck = phase is Phase.RECOVERING and for_s >= RECOVER_S
        return (Phase.RESTARTING, Action.RESTART) if stuck else (Phase.RECOVERING, Action.NOTHING)
    if seen.server is Server.INITIALIZING:
        stuck = phase is Phase.INITIALIZING and for_s >= INITIALIZE_S
        return (Phase.RESTARTING, Action.RESTART) if stuck else (Phase.INITIALIZING, Action.NOTHING)
    return Phase.READY, Action.NOTHING


# --- the daemon -------------------------------------------------------------------------------------------------------


class Control:
    """The control daemon of one pipe directory. ``environ`` is what it is started with besides."""

    def __init__(self, program: str, directory: Path, environ: Mapping[str, str], *, multiuser: bool) -> None:
        self.pipe = directory / "pipe"
        self.log = directory / "log"
        self._program = program
        self._multiuser = multiuser
        places = {"CUDA_MPS_PIPE_DIRECTORY": str(self.pipe), "CUDA_MPS_LOG_DIRECTORY": str(self.log)}
        self._environ = {**environ, **places}

    def __repr__(self) -> str:
        return f"Control({self.pipe})"

    def start(self) -> None:
        """Start the daemon, in the background; what answers at this place already is ended first.

        Raises ``MpsUnavailable``.
        """
        for directory in (self.pipe.parent, self.pipe, self.log):
            _own(directory)
        self.end()
        multiuser = ["-multiuser-server"] if self._multiuser else []
        self._run([self._program, "-d", *multiuser], "")

    def seen(self) -> Seen:
        """Look once. Never raises: a daemon that cannot be asked does not answer."""
        try:
            servers = _numbers(self.command("get_server_list"))
            if not servers:
                return Seen(answers=True)
            state = self.command(f"get_server_status {servers[0]}").strip()
            clients = _numbers(self.command(f"get_client_list {servers[0]}"))
            return Seen(answers=True, server=Server(state), clients=clients)
        except (MpsUnavailable, ValueError):
            return Seen(answers=False)

    def command(self, text: str) -> str:
        """Return the daemon's answer to one command. Raises ``MpsUnavailable``."""
        return self._run([self._program], f"{text}\n")

    def end(self) -> None:
        """End the daemon and its servers: by ``quit``, and what does not follow by SIGKILL. Never raises."""
        daemon = _daemon(self.pipe / _PID_FILE)
        with contextlib.suppress(MpsUnavailable):
            self.command("quit")
            _gone(daemon)
        for pidfd in daemon:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        (self.pipe / _PID_FILE).unlink(missing_ok=True)

    def _run(self, command: list[str], given: str) -> str:
        what = given.strip() or " ".join(command[1:])
        try:
            # No pipe for what -d prints: the daemon keeps what it inherits, and would keep the pipe open.
            done = subprocess.run(
                command,
                input=given,
                env=self._environ,
                timeout=COMMAND_S,
                check=False,
                text=True,
                cwd="/",
                stdout=subprocess.PIPE if given else subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise MpsUnavailable(f"{PROGRAM}: no answer to {what!r} within {COMMAND_S:.0f} s") from None
        except (OSError, UnicodeDecodeError) as error:
            raise MpsUnavailable(f"{PROGRAM} cannot be run: {error}") from error
        if done.returncode != 0:
            said = (done.stdout or "").strip().partition("\n")[0]
            raise MpsUnavailable(f"{PROGRAM}: {what!r} failed with status {done.returncode}: {said}".rstrip(": "))
        return done.stdout or ""


class Mps:
    """Keeps the daemon alive. ``end_clients`` is asked to end processes by their ids, for good; None means all that
    may be clients.

    ``phase`` and ``why`` may be read from any thread.
    """

    def __init__(self, control: Control, *, end_clients: Callable[[tuple[int, ...] | None], None]) -> None:
        self.phase = Phase.STOPPED
        self.why = ""
        self.restarts = 0
        self._control = control
        self._end_clients = end_clients
        self._since_s = 0.0
        self._restart_at_s = 0.0
        self._in_vain = 0

    def __repr__(self) -> str:
        return f"Mps({self.phase.value}, restarts={self.restarts})"

    @property
    def welcome(self) -> bool:
        """Whether a client may make its context now."""
        return self.phase in (Phase.READY, Phase.INITIALIZING)

    def environment(self, limits: Limits) -> dict[str, str]:
        """Return what makes a process a client."""
        return client_environment(self._control.pipe, self._control.log, limits)

    def start(self, now_s: float) -> None:
        """Start the daemon. One that cannot be started is tried again by ``look``."""
        self._enter(Phase.RESTARTING, now_s)
        self._restart(now_s)

    def look(self, now_s: float) -> Action:
        """Look at the daemon, do what ``step`` says, and return it. ``now_s`` is monotonic."""
        if self.phase is Phase.RESTARTING and now_s < self._restart_at_s:
            return Action.NOTHING
        seen = self._control.seen()
        phase, action = step(self.phase, seen, for_s=now_s - self._since_s)
        self._enter(phase, now_s)
        if phase is Phase.READY:
            self._in_vain, self.why = 0, ""
        if action is Action.END_CLIENTS:
            self.why = f"a client's fatal fault; {len(seen.clients)} clients have to exit"
            self._end_clients(seen.clients)
        elif action is Action.RESTART:
            self.restarts += 1
            self._end_clients(None)
            self._restart(now_s)
        return action

    def stop(self) -> None:
        """End the daemon."""
        self.phase = Phase.STOPPED
        self._control.end()

    def _enter(self, phase: Phase, now_s: float) -> None:
        if phase is not self.phase:
            self.phase, self._since_s = phase, now_s

    def _restart(self, now_s: float) -> None:
        self._restart_at_s = now_s + (min(RESTART_S * 2.0 ** (self._in_vain - 1), 60.0) if self._in_vain else 0.0)
        self._in_vain += 1
        try:
            self._control.start()
            self.why = "the control daemon was started again"
        except MpsUnavailable as error:
            self.why = str(error)


def program(path: str | None = None) -> str:
    """Return where the control daemon's program is, looked up in ``path``; empty when nowhere."""
    return shutil.which(PROGRAM, path=path) or ""


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(word) for word in text.split())


def _own(directory: Path) -> None:
    """Make a directory that clients of all users may enter and only this user may change.

    Its place is one that functions can reach, so it may have been made by one of them: then it is refused.
    """
    with contextlib.suppress(FileExistsError):
        directory.mkdir(mode=0o755)
    found = os.lstat(directory)
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o022:
        raise MpsUnavailable(f"{directory} is not a directory that only this user may change; remove it")


def _daemon(pid_file: Path) -> list[int]:
    """Return pidfds of the daemon that the file names and of its servers; none when it names something else."""
    try:
        pid = int(pid_file.read_text())
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (OSError, ValueError):
        return []
    found = []
    for one in (pid, *map(int, children)):
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(one)  # first: the name below is then that of the process behind the descriptor
            if Path(f"/proc/{one}/comm").read_text().startswith(_COMM):
                found.append(pidfd)
            else:
                os.close(pidfd)
    return found


def _gone(pidfds: list[int]) -> None:
    """Wait, for ``COMMAND_S`` seconds at most, until the processes have ended."""
    poll = select.poll()
    for pidfd in pidfds:
        poll.register(pidfd, select.POLLIN)
    deadline = time.monotonic() + COMMAND_S
    while pidfds and time.monotonic() < deadline:
        ended = [pidfd for pidfd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1e3)]
        if len(ended) == len(pidfds):
            return
        for pidfd in ended:
            poll.unregister(pidfd)
        pidfds = [pidfd for pidfd in pidfds if pidfd not in ended]
