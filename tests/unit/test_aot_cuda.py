"""The aot_inductor engine on a GPU, with a runner and a device in host memory."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from glowplug.snapshot.checkpoint import Origin, TensorFiles
from glowplug.snapshot.definition import ModelDefinition
from glowplug.snapshot.engines import Given, aot_inductor, onto, table, torch_private
from glowplug.snapshot.engines.aot_inductor import CUDA, AotInductor
from glowplug.snapshot.errors import EngineFailed, EngineUnavailable, FingerprintMismatch, TensorUnbound
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.signature import Input, Signature
from glowplug.snapshot.tensorrt.testing import HostDevice

if TYPE_CHECKING:
    from glowplug.snapshot.program import Program


class Runner:
    """In the place of ``AOTIModelContainerRunnerCuda``: adds a bias. Keeps what it is given, as the real one does."""

    made: ClassVar[list[Runner]] = []

    def __init__(self, model_so_path: str, num_models: int, device_str: str) -> None:
        self.arguments = (Path(model_so_path).name, num_models, device_str)
        self.bound: dict[str, Tensor] = {}
        self.made.append(self)

    def get_constant_names_to_original_fqns(self) -> dict[str, str]:
        return {"c0": "bias"}

    def update_constant_buffer(
        self, tensor_map: dict[str, Tensor], use_inactive: bool, validate_full_updates: bool, user_managed: bool
    ) -> None:
        """update_constant_buffer(tensor_map, use_inactive, validate_full_updates, user_managed)"""
        assert (False, False, True) == (use_inactive, validate_full_updates, user_managed)
        self.bound = tensor_map

    def run(self, inputs: list[Tensor]) -> list[Tensor]:
        return [inputs[0] + self.bound["c0"]]


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device that is host memory, and a runner for it."""
    monkeypatch.setattr(Runner, "made", [])
    monkeypatch.setattr(torch._C._aoti, "AOTIModelContainerRunnerCuda", Runner, raising=False)
    monkeypatch.setattr(torch_private, "obstacle", torch_private.obstacle.__wrapped__)
    monkeypatch.setattr(aot_inductor, "device_obstacle", lambda: "")
    monkeypatch.setattr(aot_inductor, "_sm", lambda: "8.9")
    monkeypatch.setattr(onto, "CudaDevice", HostDevice)


def given_of(tmp_path: Path, **changes: Any) -> Given:
    save_file({"bias": torch.arange(3.0)}, tmp_path / "m.safetensors")
    structure = torch_private.flatten({"x": 0})[1]
    signature = Signature(("x",), (Input("x", torch.float32, (3,)),), {}, structure, torch_private.flatten(0)[1])
    manifest = Manifest(
        key="", source="", graph="", fingerprint={}, signature=signature.to_json(), computed={}, aliases={},
        engines={}, verdict="", reason="", check={}, artefacts={},
    )  # fmt: skip
    fields = {
        "engine": "aot_inductor", "variant": CUDA, "artefact": "model-cuda.so", "options": {"sm": "8.9"},
        "constants": {"c0": Origin("source", "m.safetensors", "bias")},
    }  # fmt: skip
    record = EngineRecord(**{**fields, **changes})
    files = {"m.safetensors": tmp_path / "m.safetensors"}
    return Given(ModelDefinition("m", lambda files: torch.nn.Identity()), files, tmp_path, manifest, record)


@pytest.mark.parametrize(("device", "variants"), [("cpu", [""]), ("cuda:0", ["", CUDA])])
def test_a_library_for_a_gpu_is_only_made_for_a_function_on_one(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, device: str, variants: list[str]
) -> None:
    monkeypatch.setattr(torch_private, "obstacle", lambda device="cpu": "")
    monkeypatch.setattr(aot_inductor, "_compiled", lambda *arguments: EngineRecord(artefact="model.so"))
    engine = AotInductor()
    engine.aim(device)
    assert variants == list(engine.export(cast("Program", None), tmp_path, "fp32"))


def test_a_function_on_the_cpu_has_no_candidate_that_needs_a_gpu() -> None:
    assert "the function is on the CPU" in table.kinds("cpu")["tensorrt"].obstacle
    assert "the function is on the CPU" not in table.kinds("cuda:0")["tensorrt"].obstacle
    assert "" == table.kinds("cpu")["eager"].obstacle


def test_everything_of_cuda_is_done_in_open(gpu: None, tmp_path: Path) -> None:
    engine = AotInductor()
    given = given_of(tmp_path)
    before = engine.fork_safe
    engine.load(given)
    assert (True, False) == (before, engine.fork_safe)
    assert 0 == engine.bind(TensorFiles(given.files))
    assert [] == Runner.made
    engine.open(1)
    assert [("model-cuda.so", 1, "cuda:0")] == [runner.arguments for runner in Runner.made]


def test_weights_are_copies_by_way_of_the_ring_and_outputs_come_back(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aot_inductor, "DEVICE", "cpu")
    monkeypatch.setattr(torch_private, "RUNNERS", {"cpu": "AOTIModelContainerRunnerCpu", "cuda": "x"})
    monkeypatch.setattr(torch_private, "obstacle", lambda device="cpu": "")
    monkeypatch.setattr(
        torch._C._aoti, "AOTIModelContainerRunnerCpu", lambda path, number: Runner(path, number, "host")
    )
    engine, given = AotInductor(), given_of(tmp_path)
    tensors = TensorFiles(given.files)
    engine.load(given)
    engine.bind(tensors)
    engine.open(1)
    mapped = tensors.get(Origin("source", "m.safetensors", "bias"))
    assert torch.equal(mapped, Runner.made[0].bound["c0"])
    assert mapped.data_ptr() != Runner.made[0].bound["c0"].data_ptr()
    output = engine.run((torch.ones(3),), {})
    assert [1.0, 2.0, 3.0] == output.tolist()
    assert "cpu" == output.device.type


def test_a_library_for_another_gpu_is_not_loaded(gpu: None, tmp_path: Path) -> None:
    engine, given = AotInductor(), given_of(tmp_path, options={"sm": "9.0"})
    engine.load(given)
    engine.bind(TensorFiles(given.files))
    with pytest.raises(FingerprintMismatch, match=r"model-cuda\.so: compute capability 9\.0, here 8\.9"):
        engine.open(1)
    assert [] == Runner.made


def test_a_constant_that_the_map_lacks_is_named(gpu: None, tmp_path: Path) -> None:
    engine, given = AotInductor(), given_of(tmp_path, constants={})
    engine.load(given)
    engine.bind(TensorFiles(given.files))
    with pytest.raises(TensorUnbound, match=r"model-cuda\.so needs c0"):
        engine.open(1)


def test_a_device_without_memory_leaves_it_to_another_engine(
    gpu: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from glowplug.cache.errors import DeviceRefused

    class Full(HostDevice):
        def allocate(self, size_bytes: int) -> Tensor:
            raise DeviceRefused(f"{self.device}: {size_bytes} bytes: CUDA out of memory")

    monkeypatch.setattr(onto, "CudaDevice", Full)
    engine, given = AotInductor(), given_of(tmp_path)
    engine.load(given)
    engine.bind(TensorFiles(given.files))
    with pytest.raises(EngineFailed, match="cuda:0: 12 bytes: CUDA out of memory"):
        engine.open(1)


def test_without_a_gpu_the_variant_is_unavailable_and_says_why(tmp_path: Path) -> None:
    engine = AotInductor()
    with pytest.raises(EngineUnavailable, match=r"aot_inductor: (torch .* is built without CUDA|no NVIDIA|the NVIDIA)"):
        engine.load(given_of(tmp_path))
