"""Refitting: weights by name into a stripped plan."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from .kinds import Kind, numpy_dtype
from .running import Engine
from .stream import HostStream

if TYPE_CHECKING:
    from .module import FakeTensorRt


class Refitter:
    def __init__(self, trt: FakeTensorRt, engine: Engine, logger: Any) -> None:
        self._trt, self._engine, self._logger = trt, engine, logger
        self.error_recorder: Any = None
        self._items = {item.name: item for item in engine.model.graph.initializer if item.name in engine.missing}
        self._set: dict[str, Any] = {}

    def get_all_weights(self) -> list[str]:
        return list(self._items)

    def get_weights_prototype(self, weights_name: str) -> Any:
        item = self._items[weights_name]
        return SimpleNamespace(dtype=Kind(item.data_type), size=math.prod(item.dims))

    def set_named_weights(self, name: str, weights: Any, location: Any) -> bool:
        wanted = self.get_weights_prototype(name)
        fits = (weights.dtype, weights.size) == (wanted.dtype, wanted.size)
        if not fits or self._trt.refuses("set_named_weights", self._logger, f"weights of {name} have another count"):
            return False
        self._set[name] = weights
        return True

    def get_missing_weights(self) -> Sequence[str]:
        missing = sorted(set(self._items) - set(self._set))
        return missing + ["fused.bias"] * self._trt.refuses("get_missing_weights", self._logger)

    def refit_cuda_engine_async(self, stream_handle: int) -> bool:
        if set(self._items) - set(self._set) or self._trt.refuses("refit_cuda_engine_async", self._logger):
            return False
        HostStream.by_handle[stream_handle].enqueue(self._fill)
        return True

    def _fill(self) -> None:
        for name, weights in self._set.items():
            size = weights.size * numpy_dtype(weights.dtype).itemsize
            self._items[name].raw_data = ctypes.string_at(weights.ptr, size)
        self._engine.missing.clear()
