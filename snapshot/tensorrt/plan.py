"""From a plan file to an engine on the device."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import EngineFailed, SnapshotCorrupt, SnapshotMissing
from .bindings import Log, dtypes
from .profiles import Profile

CHUNK_BYTES = 16 * 1024 * 1024


def deserialize(trt: Any, log: Log, path: Path, *, host_code: bool = False) -> Any:
    """Return the engine in ``path``; its weights, where the plan has them, are on the device then.

    Through TensorRT's stream reader, a chunk at a time: a plan as large as the model would otherwise be in host memory
    once more while it is copied. ``host_code``: the plan is version compatible and brings the code of its own runtime,
    which TensorRT runs only when told to. Raises ``EngineFailed`` with TensorRT's words, ``SnapshotMissing``.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise SnapshotMissing(f"{path.name}: {error.strerror}") from error
    try:
        runtime = trt.Runtime(log.logger)
        runtime.error_recorder = log.recorder
        runtime.engine_host_code_allowed = host_code
        reader = _reader(trt, descriptor)
        engine = runtime.deserialize_cuda_engine(reader)
    except (RuntimeError, TypeError) as error:  # how its bindings say that an object was not made
        raise EngineFailed(f"{path.name}: TensorRT: {error}\n{log.words()}") from error
    finally:
        os.close(descriptor)
    if engine is None:
        read_error = f"{reader.failure}\n" if reader.failure else ""
        raise EngineFailed(f"{path.name}: TensorRT takes no plan from it: {read_error}{log.words()}")
    return engine


def check(trt: Any, engine: Any, made: Sequence[Profile], inputs: Sequence[torch.dtype]) -> None:
    """Compare an engine with the record of its making: inputs, and the shapes of every profile.

    Calls are compared with the record alone; a plan of other shapes would read past their ends. Raises
    ``SnapshotCorrupt``.
    """
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    names = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
    given = [dtypes(trt).get(engine.get_tensor_dtype(name)) for name in names]
    if given != list(inputs):
        raise SnapshotCorrupt(f"plan: its inputs are {given}, not {list(inputs)}")
    if engine.num_optimization_profiles != len(made):
        raise SnapshotCorrupt(f"plan: it has {engine.num_optimization_profiles} profiles, not {len(made)}")
    for number, profile in enumerate(made):
        for name, span in zip(names, profile, strict=True):
            shapes = tuple(tuple(shape) for shape in engine.get_tensor_profile_shape(name, number))
            if shapes != (span.least, span.usual, span.most):
                raise SnapshotCorrupt(f"plan: profile {number} is of other sizes for {name}: {shapes}")


def _reader(trt: Any, descriptor: int) -> Any:
    class Reader(trt.IStreamReaderV2):  # type: ignore[misc]  # TensorRT has no annotations
        """Called from native code that takes no exception: a failed read is an empty one, which TensorRT refuses."""

        def __init__(self) -> None:
            trt.IStreamReaderV2.__init__(self)
            self._place = 0
            self._size = os.fstat(descriptor).st_size
            self.failure = ""

        def read(self, num_bytes: int, stream: int) -> bytes:
            try:
                data = os.pread(descriptor, min(num_bytes, CHUNK_BYTES), self._place)
            except OSError as error:
                self.failure = f"the plan cannot be read: {error.strerror}"
                return b""
            self._place += len(data)
            return data

        def seek(self, offset: int, where: Any) -> bool:
            base = {trt.SeekPosition.SET: 0, trt.SeekPosition.CUR: self._place, trt.SeekPosition.END: self._size}
            place = base[where] + offset
            if not 0 <= place <= self._size:
                return False
            self._place = place
            return True

    return Reader()
