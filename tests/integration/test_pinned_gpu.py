"""The pinned ring on a real GPU: ``pytest -m gpu``."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glowplug.cache import weights
from glowplug.cache.device import CudaDevice
from glowplug.cache.errors import DeviceRefused
from glowplug.cache.pinned import PinnedRing

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.cpu().contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """About 200 MB: many rounds of the ring, tensors larger than a slot and small ones between them."""
    saved: dict[str, torch.Tensor] = {}
    for number in range(6):
        saved[f"{number}.weight"] = torch.randint(-(2**31), 2**31 - 1, (8_000_003,), dtype=torch.int32)
        saved[f"{number}.scale"] = torch.randn(number + 1).to(torch.bfloat16)
    save_file(saved, tmp_path / "model.safetensors")
    return tmp_path / "model.safetensors"


def test_a_file_arrives_bit_by_bit(path: Path) -> None:
    expected = weights.tensors(path)
    with PinnedRing(CudaDevice()) as ring:
        for _ in range(3):  # slots and device memory are used again
            loaded = ring.load(path)
            assert list(expected) == list(loaded)
            for name, tensor in expected.items():
                assert loaded[name].is_cuda
                assert (tensor.dtype, tensor.shape) == (loaded[name].dtype, loaded[name].shape)
                assert torch.equal(bits(tensor), bits(loaded[name])), name


def test_plain_tensors_arrive_bit_by_bit() -> None:
    tensors = {"a": torch.randn(1000, 1000), "b": torch.arange(10)[::2], "c": torch.empty(0, 3)}
    with PinnedRing(CudaDevice(), slots=2, slot_bytes=4096) as ring:
        loaded = ring.copy(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(bits(tensor), bits(loaded[name])), name


def test_memory_that_the_callers_stream_still_reads_is_not_written(path: Path) -> None:
    """The allocator hands out memory that a kernel under way may still read; the copies must come after it."""
    with PinnedRing(CudaDevice()) as ring:
        old = torch.ones(8_000_003, dtype=torch.int32, device="cuda:0")
        # cycles: about 0.1 s in which the stream does not get to the next line
        torch.cuda._sleep(200_000_000)  # type: ignore[no-untyped-call]
        total = old.sum()
        del old
        ring.load(path)
        assert 8_000_003 == total.item()


def test_a_model_that_does_not_fit_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    """A sparse file larger than the device."""
    size = (torch.cuda.get_device_properties(0).total_memory // 4 + 1024) * 4
    text = f'{{"w":{{"dtype":"F32","shape":[{size // 4}],"data_offsets":[0,{size}]}}}}'.encode()
    with (tmp_path / "huge.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + size)
    with PinnedRing(CudaDevice()) as ring:
        before = torch.cuda.memory_allocated()
        with pytest.raises(DeviceRefused, match="out of memory"):
            ring.load(tmp_path / "huge.safetensors")
        gc.collect()
        assert before == torch.cuda.memory_allocated()
