"""Starting a program from the node: ``posix_spawn`` with fixed descriptors and an allow-listed environment.

The node never forks: ``posix_spawn`` shares the node's memory with the new process until it has exec'ed (vfork), so it
costs the same however large the node is. The child gets a session of its own, /dev/null as input, its output pipe as 1
and 2, and its sockets from 3 on; nothing else of the node's is inherited.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import site
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import glowplug
from glowplug.runtime.interpreters import Interpreter

from .enter import format_environment
from .view import Place

FIRST_FD = 3
"""The first inherited descriptor: a control socket; a worker's data socket is the next."""

ALLOWED_NAMES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""What may be taken over from the node's environment: what the interpreter and its libraries need to be found, and the
locale. Nothing that holds a credential, a proxy or a tool's configuration."""

FILES = resource.getrlimit(resource.RLIMIT_NOFILE)
"""How many files a process may open, soft and hard, as the node was started with. The node raises its own, because it
holds every blob of every warm function; what it starts keeps this, which is what a handler meets everywhere else."""

_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ)  # ignored ones survive an exec


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a zygote or exec'ed worker before the function's own.

    OpenBLAS is kept from starting a thread at import, which would make every zygote unforkable; libgomp's bounded spin
    keeps two OpenMP pools on busy cores from waiting for each other (both only take effect before the library loads).
    """
    chosen = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": ":UTC"}
    chosen |= {name: environ[name] for name in ALLOWED_NAMES if environ.get(name)}
    chosen |= {"HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    package_root = Path(glowplug.__file__).parent.parent
    if str(package_root) not in (*site.getsitepackages(), site.getusersitepackages()):
        known = chosen.get("PYTHONPATH", "").split(":")
        chosen["PYTHONPATH"] = ":".join(dict.fromkeys(part for part in (*known, str(package_root)) if part))
    return chosen


def python(module: str, arguments: Sequence[str]) -> list[str]:
    """Return the command that runs a module. ``-P`` keeps the working directory off the import path."""
    return [sys.executable, "-P", "-m", module, *arguments]


def execute(
    command: Sequence[str], *, environment: Mapping[str, str], inherited: Sequence[int], output: int
) -> tuple[int, int]:
    """Run a command and return (pid, pidfd). ``inherited`` become descriptors 3, 4, …; all stay the caller's too.

    Raises ``OSError`` when the program cannot be run.
    """
    _keep_descriptors()
    # Above everything that is assigned below, so that no dup2 lands on a descriptor that is still to be duplicated.
    lifted = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in (output, *inherited)]
    try:
        pid = os.posix_spawn(
            command[0],
            list(command),
            dict(environment),
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, lifted[0], 1),
                (os.POSIX_SPAWN_DUP2, lifted[0], 2),
                *((os.POSIX_SPAWN_DUP2, source, FIRST_FD + place) for place, source in enumerate(lifted[1:])),
            ],
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET,
        )
    finally:
        for descriptor in lifted:
            os.close(descriptor)
    with contextlib.suppress(ProcessLookupError):  # gone already: its exit status says why
        resource.prlimit(pid, resource.RLIMIT_NOFILE, FILES)
    return pid, os.pidfd_open(pid)


def _keep_descriptors() -> None:
    """Mark every descriptor above 2 as close-on-exec: what the node itself was started with (a shell's, a service
    manager's) is not marked, and is no business of a function."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the descriptor of the listing itself
            if int(name) > 2:
                os.set_inheritable(int(name), False)


def execute_function(
    module: str,
    *,
    environment: Mapping[str, str],
    function_environment: Mapping[str, str],
    expose: Sequence[str],
    uid: int,
    gid: int,
    sockets: Sequence[int],
    output: int,
    place: Place | None = None,
    interpreter: Interpreter | None = None,
    options: Sequence[str] = (),
) -> tuple[int, int]:
    """Run a program of one function, with its environment on top of ``environment``; return (pid, pidfd).

    ``module`` is a worker's or a zygote's, ``interpreter`` what runs it if not the node's own, ``sockets`` its control
    socket and a worker's data socket, ``options`` further ones of the program. Raises ``OSError``.

    With a user of its own (``uid`` not -1), ``enter`` goes first: no program of the function's choice runs before it.
    """
    needs = () if interpreter is None else interpreter.exposes
    exposures = [word for path in (*expose, *needs) for word in ("--expose", path)]
    exposures += [] if place is None else place.options()
    channels = ["--control-fd", str(FIRST_FD), *(["--data-fd", str(FIRST_FD + 1)] if len(sockets) > 1 else [])]
    arguments = [*channels, *exposures, *options]
    if interpreter is None:
        program, needed = python(module, arguments), dict(environment)
    else:
        program, needed = interpreter.command(module, arguments), interpreter.environment(environment)
    merged = {**needed, **function_environment}
    for name in ("PYTHONPATH", "LD_LIBRARY_PATH"):  # the interpreter needs its own as well
        if name in needed and name in function_environment:
            merged[name] = f"{function_environment[name]}:{needed[name]}"
    if uid < 0:
        return execute(program, environment=merged, inherited=sockets, output=output)
    descriptor = str(FIRST_FD + len(sockets))
    users = ["--uid", str(uid), "--gid", str(gid), "--environment-fd", descriptor, *exposures, "--", *program]
    file = os.memfd_create("glowplug-environment", os.MFD_CLOEXEC)
    try:
        os.write(file, format_environment(merged))
        os.lseek(file, 0, os.SEEK_SET)
        return execute(
            python("glowplug.runtime.process.enter", users),
            environment=environment,
            inherited=(*sockets, file),
            output=output,
        )
    finally:
        os.close(file)
