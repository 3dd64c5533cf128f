"""A worker in a process of its own, for functions that cannot be forked.

    python -m glowplug.runtime.worker --control-fd 3 --data-fd 4

Its standard output and error are its log pipe already, and where it has a user of its own, ``process.enter`` gave it
that before. After ``Hello`` it does what a forked worker does. With ``--context cuda:0`` it makes a CUDA context first
and waits for a function (``holder``).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import threading
from argparse import Namespace
from collections.abc import Sequence
from time import perf_counter
from typing import NoReturn

from glowplug.runtime.process import afterfork, confine, wire
from glowplug.runtime.process.view import View
from glowplug.runtime.process.wire import ExitCode

from . import holder, loop, program, streams
from .connection import Connection, NodeGone
from .function import Function, StepFailed


def main(arguments: Sequence[str]) -> NoReturn:
    """Be one worker of one function."""
    started = perf_counter()
    parser = program.parser("glowplug.runtime.worker")
    parser.add_argument("--data-fd", type=int, required=True, help="socket for invocations")
    holder.add_options(parser)
    options = parser.parse_args(arguments)
    program.begin()
    with contextlib.suppress(PermissionError):  # it is a session leader already
        os.setsid()
    for descriptor in (options.control_fd, options.data_fd):
        os.set_inheritable(descriptor, False)
    control, data = Connection(options.control_fd), Connection(options.data_fd)
    confinement = None
    if options.context:
        confinement = confine.Confinement.arrange(options.expose)
        confinement.renounce()
    view = View.of(options)
    if confinement is None and not confine.is_confined():
        alone = confine.Confinement.arrange(options.expose, users=False)
        view = View.of(options, alone.exposed)
        view.lay()
        alone.enter(-1, -1)
    afterfork.yield_to_waker()
    threading.Thread(target=_watch, args=(options.control_fd,), name="glowplug-node-watch", daemon=True).start()
    hello = wire.Hello(os.getpid(), wire.PROTOCOL, [], (perf_counter() - started) * 1000.0)
    if confinement is not None:
        view = _hold(control, options, confinement, hello)
    else:
        control.send(hello)
    view.settle()
    # One with a context has imported what a base zygote has: for a function that brings its own it is no more use.
    function = Function((options.control_fd, options.data_fd), forked=confinement is not None)
    function.view = view
    loop.run(control, data, function)


def _hold(control: Connection, options: Namespace, confinement: confine.Confinement, hello: wire.Hello) -> View:
    """Return its view when this process has become a function's; else end it, by ``os._exit`` as ``loop.run`` does."""
    try:
        view = holder.hold(control, options, confinement, hello)
        if view is not None:
            return view
        status: int = ExitCode.OK
    except StepFailed as failure:
        status = failure.code
    except NodeGone:
        status = ExitCode.NODE_GONE
    except wire.WireError as error:
        print(f"glowplug worker: {error}", file=sys.stderr)
        status = ExitCode.PROTOCOL_ERROR
    streams.flush()
    os._exit(status)


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
