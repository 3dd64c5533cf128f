"""A model that is an ONNX file: calls, its life in a plain process, baking it, and what a wrong one does."""

from __future__ import annotations

import dataclasses
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from glowplug.handlers import Example, onnx_model
from glowplug.runtime.spec import ModelSpec, SourceFile
from glowplug.runtime.worker import models
from glowplug.runtime.worker.sources import SOURCE_VARIABLE
from glowplug.snapshot.choice import Wanted
from glowplug.snapshot.definition import OnnxDefinition
from glowplug.snapshot.engines import table
from glowplug.snapshot.errors import CheckFailed, EngineFailed, EngineUnavailable, FingerprintMismatch, OnnxInvalid
from glowplug.snapshot.job import Job
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.onnx import bake as baking
from glowplug.snapshot.onnx import calls, session
from glowplug.snapshot.onnx.measure import measure
from glowplug.snapshot.onnx.outline import Value
from glowplug.snapshot.onnx.restore import check, restore
from glowplug.snapshot.plan import Plan
from glowplug.snapshot.rounds import Measurement

WIDTH = 64


@pytest.fixture(autouse=True)
def _nothing_declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)
    models.declare([])
    yield
    models.declare([])


def layer(path: Path, *, operator: str = "Tanh", factor: float = 1.0) -> Path:
    """``y = tanh(x @ w + b), s = x + x``; ``w`` is large enough to be kept outside the model file."""
    random = numpy.random.default_rng(0)
    weight = numpy_helper.from_array((random.normal(size=(WIDTH, WIDTH)) * factor).astype("float32"), "w")
    bias = numpy_helper.from_array(random.normal(size=WIDTH).astype("float32"), "b")
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"]),
        helper.make_node("Add", ["h", "b"], ["a"]),
        helper.make_node(operator, ["a"], ["y"]),
        helper.make_node("Add", ["x", "x"], ["s"]),
    ]
    x, y, s = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", WIDTH]) for name in "xys")
    graph = helper.make_graph(nodes, "g", [x], [y, s], [weight, bias])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def example() -> Example:
    x = numpy.linspace(-1, 1, 2 * WIDTH, dtype="float32").reshape(2, WIDTH)
    return Example(kwargs={"x": x}, dynamic={"x": ("batch", None)})


def bake(definition: OnnxDefinition, files: dict[str, Path], directory: Path, again: str = "", **wanted: Any) -> Any:
    staging = directory / "staging"
    staging.mkdir(exist_ok=True)
    job = Job(definition, files, staging, directory / "published", wanted=Wanted(**wanted), again=again)

    def here(draft: Manifest, label: str) -> Measurement:
        return measure(definition, files, staging, draft, label, 1)

    return baking.bake(job, progress=lambda phase, fraction: None, measure=here)


@dataclasses.dataclass(frozen=True)
class Baked:
    definition: OnnxDefinition
    files: dict[str, Path]
    staging: Path
    manifest: Manifest

    def plan(self, label: str) -> Plan:
        return Plan(label, self.staging, self.manifest.to_bytes())


@pytest.fixture(scope="module")
def baked(tmp_path_factory: pytest.TempPathFactory) -> Baked:
    directory = tmp_path_factory.mktemp("onnx")
    files = {"layer.onnx": layer(directory / "layer.onnx")}
    definition = OnnxDefinition("layer", "layer.onnx", example)
    found = bake(definition, files, directory, precision="auto", max_error=0.5)
    return Baked(definition, files, directory / "staging", found.manifest)


def test_it_is_called_by_name_or_in_order_and_returns_arrays(tmp_path: Path) -> None:
    authored = onnx_model(source=f"file://{layer(tmp_path / 'layer.onnx')}")
    x = numpy.ones((3, WIDTH), "float32")
    y, s = authored(x=x)
    assert ((3, WIDTH), (3, WIDTH)) == (y.shape, s.shape)
    assert "eager" == authored.engine
    assert numpy.array_equal(s, authored(x.tolist())[1])
    with pytest.raises(TypeError, match="no input 'x'; the model takes x"):
        authored()
    with pytest.raises(ValueError, match=r"onnxruntime: .*Got invalid dimensions"):
        authored(x=numpy.ones((3, 2), "float32"))


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((1, 2, 3), {}, "3 inputs; the model takes a, b"),
        ((1,), {"a": 2}, "input 'a': given twice"),
        ((), {"c": 2}, "input 'c': the model takes a, b"),
        ((1,), {}, "no input 'b'"),
    ],
)
def test_other_inputs_than_the_models_are_refused(args: Any, kwargs: Any, message: str) -> None:
    inputs = [Value("a", "float32", ()), Value("b", "int64", ())]
    with pytest.raises(TypeError, match=message):
        calls.feeds(inputs, args, kwargs)


