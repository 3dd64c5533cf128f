"""The pinned ring against a device whose copies come late: bit-equal tensors, or a typed error and nothing left behind."""

from __future__ import annotations

import errno
import os
import threading
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from glowplug.cache import weights
from glowplug.cache.device import Device
from glowplug.cache.errors import DeviceRefused, DtypeUnsupported, WeightsError, WeightsTruncated
from glowplug.cache.pinned import Fill, Piece, PinnedRing, plan


class LateDevice:
    """A device in host memory. A copy that was asked for happens only when somebody waits for it, or for a later one:
    whoever changes its source before that gets the changed bytes, as on a GPU."""

    def __init__(self, *, room_bytes: int = 1 << 30, pinned_buffers: int = 100, copies: int = 1 << 30) -> None:
        self.pending: list[tuple[Tensor, Tensor]] = []
        self.done = 0
        self.waits = 0
        self._room_bytes, self._pinned_buffers, self._copies = room_bytes, pinned_buffers, copies
        self._thread = threading.get_ident()
        self._memory: list[weakref.ref[Any]] = []

    def pinned(self, size_bytes: int) -> Tensor:
        self._pinned_buffers -= 1
        if self._pinned_buffers < 0:
            raise DeviceRefused(f"late: {size_bytes} bytes of page-locked memory: refused")
        return self._tensor(size_bytes)

    def allocate(self, size_bytes: int) -> Tensor:
        self._room_bytes -= size_bytes
        if self._room_bytes < 0:
            raise DeviceRefused(f"late: {size_bytes} bytes: out of memory")
        return self._tensor(size_bytes)

    def copy(self, target: Tensor, source: Tensor) -> None:
        assert target.shape == source.shape
        self._copies -= 1
        if self._copies < 0:
            raise DeviceRefused("late: copy: an illegal memory access was encountered")
        self.pending.append((target, source))

    def record(self) -> int:
        return self.done + len(self.pending)

    def wait(self, mark: int) -> None:
        self.waits += 1
        self._catch_up(mark)

    def drain(self) -> None:
        self._catch_up(self.done + len(self.pending))

    @property
    def memory_in_use(self) -> int:
        """How many of the buffers given out, page-locked or not, somebody still has."""
        return sum(reference() is not None for reference in self._memory)

    def _catch_up(self, mark: int) -> None:
        while self.done < mark:
            target, source = self.pending.pop(0)
            target.copy_(source)
            self.done += 1

    def _tensor(self, size_bytes: int) -> Tensor:
        assert self._thread == threading.get_ident()
        if size_bytes == 0:
            return torch.empty(0, dtype=torch.uint8)
        memory = torch.full((size_bytes,), 0xA5, dtype=torch.uint8).numpy()
        self._memory.append(weakref.ref(memory))
        return torch.from_numpy(memory)


class CarelessDevice(LateDevice):
    """One whose events come before their copies: what a ring without events would have."""

    def wait(self, mark: int) -> None:
        self.waits += 1


def bits(tensor: Tensor) -> tuple[torch.dtype, tuple[int, ...], bytes]:
    flat = tensor.contiguous().reshape(-1).view(torch.uint8)
    return tensor.dtype, tuple(tensor.shape), flat.numpy().tobytes()


def random_bytes(size: int) -> Tensor:
    return torch.randint(0, 256, (size,), dtype=torch.uint8, generator=torch.Generator().manual_seed(size))


