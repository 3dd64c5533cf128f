"""What a process has made of its function so far: loaded, bound, checked, started.

A function zygote and a worker take the same steps with the same code; a worker forked from a zygote finds the first
ones done. Each step answers with one frame, or raises ``StepFailed``, whose frame is the process's last.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from time import perf_counter
from typing import Any

from glowplug.runtime.process import forkable, wire
from glowplug.runtime.process.view import TMP, View
from glowplug.runtime.process.wire import ExitCode

from . import firstuse, hooks, loader, requestlog, shadow, streaming
from .context import Instance
from .eventloop import EventLoop
from .faults import Fault
from .generators import Generators

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SNAP_START = "snap-start"
_MODEL_LAYERS = ("glowplug.snapshot.", "glowplug.cache.")

_ONE_THREAD = {
    "OPENBLAS_NUM_THREADS": "1",
    "ORT_DISABLE_TELEMETRY": "1",
}
"""What keeps libraries from starting threads when they are imported. NumPy's OpenBLAS has one for each core: the base
zygote with torch has numpy already, in the lean one the function's environment has replaced the zygote's. ONNX Runtime
has one that sends telemetry."""


class StepFailed(Exception):
    """A step did not succeed: ``frame`` tells the node, ``code`` ends the process."""

    def __init__(self, step: str, fault: Fault, code: ExitCode) -> None:
        super().__init__(f"{step}: {fault.error_type}: {fault.error_message}")
        self.frame = wire.Failed(step, fault.error_type, fault.error_message, fault.stack_trace)
        self.code = code


class Function:
    """One function in one process. ``handler`` and ``instance`` are set by ``load`` and ``start``; ``models`` is the
    module of that name where the function has any, else None.

    ``channels`` are the descriptors of this process's own sockets, which are no obstacle to a fork. ``forked`` is False
    in a process that was started as a program for this function alone. ``view`` is what it sees of the file system;
    ``before_import`` is called when the function's directories lead the import path.
    """

    def __init__(self, channels: Collection[int] = (), *, forked: bool = True) -> None:
        self._channels = channels
        self._forked = forked
        self.handler: loader.Handler | None = None
        self.instance: Instance | None = None
        self.log: requestlog.RequestLog | None = None
        self.generators = Generators()
        self.view = View()
        self.before_import: Callable[[], None] | None = None
        self.models: Any = None
        self._name = ""
        self._event_loop = EventLoop()
        self._hooks_due = False
        self._has_models = False
        self._recorder: firstuse.Recorder | None = None
        self._steps: dict[type[Any], Callable[[Any], wire.Message]] = {
            wire.Load: self.load,
            wire.Bind: self.bind,
            wire.Check: self.check,
        }

    def __repr__(self) -> str:
        state = "started" if self.instance else "loaded" if self.handler else "empty"
        return f"Function({self._name!r}, {state})"

    def prepare(self, message: wire.Message) -> wire.Message:
        """Take the step that ``message`` (Load, Bind or Check) asks for and return the answer.

        Raises ``StepFailed``; ``wire.WireError`` for any other message.
        """
        step = self._steps.get(type(message))
        if step is None:
            raise wire.WireError(f"{type(message).__name__} is not a step of a function")
        pid = os.getpid()
        try:
            return step(message)
        finally:
            if os.getpid() != pid:
                os._exit(0)  # a child that the author's module forked and that ran off its end: the parent answers

    def load(self, load: wire.Load) -> wire.Loaded:
        """Import the handler in its environment, declare its models, and make it ready to be forked if it is to be.

        The obstacle in the answer is one to what is wanted: to a fork from this process where it is to be parked, to
        running the function in a forked process at all, which is then answered before anything is imported.
        """
        started = perf_counter()
        self._name = load.function_name
        load = self.view.inside(load)
        try:
            loader.enter(load)
            roots, top_level = loader.roots_of(load), loader.top_level(load.handler)
            if not self._forked:
                shadow.claim(roots, top_level)
            elif obstacle := shadow.obstacle(roots, top_level):
                return wire.Loaded(_ms_since(started), obstacle, [], shadowed=True)
            self.log = requestlog.install()
            self._recorder = firstuse.Recorder() if load.observe else None
            self._has_models = bool(load.models)
            if load.models:
                _models().declare(load.models, device=load.device)
            self.generators = Generators()
            with _single_threaded_imports() if load.parked else contextlib.nullcontext():
                if self.before_import is not None:
                    self.before_import()
                self.handler = loader.find_handler(load.handler)
                streaming.prepare(self.handler)
            self.generators.settle()
            models = _models().registered() if load.models or "glowplug.handlers" in sys.modules else []
            self.models = _models() if models else None
        except Exception as error:
            raise _failed("load", error, ExitCode.LOAD_FAILED) from error
        if load.parked or load.initialization_type == _SNAP_START:
            try:
                hooks.run_before_snapshot()
            except Exception as error:
                code = ExitCode.BEFORE_SNAPSHOT_FAILED
                raise _failed("load", error, code, "Runtime.BeforeSnapshotError") from error
            self._hooks_due = load.initialization_type == _SNAP_START
        if load.parked:
            self._event_loop.rest()
        obstacle = forkable.obstacle(self._channels) if load.parked else ""
        return wire.Loaded(_ms_since(started), obstacle, models, namespace_ms=self.view.took_ms)

    def bind(self, bind: wire.Bind) -> wire.Bound:
        """Give each model its engine and weights."""
        started = perf_counter()
        try:
            report = _models().bind(bind.plans)  # not observed: that would cost every parked zygote megabytes
        except Exception as error:
            raise _failed("bind", error, ExitCode.BIND_FAILED) from error
        return wire.Bound(_ms_since(started), report.engines, report.weight_bytes, forkable.obstacle(self._channels))

    def check(self, check: wire.Check) -> wire.Checked:
        """Run each model's example and compare what comes out; say what was read until here if that was asked for."""
        started = perf_counter()
        try:
            with contextlib.nullcontext() if self._recorder is None else self._recorder.tensors():
                report = _models().check(check.threads)
        except Exception as error:
            raise _failed("check", error, ExitCode.CHECK_FAILED) from error
        took_ms, order = _ms_since(started), [] if self._recorder is None else self._recorder.order()
        reads = [[self.view.outside(str(path)), *where] for path, *where in order]
        return wire.Checked(took_ms, report.worst_error, report.recorded, reads)

    def start(self, start: wire.Start) -> wire.Ready:
        """Become an instance: its environment, its engines opened, the after-restore hooks, its memory limit."""
        started = perf_counter()
        os.environ.update(start.environment)
        if self.view.scratch and os.environ.get("TMPDIR") == TMP:
            os.environ["TMPDIR"] = self.view.scratch
            tempfile.tempdir = None  # forget an answer from before
        self._event_loop.wake()
        if self.models is not None:
            self.models.begin()
        if self._has_models:
            try:
                _models().open_all(start.threads)
            except Exception as error:
                raise _failed("start", error, ExitCode.BIND_FAILED) from error
        if start.restored or self._hooks_due:
            try:
                hooks.run_after_restore()
            except Exception as error:
                code = ExitCode.AFTER_RESTORE_FAILED
                raise _failed("start", error, code, "Runtime.AfterRestoreError") from error
        self.instance = Instance(
            function_name=self._name,
            function_version=start.function_version,
            memory_limit_in_mb=str(start.memory_mb),
            log_group_name=start.log_group,
            log_stream_name=start.log_stream,
        )
        _offer_to_oom_killer()
        vm_data_bytes = _vm_data_bytes()
        if start.memory_bytes > 0:
            limit = vm_data_bytes + start.memory_bytes
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
        return wire.Ready(_ms_since(started), vm_data_bytes, self.view.took_ms, self.view.refusal)


