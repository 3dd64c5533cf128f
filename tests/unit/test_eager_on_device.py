"""The eager engine on a device other than the CPU: ``cpu:0``, host memory that torch takes for another device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.cache.errors import DeviceRefused
from glowplug.snapshot import fingerprint
from glowplug.snapshot.candidates import needs_gpu
from glowplug.snapshot.cuda import context, module
from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.errors import ContextRefused, EngineUnavailable
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.plan import Plan
from glowplug.snapshot.restore import restore

DEVICE = "cpu:0"


class HostDevice:
    """In the place of ``CudaDevice``: host memory, copies at once, a note of each size."""

    allocated: list[int]

    def __init__(self, device: str) -> None:
        assert DEVICE == device

    def pinned(self, size_bytes: int) -> Tensor:
        return torch.empty(size_bytes, dtype=torch.uint8)

    def allocate(self, size_bytes: int) -> Tensor:
        if size_bytes > 10_000:
            raise DeviceRefused(f"{DEVICE}: {size_bytes} bytes: out of memory")
        self.allocated.append(size_bytes)
        return torch.empty(size_bytes, dtype=torch.uint8)

    def copy(self, target: Tensor, source: Tensor) -> None:
        target.copy_(source)

    def record(self) -> None:
        return None

    def wait(self, mark: None) -> None:
        return None

    def drain(self) -> None:
        return None


class Net(nn.Module):
    """Tied weights, a converted one, a computed buffer: everything that may be in a module."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.first = nn.Linear(width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.second.weight = self.first.weight
        self.scale = nn.Parameter(torch.zeros(width))
        self.register_buffer("steps", torch.arange(width, dtype=torch.float32), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return {"out": self.second(self.first(batch["x"])) * self.scale + self.steps}


def a_model(directory: Path, width: int = 4) -> tuple[ModelDefinition, dict[str, Path]]:
    path = directory / "model.safetensors"
    weights = {"first.weight": torch.randn(width, width), "scale": torch.randn(width).to(torch.bfloat16)}
    save_file(weights, path)
    return ModelDefinition("net", lambda files: Net(width)), {"model.safetensors": path}


@pytest.fixture(autouse=True)
def device(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the engine's device be host memory; returns the sizes that are allocated on it."""
    sizes: list[int] = []
    monkeypatch.setattr(HostDevice, "allocated", sizes, raising=False)
    monkeypatch.setattr(module, "CudaDevice", HostDevice)
    return sizes


def test_weights_go_to_the_device_once_when_the_engine_is_opened(tmp_path: Path, device: list[int]) -> None:
    definition, files = a_model(tmp_path)
    plain, there = restore(definition, files, Plan()), restore(definition, files, Plan(device=DEVICE))
    assert (True, False, []) == (plain.engine.fork_safe, there.engine.fork_safe, device)
    there.engine.open(1)
    there.engine.open(1)
    assert [16, 16, 64] == sorted(device)  # the tied matrix once; the converted scale and the steps are copied
    given: dict[str, Any] = {"batch": {"x": torch.randn(2, 4)}}
    expected, found = plain.engine.run((), given), there.engine.run((), given)
    assert torch.equal(expected["out"], found["out"])
    tied: Any = there.engine
    inside = tied._assembled.module
    assert inside.second.weight is inside.first.weight


def test_a_device_without_room_is_said(tmp_path: Path) -> None:
    definition, files = a_model(tmp_path, width=64)
    engine = restore(definition, files, Plan(device=DEVICE)).engine
    with pytest.raises(DeviceRefused, match="out of memory"):
        engine.open(1)


def test_on_the_cpu_nothing_is_moved(tmp_path: Path, device: list[int]) -> None:
    definition, files = a_model(tmp_path)
    restore(definition, files, Plan()).engine.open(1)
    assert [] == device


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        ("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors…", "in exclusive mode"),
        ("CUDA error: out of memory", "no memory left for a context"),
        ("Found no NVIDIA driver on your system.", "there is no NVIDIA driver"),
        ("Torch not compiled with CUDA enabled", "built without CUDA"),
        ("CUDA error: MPS server is not ready to accept new MPS client requests", "the MPS server takes no client"),
        ("something else\nand more", "something else"),
        ("", "it says nothing"),
    ],
)
def test_a_refused_context_says_what_the_driver_means(said: str, meaning: str) -> None:
    assert meaning in context.cause(said)
    assert "\n" not in context.cause(said)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_without_a_gpu_the_real_maker_refuses() -> None:
    with pytest.raises(ContextRefused, match=r"^cuda:0: \w+"):
        context.make("cuda:0")


@pytest.mark.parametrize(
    ("label", "needs"),
    [
        ("eager", False),
        ("aot_inductor-bf16", False),
        ("onnxruntime-unpacked", False),
        ("aot_inductor-cuda", True),
        ("aot_inductor-fp16-cuda", True),
        ("tensorrt", True),
        ("tensorrt-int8-refit", True),
    ],
)
def test_engines_of_a_gpu_are_known_by_their_label(label: str, *, needs: bool) -> None:
    assert needs is needs_gpu(label)


def test_a_function_on_the_cpu_is_given_no_engine_of_a_gpu(tmp_path: Path) -> None:
    definition, files = a_model(tmp_path)
    manifest = Manifest(
        key="k", source="s", graph="g", fingerprint=fingerprint.current().to_json(), signature={}, computed={},
        aliases={}, engines={"aot_inductor-cuda": EngineRecord("aot_inductor", variant="cuda")}, verdict="eager",
        reason="", check={}, artefacts={},
    )  # fmt: skip
    plan = Plan("aot_inductor-cuda", tmp_path, manifest.to_bytes())
    with pytest.raises(EngineUnavailable, match="aot_inductor-cuda needs a GPU, and the function is on the CPU"):
        restore(definition, files, plan)