def test_numbers_become_arrays_of_the_inputs_dtype() -> None:
    feeds = calls.feeds([Value("sr", "int64", ()), Value("x", "float32", (2,))], (16000,), {"x": [1, 2]})
    assert ["int64", "float32"] == [array.dtype.name for array in feeds.values()]


def test_which_file_it_is() -> None:
    files = {"a.onnx": Path(), "b.onnx": Path(), "c.txt": Path()}
    assert "b.onnx" == calls.chosen("m", "b.onnx", files)
    assert "a.onnx" == calls.chosen("m", "", {"a.onnx": Path(), "c.txt": Path()})
    with pytest.raises(OnnxInvalid, match=r"not one ONNX file in the source; it has a.onnx, b.onnx"):
        calls.chosen("m", "", files)
    with pytest.raises(OnnxInvalid, match=r"no file 'd.onnx'"):
        calls.chosen("m", "d.onnx", files)


def test_a_bake_makes_every_variant_and_keeps_each_within_its_tolerance(baked: Baked) -> None:
    engines = baked.manifest.engines
    assert {"eager", "onnxruntime", "onnxruntime-unpacked", "onnxruntime-int8"} == set(engines)
    assert [""] * 4 == [record.refused for record in engines.values()]
    assert engines["onnxruntime"].worst_error < 1e-5 < engines["onnxruntime-int8"].worst_error < 0.5
    assert engines["onnxruntime"].shared_bytes >= WIDTH * WIDTH * 4
    assert {"check.safetensors", "onnxruntime.onnx", "onnxruntime.safetensors"} <= set(baked.manifest.artefacts)
    assert "cases.safetensors" not in baked.manifest.artefacts


