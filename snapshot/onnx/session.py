"""A session of ONNX Runtime, as this project runs them.

- *Made after the last fork.* A session has a pool of threads, so it is made by an engine's ``open``, in the worker.
- *Imported before it, where that starts no thread.* Recent releases start one, which sends telemetry, unless
  ``ORT_DISABLE_TELEMETRY`` is set before the import; here it always is. A bake looks whether the import is free of
  threads then (``FORKABLE``), and a zygote imports only what was seen to be: that is half of what a start pays.
- *Nothing is optimised here.* What can be has been, at the bake; a restore reads the result.
- *No spinning.* Idle threads of ONNX Runtime look for work for milliseconds before they sleep. That makes calls on an
  idle machine up to a third faster, and costs 30 ms of processor time after every call, which the other instances of
  this machine wait for: on busy cores the same calls took twice as long with it as without.
- *Weights are given, not read.* The model names initialisers that are in no file of its own; each is handed over as a
  view of a mapped safetensors file (``add_initializer``), which ONNX Runtime uses where it is. The kernels' prepacking
  makes private copies of matrices in the layout they like best; with ``unpacked`` they do without: a session costs a
  quarter of the time and nothing but its activations in memory, and each call takes longer. A bake measures both.
- *Quiet.* Errors only.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import EngineFailed, EngineUnavailable

CPU = ("CPUExecutionProvider",)
CUDA = ("TensorrtExecutionProvider", "CUDAExecutionProvider", *CPU)
"""Execution providers by device, the preferred first; those that this build of ONNX Runtime lacks are left out."""

UNPACKED = "unpacked"
"""The variant without prepacking."""

FORKABLE = "import_is_forkable"
"""The option of a record that says whether its ONNX Runtime can be imported before a fork."""

_ERRORS_ONLY = 3
_REFUSED = "InvalidArgument"  # ONNX Runtime's class for inputs that are not the model's


def obstacle(*needed: str) -> str:
    """Return which of ONNX Runtime and the packages ``needed`` is not installed, in words; empty when all are."""
    for package in ("onnxruntime", *needed):
        if importlib.util.find_spec(package) is None:
            return f"{package} is not installed (glowplug[onnx])"
    return ""


def version() -> str:
    """Return the version of ONNX Runtime, without importing it; empty where there is none."""
    try:
        return importlib.metadata.version("onnxruntime")
    except importlib.metadata.PackageNotFoundError:
        return ""


def available(wanted: Sequence[str], here: Sequence[str]) -> list[str]:
    """Return the ``wanted`` execution providers that are ``here``, in the order of preference. Never empty."""
    return [name for name in wanted if name in here] or list(CPU)


class Session:
    """A model that can be called. ``providers`` are those that run it, in order."""

    def __init__(
        self,
        model: Path,
        bound: Mapping[str, Any],
        *,
        threads: int,
        unpacked: bool = False,
        optimised: bool = True,
        external: Mapping[str, Any] | None = None,
        providers: Sequence[str] = CPU,
    ) -> None:
        """Make one. ``bound`` maps initialisers to arrays that must stay as they are; ``external`` file names of
        external data to their bytes, which are copied. Raises ``EngineUnavailable``."""
        runtime = runtime_module()
        options = runtime.SessionOptions()
        self._optimised = optimised
        options.log_severity_level = _ERRORS_ONLY
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if optimised:
            options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
        if unpacked:
            options.add_session_config_entry("session.disable_prepacking", "1")
        self._values = {name: runtime.OrtValue.ortvalue_from_numpy(array) for name, array in bound.items()}
        for name, value in self._values.items():
            options.add_initializer(name, value)
        if external:
            names, contents = list(external), list(external.values())
            options.add_external_initializers_from_files_in_memory(names, contents, [len(part) for part in contents])
        try:
            self._session = runtime.InferenceSession(
                str(model), options, providers=available(providers, runtime.get_available_providers())
            )
        except Exception as error:  # the errors of ONNX Runtime have no common base but Exception
            raise EngineUnavailable(f"onnxruntime cannot load {model.name}: {said(error)}") from error
        self.providers: list[str] = self._session.get_providers()

    def run(self, feeds: Mapping[str, Any]) -> list[Any]:
        """Return the outputs for inputs by name, all as arrays.

        Raises ``ValueError`` for inputs that ONNX Runtime refuses; ``EngineFailed`` when a graph that a bake has made
        fails on them: the model as it is may not.
        """
        try:
            return list(self._session.run(None, feeds))
        except Exception as error:  # as above; callers expect what NumPy and torch raise
            if self._optimised and type(error).__name__ != _REFUSED:
                raise EngineFailed(f"onnxruntime: {said(error)}") from error
            raise ValueError(f"onnxruntime: {said(error)}") from error


def runtime_module() -> Any:
    """Import ONNX Runtime and return it, with telemetry off. Raises ``EngineUnavailable``."""
    # Of the C library's environment alone: the author's module and what it starts see the function's own.
    os.putenv("ORT_DISABLE_TELEMETRY", "1")
    try:
        import onnxruntime  # late, as documented
    except ImportError as error:
        raise EngineUnavailable(f"onnxruntime cannot be imported: {error}") from error
    onnxruntime.disable_telemetry_events()
    onnxruntime.set_default_logger_severity(_ERRORS_ONLY)
    return onnxruntime


def import_is_forkable() -> bool:
    """Import ONNX Runtime; return whether that started no thread. False where it was imported before."""
    import numpy  # noqa: F401 - its own thread is another matter

    if "onnxruntime" in sys.modules:
        return False
    before = len(os.listdir("/proc/self/task"))
    runtime_module()
    return len(os.listdir("/proc/self/task")) == before


def import_early(options: Mapping[str, Any]) -> None:
    """Import ONNX Runtime in a process that will be forked, if a bake has seen that this starts no thread.

    Nor is NumPy imported for it, which may start one: with a model in it, a process nearly always has it already.
    """
    if options.get(FORKABLE) is True and "numpy" in sys.modules:
        runtime_module()


def said(error: Exception) -> str:
    """Return what an error of ONNX Runtime says, without where in its source it was raised, on one line."""
    return " ".join(str(error).split())[:600] or type(error).__name__
