"""The device: a stream, and what the pinned ring copies to, both in host memory."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...errors import EngineFailed

Run = Callable[[], None]


class HostStream:
    """A ``Stream`` whose device is host memory. ``room_bytes`` is how much of it there is."""

    _last = 0
    by_handle: ClassVar[dict[int, HostStream]] = {}

    def __init__(self, *, name: str = "Fake GPU", room_bytes: int = 1 << 30) -> None:
        HostStream._last += 1
        self.device = "cuda:0"
        self._handle = HostStream._last
        self.by_handle[self._handle] = self
        self._name = name
        self._room_bytes = room_bytes
        self.pending: list[Run] = []
        self.capturing = False
        self.replays = 0

    @property
    def handle(self) -> int:
        """A number by which contexts find the stream."""
        return self._handle

    def properties(self) -> Any:
        """Return the device's properties."""
        return SimpleNamespace(name=self._name, major=8, minor=9)

    def allocate(self, size_bytes: int) -> Tensor:
        """Return memory full of what a computation would notice."""
        self._room_bytes -= size_bytes
        if self._room_bytes < 0:
            raise EngineFailed(f"{self.device}: {size_bytes} bytes: CUDA out of memory")
        return torch.full((size_bytes,), 0xA5, dtype=torch.uint8)

    def pinned(self, size_bytes: int) -> Tensor:
        """Return host memory."""
        return torch.full((size_bytes,), 0x5A, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Enqueue a copy."""

        def run() -> None:
            target.copy_(source)

        self.enqueue(run)

    def cast(self, tensor: Tensor, dtype: torch.dtype, transposed: bool) -> Tensor:
        """Convert at once; what is enqueued later sees it."""
        return (tensor.t() if transposed else tensor).to(dtype).contiguous()

    def enqueue(self, run: Run) -> None:
        """Run later, in order."""
        self.pending.append(run)

    def synchronize(self) -> None:
        """Run what was enqueued."""
        if self.capturing:
            raise EngineFailed("operation not permitted when stream is capturing")
        pending, self.pending = self.pending, []
        for run in pending:
            run()

    def capture(self, work: Run) -> Run:
        """Record what ``work`` enqueues."""
        before, self.pending, self.capturing = self.pending, [], True
        try:
            work()
        finally:
            recorded, self.pending, self.capturing = self.pending, before, False

        def replay() -> None:
            self.replays += 1
            self.pending.extend(recorded)

        return replay


class HostDevice:
    """A ``cache.device.Device`` whose device is host memory; copies are done at once."""

    def __init__(self, device: str = "cuda:0") -> None:
        self.device = device

    def pinned(self, size_bytes: int) -> Tensor:
        """Return host memory."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def allocate(self, size_bytes: int) -> Tensor:
        """Return host memory."""
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        """Copy."""
        target.copy_(source)

    def record(self) -> None:
        """Return no mark: everything before it is done."""

    def wait(self, mark: None) -> None:
        """Return."""

    def drain(self) -> None:
        """Return."""
