"""Data types, and the classes that Python derives from."""

from __future__ import annotations

import enum
from typing import Any

import numpy as np
import onnx


class Kind(enum.IntEnum):
    FLOAT = onnx.TensorProto.FLOAT
    HALF = onnx.TensorProto.FLOAT16
    BF16 = onnx.TensorProto.BFLOAT16
    INT8 = onnx.TensorProto.INT8
    INT32 = onnx.TensorProto.INT32
    INT64 = onnx.TensorProto.INT64
    BOOL = onnx.TensorProto.BOOL
    UINT8 = onnx.TensorProto.UINT8


def numpy_dtype(kind: int) -> Any:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind))


class Native:
    """Base of what Python may derive from; like pybind11, it notices a base that was not initialised."""

    _made = False

    def __init__(self) -> None:
        self._made = True


def initialised(item: Any) -> Any:
    if not item._made:
        raise TypeError(f"{type(item).__name__}: __init__() must be called when overriding __init__")
    return item


class ILogger(Native):
    """Severities as in the bindings."""

    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)