@contextlib.contextmanager
def _single_threaded_imports() -> Iterator[None]:
    """Keep imports of the handler's from starting threads of C libraries: with those, no fork (``_ONE_THREAD``).

    Only the C library's environment is touched, which those read: the author's module, and what it starts later, see
    the function's own. A variable that the function sets is its own affair.
    """
    lent = {name: value for name, value in _ONE_THREAD.items() if name not in os.environ}
    for name, value in lent.items():
        os.putenv(name, value)
    try:
        yield
    finally:
        for name in lent:
            if name not in os.environ:  # the module may have set it itself
                os.unsetenv(name)


def _models() -> Any:
    # A late import on purpose: a function without a model never pays for it (and never meets torch).
    from . import models

    return models


def _failed(step: str, error: Exception, code: ExitCode, error_type: str = "") -> StepFailed:
    """Describe a failed step, and print it: what goes wrong in a start belongs to the function's INIT log."""
    if not error_type and type(error).__module__.startswith(_MODEL_LAYERS):
        fault = Fault(f"Glowplug.{type(error).__name__}", str(error), Fault.of(error).stack_trace)
    else:
        fault = Fault.of(error, error_type)
    fault.log()
    return StepFailed(step, fault, code)


def _offer_to_oom_killer() -> None:
    """Put workers first in line: a machine that runs out of memory must lose a worker, not its node or a zygote."""
    descriptor = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    os.write(descriptor, b"1000")
    os.close(descriptor)


def _vm_data_bytes() -> int:
    """Return this process's data and stack in bytes: VmData, and the few pages of VmStk that statm counts with it.

    From ``statm``, which the kernel answers from counters; ``status`` costs ten times as much.
    """
    descriptor = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)  # open() would touch twice the pages
    fields = os.read(descriptor, 256).split()
    os.close(descriptor)
    return int(fields[5]) * _PAGE_BYTES


def _ms_since(started: float) -> float:
    return (perf_counter() - started) * 1000.0