def every_dtype() -> dict[str, Tensor]:
    """Tensors of every dtype that torch has for the format, of sizes that fit no slot, with a scalar and empty ones."""
    names = [name for name in weights._TORCH_NAMES.values() if name != "bool"]
    made = {name: random_bytes(16 * (number + 1)).view(getattr(torch, name)) for number, name in enumerate(names)}
    shaped = {
        "matrix": torch.arange(35.0).reshape(5, 7),
        "scalar": torch.tensor(7.0),
        "flags": torch.tensor([True, False]),
    }
    return made | shaped | {"none": torch.empty(0, 5), "no half": torch.empty(3, 0, dtype=torch.float16)}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    saved = every_dtype()
    saved.pop("float4_e2m1fn_x2")  # safetensors' torch writer does not know it; tests of weights.py do
    save_file(saved, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


@pytest.mark.parametrize("slots", [1, 2, 4])
@pytest.mark.parametrize("slot_bytes", [1, 7, 64, 1000, 1 << 20])
def test_a_file_arrives_bit_by_bit(path: Path, slots: int, slot_bytes: int) -> None:
    device = LateDevice()
    with PinnedRing(device, slots=slots, slot_bytes=slot_bytes) as ring:
        loaded = ring.load(path)
    expected = weights.tensors(path)
    assert list(expected) == list(loaded)
    assert {name: bits(tensor) for name, tensor in expected.items()} == {name: bits(t) for name, t in loaded.items()}
    assert [] == device.pending


def test_reusing_a_slot_before_its_event_would_be_seen(path: Path) -> None:
    """Shows that the double is honest: with events that come too early the same load gives wrong bytes."""
    device = CarelessDevice()
    loaded = PinnedRing(device, slots=2, slot_bytes=64).load(path)
    assert device.waits > 0
    expected = weights.tensors(path)
    assert any(bits(expected[name]) != bits(loaded[name]) for name in expected)


def test_plain_tensors_arrive_bit_by_bit() -> None:
    tensors = every_dtype()
    tensors["transposed"] = torch.arange(12.0).reshape(3, 4).T
    tensors["every other"] = torch.arange(10)[::2]
    tensors["conjugate"] = torch.tensor([1 + 2j, 3 - 4j]).conj()
    tensors["parameter"] = torch.nn.Parameter(torch.ones(3))
    loaded = PinnedRing(LateDevice(), slots=2, slot_bytes=50).copy(tensors)
    assert list(tensors) == list(loaded)
    for name, tensor in tensors.items():
        assert bits(tensor.detach().resolve_conj()) == bits(loaded[name]), name
        assert loaded[name].is_contiguous()


def test_tied_tensors_stay_one_on_the_device() -> None:
    one = torch.arange(5.0)
    loaded = PinnedRing(LateDevice(room_bytes=one.nbytes)).copy({"embed": one, "head": one})
    assert loaded["embed"].data_ptr() == loaded["head"].data_ptr()


def test_only_the_named_tensors_are_read(path: Path) -> None:
    read = weights.tensors(path)
    device = LateDevice(room_bytes=read["matrix"].nbytes + read["int8"].nbytes)
    loaded = PinnedRing(device).load(path, ["matrix", "int8"])
    assert {name: bits(read[name]) for name in ("matrix", "int8")} == {name: bits(t) for name, t in loaded.items()}
    with pytest.raises(WeightsError, match=r"model\.safetensors: no tensor 'absent'"):
        PinnedRing(device).load(path, ["int8", "absent"])


def test_nothing_is_nothing() -> None:
    assert {} == PinnedRing(LateDevice()).copy({})


TORCH_KINDS = st.sampled_from([torch.uint8, torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.complex64])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(TORCH_KINDS, st.lists(st.integers(0, 6), max_size=3)), max_size=6),
    st.integers(1, 4), st.integers(1, 200), st.integers(1, 3), st.data(),
)  # fmt: skip
def test_any_tensors_through_any_ring(
    tmp_path: Path,
    kinds: list[tuple[torch.dtype, list[int]]],
    slots: int,
    slot_bytes: int,
    readers: int,
    data: st.DataObject,
) -> None:
    saved = {str(number): random_bytes(216 * 8).view(kind)[: torch.Size(shape).numel()].reshape(shape) for number, (kind, shape) in enumerate(kinds)}  # fmt: skip
    save_file({name: tensor.clone() for name, tensor in saved.items()}, tmp_path / "m.safetensors")
    names = data.draw(st.lists(st.sampled_from(sorted(saved)), unique=True)) if saved else []
    with PinnedRing(LateDevice(), slots=slots, slot_bytes=slot_bytes, readers=readers) as ring:
        first, second = ring.load(tmp_path / "m.safetensors", names), ring.copy(saved)
    assert {name: bits(saved[name]) for name in names} == {name: bits(tensor) for name, tensor in first.items()}
    assert {name: bits(tensor) for name, tensor in saved.items()} == {name: bits(t) for name, t in second.items()}


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 40)), max_size=8), st.integers(1, 50), st.randoms())
def test_a_plan_covers_every_byte_once_and_reads_no_other(
    gaps: list[tuple[int, int]], slot_bytes: int, random: Any
) -> None:
    ranges, place = [], 100
    for gap, size in gaps:
        ranges.append((place + gap, place + gap + size))
        place += gap + size
    random.shuffle(ranges)
    covered: dict[tuple[int, int], int] = {}
    reached = 0
    for fill in plan(ranges, slot_bytes):
        assert 0 < fill.size <= slot_bytes
        assert fill.begin >= reached
        reached = fill.begin + fill.size
        assert fill.size == sum(piece.size for piece in fill.pieces)
        for piece in fill.pieces:
            for offset in range(piece.size):
                key = (piece.tensor, piece.tensor_at + offset)
                assert key not in covered
                covered[key] = fill.begin + piece.slot_at + offset
    assert {
        (number, place - begin): place for number, (begin, end) in enumerate(ranges) for place in range(begin, end)
    } == covered


