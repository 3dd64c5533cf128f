"""What an ONNX file says of itself, read without running any of it: inputs, outputs, and which files it wants to open.

A model may keep tensors in other files, *external data*, named by a path. An author's file is somebody else's: before
ONNX Runtime opens it, every such path is known here and none leaves the source. The names are all that is followed;
what a graph computes is left to ONNX Runtime.

The file is protobuf (https://protobuf.dev/programming-guides/encoding), read as four wire types. Where tensors
can hide, by field number of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto3:

    ModelProto     graph 7, functions 25
    GraphProto     node 1, initializer 5, input 11, output 12, sparse_initializer 15
    FunctionProto  node 7, attribute_proto 11
    NodeProto      attribute 5
    AttributeProto t 5, g 6, tensors 10, graphs 11, sparse_tensor 22, sparse_tensors 23
    SparseTensor   values 1, indices 2
    TensorProto    dims 1, data_type 2, name 8, external_data 13, data_location 14

A message that ends early, an unknown wire type, a field number that the format does not have, a length beyond the end,
a second graph or graphs nested deeper than ``MAX_DEPTH`` make it ``OnnxInvalid``. Nothing is copied but names, so a
file of gigabytes costs what its nodes cost.
"""

from __future__ import annotations

import mmap
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..errors import OnnxInvalid

MAX_DEPTH = 32
"""Graphs within graphs (bodies of loops and branches). Exporters nest two or three deep."""

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_VARINT_BYTES = 10  # of a 64-bit number
_EXTERNAL = 1  # TensorProto.DataLocation
_LARGEST_NUMBER = (1 << 29) - 1  # of a field, by the format

DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64",
}  # fmt: skip
"""TensorProto.DataType -> numpy's name, as far as numpy has one."""

Field = tuple[int, int | memoryview]


@dataclass(frozen=True, slots=True)
class Value:
    """An input or an output. ``dtype`` is NumPy's name; a size is a number, a name, or None for any."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


@dataclass(frozen=True, slots=True)
class Outline:
    """A model's inputs and outputs in order, and the files of external data that it names."""

    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    external: frozenset[str]


def read(path: Path, name: str) -> Outline:
    """Return the outline of an ONNX file; ``name`` is for messages. Raises ``OnnxInvalid``."""
    try:
        with path.open("rb") as file:
            # unmapped by whoever holds the last view of it: an error's traceback may hold some
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:  # ValueError: an empty file cannot be mapped
        raise OnnxInvalid(f"{name}: {error.strerror if isinstance(error, OSError) else error}") from error
    return parse(memoryview(mapped), name)


def parse(data: memoryview, name: str) -> Outline:
    """Return the outline of the bytes of an ONNX file; ``name`` is for messages. Raises ``OnnxInvalid``."""
    external: set[str] = set()
    try:
        model = _grouped(data)
        graphs = _messages(model, 7)
        if len(graphs) != 1:  # of several a reader of protobuf makes one, with the initialisers of all
            raise _Malformed(f"it has {len(graphs) or 'no'} graph{'s' if graphs else ''}")
        found = _grouped(graphs[0])
        _graph(found, external, 0)
        for function in map(_grouped, _messages(model, 25)):
            _nodes(_messages(function, 7), external, 0)
            for default in _messages(function, 11):
                _attribute(default, external, 0)
        weights = {_text(_last(_grouped(tensor), 8)) for tensor in _messages(found, 5)}
        inputs = [_value(item, "input") for item in _messages(found, 11)]
        outputs = tuple(_value(item, "output") for item in _messages(found, 12))
    except (_Malformed, UnicodeDecodeError) as error:
        raise OnnxInvalid(f"{name}: not an ONNX model: {error}") from None
    if not outputs:
        raise OnnxInvalid(f"{name}: not an ONNX model: its graph has no outputs")
    return Outline(tuple(item for item in inputs if item.name not in weights), outputs, frozenset(external))


def refuse_escapes(outline: Outline, name: str, files: Collection[str] | Mapping[str, Path]) -> None:
    """Refuse external data that is not among the source's ``files``, by the very name it has there.

    Raises ``OnnxInvalid``.
    """
    for location in sorted(outline.external):
        if location not in files:
            raise OnnxInvalid(f"{name}: wants external data in {location!r:.200}, which is not a file of its source")


class _Malformed(Exception):
    """Bytes that are not what the format says."""


