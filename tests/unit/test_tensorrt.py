"""The tensorrt engine against a TensorRT in host memory: right answers, and a typed error for each way to refuse."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from glowplug.snapshot import cases
from glowplug.snapshot.architecture import assemble
from glowplug.snapshot.checkpoint import TensorFiles
from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.engines import Given, onto
from glowplug.snapshot.engines import tensorrt as module
from glowplug.snapshot.engines.tensorrt import TensorRt
from glowplug.snapshot.engines.to_onnx import export_onnx
from glowplug.snapshot.errors import (
    CompileFailed,
    EngineFailed,
    EngineUnavailable,
    FingerprintMismatch,
    InputUnsupported,
    SnapshotCorrupt,
    SnapshotMissing,
    TensorUnbound,
)
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.program import Program, export
from glowplug.snapshot.tensorrt import gpu, session, timing
from glowplug.snapshot.tensorrt.testing import FakeTensorRt, HostDevice, HostStream


class Tagger(nn.Module):
    """An embedding, a tied head, a buffer that no file holds, nested outputs, two dynamic dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(16, 8)
        self.mix = nn.Linear(8, 8)
        self.scale: Tensor
        self.register_buffer("scale", torch.linspace(0.5, 1.5, 8), persistent=False)

    def forward(self, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.mix(self.embed(ids))) * self.scale * mask.unsqueeze(-1)
        return {"tags": hidden @ self.embed.weight.t(), "mean": hidden.mean(dim=1)}


def example() -> Example:
    ids = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])
    both = ("batch", "tokens")
    return Example(args=(ids, torch.ones(2, 4)), dynamic={"ids": both, "mask": both})


DEFINITION = ModelDefinition("tagger", lambda files: Tagger(), example)
INPUTS = {"ids": torch.tensor([[3, 1, 2]]), "mask": torch.tensor([[1.0, 0.5, 1.0]])}


@dataclasses.dataclass(frozen=True)
class Traced:
    """The model before its bake: the checkpoint, the program, and the cases that a bake writes first."""

    files: dict[str, Path]
    program: Program
    onnx: Path
    staging: Path


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Traced:
    torch.manual_seed(0)
    directory = tmp_path_factory.mktemp("tagger")
    source, staging = directory / "model.safetensors", directory / "staging"
    staging.mkdir()
    save_file({name: value.contiguous() for name, value in Tagger().state_dict().items()}, source)
    files = {"model.safetensors": source}
    program = export(assemble(DEFINITION, files, TensorFiles(files)), example())
    cases.write_check(program, cases.expected("tagger", program), staging)
    cases.write_cases(program, (1, 4), staging)
    if program.tensors():
        cases.save(program.tensors(), staging / "extra.safetensors")
    export_onnx(program, directory / "model.onnx")
    return Traced(files, program, directory / "model.onnx", staging)


@pytest.fixture
def traced(once: Traced, tmp_path: Path) -> Traced:
    """The model, with a staging directory for this test alone."""
    return dataclasses.replace(once, staging=shutil.copytree(once.staging, tmp_path / "staging"))


@pytest.fixture(autouse=True)
def a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "obstacle", lambda: "")
    monkeypatch.setattr(gpu, "driver", lambda: "580.65.06")
    monkeypatch.setattr(onto, "CudaDevice", HostDevice)


def made(traced: Traced, trt: FakeTensorRt, precision: str = "fp32", **options: Any) -> dict[str, EngineRecord]:
    return TensorRt(trt=lambda: trt, stream=HostStream, **options).export(traced.program, traced.staging, precision)


