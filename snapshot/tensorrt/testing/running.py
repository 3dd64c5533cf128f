"""Restoring and running: runtime, engine, execution context."""

from __future__ import annotations

import ctypes
import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from .building import MAGIC
from .kinds import ILogger, Kind, initialised, numpy_dtype
from .stream import HostStream

if TYPE_CHECKING:
    from .module import FakeTensorRt


class Runtime:
    def __init__(self, trt: FakeTensorRt, logger: Any) -> None:
        self._trt, self._logger = trt, logger
        self.error_recorder: Any = None
        self.engine_host_code_allowed = False

    def deserialize_cuda_engine(self, stream_reader_v2: Any) -> Engine | None:
        if self._trt.refuses("deserialize_cuda_engine", self._logger):
            return None
        reader = initialised(stream_reader_v2)
        try:
            head = self._read(reader, len(MAGIC) + 8)
            if not head.startswith(MAGIC):
                raise ValueError("Magic tag does not match")
            about = json.loads(self._read(reader, int.from_bytes(head[len(MAGIC) :], "little")))
            body = reader.read(1 << 40, 0)
            while more := reader.read(1 << 40, 0):
                body += more
            model = onnx.ModelProto()
            model.ParseFromString(body)
            if not model.graph.output:
                raise ValueError("Serialization assertion failed: the plan ends early")
        except Exception as error:  # the real one says any of it in its log
            self._logger.log(ILogger.ERROR, f"[runtime] {error}")
            return None
        if about["host_code"] and not self.engine_host_code_allowed:
            self._logger.log(ILogger.ERROR, "the plan contains a lean runtime, but host code is not allowed")
            return None
        return Engine(self._trt, self._logger, model, about)

    @staticmethod
    def _read(reader: Any, size: int) -> bytes:
        data = b""
        while len(data) < size:
            more = reader.read(size - len(data), 0)
            if not more:
                raise ValueError("Serialization assertion failed: stdArchiveReader has not enough data")
            data += more
        return data


class Engine:
    def __init__(self, trt: FakeTensorRt, logger: Any, model: onnx.ModelProto, about: dict[str, Any]) -> None:
        self._trt, self.logger, self.model, self.about = trt, logger, model, about
        self.missing = set(about["stripped"])
        for item in model.graph.initializer:
            if item.name in self.missing:
                item.raw_data = bytes(math.prod(item.dims) * numpy_dtype(item.data_type).itemsize)
        self.profiles = about["profiles"]
        self._items = {item.name: item for item in [*model.graph.input, *model.graph.output]}
        self._inputs = [item.name for item in model.graph.input]

    @property
    def num_io_tensors(self) -> int:
        return len(self._items)

    @property
    def num_optimization_profiles(self) -> int:
        return len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return str(list(self._items)[index])

    def get_tensor_mode(self, name: str) -> Any:
        return self._trt.TensorIOMode.INPUT if name in self._inputs else self._trt.TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> Any:
        return Kind(self._items[name].type.tensor_type.elem_type)

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[tuple[int, ...]]:
        return [tuple(shape) for shape in self.profiles[profile_index][name]]

    def get_device_memory_size_for_profile_v2(self, profile_index: int) -> int:
        return 1024 * (profile_index + 1)

    def create_execution_context(self, strategy: Any) -> Context | None:
        if self._trt.refuses("create_execution_context", self.logger):
            return None
        return Context(self._trt, self, strategy)

    def evaluate(self, feeds: dict[str, Any]) -> list[Any]:
        return list(ReferenceEvaluator(self.model).run(None, feeds))


class Context:
    def __init__(self, trt: FakeTensorRt, engine: Engine, strategy: Any) -> None:
        self._trt, self._engine = trt, engine
        self._needs_memory = strategy == trt.ExecutionContextAllocationStrategy.USER_MANAGED
        self._profile = 0
        self._memory = 0
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._ran: dict[str, tuple[int, ...]] = {}

    def set_device_memory(self, memory: int, size: int) -> None:
        self._memory = size

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        self._profile = profile_index
        return not self._trt.refuses("set_optimization_profile_async", self._engine.logger)

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = memory
        return memory != 0 and not self._trt.refuses("set_tensor_address", self._engine.logger)

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        least, _, most = self._engine.get_tensor_profile_shape(name, self._profile)
        within = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        if not within or self._trt.refuses("set_input_shape", self._engine.logger):
            self._engine.logger.log(ILogger.ERROR, f"set dimensions {list(shape)} of {name} outside the profile")
            return False
        self._shapes[name] = tuple(shape)
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        if self._trt.refuses("get_tensor_shape", self._engine.logger):
            return (-1,)
        return tuple(self._outputs()[name].shape)

    def get_max_output_size(self, name: str) -> int:
        if self._trt.refuses("get_max_output_size", self._engine.logger):
            return -1
        return int(self._outputs()[name].nbytes)

    def execute_async_v3(self, stream_handle: int) -> bool:
        stream = HostStream.by_handle[stream_handle]
        logger = self._engine.logger
        if self._trt.refuses("execute_async_v3", logger, "Error Code 1: Cuda Runtime (an illegal memory access)"):
            return False
        if stream.capturing and (self._ran != self._shapes or self._trt.refuses("capture", logger)):
            logger.log(ILogger.ERROR, "operation not permitted when stream is capturing")
            return False
        needed = self._engine.get_device_memory_size_for_profile_v2(self._profile) if self._needs_memory else 0
        lacking = set(self._engine._items) - set(self._addresses)
        if lacking or self._memory < needed or self._engine.missing:
            logger.log(ILogger.ERROR, f"no address for {lacking}, {self._memory} bytes, {self._engine.missing}")
            return False
        shapes = dict(self._shapes)
        self._ran = shapes
        stream.enqueue(lambda: self._execute(shapes))
        return True

    def _execute(self, shapes: dict[str, tuple[int, ...]]) -> None:
        feeds = {}
        for name, shape in shapes.items():
            dtype = numpy_dtype(self._engine.get_tensor_dtype(name))
            data = ctypes.string_at(self._addresses[name], math.prod(shape) * dtype.itemsize)
            feeds[name] = np.frombuffer(data, dtype).reshape(shape)
        for item, value in zip(self._engine.model.graph.output, self._engine.evaluate(feeds), strict=True):
            data = np.ascontiguousarray(value).tobytes()
            ctypes.memmove(self._addresses[item.name], data, len(data))

    def _outputs(self) -> dict[str, Any]:
        feeds = {
            name: np.zeros(shape, numpy_dtype(self._engine.get_tensor_dtype(name)))
            for name, shape in self._shapes.items()
        }
        with np.errstate(all="ignore"):
            values = self._engine.evaluate(feeds)
        return {item.name: value for item, value in zip(self._engine.model.graph.output, values, strict=True)}
