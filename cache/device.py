"""An accelerator as the pinned ring sees it: memory, asynchronous copies, and marks to wait for.

``CudaDevice`` is the real one, over ``torch.cuda``. A contract test holds it to the installed torch: even a build for
CPUs has the classes and their signatures. It has not run on a GPU yet; ``pytest -m gpu`` is the test that does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

from .errors import DeviceRefused

if TYPE_CHECKING:
    import torch


class Device(Protocol):
    """An accelerator as the ring sees it. Memory is given out as flat tensors of bytes (uint8).

    Every method raises ``DeviceRefused`` and nothing else. All are called from the thread that loads.
    """

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Return page-locked host memory."""

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """Return device memory; copies into it that are asked for later come after what it was used for before."""

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Ask for a copy of page-locked ``source`` to ``target`` on the device, and return at once."""

    def record(self) -> Any:
        """Return a mark behind all copies asked for so far."""

    def wait(self, mark: Any) -> None:
        """Return when the copies before ``mark`` are done."""

    def drain(self) -> None:
        """Return when all copies are done."""


class CudaDevice:
    """A CUDA device, with a stream of its own for the copies."""

    def __init__(self, device: str = "cuda:0") -> None:
        import torch  # late, as documented in weights.py

        self._name = device
        self._torch = torch
        with self._named("stream"):
            self._device = torch.device(device)
            self._stream = torch.cuda.Stream(device=self._device)  # type: ignore[no-untyped-call]

    def __repr__(self) -> str:
        return f"CudaDevice({self._name!r})"

    def pinned(self, size_bytes: int) -> torch.Tensor:
        """Return page-locked host memory.

        With the device as the current one: page-locking by another would make a CUDA context there, hundreds of MB.
        """
        with self._named(f"{size_bytes} bytes of page-locked memory"), self._torch.cuda.device(self._device):
            return self._torch.empty(size_bytes, dtype=self._torch.uint8, pin_memory=True)

    def allocate(self, size_bytes: int) -> torch.Tensor:
        """Return device memory of the caller's stream, and let the copies wait for that stream.

        The memory belongs to the stream that will use the weights, so torch needs no note of ours when it is freed.
        What that stream has under way may still touch the same memory, given back a moment ago; hence the wait.
        """
        with self._named(f"{size_bytes} bytes"):
            memory = self._torch.empty(size_bytes, dtype=self._torch.uint8, device=self._device)
            self._stream.wait_stream(self._torch.cuda.current_stream(self._device))
            return memory

    def copy(self, target: torch.Tensor, source: torch.Tensor) -> None:
        """Enqueue the copy on the stream."""
        with self._named("copy"), self._torch.cuda.stream(self._stream):
            target.copy_(source, non_blocking=True)

    def record(self) -> torch.cuda.Event:
        """Record an event on the stream; one that sleeps until it comes, because functions need the cores."""
        with self._named("event"):
            event = self._torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
            event.record(self._stream)
            return event

    def wait(self, mark: torch.cuda.Event) -> None:
        """Wait for an event of ``record``."""
        with self._named("copy"):
            mark.synchronize()

    def drain(self) -> None:
        """Wait for the stream; what it has copied is then visible to all streams."""
        with self._named("copy"):
            self._stream.synchronize()

    @contextlib.contextmanager
    def _named(self, what: str) -> Iterator[None]:
        try:
            yield
        # OutOfMemoryError and AcceleratorError are RuntimeErrors; "not compiled with CUDA" is sometimes an assertion
        except (RuntimeError, AssertionError) as error:
            raise DeviceRefused(f"{self._name}: {what}: {str(error).strip()[:500]}") from error