def _graph(graph: dict[int, list[int | memoryview]], external: set[str], depth: int) -> None:
    for tensor in _messages(graph, 5):
        _tensor(tensor, external)
    for sparse in _messages(graph, 15):
        _sparse(sparse, external)
    _nodes(_messages(graph, 1), external, depth)


def _nodes(nodes: list[memoryview], external: set[str], depth: int) -> None:
    if depth > MAX_DEPTH:
        raise _Malformed(f"graphs nested more than {MAX_DEPTH} deep")
    for node in nodes:
        for number, part in _fields(node):
            if number == 5 and isinstance(part, memoryview):
                _attribute(part, external, depth)


def _attribute(attribute: memoryview, external: set[str], depth: int) -> None:
    for number, part in _fields(attribute):
        if not isinstance(part, memoryview):
            continue
        if number in (5, 10):
            _tensor(part, external)
        elif number in (22, 23):
            _sparse(part, external)
        elif number in (6, 11):
            _graph(_grouped(part), external, depth + 1)


def _sparse(sparse: memoryview, external: set[str]) -> None:
    for number, part in _fields(sparse):
        if number in (1, 2) and isinstance(part, memoryview):
            _tensor(part, external)


def _tensor(tensor: memoryview, external: set[str]) -> None:
    """Note each location of a tensor's external data. A tensor that says where, but not that, counts as well."""
    locations, is_external = set[str](), False
    for number, part in _fields(tensor):
        if number == 14:
            is_external = is_external or part == _EXTERNAL
        elif number == 13 and isinstance(part, memoryview):
            is_external = True
            entry = _grouped(part)
            if _text(_last(entry, 1)) == "location":
                locations.add(_text(_last(entry, 2)))
    if is_external:
        external |= locations or {""}


def _value(item: memoryview, kind: str) -> Value:
    fields = _grouped(item)
    name = _text(_last(fields, 1))
    tensor = _last(_grouped(_last(fields, 2) or memoryview(b"")), 1)
    if tensor is None:
        raise _Malformed(f"{kind} {name!r:.80} is not a tensor")
    described = _grouped(tensor)
    code = described.get(1, [0])[-1]
    dtype = DTYPES.get(code) if isinstance(code, int) else None
    if dtype is None:
        raise _Malformed(f"{kind} {name!r:.80} is of a type that numpy does not have (ONNX type {code!r:.20})")
    shape = _last(described, 2)
    return Value(name, dtype, tuple(_size(size) for size in _messages(_grouped(shape), 1)) if shape is not None else ())


def _size(dimension: memoryview) -> int | str | None:
    fields = _grouped(dimension)
    if number := fields.get(1, [0])[-1]:
        return number if isinstance(number, int) and number < 2**63 else None
    return _text(_last(fields, 2)) or None


def _grouped(message: memoryview) -> dict[int, list[int | memoryview]]:
    found: dict[int, list[int | memoryview]] = {}
    for number, value in _fields(message):
        found.setdefault(number, []).append(value)
    return found


def _messages(fields: Mapping[int, list[int | memoryview]], number: int) -> list[memoryview]:
    return [value for value in fields.get(number, ()) if isinstance(value, memoryview)]


def _last(fields: Mapping[int, list[int | memoryview]], number: int) -> memoryview | None:
    found = _messages(fields, number)
    return found[-1] if found else None


def _text(value: memoryview | None) -> str:
    return "" if value is None else str(value, "utf-8")


def _fields(message: memoryview) -> Iterator[Field]:
    """Give the number and value of each field: an integer, or the bytes of what has a length."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        number, wire = key >> 3, key & 7
        if not 0 < number <= _LARGEST_NUMBER:  # some readers drop the upper bits, and find another field
            raise _Malformed(f"a field of number {number}")
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield number, value
            continue
        if wire == _BYTES:
            size, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            size = 8 if wire == _FIXED64 else 4
        else:
            raise _Malformed(f"wire type {wire}")
        if size > end - at:
            raise _Malformed(f"field {number} of {size} bytes, {end - at} bytes before the end")
        if wire == _BYTES:
            yield number, message[at : at + size]
        at += size


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for position in range(_VARINT_BYTES):
        if at >= len(message):
            raise _Malformed("it ends within a number")
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << (7 * position)
        if byte < 0x80:
            return value, at
    raise _Malformed("a number of more than ten bytes")
