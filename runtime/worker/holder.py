"""A worker that makes a CUDA context before it has a function, and waits for one.

It is started by the node with no more than its channels, makes the context, says so in ``Hello``, and waits for
``Adopt``: from then on it belongs to one function and takes the steps that every worker takes.

What must be given up before there is a second thread is given up at once: ``no_new_privs`` and Landlock's rules hold
for a thread and those that it starts, and a CUDA context comes with threads of the driver's. The function's user comes
with ``Adopt``, for all threads (setresuid of the C library), before any of the function's code is read.
"""

from __future__ import annotations

import importlib
from argparse import ArgumentParser, Namespace
from time import perf_counter

from glowplug.runtime.process import confine, preload, wire
from glowplug.runtime.process.view import Place, View

from .connection import Connection
from .faults import Fault
from .function import StepFailed

MAKER = "glowplug.snapshot.cuda.context:make"


def add_options(parser: ArgumentParser) -> None:
    """Add what the program of exec'ed workers is told about contexts."""
    parser.add_argument("--context", default="", metavar="DEVICE", help="hold a CUDA context and wait for a function")
    parser.add_argument("--context-maker", default=MAKER, metavar="MODULE:FUNCTION", help="what makes it")
    parser.add_argument("--context-preload", default="torch", choices=preload.CHOICES, help="what to import first")


def hold(control: Connection, options: Namespace, confinement: confine.Confinement, hello: wire.Hello) -> View | None:
    """Make a context and wait to be adopted; return the function's view, None when told to stop before.

    Of the ``options`` (``add_options``) ``context_maker`` is ``module:function``, called with the device. ``hello`` is
    sent with what was made. Raises ``StepFailed`` when there is no context, after telling the node; ``NodeGone``,
    ``wire.WireError``.
    """
    device = options.context
    preload.load(options.context_preload)
    imported = perf_counter()
    module, _, name = options.context_maker.partition(":")
    try:
        getattr(importlib.import_module(module), name)(device)
    except Exception as error:  # whatever a driver brings up: the node has to hear why there is no context
        fault = Fault.of(error)
        refused = Fault(f"Glowplug.{type(error).__name__}", str(error), fault.stack_trace)
        failure = StepFailed("context", refused, wire.ExitCode.CONTEXT_FAILED)
        control.send(failure.frame)
        raise failure from error
    took_ms = (perf_counter() - imported) * 1000.0
    control.send(
        wire.Hello(hello.pid, hello.protocol, preload.top_level_modules(), hello.import_ms, device, took_ms),
    )
    return _adopted(control, confinement)


def _adopted(control: Connection, confinement: confine.Confinement) -> View | None:
    message = control.receive()
    if isinstance(message, wire.Stop):
        return None
    if not isinstance(message, wire.Adopt):
        raise wire.WireError(f"{type(message).__name__} is not for a worker without a function")
    started = perf_counter()
    confinement.enter(message.uid, message.gid)
    control.send(wire.Adopted((perf_counter() - started) * 1000.0))
    view = View(Place(message.code, message.layers, message.tmp_mb))
    view.refusal = "no /var/task and no /tmp of its own: the threads of a CUDA context keep the view they began with"
    return view
