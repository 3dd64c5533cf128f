"""The worker's loop: take the steps until ``Start``, then answer invocations until told to stop.

From ``Ready`` on the worker reads two channels: control (``Stop``, or the end of the node) and data (``Invoke``). One
invocation runs at a time; what arrives meanwhile waits in the socket. Only a handler that streams hears of the node
between two chunks (``outlet``).
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
from time import perf_counter
from typing import Any, NoReturn

from glowplug.runtime.process import wire
from glowplug.runtime.process.wire import Cancel, Credit, ExitCode, Invoke, Outcome, Verified

from . import streaming, streams
from .connection import Connection, NodeGone
from .context import LambdaContext
from .faults import Fault, exit_status
from .function import Function, StepFailed
from .marshal import read_event, write_result
from .outlet import Collector, Outlet

_TRACE_ID = "_X_AMZN_TRACE_ID"
_OUT_OF_MEMORY = b"[ERROR] Runtime.OutOfMemory: the handler needed more memory than MemorySize\n"
_TORCH_OUT_OF_MEMORY = "DefaultCPUAllocator: can't allocate memory"  # torch says it with a RuntimeError


def run(control: Connection, data: Connection, function: Function) -> NoReturn:
    """Serve as a worker of ``function`` on the two channels, then end the process.

    It ends by ``os._exit``: tearing down all that its zygote imported would cost more than a start.
    """
    worker = Worker(control, data, function)
    try:
        status = worker.serve()
    except StepFailed as failure:
        status = failure.code
    except NodeGone:
        status = ExitCode.NODE_GONE
    except MemoryError:
        os.write(2, _OUT_OF_MEMORY)  # print would allocate, and the handler's frames are still held by the exception
        status = ExitCode.OUT_OF_MEMORY
    except SystemExit as error:
        status = exit_status(error)
    except wire.WireError as error:
        print(f"glowplug worker: {error}", file=sys.stderr)
        status = ExitCode.PROTOCOL_ERROR
    except BaseException:
        sys.excepthook(*sys.exc_info())
        status = 1
    streams.flush()
    os._exit(status)


class Worker:
    """One worker process."""

    def __init__(self, control: Connection, data: Connection, function: Function) -> None:
        self._control = control
        self._data = data
        self._function = function
        self._pid = os.getpid()
        self._threads = 0
        self._trace_id = ""
        self._models: Any = None

    def __repr__(self) -> str:
        return f"Worker(pid={self._pid}, {self._function!r})"

    def serve(self) -> int:
        """Return the exit status once the node has said ``Stop``.

        Raises ``StepFailed`` after telling the node, ``NodeGone``, and whatever a handler ends the process with.
        """
        if not self._prepare():
            return ExitCode.OK
        control, data = self._control.fileno(), self._data.fileno()
        poll = select.poll()
        poll.register(control, select.POLLIN)
        poll.register(data, select.POLLIN)
        while not (self._control.pending and self._stop_asked(self._control.receive())):
            for descriptor, _ in poll.poll():
                if descriptor == control:
                    if self._stop_asked(self._control.receive()):
                        return ExitCode.OK
                else:
                    self._answer(self._data.receive())
                    while self._data.pending:
                        self._answer(self._data.receive())
        return ExitCode.OK

    def _prepare(self) -> bool:
        """Take the steps up to ``Start``; return False when ``Stop`` came first."""
        while True:
            message = self._control.receive()
            if isinstance(message, wire.Stop):
                return False
            try:
                last = isinstance(message, wire.Start)
                reply = self._function.start(message) if last else self._function.prepare(message)
            except StepFailed as failure:
                streams.flush()
                self._control.send(failure.frame)
                raise
            streams.flush()
            self._control.send(reply)
            if last:
                self._models = self._function.models
                return True

    def _stop_asked(self, message: object) -> bool:
        if not isinstance(message, wire.Stop):
            raise wire.WireError(f"{type(message).__name__} is not for a started worker")
        handler = signal.getsignal(signal.SIGTERM)
        if callable(handler) and getattr(handler, "__module__", "").partition(".")[0] != "glowplug":
            # The author asked to be told of the end (spec 6.1); a sys.exit there says nothing new.
            with contextlib.suppress(SystemExit):
                signal.raise_signal(signal.SIGTERM)
        return True

    def _answer(self, invoke: object) -> None:
        if isinstance(invoke, Credit | Cancel):
            return  # it crossed the outcome of the stream that it is for
        if not isinstance(invoke, Invoke):
            raise wire.WireError(f"{type(invoke).__name__} is not an invocation")
        if invoke.threads != self._threads and "torch" in sys.modules:
            self._grant(invoke.threads)
        if invoke.trace_id != self._trace_id:
            self._trace(invoke.trace_id)
        log = self._function.log
        if log is not None:
            log.request_id = invoke.invocation_id
        outcome = self._call(invoke)
        if os.getpid() != self._pid:
            # A child that the handler forked and that ran off the handler's end: it must not answer a second time.
            streams.flush()
            os._exit(0)
        streams.flush()
        self._data.send(outcome)
        if outcome.checking:
            rows = self._models.verify()
            streams.flush()
            self._data.send(Verified(invoke.invocation_id, rows))

    def _call(self, invoke: Invoke) -> Outcome:
        """Call the handler for each event. What must end the process passes through (MemoryError, SystemExit, …)."""
        handler, instance = self._function.handler, self._function.instance
        if handler is None or instance is None:
            raise wire.WireError("Invoke for a function that is not loaded and started")
        handler_s, started = 0.0, perf_counter()
        try:
            context = LambdaContext(instance, invoke)
            results = []
            for text in invoke.events:
                event = read_event(text)
                started = perf_counter()
                result = handler(event, context)
                if streaming.streams(result):
                    results += streaming.drain(result, self._outlet(invoke))
                    handler_s += perf_counter() - started
                else:
                    handler_s += perf_counter() - started
                    results.append(write_result(result))
        except (MemoryError, NodeGone, wire.WireError):
            raise
        except Exception as error:
            handler_s += perf_counter() - started
            if isinstance(error, RuntimeError) and _TORCH_OUT_OF_MEMORY in str(error):
                raise MemoryError from error
            fault = Fault.of(error)
            fault.log(invoke.invocation_id)
            body = fault.body(invoke.invocation_id)
            return Outcome(invoke.invocation_id, [body], True, fault.error_type, handler_s * 1000.0, *self._called())
        return Outcome(invoke.invocation_id, results, False, "", handler_s * 1000.0, *self._called())

    def _outlet(self, invoke: Invoke) -> Outlet | Collector:
        """Return where a stream goes; only a single event's may go to the node as it comes."""
        return Outlet(self._data, invoke) if invoke.window_bytes > 0 and len(invoke.events) == 1 else Collector()

    def _called(self) -> tuple[list[list[Any]], bool]:
        """Return what the invocation called of models; a function without one pays nothing for the question."""
        return ([], False) if self._models is None else self._models.taken()

    def _grant(self, threads: int) -> None:
        """Use ``threads`` threads for tensor operations from now on; only asked where torch is loaded."""
        if threads > 0:
            sys.modules["torch"].set_num_threads(threads)
        self._threads = threads

    def _trace(self, trace_id: str) -> None:
        if trace_id:
            os.environ[_TRACE_ID] = trace_id
        else:
            os.environ.pop(_TRACE_ID, None)
        self._trace_id = trace_id
