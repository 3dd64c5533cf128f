"""A worker in a process of its own, for functions that cannot be forked.

    python -m glowplug.runtime.worker --control-fd 3 --data-fd 4

Its standard output and error are its log pipe already, and where it has a user of its own, ``process.enter`` gave it
that before. After ``Hello`` it does what a forked worker does.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from collections.abc import Sequence
from time import perf_counter
from typing import NoReturn

from glowplug.runtime.process import afterfork, confine, wire

from . import loop, program
from .connection import Connection
from .function import Function


def main(arguments: Sequence[str]) -> NoReturn:
    """Be one worker of one function."""
    started = perf_counter()
    parser = program.parser("glowplug.runtime.worker")
    parser.add_argument("--data-fd", type=int, required=True, help="socket for invocations")
    options = parser.parse_args(arguments)
    program.begin()
    with contextlib.suppress(PermissionError):  # it is a session leader already
        os.setsid()
    for descriptor in (options.control_fd, options.data_fd):
        os.set_inheritable(descriptor, False)
    control, data = Connection(options.control_fd), Connection(options.data_fd)
    if not confine.is_confined():
        confine.Confinement.arrange(options.expose, users=False).enter(-1, -1)
    afterfork.yield_to_waker()
    threading.Thread(target=_watch, args=(options.control_fd,), name="glowplug-node-watch", daemon=True).start()
    control.send(wire.Hello(os.getpid(), wire.PROTOCOL, [], (perf_counter() - started) * 1000.0))
    loop.run(control, data, Function((options.control_fd, options.data_fd), forked=False))


def _watch(control: int) -> None:
    """Wait for the end of the node, also while a handler is busy; then end with everything that was started here.

    A forked worker has its zygote for that. A thread is no obstacle: nothing is ever forked from this process by us.
    """
    poll = select.poll()
    poll.register(control, 0)  # hang-ups only: the frames are the main thread's
    poll.poll()
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
