"""The engines there are, by name. An engine's module is imported when it is asked for: what it needs may be large, or
not installed."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
from collections.abc import Iterable

from .. import fingerprint
from ..candidates import CPU, Kind, needs_gpu
from ..errors import EngineUnavailable
from ..manifest import EngineRecord
from ..onnx.record import unusable
from . import Engine

ENGINES = {
    "eager": "eager:Eager",
    "aot_inductor": "aot_inductor:AotInductor",
    "onnxruntime": "onnxruntime:OnnxRuntime",
    "tensorrt": "tensorrt:TensorRt",
}
"""Engine -> module of this package and class. The order is that of reports."""


def preload() -> None:
    """Import what restoring on the CPU needs and nothing that starts a thread: for a process that others are forked
    from, each of which would spend 10 ms on it."""
    for name in ("eager", "aot_inductor", "onnxruntime"):
        _class(name)
    fingerprint.current()


def create(name: str) -> Engine:
    """Return a new engine by name. Raises ``EngineUnavailable`` for an unknown one."""
    return _class(name)()


def versions(names: Iterable[str]) -> dict[str, str]:
    """Return the version of what each engine runs in, where that is neither torch nor ours (those are in every
    fingerprint): part of a snapshot's key."""
    return {name: importlib.metadata.version(name) for name in names if name in _RUN_IN_THEIR_OWN}


def outdated(record: EngineRecord) -> str:
    """Return why an engine of a snapshot cannot run in the version of its runtime that is installed here, in words;
    empty when it can, or runs in torch. Reads packages' metadata alone: a node asks before a start finds out."""
    return unusable(record.options) if record.artefact and record.engine in _RUN_IN_THEIR_OWN else ""


def kinds(device: str) -> dict[str, Kind]:
    """Return every engine with its precisions, and why it cannot be made here for a function on ``device``."""
    return {name: Kind(_class(name).precisions, _obstacle_to_making(name, device)) for name in ENGINES}


def obstacle(name: str) -> str:
    """Return why an engine cannot serve here, in words; empty when it can."""
    try:
        return _class(name).obstacle()
    except EngineUnavailable as error:
        return str(error)


def _obstacle_to_making(name: str, device: str) -> str:
    if device == CPU and needs_gpu(name):
        return "the function is on the CPU (Device: cpu, or auto without a GPU)"
    return _class(name).obstacle(making=True)


_RUN_IN_THEIR_OWN = frozenset({"onnxruntime"})  # packages of the engine's name


@functools.cache
def _class(name: str) -> type[Engine]:
    where = ENGINES.get(name)
    if where is None:
        raise EngineUnavailable(f"no engine {name!r}; there are {', '.join(ENGINES)}")
    module, _, wanted = where.partition(":")
    found: type[Engine] = getattr(importlib.import_module(f".{module}", __package__), wanted)
    return found