@pytest.fixture
def exported(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let builds take the ONNX file that was exported for all tests; exporting takes a second."""
    monkeypatch.setattr(module, "_onnx", lambda *arguments: traced.onnx)


Baked = dict[str, EngineRecord]


@pytest.fixture
def baked(traced: Traced, exported: None) -> Baked:
    return made(traced, FakeTensorRt())


def restored(
    traced: Traced,
    record: EngineRecord,
    variant: str = "",
    trt: FakeTensorRt | None = None,
    stream: Callable[[], HostStream] = HostStream,
) -> TensorRt:
    fake = trt or FakeTensorRt()
    engine = TensorRt(trt=lambda: fake, stream=stream)
    manifest = Manifest(
        key="", source="", graph="", fingerprint={}, signature=traced.program.signature.to_json(), computed={},
        aliases={}, engines={}, verdict="", reason="", check={}, artefacts={},
    )  # fmt: skip
    record = dataclasses.replace(record, engine="tensorrt", variant=variant)
    engine.load(Given(DEFINITION, traced.files, traced.staging, manifest, record))
    assert 0 == engine.bind(TensorFiles(traced.files, traced.staging))
    engine.open(1)
    return engine


def close(given: dict[str, Tensor], wanted: dict[str, Tensor], tolerance: float = 1e-5) -> None:
    assert set(wanted) == set(given)
    for name, value in wanted.items():
        torch.testing.assert_close(given[name], value, atol=tolerance, rtol=tolerance)


def answer(traced: Traced, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    found: dict[str, Tensor] = cases.eager(traced.program, inputs)
    return found


@pytest.mark.parametrize("variant", ["", "refit"])
def test_a_plan_answers_as_eager_does_in_every_size(traced: Traced, baked: Baked, variant: str) -> None:
    engine = restored(traced, baked[variant], variant)
    for batch, tokens in ((1, 3), (2, 4), (4, 1), (1, 3), (3, 9)):
        inputs = {"ids": torch.arange(batch * tokens).reshape(batch, tokens) % 16, "mask": torch.rand(batch, tokens)}
        close(engine.run((), inputs), answer(traced, inputs))


def test_results_are_not_overwritten_by_the_next_call(traced: Traced, baked: Baked) -> None:
    engine = restored(traced, baked[""])
    first = engine.run((), INPUTS)
    engine.run((), {**INPUTS, "ids": torch.tensor([[9, 9, 9]])})
    close(first, answer(traced, INPUTS))


def test_a_stripped_plan_has_no_weights_and_takes_them_from_the_checkpoint(traced: Traced, baked: Baked) -> None:
    record = baked["refit"]
    places = {name: origin.tensor for name, origin in record.constants.items() if origin.place == "source"}
    assert {"embed.weight", "mix.weight", "mix.bias"} <= set(places.values())
    assert "mix.weight" in {places[name] for name in record.options["transposed"]}  # as the exporter turned it
    trt = FakeTensorRt()
    restored(traced, record, "refit", trt)
    assert "refit_cuda_engine_async" in trt.calls
    weights = traced.program.assembled.module.get_parameter("embed.weight").numpy().tobytes()[:64]
    assert weights not in (traced.staging / record.artefact).read_bytes()
    assert weights in (traced.staging / baked[""].artefact).read_bytes()


@pytest.mark.parametrize("variant", ["", "refit"])
def test_half_precision_is_in_the_graph_and_inputs_and_outputs_stay(traced: Traced, variant: str) -> None:
    records = made(traced, FakeTensorRt(), "fp16")
    outputs = restored(traced, records[variant], variant).run((), INPUTS)
    close(outputs, answer(traced, INPUTS), 2e-2)
    assert not torch.equal(outputs["mean"], answer(traced, INPUTS)["mean"])
    assert torch.float32 == outputs["mean"].dtype


def test_int8_is_calibrated_into_the_graph(traced: Traced) -> None:
    records = made(traced, FakeTensorRt(), "int8")
    assert [""] == list(records)
    plan = (traced.staging / records[""].artefact).read_bytes()
    assert b"QuantizeLinear" in plan
    assert b"DequantizeLinear" in plan
    outputs, wanted = restored(traced, records[""]).run((), INPUTS), answer(traced, INPUTS)
    close(outputs, wanted, 0.1 * float(wanted["tags"].abs().max()))
    assert not torch.allclose(outputs["tags"], wanted["tags"], atol=1e-6)


def test_a_shape_that_keeps_coming_is_captured_and_stays_right(traced: Traced, baked: Baked) -> None:
    stream = HostStream()
    trt = FakeTensorRt()
    engine = restored(traced, baked[""], trt=trt, stream=lambda: stream)
    for number in range(session.CAPTURE_AFTER + 3):
        inputs = {**INPUTS, "ids": torch.tensor([[number, 1, 2]])}
        close(engine.run((), inputs), answer(traced, inputs))
    assert 3 == stream.replays
    other = {"ids": torch.tensor([[1], [2]]), "mask": torch.ones(2, 1)}
    close(engine.run((), other), answer(traced, other))
    close(engine.run((), INPUTS), answer(traced, INPUTS))
    assert 4 == stream.replays


def test_an_engine_that_cannot_be_captured_goes_on_without(traced: Traced, baked: Baked) -> None:
    stream, trt = HostStream(), FakeTensorRt(fault="capture")
    engine = restored(traced, baked[""], trt=trt, stream=lambda: stream)
    for _ in range(session.CAPTURE_AFTER + 3):
        close(engine.run((), INPUTS), answer(traced, INPUTS))
    assert 0 == stream.replays
    assert 1 == trt.calls.count("capture")


def test_only_so_many_shapes_are_captured(traced: Traced, baked: Baked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "CAPTURE_AFTER", 1)
    monkeypatch.setattr(session, "GRAPHS", 2)
    trt = FakeTensorRt()
    engine = restored(traced, baked[""], trt=trt)
    contexts = trt.calls.count("create_execution_context")
    for tokens in (1, 2, 3, 4):
        engine.run((), {"ids": torch.ones(1, tokens, dtype=torch.long), "mask": torch.ones(1, tokens)})
    assert contexts + 2 == trt.calls.count("create_execution_context")


def test_sizes_outside_every_profile_are_for_another_engine(traced: Traced, baked: Baked) -> None:
    engine = restored(traced, baked[""])
    with pytest.raises(InputUnsupported, match="sizes 600x2, 600x2; the plan was built for others"):
        engine.run((), {"ids": torch.ones(600, 2, dtype=torch.long), "mask": torch.ones(600, 2)})


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("Builder", "TensorRT: pybind11::init.*\n.*refused"),
        ("parse_from_file", "cannot read the exported model: NonZero node_7: no importer for it"),
        ("add_optimization_profile", "does not take the profile"),
        ("build_serialized_network", "built no plan: Error Code 10: no implementation.*\n.*Could not find any tactic"),
    ],
)
def test_a_build_that_fails_says_why(traced: Traced, exported: None, fault: str, words: str) -> None:
    with pytest.raises(CompileFailed, match=words):
        made(traced, FakeTensorRt(fault=fault))


def test_a_stripped_plan_that_cannot_be_built_leaves_the_whole_one(traced: Traced, exported: None) -> None:
    records = made(traced, FakeTensorRt(fault="strip"))
    assert "" == records[""].refused
    assert "CompileFailed: TensorRT built no plan: [strip] refused" == records["refit"].refused


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("deserialize_cuda_engine", r"tensorrt-fp32.*plan: TensorRT takes no plan from it: \[deserialize"),
        ("create_execution_context", "made no execution context: .*refused"),
        ("set_optimization_profile_async", "does not take its profile 0: .*refused"),
        ("set_tensor_address", "does not take the memory of ids: .*refused"),
        ("set_input_shape", "does not take ids of sizes .*refused"),
        ("get_max_output_size", "has no bound for the output"),
    ],
)
def test_a_restore_that_fails_says_why(traced: Traced, baked: Baked, fault: str, words: str) -> None:
    with pytest.raises(EngineFailed, match=words):
        restored(traced, baked[""], trt=FakeTensorRt(fault=fault))


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ("set_named_weights", EngineFailed, "does not take .* for its plan: weights of .* have another count"),
        ("get_missing_weights", TensorUnbound, "also needs fused.bias: .*refused"),
        ("refit_cuda_engine_async", EngineFailed, "cannot refit its plan: .*refused"),
    ],
)
def test_a_refit_that_fails_says_why(
    traced: Traced, baked: Baked, fault: str, kind: type[Exception], words: str
) -> None:
    with pytest.raises(kind, match=words):
        restored(traced, baked["refit"], "refit", FakeTensorRt(fault=fault))


def test_a_weight_that_the_map_lacks_is_named(traced: Traced, baked: Baked) -> None:
    record = baked["refit"]
    fewer = {name: origin for name, origin in record.constants.items() if origin.tensor != "mix.bias"}
    with pytest.raises(TensorUnbound, match=r"the plan needs mix\.bias, which the weight map lacks"):
        restored(traced, dataclasses.replace(record, constants=fewer), "refit")


def test_a_weight_of_another_size_is_corrupt(traced: Traced, baked: Baked) -> None:
    record = baked["refit"]
    bias = next(name for name, origin in record.constants.items() if origin.tensor == "mix.bias")
    embed = next(origin for origin in record.constants.values() if origin.tensor == "embed.weight")
    wrong = {**record.constants, bias: embed}
    with pytest.raises(SnapshotCorrupt, match=r"128 values from model\.safetensors, the plan has 8"):
        restored(traced, dataclasses.replace(record, constants=wrong), "refit")


def test_a_call_that_is_not_enqueued_fails_with_the_words(traced: Traced, baked: Baked) -> None:
    trt = FakeTensorRt()
    engine = restored(traced, baked[""], trt=trt)
    trt.fault = "execute_async_v3"
    with pytest.raises(EngineFailed, match="did not start the call: Error Code 1: Cuda Runtime"):
        engine.run((), INPUTS)


def test_outputs_of_unknown_size_are_refused(traced: Traced, baked: Baked) -> None:
    trt = FakeTensorRt()
    engine = restored(traced, baked[""], trt=trt)
    trt.fault = "get_tensor_shape"
    with pytest.raises(EngineFailed, match="its sizes depend on the values of the input"):
        engine.run((), INPUTS)


def test_too_little_device_memory_is_found_before_the_first_call(traced: Traced, baked: Baked) -> None:
    with pytest.raises(EngineFailed, match=r"cuda:0: .* bytes: CUDA out of memory"):
        restored(traced, baked[""], stream=lambda: HostStream(room_bytes=2000))


@pytest.mark.parametrize("size", [0, 3, 20, -10])
def test_a_plan_that_is_cut_is_refused(traced: Traced, baked: Baked, size: int) -> None:
    record = dataclasses.replace(baked[""], artefact="cut.plan")
    (traced.staging / "cut.plan").write_bytes((traced.staging / baked[""].artefact).read_bytes()[:size])
    with pytest.raises(EngineFailed, match=r"cut\.plan: TensorRT takes no plan from it: "):
        restored(traced, record)


def test_a_plan_that_is_gone_is_missing(traced: Traced, baked: Baked) -> None:
    with pytest.raises(SnapshotMissing, match=r"gone\.plan: No such file"):
        restored(traced, dataclasses.replace(baked[""], artefact="gone.plan"))


def test_a_plan_of_another_gpu_is_not_shown_to_tensorrt(traced: Traced, baked: Baked) -> None:
    trt = FakeTensorRt()
    with pytest.raises(FingerprintMismatch, match="GPU Fake GPU, here Another GPU"):
        restored(traced, baked[""], trt=trt, stream=lambda: HostStream(name="Another GPU"))
    assert "deserialize_cuda_engine" not in trt.calls


def test_a_plan_of_an_older_tensorrt_needs_to_be_version_compatible(traced: Traced, baked: Baked) -> None:
    newer = FakeTensorRt(version="11.5.0.1")
    with pytest.raises(FingerprintMismatch, match=r"TensorRT 11\.4\.0\.106, here 11\.5\.0\.1"):
        restored(traced, baked[""], trt=newer)
    records = made(traced, FakeTensorRt(), version_compatible=True)
    close(restored(traced, records[""], trt=newer).run((), INPUTS), answer(traced, INPUTS))


def test_a_plan_of_other_profiles_than_recorded_is_corrupt(traced: Traced, baked: Baked) -> None:
    record = baked[""]
    options = json.loads(json.dumps(record.options))
    options["profiles"][0][0][2][1] += 1
    with pytest.raises(SnapshotCorrupt, match="profile 0 is of other sizes for ids"):
        restored(traced, dataclasses.replace(record, options=options))
    options["profiles"].pop()
    with pytest.raises(SnapshotCorrupt, match="plan: it has 3 profiles, not 2"):
        restored(traced, dataclasses.replace(record, options=options))


@pytest.mark.parametrize("options", [{}, {"gpu": {"name": 1}}, {"profiles": []}, {"profiles": [[["x"]]]}])
def test_a_record_without_its_options_is_corrupt(traced: Traced, baked: Baked, options: dict[str, Any]) -> None:
    kept = baked[""].options if options else {}
    with pytest.raises(SnapshotCorrupt, match="plan: "):
        restored(traced, dataclasses.replace(baked[""], options={**kept, **options}))


def test_an_obstacle_is_said_before_anything_is_loaded(traced: Traced, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "obstacle", lambda: "no NVIDIA driver is loaded")
    with pytest.raises(EngineUnavailable, match="tensorrt: no NVIDIA driver is loaded"):
        made(traced, FakeTensorRt())
    with pytest.raises(EngineUnavailable, match="tensorrt: no NVIDIA driver is loaded"):
        TensorRt().load(Given(DEFINITION, {}))


def test_the_timing_cache_of_an_earlier_bake_is_taken_and_kept(traced: Traced, exported: None, tmp_path: Path) -> None:
    here = gpu.Gpu("Fake GPU", "8.9", "580.65.06", "11.4.0.106")
    published = tmp_path / "published" / "key"
    published.mkdir(parents=True)
    timing.keep(here, published, b"timing-of-an-earlier-bake-")
    engine = TensorRt(trt=FakeTensorRt, stream=HostStream)
    engine.resume(tmp_path / "published")
    engine.export(traced.program, traced.staging, "fp32")
    kept = timing.earlier(here, traced.staging, None)
    assert kept.startswith(b"timing-of-an-earlier-bake-timing")


def test_a_timing_cache_that_tensorrt_refuses_is_forgotten(traced: Traced, exported: None) -> None:
    here = gpu.Gpu("Fake GPU", "8.9", "580.65.06", "11.4.0.106")
    timing.keep(here, traced.staging, b"of another GPU")
    made(traced, FakeTensorRt())
    assert b"another" not in timing.earlier(here, traced.staging, None)
