"""From an ONNX file to what a snapshot holds: the optimised graph, and the weights that are nobody else's.

ONNX Runtime optimises once, here, and writes what it made of the graph. Then every initialiser of ``LEAST_BYTES`` or
more leaves the file:

- one whose bytes are those of a tensor of the source is bound to that tensor, in the mapped checkpoint;
- one that is such a tensor transposed, and only ever multiplied with, is bound to it as well, and the multiplication
  told to transpose (exporters transpose the weights of linear layers, which are most of a transformer);
- the others (fused, folded, quantised, laid out anew for convolutions) go into a safetensors file of the snapshot.

So the snapshot never holds a copy of the checkpoint, and all workers map the same pages. The model file names
``PLACEHOLDER`` as the place of what it is bound to: ONNX Runtime insists that the file be there, and it is empty, so
that an initialiser that nobody binds is an error and not noise.

Run in a baker; needs the packages onnx and onnxruntime.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
from safetensors.numpy import save_file

from ..checkpoint import SNAPSHOT, Origin
from ..errors import CompileFailed, ExportFailed
from ..manifest import EngineRecord
from .record import VERSION
from .session import FORKABLE, UNPACKED, import_is_forkable, runtime_module, said, version

PLACEHOLDER = "bound-at-open"
LEAST_BYTES = 1024
"""Smaller initialisers stay in the model file: shapes, axes, scales."""

_LINEAR = ["MatMul", "Gemm", "LSTM"]  # what int8 quantises, as everywhere: layers that multiply with weights
_TRANSPOSED_BY = {"MatMul": "FusedMatMul", "FusedMatMul": "FusedMatMul", "Gemm": "Gemm"}
_SAFE = frozenset({"bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16",
                   "float32", "float64"})  # fmt: skip

Array = numpy.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Known:
    """A tensor that a file holds already."""

    origin: Origin
    array: Array


def make(model: Path, staging: Path, precision: str, known: Iterable[Known] = ()) -> dict[str, EngineRecord]:
    """Write the engine's files for ``model`` in a precision into ``staging``; return a record per variant.

    Raises ``CompileFailed`` (what ONNX Runtime said), ``ExportFailed`` where there is nothing to quantise.
    """
    import onnx  # late: only a baker has to have it

    forkable = import_is_forkable()
    stem = "onnxruntime" if precision == "fp32" else f"onnxruntime-{precision}"
    with tempfile.TemporaryDirectory(prefix="onnx-") as scratch:
        source = _quantised(model, Path(scratch)) if precision == "int8" else model
        proto = onnx.load(str(_optimised(source, Path(scratch))))
    origins, made = _bound(proto, known, f"{stem}.safetensors")
    onnx.save(proto, str(staging / f"{stem}.onnx"))
    if made:
        save_file(made, staging / f"{stem}.safetensors")
    (staging / PLACEHOLDER).touch()
    record = EngineRecord(artefact=f"{stem}.onnx", constants=origins, options={VERSION: version(), FORKABLE: forkable})
    return {"": record} if precision == "int8" else {"": record, UNPACKED: record}


def _optimised(model: Path, scratch: Path) -> Path:
    runtime = runtime_module()
    optimised = scratch / "optimised.onnx"
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.optimized_model_filepath = str(optimised)
    for name, value in (
        ("session.disable_prepacking", "1"),  # only for running, which this session never does
        ("session.optimized_model_external_initializers_file_name", "optimised.data"),  # 2 GB are most in one file
        ("session.optimized_model_external_initializers_min_size_in_bytes", str(LEAST_BYTES)),
    ):
        options.add_session_config_entry(name, value)
    try:
        runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the errors of ONNX Runtime have no common base but Exception
        raise CompileFailed(f"onnxruntime: {said(error)}") from error
    return optimised


def _quantised(model: Path, scratch: Path) -> Path:
    """Return the model with the weights of its linear layers as 8-bit integers, a scale per column."""
    import onnx  # late, both, as in ``make``
    from onnxruntime.quantization import QuantType, quantize_dynamic

    quantised, logger = scratch / "int8.onnx", logging.getLogger()
    level = logger.level
    logger.setLevel(logging.ERROR)  # it advises, through the root logger, to optimise first; that comes after it here
    try:
        quantize_dynamic(
            onnx.load(str(model)),  # not the path: it would write beside the file
            quantised,
            op_types_to_quantize=_LINEAR,
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
    except Exception as error:  # a library of asserts and ValueErrors
        raise CompileFailed(f"quantisation: {type(error).__name__}: {said(error)}") from error
    finally:
        logger.setLevel(level)
    graph = onnx.load(str(quantised), load_external_data=False).graph
    if not any(node.op_type in ("MatMulInteger", "DynamicQuantizeLSTM") for node in _nodes(graph)):
        raise ExportFailed("int8: the model has no linear layer whose weights could be quantised")
    return quantised


def _bound(proto: Any, known: Iterable[Known], made_file: str) -> tuple[dict[str, Origin], dict[str, Array]]:
    """Take the larger initialisers out of ``proto``: return where each is, and those that no file holds yet."""
    from onnx import numpy_helper  # late, as in ``make``

    arrays = {
        tensor.name: (tensor, array)
        for tensor in proto.graph.initializer
        if (array := numpy_helper.to_array(tensor)).nbytes >= LEAST_BYTES and array.dtype.name in _SAFE
    }
    held = _Held(known, {array.shape for _, array in arrays.values()})
    users = _users(proto.graph)
    origins: dict[str, Origin] = {}
    made: dict[str, Array] = {}
    for name, (tensor, array) in arrays.items():
        origin = held.equal(array)
        if origin is None and array.ndim == 2 and _may_transpose(name, array, users.get(name, [])):
            origin = held.equal(array.T)
            if origin is not None:
                _transpose(name, users[name])
                array = array.T
        if origin is None:
            made[name] = numpy.ascontiguousarray(array)
            origin = Origin(SNAPSHOT, made_file, name)
        origins[name] = origin
        _externalise(tensor, array.shape)
    return origins, made


class _Held:
    """Looks tensors up by their bytes."""

    def __init__(self, known: Iterable[Known], shapes: set[tuple[int, ...]]) -> None:
        wanted = shapes | {shape[::-1] for shape in shapes}
        self._known = {_digest(item.array): item.origin for item in known if item.array.shape in wanted}

    def equal(self, array: Array) -> Origin | None:
        """Return where a tensor of this shape, dtype and content is."""
        return self._known.get(_digest(array)) if self._known else None


def _digest(array: Array) -> tuple[str, tuple[int, ...], bytes]:
    return array.dtype.name, array.shape, hashlib.sha256(numpy.ascontiguousarray(array).data).digest()


def _nodes(graph: Any) -> Iterator[Any]:
    """Every node, those of inner graphs included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _nodes(inner)


