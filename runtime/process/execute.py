"""Starting a program from the node: ``posix_spawn`` with fixed descriptors and an allow-listed environment.

The node never forks: ``posix_spawn`` shares the node's memory with the new process until it has exec'ed (vfork), so it
costs the same however large the node is. The child gets a session of its own, /dev/null as input, its output pipe as 1
and 2, and its sockets from 3 on; nothing else of the node's is inherited, as every descriptor here is close-on-exec.
"""

from __future__ import annotations

import fcntl
import os
import signal
import site
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import glowplug

FIRST_FD = 3
"""The first inherited descriptor: a control socket; a worker's data socket is the next."""

ALLOWED_NAMES = ("PATH", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONPATH")
"""What may be taken over from the node's environment: what the interpreter and its libraries need to be found, and the
locale. Nothing that holds a credential, a proxy or a tool's configuration."""

_RESET = (signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGXFSZ)  # ignored ones survive an exec


def base_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a zygote or exec'ed worker before the function's own.

    OpenBLAS is kept from starting a thread at import, which would make every zygote unforkable; libgomp's bounded spin
    keeps two OpenMP pools on busy cores from waiting for each other (both only take effect before the library loads).
    """
    chosen = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": ":UTC"}
    chosen |= {name: environ[name] for name in ALLOWED_NAMES if environ.get(name)}
    chosen |= {"HOME": "/tmp", "OPENBLAS_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # noqa: S108
    package_root = Path(glowplug.__file__).parent.parent
    if str(package_root) not in (*site.getsitepackages(), site.getusersitepackages()):
        known = chosen.get("PYTHONPATH", "").split(":")
        chosen["PYTHONPATH"] = ":".join(dict.fromkeys(part for part in (*known, str(package_root)) if part))
    return chosen


def execute(
    module: str, arguments: Sequence[str], *, environment: Mapping[str, str], sockets: Sequence[int], output: int
) -> tuple[int, int]:
    """Run ``python -m module`` and return (pid, pidfd). ``sockets`` become descriptors 3, 4, …; all stay the caller's.

    Raises ``OSError`` when the interpreter cannot be run. ``-P`` keeps the working directory off the import path.
    """
    # Above everything that is assigned below, so that no dup2 lands on a descriptor that is still to be duplicated.
    lifted = [fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 64) for descriptor in (output, *sockets)]
    try:
        actions: list[tuple[int, ...]] = [
            (os.POSIX_SPAWN_DUP2, lifted[0], 1),
            (os.POSIX_SPAWN_DUP2, lifted[0], 2),
            *((os.POSIX_SPAWN_DUP2, source, FIRST_FD + place) for place, source in enumerate(lifted[1:])),
        ]
        pid = os.posix_spawn(
            sys.executable,
            [sys.executable, "-P", "-m", module, *arguments],
            dict(environment),
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0), *actions],
            setsid=True,
            setsigmask=(),
            setsigdef=_RESET,
        )
    finally:
        for descriptor in lifted:
            os.close(descriptor)
    return pid, os.pidfd_open(pid)
