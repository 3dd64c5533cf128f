"""An engine ready to answer: contexts, memory for everything, CUDA graphs, and the way through page-locked memory.

    caller's tensor ──memcpy──▶ page-locked ──▶ device ── engine ──▶ device ──▶ page-locked ──memcpy──▶ result

All memory is taken when the session is made, for the largest sizes of any profile. The contexts share one block of
scratch memory, since calls come one after the other: one context per profile, and one per captured graph, because a
graph's shapes are its context's.

A shape that keeps coming is captured: its copies and kernels are then enqueued by one call instead of hundreds, which
for a small model is most of the time. A model that cannot be captured goes on without; ``uncaptured`` says why.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import EngineFailed, InputUnsupported
from .bindings import Log, dtypes
from .profiles import Profile, Shape, choose, elements
from .stream import Stream

CAPTURE_AFTER = 3
"""Calls of one shape before it is captured: capturing takes as long as tens of calls."""

GRAPHS = 8
"""Most captured shapes; each has a context of its own."""


class _Port:
    """One input or output: its name, its dtype, its memory on both sides."""

    def __init__(self, name: str, dtype: torch.dtype, size_bytes: int, stream: Stream) -> None:
        self.name = name
        self.dtype = dtype
        size_bytes = max(size_bytes, 1)  # an address must not be null
        self.device = stream.allocate(size_bytes)
        self.host = stream.pinned(size_bytes)

    def on_host(self, shape: Shape) -> Tensor:
        return self.host[: self.size_bytes(shape)].view(self.dtype).view(shape)

    def size_bytes(self, shape: Shape) -> int:
        return elements(shape) * self.dtype.itemsize


class _Lane:
    """A context, the shapes it is set to, and the graph that was captured of it."""

    def __init__(self, context: Any) -> None:
        self.context = context
        self.shapes: tuple[Shape, ...] = ()
        self.outputs: tuple[Shape, ...] = ()
        self.replay: Callable[[], None] | None = None


class Session:
    """Runs one engine, one call at a time. Making one and calling it raise ``EngineFailed``."""

    def __init__(self, trt: Any, log: Log, engine: Any, made: Sequence[Profile], stream: Stream) -> None:
        self._trt, self._log, self._engine, self._stream = trt, log, engine, stream
        self._profiles = made
        self.uncaptured = ""
        self._seen: Counter[tuple[Shape, ...]] = Counter()
        self._graphs: dict[tuple[Shape, ...], _Lane] = {}
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        outputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.OUTPUT]
        scratch = [engine.get_device_memory_size_for_profile_v2(number) for number in range(len(made))]
        self._scratch = stream.allocate(max(1, *scratch))
        self._inputs = [
            self._port(name, max(elements(profile[number].most) for profile in made))
            for number, name in enumerate(inputs)
        ]
        self._lanes = [self._lane(number) for number in range(len(made))]
        self._outputs: list[_Port] = []
        largest = [self._largest(lane, profile, outputs) for lane, profile in zip(self._lanes, made, strict=True)]
        for name, sizes in zip(outputs, zip(*largest, strict=True), strict=True):
            dtype = self._dtype(name)
            self._outputs.append(_Port(name, dtype, max(sizes), stream))
        for lane in self._lanes:
            self._address(lane, self._outputs)

    def run(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Answer one call. Raises ``InputUnsupported`` for shapes outside all profiles, ``EngineFailed``."""
        shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        number = choose(self._profiles, shapes)
        if number is None:
            sizes = ", ".join("x".join(map(str, shape)) for shape in shapes)
            raise InputUnsupported(f"sizes {sizes}; the plan was built for others")
        lane = self._graphs.get(shapes) or self._lanes[number]
        self._shape(lane, shapes)
        for port, tensor in zip(self._inputs, tensors, strict=True):
            port.on_host(tuple(tensor.shape)).copy_(tensor)
        if lane.replay is not None:
            lane.replay()
        else:
            self._enqueue(lane)
        self._stream.synchronize()
        results = [port.on_host(shape).clone() for port, shape in zip(self._outputs, lane.outputs, strict=True)]
        if lane.replay is None:
            self._consider(number, shapes)
        return results

    def _enqueue(self, lane: _Lane) -> None:
        for port, shape in zip(self._inputs, lane.shapes, strict=True):
            size = port.size_bytes(shape)
            self._stream.copy(port.device[:size], port.host[:size])
        if not lane.context.execute_async_v3(self._stream.handle):
            raise EngineFailed(f"TensorRT did not start the call: {self._log.words()}")
        for port, shape in zip(self._outputs, lane.outputs, strict=True):
            size = port.size_bytes(shape)
            self._stream.copy(port.host[:size], port.device[:size])

    def _consider(self, number: int, shapes: tuple[Shape, ...]) -> None:
        """Capture a shape that keeps coming. What was asked for has been answered already."""
        if self.uncaptured or len(self._graphs) >= GRAPHS:
            return
        self._seen[shapes] += 1
        if self._seen[shapes] < CAPTURE_AFTER:
            return
        try:
            lane = self._lane(number)
            self._address(lane, self._outputs)
            self._shape(lane, shapes)
            self._enqueue(lane)  # TensorRT must have run once with these shapes before it can be captured
            self._stream.synchronize()
            lane.replay = self._stream.capture(lambda: self._enqueue(lane))
        except EngineFailed as error:
            self.uncaptured = str(error)
            return
        self._graphs[shapes] = lane

    def _lane(self, number: int) -> _Lane:
        context = self._engine.create_execution_context(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        if context is None:
            raise EngineFailed(f"TensorRT made no execution context: {self._log.words()}")
        context.set_device_memory(self._scratch.data_ptr(), self._scratch.nbytes)
        if not context.set_optimization_profile_async(number, self._stream.handle):
            raise EngineFailed(f"TensorRT does not take its profile {number}: {self._log.words()}")
        self._stream.synchronize()
        lane = _Lane(context)
        self._address(lane, self._inputs)
        return lane

    def _address(self, lane: _Lane, ports: Sequence[_Port]) -> None:
        for port in ports:
            if not lane.context.set_tensor_address(port.name, port.device.data_ptr()):
                raise EngineFailed(f"TensorRT does not take the memory of {port.name}: {self._log.words()}")

    def _shape(self, lane: _Lane, shapes: tuple[Shape, ...]) -> None:
        if lane.shapes == shapes:
            return
        lane.shapes = ()  # if one of them is refused, the next call must set them all
        for port, shape in zip(self._inputs, shapes, strict=True):
            if not lane.context.set_input_shape(port.name, shape):
                raise EngineFailed(f"TensorRT does not take {port.name} of sizes {shape}: {self._log.words()}")
        lane.outputs = tuple(tuple(lane.context.get_tensor_shape(port.name)) for port in self._outputs)
        for port, shape in zip(self._outputs, lane.outputs, strict=True):
            if any(size < 0 for size in shape):
                raise EngineFailed(f"{port.name}: its sizes depend on the values of the input")
        lane.shapes = shapes

    def _largest(self, lane: _Lane, profile: Profile, outputs: Sequence[str]) -> list[int]:
        """Return the most bytes of each output in a profile."""
        self._shape(lane, tuple(span.most for span in profile))
        sizes = [lane.context.get_max_output_size(name) for name in outputs]
        lane.shapes = ()  # the outputs' own were not known to ``_shape`` yet
        if any(size < 0 for size in sizes):
            raise EngineFailed(f"TensorRT has no bound for the output {outputs[sizes.index(min(sizes))]}")
        return sizes

    def _port(self, name: str, count: int) -> _Port:
        dtype = self._dtype(name)
        return _Port(name, dtype, count * dtype.itemsize, self._stream)

    def _dtype(self, name: str) -> torch.dtype:
        kind = self._engine.get_tensor_dtype(name)
        found = dtypes(self._trt).get(kind)
        if found is None:
            raise EngineFailed(f"{name} is {kind}, which has no tensor here")
        return found