def _users(graph: Any) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for node in _nodes(graph):
        for name in dict.fromkeys(node.input):
            found.setdefault(name, []).append(node)
    return found


def _may_transpose(name: str, array: Array, users: Iterable[Any]) -> bool:
    """Whether all that use a matrix can take it transposed: multiplications of floats, with it on the right."""
    return array.dtype.name == "float32" and all(
        node.op_type in _TRANSPOSED_BY and [i for i, given in enumerate(node.input) if given == name] == [1]
        for node in users
    )


def _transpose(name: str, users: Iterable[Any]) -> None:
    from onnx import helper  # late, as in ``make``

    for node in users:
        before = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        kept = [attribute for attribute in node.attribute if attribute.name != "transB"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("transB", 1 - before)])
        if node.op_type == "MatMul":
            node.op_type, node.domain = _TRANSPOSED_BY[node.op_type], "com.microsoft"


def _externalise(tensor: Any, shape: tuple[int, ...]) -> None:
    """Leave of an initialiser its name, dtype and shape, and that its bytes are elsewhere."""
    name, kind = tensor.name, tensor.data_type
    tensor.Clear()
    tensor.name, tensor.data_type, tensor.data_location = name, kind, tensor.EXTERNAL
    tensor.dims.extend(shape)
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", PLACEHOLDER
