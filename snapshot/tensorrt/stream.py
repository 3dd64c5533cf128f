"""A CUDA stream with memory, as the engines use it: ``torch.cuda`` and nothing else.

torch is in the process anyway and allocates from a cache of its own, so a second CUDA binding would only add a second
opinion of what is free. Everything here makes a CUDA context, hundreds of milliseconds and megabytes, and so belongs
behind the last fork. Like ``cache.device`` it has not run on a GPU yet.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import EngineFailed


class Stream(Protocol):
    """A stream of one device. Every method raises ``EngineFailed`` and nothing else."""

    device: str

    @property
    def handle(self) -> int:
        """The native handle, for libraries that enqueue work themselves."""

    def properties(self) -> Any:
        """Return the device's ``name``, ``major`` and ``minor``."""

    def allocate(self, size_bytes: int) -> Tensor:
        """Return device memory as bytes; aligned to 256 or more."""

    def pinned(self, size_bytes: int) -> Tensor:
        """Return page-locked host memory as bytes."""

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Enqueue a copy between page-locked and device memory, or within the device; dtypes are converted."""

    def cast(self, tensor: Tensor, dtype: torch.dtype, transposed: bool) -> Tensor:
        """Return a device tensor as ``dtype`` and contiguous, transposed before if asked; enqueued."""

    def synchronize(self) -> None:
        """Return when everything enqueued so far is done."""

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record what ``work`` enqueues instead of running it, and return what enqueues all of it at once."""


class CudaStream:
    """A stream of a CUDA device."""

    def __init__(self, device: str = "cuda:0") -> None:
        self.device = device
        with self._named("stream"):
            self._device = torch.device(device)
            self._stream = torch.cuda.Stream(device=self._device)  # type: ignore[no-untyped-call]
            torch.cuda.set_device(self._device)  # TensorRT works on the current device

    @property
    def handle(self) -> int:
        """The stream's ``cudaStream_t``."""
        return int(self._stream.cuda_stream)

    def properties(self) -> Any:
        """Return the device's properties."""
        with self._named("properties"):
            return torch.cuda.get_device_properties(self._device)

    def allocate(self, size_bytes: int) -> Tensor:
        """Return device memory that belongs to this stream."""
        with self._named(f"{size_bytes} bytes"), torch.cuda.stream(self._stream):
            return torch.empty(size_bytes, dtype=torch.uint8, device=self._device)

    def pinned(self, size_bytes: int) -> Tensor:
        """Return page-locked host memory."""
        with self._named(f"{size_bytes} bytes of page-locked memory"):
            return torch.empty(size_bytes, dtype=torch.uint8, pin_memory=True)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Enqueue a copy."""
        with self._named("copy"), torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def cast(self, tensor: Tensor, dtype: torch.dtype, transposed: bool) -> Tensor:
        """Enqueue a conversion; the result belongs to this stream."""
        with self._named("conversion"), torch.cuda.stream(self._stream):
            return (tensor.t() if transposed else tensor).to(dtype).contiguous()

    def synchronize(self) -> None:
        """Wait for the stream."""
        with self._named("work"):
            self._stream.synchronize()

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """Capture a CUDA graph.

        Not with ``torch.cuda.graph``: that collects garbage and empties the allocator's cache first, tens of
        milliseconds in a request. Nothing is allocated within ``work``, so neither is needed. Errors of other threads
        are not this capture's: ``thread_local``.
        """
        graph = torch.cuda.CUDAGraph()
        with self._named("graph"), torch.cuda.stream(self._stream):
            graph.capture_begin(capture_error_mode="thread_local")
            try:
                work()
            finally:
                graph.capture_end()

        def replay() -> None:
            with self._named("graph"), torch.cuda.stream(self._stream):
                graph.replay()

        return replay

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        # OutOfMemoryError and AcceleratorError are RuntimeErrors; "not compiled with CUDA" is sometimes an assertion
        except (RuntimeError, AssertionError) as error:
            raise EngineFailed(f"{self.device}: {what}: {str(error).strip()[:500]}") from error