def test_small_tensors_travel_together_and_large_ones_in_pieces() -> None:
    expected = [
        Fill(8, 10, (Piece(0, 0, 0, 2), Piece(1, 0, 2, 3), Piece(2, 0, 5, 5))),
        Fill(18, 7, (Piece(2, 5, 0, 7),)),
        Fill(30, 1, (Piece(3, 0, 0, 1),)),
    ]
    assert expected == list(plan([(8, 10), (10, 13), (13, 25), (30, 31)], 10))


def test_reading_goes_on_while_a_copy_is_under_way(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, second_read, real = 0, threading.Event(), os.preadv
    overlapped = []

    def preadv(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        nonlocal reads
        count = real(descriptor, buffers, offset)
        reads += 1
        if reads == 2:
            second_read.set()
        return count

    class Slow(LateDevice):
        def wait(self, mark: int) -> None:
            overlapped.append(second_read.wait(5))
            super().wait(mark)

    monkeypatch.setattr(os, "preadv", preadv)
    PinnedRing(Slow(), slots=2, slot_bytes=400, readers=1).load(path)
    assert overlapped
    assert all(overlapped)


def test_the_mapping_is_not_involved(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def mapped(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("a file was mapped")

    monkeypatch.setattr("mmap.mmap", mapped)
    assert PinnedRing(LateDevice()).load(path)


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: real(fd, [buffers[0][:3]], offset))
    loaded = PinnedRing(LateDevice(), slot_bytes=100).load(path)
    assert {name: bits(t) for name, t in weights.tensors(path).items()} == {name: bits(t) for name, t in loaded.items()}


def failing_read(number: int, outcome: Callable[[], int]) -> Callable[..., int]:
    """Return a ``preadv`` that ends with ``outcome`` from its ``number``-th call on."""
    left, real = [number], os.preadv

    def preadv(descriptor: int, buffers: Sequence[Any], offset: int) -> int:
        left[0] -= 1
        return real(descriptor, buffers, offset) if left[0] > 0 else outcome()

    return preadv


def io_error() -> int:
    raise OSError(errno.EIO, os.strerror(errno.EIO))


@pytest.mark.parametrize(
    ("outcome", "kind", "message"),
    [
        (io_error, WeightsError, r"model\.safetensors: Input/output error"),
        (lambda: 0, WeightsTruncated, r"model\.safetensors: the file ended at \d+ bytes while it was read"),
    ],
)
@pytest.mark.parametrize("number", [1, 2, 7])
def test_a_read_that_fails_ends_the_load_and_frees_the_device(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: Callable[[], int],
    kind: type[Exception],
    message: str,
    number: int,
) -> None:
    device = LateDevice()
    ring = PinnedRing(device, slots=3, slot_bytes=64)
    monkeypatch.setattr(os, "preadv", failing_read(number, outcome))
    with pytest.raises(kind, match=message):
        ring.load(path)
    monkeypatch.undo()
    assert ([], 3) == (device.pending, device.memory_in_use)
    assert list(weights.tensors(path)) == list(ring.load(path))  # the ring is as good as new


@pytest.mark.parametrize("copies", [0, 1, 5])
def test_a_device_that_fails_in_the_middle_leaves_nothing(path: Path, copies: int) -> None:
    device = LateDevice(copies=copies)
    ring = PinnedRing(device, slots=3, slot_bytes=64)
    with pytest.raises(DeviceRefused, match="illegal memory access"):
        ring.load(path)
    assert ([], 3) == (device.pending, device.memory_in_use)


def test_a_model_that_does_not_fit_costs_no_reading_and_frees_what_it_got(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = LateDevice(room_bytes=300)
    ring = PinnedRing(device, slots=2, slot_bytes=64)
    monkeypatch.setattr(os, "preadv", failing_read(1, io_error))
    with pytest.raises(DeviceRefused, match="out of memory"):
        ring.load(path)
    assert 2 == device.memory_in_use


def test_memory_is_free_again_while_the_error_is_handled(path: Path) -> None:
    """Who makes room and tries again does so in the except block: the error's frames must not hold the memory."""
    device = LateDevice(copies=5)
    ring = PinnedRing(device, slots=2, slot_bytes=64)
    try:
        ring.load(path)
    except DeviceRefused:
        assert 2 == device.memory_in_use
    else:
        pytest.fail("the copy did not fail")


def test_refused_page_locking_keeps_no_buffer() -> None:
    device = LateDevice(pinned_buffers=2)
    with pytest.raises(DeviceRefused, match="page-locked"):
        PinnedRing(device, slots=4, slot_bytes=64)
    assert 0 == device.memory_in_use


def test_closing_gives_the_buffers_back_and_the_tensors_stay(path: Path) -> None:
    device: Device = LateDevice()
    assert isinstance(device, LateDevice)
    with PinnedRing(device, slots=3) as ring:
        loaded = ring.load(path, ["matrix"])
        assert 4 == device.memory_in_use
    ring.close()
    assert 1 == device.memory_in_use
    assert 34.0 == loaded["matrix"][4, 6].item()
    with pytest.raises(ValueError, match="closed"):
        ring.load(path)


def test_a_dtype_that_torch_lacks_is_named_before_anything_is_taken(tmp_path: Path) -> None:
    text = b'{"w":{"dtype":"F6_E2M3","shape":[4],"data_offsets":[0,3]}}'
    (tmp_path / "m.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + b"abc")
    device = LateDevice(room_bytes=0)
    with pytest.raises(DtypeUnsupported, match=r"m\.safetensors: 'w': torch has no dtype for F6_E2M3"):
        PinnedRing(device).load(tmp_path / "m.safetensors")


@pytest.mark.parametrize("wrong", [{"slots": 0}, {"slot_bytes": 0}, {"readers": 0}])
def test_a_ring_of_nothing_is_refused(wrong: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="positive"):
        PinnedRing(LateDevice(), **wrong)


def test_a_ring_tells_what_it_is() -> None:
    assert "PinnedRing(2 x 64 bytes, 2 readers)" == repr(PinnedRing(LateDevice(), slots=2, slot_bytes=64, readers=9))
