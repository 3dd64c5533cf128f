"""Weights from the host to a device through a small ring of page-locked buffers.

Copying to a GPU straight from a file mapping is slow: the driver faults the pages one by one and bounces each through a
buffer of its own (576 s against 52 s with page-locked memory for one large model, 285 against 8 s for another, as
users of other loaders report). Page-locking a whole model would take its size again in memory that nobody can swap. So:

    file ──preadv, reader threads──▶ slot 0 … slot n-1 (page-locked) ──asynchronous copies, one stream──▶ device

- The bytes go from the page cache into a slot by ``preadv`` on the file's descriptor; no mapping is involved, so there
  are no page faults, and the read that fills one slot overlaps with the copies out of the others.
- A slot is filled with whatever comes next in the file, up to its size: small tensors travel together, large ones in
  pieces. Copies are of bytes, so alignment does not matter; dtype and shape are put on at the end.
- A slot is filled again only after the event behind its last copy has come: an asynchronous copy reads its source when
  the device gets to it, not when it is asked for.
- All device memory is taken before the first byte is read, so a model that does not fit costs no reading.
- Nothing is freed while a copy may still touch it: the stream is drained before an error leaves.

``device.py`` has the accelerator's side. It has not run on a GPU yet (``pytest -m gpu`` is the test that does).

    with PinnedRing(CudaDevice("cuda:0")) as ring:
        tensors = ring.load("model.safetensors")
"""

from __future__ import annotations

import contextlib
import itertools
import os
import traceback
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from .device import Device
from .errors import DeviceRefused, DtypeUnsupported, WeightsError, WeightsTruncated
from .header import TensorView, quoted
from .weights import layout, opened

if TYPE_CHECKING:
    import torch

SLOT_BYTES = 16 * 1024 * 1024
"""So long that asking for a copy costs nothing beside it; a power of two, since torch rounds page-locked memory up."""

SLOTS = 4
"""Two being read, one being copied, one waiting: neither side waits for the other when their speeds waver."""

READERS = 2
"""Threads that fill slots: one core's memcpy is slower than a PCIe 4.0 x16 link. A measured disk may want others."""


class Piece(NamedTuple):
    """Part of a tensor within a slot: ``size`` bytes at ``slot_at`` of the slot go to ``tensor_at`` of the tensor."""

    tensor: int
    tensor_at: int
    slot_at: int
    size: int


@dataclass(frozen=True, slots=True)
class Fill:
    """One filling of a slot: ``size`` bytes from ``begin`` of the source, and where they belong."""

    begin: int
    size: int
    pieces: tuple[Piece, ...]


def plan(ranges: Sequence[tuple[int, int]], slot_bytes: int) -> Iterator[Fill]:
    """Divide byte ranges (begin, end) of a source into fills of at most ``slot_bytes``, in order of their place.

    Ranges that touch share fills; where there is a gap between two, a new fill begins, so no byte is read in vain.
    Empty ranges have no pieces. A piece's ``tensor`` is the range's index. Pure.
    """
    pieces: list[Piece] = []
    begin = reached = -1
    for number in sorted(range(len(ranges)), key=lambda number: ranges[number]):
        place, end = ranges[number]
        while place < end:
            if pieces and (place != reached or reached - begin == slot_bytes):
                yield Fill(begin, reached - begin, tuple(pieces))
                pieces = []
            if not pieces:
                begin = place
            size = min(end - place, begin + slot_bytes - place)
            pieces.append(Piece(number, place - ranges[number][0], place - begin, size))
            place = reached = place + size
    if pieces:
        yield Fill(begin, reached - begin, tuple(pieces))


class _Slot:
    """A page-locked buffer, and the mark behind the last copy out of it."""

    def __init__(self, memory: torch.Tensor) -> None:
        self.memory = memory
        self.view = memory.numpy().data
        self.mark: Any = None