def test_a_snapshot_with_all_that_is_wanted_stands_in_for_a_bake(
    baked: Baked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    published = tmp_path / "published" / baked.manifest.key
    shutil.copytree(baked.staging, published)
    engines = {**baked.manifest.engines, "abacus": EngineRecord(engine="abacus", artefact="beads")}
    brought = dataclasses.replace(baked.manifest, engines=engines)
    (published / "manifest.json").write_bytes(brought.to_bytes())
    found = bake(baked.definition, baked.files, tmp_path)
    assert (True, baked.manifest.key, []) == (found.reused, found.manifest.key, list((tmp_path / "staging").iterdir()))
    assert "no engine 'abacus' for an ONNX file" == found.manifest.engines["abacus"].refused
    monkeypatch.setattr(baking, "version", lambda: "1.2.3")
    assert not bake(baked.definition, baked.files, tmp_path, engine="eager").reused


def test_what_is_measured_again_forgets_the_figures_of_before(baked: Baked, tmp_path: Path) -> None:
    key = baked.manifest.key
    shutil.copytree(baked.staging, tmp_path / "published" / key)
    flattered = {
        label: dataclasses.replace(record, parked_ms=1e-9, cold_ms=1e-9, warm_ms=1e-9, shapes={"9x9": 1e-9})
        for label, record in baked.manifest.engines.items()
    }
    manifest = dataclasses.replace(baked.manifest, engines=flattered)
    (tmp_path / "published" / key / "manifest.json").write_bytes(manifest.to_bytes())
    found = bake(baked.definition, baked.files, tmp_path, key, precision="auto", max_error=0.5).manifest
    figures = [(one.parked_ms, one.cold_ms, one.warm_ms) for one in found.engines.values()]
    assert (4, True) == (len(figures), all(ms > 1e-6 for row in figures for ms in row))
    assert not any("9x9" in record.shapes for record in found.engines.values())
    assert baked.manifest.artefacts == found.artefacts


@pytest.mark.parametrize("label", ["eager", "onnxruntime", "onnxruntime-unpacked", "onnxruntime-int8"])
def test_each_engine_passes_its_check(baked: Baked, label: str) -> None:
    restored = restore(baked.definition, baked.files, baked.plan(label))
    restored.engine.open(1)
    assert check(restored).recorded


def test_an_initialiser_that_nobody_binds_is_an_error_and_not_noise(baked: Baked) -> None:
    record = dataclasses.replace(baked.manifest.engines["onnxruntime"], constants={})
    manifest = dataclasses.replace(baked.manifest, engines={"onnxruntime": record})
    restored = restore(baked.definition, baked.files, Plan("onnxruntime", baked.staging, manifest.to_bytes()))
    with pytest.raises(EngineUnavailable, match="onnxruntime cannot load"):
        restored.engine.open(1)


def test_another_onnxruntime_is_another_machine(baked: Baked) -> None:
    record = dataclasses.replace(baked.manifest.engines["onnxruntime"], options={"onnxruntime": "1.2.3"})
    manifest = dataclasses.replace(baked.manifest, engines={"onnxruntime": record})
    with pytest.raises(FingerprintMismatch, match=r"made by onnxruntime 1\.2\.3, here is"):
        restore(baked.definition, baked.files, Plan("onnxruntime", baked.staging, manifest.to_bytes()))
    assert "made by onnxruntime 1.2.3, here is" in table.outdated(record)
    assert {""} == {table.outdated(one) for one in baked.manifest.engines.values()}
    assert "" == table.outdated(EngineRecord(engine="onnxruntime", refused="never made"))


def test_outputs_that_are_not_numbers_make_no_snapshot(tmp_path: Path) -> None:
    files = {"m.onnx": layer(tmp_path / "m.onnx", operator="Log")}
    with pytest.raises(CheckFailed, match=r"its own output on the example is unusable: output 0: .* not finite"):
        bake(OnnxDefinition("m", "m.onnx", example), files, tmp_path, engine="onnxruntime")


def test_an_operator_that_nobody_knows_is_the_authors_error(tmp_path: Path) -> None:
    path = layer(tmp_path / "m.onnx", operator="Wobble")
    authored = onnx_model(source=f"file://{path}")
    with pytest.raises(OnnxInvalid, match="Wobble"):
        authored(x=numpy.ones((1, WIDTH), "float32"))


def test_providers_are_those_that_are_here_in_the_order_of_preference() -> None:
    here = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    assert here == session.available(session.CUDA, here)
    assert ["CPUExecutionProvider"] == session.available(session.CUDA, ["CPUExecutionProvider"])
    assert ["CPUExecutionProvider"] == session.available(["Other"], ["CPUExecutionProvider"])


def test_a_graph_that_a_bake_has_made_and_that_fails_leaves_the_call_to_the_file_as_it_is(tmp_path: Path) -> None:
    halves = numpy_helper.from_array(numpy.array([2, -1]), "halves")
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, "m"])
    node = helper.make_node("Reshape", ["x", "halves"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [halves])
    path = tmp_path / "m.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    odd, flat = numpy.ones(3, "float32"), numpy.ones((1, 1), "float32")
    made = session.Session(path, {}, threads=1)
    with pytest.raises(EngineFailed, match=r"onnxruntime: .*Reshape"):
        made.run({"x": odd})
    with pytest.raises(ValueError, match=r"onnxruntime: .*Invalid rank"):
        made.run({"x": flat})
    with pytest.raises(ValueError, match=r"onnxruntime: .*Reshape"):
        session.Session(path, {}, threads=1, optimised=False).run({"x": odd})


def test_its_function_needs_no_torch_by_what_the_source_holds() -> None:
    def spec(*names: str) -> ModelSpec:
        return ModelSpec("", "s3://x", files=tuple(SourceFile(name, 1, "0" * 64) for name in names))

    assert spec("m.onnx", "labels.txt").is_onnx
    assert not spec("m.onnx", "m.safetensors").is_onnx
    assert not spec("config.json").is_onnx
    assert not ModelSpec("", "s3://x").is_onnx  # not resolved yet


@pytest.mark.parametrize("author", ["", "import numpy"])
def test_neither_a_worker_nor_its_baker_imports_torch(baked: Baked, tmp_path: Path, author: str) -> None:
    """In a process of its own: bind, a fork, the check, a call; and what a bake imports."""
    record = baked.manifest.engines["onnxruntime"]  # as a baker writes it, whose process has not imported it before
    record = dataclasses.replace(record, options={**record.options, session.FORKABLE: True})
    manifest = dataclasses.replace(baked.manifest, engines={"onnxruntime": record})
    (tmp_path / "manifest").write_bytes(manifest.to_bytes())
    program = f"""
import os, sys
{author}
from pathlib import Path
from glowplug.runtime.worker import bake, measuring, models
import glowplug.snapshot.onnx.bake, glowplug.snapshot.onnx.measure
models.declare([{{"name": "", "source": "file:///x", "files": {{"layer.onnx": {str(baked.files["layer.onnx"])!r}}}}}])
from glowplug.handlers import onnx_model
layer = onnx_model("layer.onnx")
plan = dict(name="", engine="onnxruntime", snapshot={str(baked.staging)!r})
models.bind([plan | dict(manifest=Path({str(tmp_path / "manifest")!r}).read_bytes())])
assert {bool(author)} == ("numpy" in sys.modules) == ("onnxruntime" in sys.modules)
assert 1 == len(os.listdir("/proc/self/task"))
child = os.fork()
if child == 0:
    checked = models.check(2)
    y, s = layer(x=[[1.0] * {WIDTH}])
    print(layer.engine, checked.recorded, s[0, 0], "torch" in sys.modules, "onnx" in sys.modules, flush=True)
    os._exit(0)
os.waitpid(child, 0)
"""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=False)
    assert ("", "onnxruntime True 2.0 False False\n") == (ran.stderr, ran.stdout)
