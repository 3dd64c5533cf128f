"""Calling a model that is an ONNX file: arrays in by name or in order, arrays out.

The file itself is the signature: its inputs have names, dtypes and shapes. ONNX Runtime compares dtypes and fixed sizes
with them at each call, so nothing here does; numbers and lists become arrays of the input's dtype.

JSON form, in a manifest under ``signature``:

    {"onnx": "silero_vad.onnx",
     "inputs": [["input", "float32", [null, null]], ["sr", "int64", []]],
     "outputs": [["output", "float32", [null, 1]]]}                         a name for a size that the file names
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OnnxInvalid, SnapshotCorrupt
from .outline import Outline, Value


def chosen(model: str, file: str, files: Mapping[str, Path]) -> str:
    """Return the name of the model's file among the source's: ``file``, or the only ONNX file there is.

    Raises ``OnnxInvalid``.
    """
    found = sorted(name for name in files if name.endswith(".onnx"))
    if file and file in files:
        return file
    if file or len(found) != 1:
        wanted = f"no file {file!r}" if file else "not one ONNX file"
        there = ", ".join(found or sorted(files)) or "no files"
        raise OnnxInvalid(f"model {model}: {wanted} in the source; it has {there}")
    return found[0]


def feeds(inputs: Sequence[Value], args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Return a call's inputs by name, as arrays. Raises ``TypeError`` where they are not the model's."""
    import numpy  # late: a zygote imports this module and must start no thread

    names = [value.name for value in inputs]
    if len(args) > len(names):
        raise TypeError(f"{len(args)} inputs; the model takes {', '.join(names)}")
    given = dict(zip(names, args, strict=False))
    for name, value in kwargs.items():
        if name in given or name not in names:
            why = "given twice" if name in given else f"the model takes {', '.join(names)}"
            raise TypeError(f"input {name!r}: {why}")
        given[name] = value
    if missing := [name for name in names if name not in given]:
        raise TypeError(f"no input {missing[0]!r}; the model takes {', '.join(names)}")
    return {
        value.name: item if isinstance(item := given[value.name], numpy.ndarray) else numpy.asarray(item, value.dtype)
        for value in inputs
    }


def to_json(file: str, outline: Outline) -> dict[str, Any]:
    """Return the signature as JSON-able values."""
    return {
        "onnx": file,
        "inputs": [[value.name, value.dtype, list(value.shape)] for value in outline.inputs],
        "outputs": [[value.name, value.dtype, list(value.shape)] for value in outline.outputs],
    }


def inputs_of(signature: Mapping[str, Any]) -> tuple[Value, ...]:
    """Read the inputs of what ``to_json`` wrote. Raises ``SnapshotCorrupt``."""
    try:
        return tuple(Value(str(name), str(dtype), tuple(shape)) for name, dtype, shape in signature["inputs"])
    except (KeyError, TypeError, ValueError) as error:
        raise SnapshotCorrupt(f"signature: {type(error).__name__}: {error}") from error