class PinnedRing:
    """Copies tensors to a device through ``slots`` page-locked buffers of ``slot_bytes`` each.

    One load at a time, from one thread. The buffers are kept until ``close``, so that loads after the first need not
    page-lock again, which takes longer than reading into them. Making one raises ``DeviceRefused``.
    """

    def __init__(
        self, device: Device, *, slots: int = SLOTS, slot_bytes: int = SLOT_BYTES, readers: int = READERS
    ) -> None:
        if min(slots, slot_bytes, readers) < 1:
            raise ValueError("slots, slot_bytes and readers must be positive")
        self._device = device
        self._slot_bytes = slot_bytes
        self._readers = min(readers, slots)
        self._slots = [_Slot(device.pinned(slot_bytes)) for _ in range(slots)]

    def __repr__(self) -> str:
        return f"PinnedRing({len(self._slots)} x {self._slot_bytes} bytes, {self._readers} readers)"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the buffers back; tensors on the device stay. Closing twice is closing once."""
        self._slots = []

    def load(self, path: str | Path, names: Collection[str] | None = None) -> dict[str, torch.Tensor]:
        """Copy the tensors of a safetensors file, or those of ``names``, to the device and return them by name.

        Raises as ``weights.opened``, ``DtypeUnsupported``, ``WeightsError`` for a name that the file does not have or a
        read that fails, ``WeightsTruncated`` when the file ends early, ``DeviceRefused``.
        """
        with opened(path) as (descriptor, header):
            wanted = header.tensors if names is None else {name: header.tensors.get(name) for name in names}
            views = [view for view in wanted.values() if view is not None]
            if len(views) < len(wanted):
                absent = next(name for name, view in wanted.items() if view is None)
                raise WeightsError(f"{path}: no tensor {quoted(absent)}")
            layouts = _layouts(path, wanted, views)
            ranges = [(view.begin, view.end) for view in views]

            def read(fill: Fill, target: _Slot) -> None:
                _read(path, descriptor, target.view[: fill.size], fill.begin)

            arrived = self._carry(ranges, read)
        shaped = [flat.view(dtype).view(shape) for flat, (dtype, shape) in zip(arrived, layouts, strict=True)]
        return dict(zip(wanted, shaped, strict=True))

    def copy(self, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Copy tensors of the host to the device and return them by name, contiguous.

        For what no file holds as it must be on the device (derived weights, buffers). Names of one and the same tensor
        get one copy. For a file's own tensors ``load`` is faster: it does not go through the mapping.
        Raises ``DeviceRefused``.
        """
        distinct = {id(tensor): tensor for tensor in tensors.values()}
        flats = [_bytes_of(tensor) for tensor in distinct.values()]
        ends = list(itertools.accumulate(flat.numel() for flat in flats))
        ranges = [(end - flat.numel(), end) for flat, end in zip(flats, ends, strict=True)]

        def gather(fill: Fill, target: _Slot) -> None:
            for piece in fill.pieces:
                source = flats[piece.tensor][piece.tensor_at : piece.tensor_at + piece.size]
                target.memory[piece.slot_at : piece.slot_at + piece.size].copy_(source)

        arrived = dict(zip(distinct, self._carry(ranges, gather), strict=True))
        return {name: arrived[id(one)].view(one.dtype).view(one.shape) for name, one in tensors.items()}

    def _carry(self, ranges: Sequence[tuple[int, int]], read: Callable[[Fill, _Slot], None]) -> list[torch.Tensor]:
        """Return device memory with the bytes of each range, which ``read`` puts into slots."""
        if not self._slots:
            raise ValueError("the ring is closed")
        targets: list[torch.Tensor] = []
        try:
            targets.extend(self._device.allocate(end - begin) for begin, end in ranges)
            # However this block ends, it waits for the reads under way, one per slot at most: they write into slots.
            with ThreadPoolExecutor(self._readers, thread_name_prefix="pinned-ring") as pool:
                self._pump(plan(ranges, self._slot_bytes), targets, lambda *job: pool.submit(read, *job))
            self._device.drain()
        except BaseException as error:
            # Memory is freed and slots are filled again only when no copy is under way. A device that has failed for
            # good says so here once more; the first error is the one that says why.
            with contextlib.suppress(DeviceRefused):
                self._device.drain()
            # A caller that makes room and tries again does so while it handles this error, whose frames would keep
            # the device's memory alive.
            targets.clear()
            traceback.clear_frames(error.__traceback__)
            raise
        return targets

    def _pump(
        self,
        fills: Iterable[Fill],
        targets: Sequence[torch.Tensor],
        submit: Callable[[Fill, _Slot], Future[None]],
    ) -> None:
        """Keep every slot busy: read into, being copied out of, and round again."""
        free = deque(self._slots)
        reading: deque[tuple[_Slot, Fill, Future[None]]] = deque()
        copying: deque[_Slot] = deque()

        def send() -> None:
            slot, fill, future = reading.popleft()
            future.result()
            for piece in fill.pieces:
                target = targets[piece.tensor][piece.tensor_at : piece.tensor_at + piece.size]
                self._device.copy(target, slot.memory[piece.slot_at : piece.slot_at + piece.size])
            slot.mark = self._device.record()
            copying.append(slot)

        for fill in fills:
            while not free:
                # 1. the oldest read is done: its copies are asked for at once, so the device never lacks work
                # 2. nothing is being copied: wait for the oldest read
                # 3. else wait for the oldest copy; its slot is the next to be free
                if reading and (reading[0][2].done() or not copying):
                    send()
                else:
                    slot = copying.popleft()
                    self._device.wait(slot.mark)
                    free.append(slot)
            slot = free.popleft()
            reading.append((slot, fill, submit(fill, slot)))
        while reading:
            send()


def _layouts(
    path: str | Path, names: Iterable[str], views: Iterable[TensorView]
) -> list[tuple[torch.dtype, tuple[int, ...]]]:
    try:
        return [layout(name, view) for name, view in zip(names, views, strict=True)]
    except DtypeUnsupported as error:
        raise DtypeUnsupported(f"{path}: {error}") from None


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    import torch  # late, as above

    return tensor.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)


def _read(path: str | Path, descriptor: int, buffer: memoryview, begin: int) -> None:
    done = 0
    while done < len(buffer):
        try:
            count = os.preadv(descriptor, [buffer[done:]], begin + done)
        except OSError as error:
            raise WeightsError(f"{path}: {error.strerror}") from error
        if count == 0:
            raise WeightsTruncated(f"{path}: the file ended at {begin + done} bytes while it was read")
        done += count
