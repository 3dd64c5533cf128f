"""Weights for a plan that has none: from the model's own files, through the pinned ring, into the engine.

A stripped plan is a few megabytes, and functions of one checkpoint keep its weights on disk once. What it costs is
measured against a whole plan by the bake: it is the candidate's variant ``refit``.

The exporter renames weights, folds casts into them and transposes those of linear layers. So a weight is not looked up
by name but by its bytes: every tensor of the module is hashed as it is and transposed. What matches none of them is
stored with the snapshot.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint import SNAPSHOT, Origin
from ..engines.onto import Load, by_file
from ..errors import EngineFailed, SnapshotCorrupt, TensorUnbound
from ..manifest import EXTRA_FILE
from .bindings import Log, dtypes
from .stream import Stream

if TYPE_CHECKING:
    from ..program import Program


@dataclass(frozen=True)
class Sources:
    """Where the weights of an ONNX model are: ``origins`` by the name of the weight, ``transposed`` those that are to
    be turned, ``derived`` the values of the rest, which no file holds yet."""

    origins: Mapping[str, Origin]
    transposed: frozenset[str]
    derived: Mapping[str, Tensor]


def sources(weights: Mapping[str, Tensor], program: Program, file: str) -> Sources:
    """Find the weights of an exported model in the checkpoint. ``file`` is where the derived ones will be stored.

    A weight of another floating dtype than the module's is compared with the module's after conversion, as the device
    will convert it.
    """
    dtypes = {tensor.dtype for tensor in weights.values() if tensor.is_floating_point()}
    known: dict[str, tuple[Origin, bool]] = {}
    for origin, tensor in _held(program):
        for dtype in dtypes if tensor.is_floating_point() else {tensor.dtype}:
            if tensor.dim() == 2:
                known.setdefault(_key(tensor.t().to(dtype)), (origin, True))
            known[_key(tensor.to(dtype))] = (origin, False)  # after: a symmetric one needs no turning
    origins: dict[str, Origin] = {}
    transposed: set[str] = set()
    derived: dict[str, Tensor] = {}
    for name, tensor in weights.items():
        found = known.get(_key(tensor))
        if found is None:
            derived[name] = tensor
            found = Origin(SNAPSHOT, file, name), False
        origins[name], turned = found
        if turned:
            transposed.add(name)
    return Sources(origins, frozenset(transposed), derived)


def onnx_weights(path: Path) -> dict[str, Tensor]:
    """Return the values of an ONNX file's initialisers by name."""
    import onnx  # late: only a bake needs it
    from onnx import numpy_helper

    found = {}
    for item in onnx.load(str(path)).graph.initializer:
        array = numpy_helper.to_array(item).copy()
        if item.data_type == onnx.TensorProto.BFLOAT16:  # numpy has no such dtype of its own
            found[item.name] = torch.from_numpy(array.view("int16")).view(torch.bfloat16)
        else:
            found[item.name] = torch.from_numpy(array)
    return found


def refit(
    trt: Any, log: Log, engine: Any, origins: Mapping[str, Origin], turned: Collection[str], load: Load, stream: Stream
) -> int:
    """Fill an engine's weights and return their bytes.

    The device holds the weights twice meanwhile. Raises ``TensorUnbound`` for a weight that the map does not have,
    ``SnapshotCorrupt`` for one of another size, ``EngineFailed`` with TensorRT's words, and what ``load`` raises.
    """
    refitter = trt.Refitter(engine, log.logger)
    refitter.error_recorder = log.recorder
    wanted = list(refitter.get_all_weights())
    unknown = sorted(set(wanted) - set(origins))
    if unknown:
        raise TensorUnbound(f"the plan needs {unknown[0] or 'a weight without a name'}, which the weight map lacks")
    kept: list[Tensor] = []  # until the refit is done
    for place, file, names in by_file(origins, wanted):
        loaded = load(place, file, {origins[name].tensor for name in names})
        for name in names:
            prototype = refitter.get_weights_prototype(name)
            dtype = dtypes(trt)[prototype.dtype]
            tensor = stream.cast(loaded[origins[name].tensor], dtype, name in turned)
            if tensor.numel() != prototype.size:
                raise SnapshotCorrupt(f"{name}: {tensor.numel()} values from {file}, the plan has {prototype.size}")
            weights = trt.Weights(prototype.dtype, tensor.data_ptr(), tensor.numel())
            if not refitter.set_named_weights(name, weights, trt.TensorLocation.DEVICE):
                raise EngineFailed(f"TensorRT does not take {name} for its plan: {log.words()}")
            kept.append(tensor)
        stream.synchronize()  # the next file's tensors may get the memory of these, on another stream
    missing = refitter.get_missing_weights()
    if missing:
        raise TensorUnbound(f"the plan also needs {missing[0] or 'a weight without a name'}: {log.words()}")
    if not refitter.refit_cuda_engine_async(stream.handle):
        raise EngineFailed(f"TensorRT cannot refit its plan: {log.words()}")
    stream.synchronize()
    return sum(tensor.nbytes for tensor in kept)


def _held(program: Program) -> list[tuple[Origin, Tensor]]:
    """Return every tensor that a file has or will have, with its place."""
    module = program.assembled.module
    values: dict[str, Tensor] = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    made = {**program.constants(), **program.assembled.computed}
    held = [(origin, values[name]) for name, origin in program.assembled.origins.items() if name in values]
    return held + [(Origin(SNAPSHOT, EXTRA_FILE, name), tensor) for name, tensor in made.items()]


def _key(tensor: Tensor) -> str:
    flat = tensor.detach().contiguous()
    digest = hashlib.sha256(f"{flat.dtype}{list(flat.shape)}".encode())
    digest.update(flat.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
