"""What a bake makes, what it makes again, and how it fails."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glowplug.snapshot.checkpoint import Origin
from glowplug.snapshot.choice import Wanted

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


# --- what a bake makes ------------------------------------------------------------------------------------------------


def test_a_bake_stages_a_snapshot_without_the_sources_bytes(decoder: Any) -> None:
    manifest = decoder.baked.manifest
    assert {"manifest.json", *manifest.artefacts} == {path.name for path in decoder.baked.staging.iterdir()}
    made = {"model.so", "onnxruntime.onnx", "onnxruntime.safetensors", "bound-at-open"}
    assert {*made, "extra.safetensors", "check.safetensors"} == set(manifest.artefacts)
    held = sum(path.stat().st_size for path in decoder.files.values())
    stored = sum(manifest.artefacts[name].size for name in manifest.artefacts if name.endswith(".safetensors"))
    assert stored < held, "what the checkpoint holds is not stored again"
    assert decoder.baked.last["key"] == manifest.key
    assert not decoder.baked.last["reused"]
    assert manifest.verdict == decoder.baked.last["verdict"]


def test_progress_comes_in_order(decoder: Any) -> None:
    phases = [event["phase"] for event in decoder.baked.events if event["event"] == "progress"]
    making = ["compile eager", "compile aot_inductor", "compile onnxruntime"]
    measuring = ["measure eager", "measure aot_inductor", "measure onnxruntime", "measure onnxruntime-unpacked"]
    assert ["import", "export", *making, *measuring, "check"] == list(dict.fromkeys(phases))
    fractions = [event["fraction"] for event in decoder.baked.events if event["event"] == "progress"]
    assert sorted(fractions) == fractions


def test_only_what_no_file_holds_is_stored_and_ties_are_aliases(decoder: Any) -> None:
    stored = load_file(decoder.snapshot / "extra.safetensors")
    rotary = {f"blocks.{number}.rotary.frequencies" for number in range(2)}
    assert rotary | {"embed.weight"} == set(stored) & (rotary | {"embed.weight"})
    assert torch.float32 is stored["embed.weight"].dtype, "converted once, at bake, and shared from then on"
    assert "bias" not in stored
    assert {"head.weight": "embed.weight"} == decoder.baked.manifest.aliases


def test_every_engine_constant_has_one_origin(decoder: Any) -> None:
    record = decoder.baked.manifest.engines["aot_inductor"]
    source, stored = load_file(decoder.files["model.safetensors"]), load_file(decoder.snapshot / "extra.safetensors")
    held = {"source": source, "snapshot": stored}
    for origin in record.constants.values():
        assert origin.tensor in held[origin.place]
    assert Origin("source", "model.safetensors", "model.bias") in record.constants.values()


def test_both_engines_were_measured_and_agree(decoder: Any) -> None:
    for label in ("eager", "aot_inductor"):
        record = decoder.baked.manifest.engines[label]
        assert "" == record.refused
        assert record.cold_ms
        assert record.warm_ms
        assert record.worst_error < 1e-4


# --- what is baked again, and what is not -----------------------------------------------------------------------------


def test_an_edited_handler_is_not_compiled_again(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    load = decoder.changed(tmp_path, '["choice"].tolist()', '["choice"][0].tolist()')
    again = bakery.bake(tmp_path, load, published=decoder.published)
    assert (True, decoder.baked.manifest.key) == (again.last["reused"], again.last["key"]), again.log
    assert decoder.baked.last["verdict"] == again.last["verdict"]
    assert [] == list(again.staging.iterdir())


def test_a_finished_snapshot_is_measured_again_without_compiling(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    """A verdict that was drawn on a busy machine need not stay for ever."""
    before = {path.name: path.read_bytes() for path in decoder.snapshot.iterdir()}
    key = decoder.baked.manifest.key
    again = bakery.bake(tmp_path, decoder.load, published=decoder.published, again=key)
    assert ("done", True, key) == (again.last["event"], again.last["reused"], again.last["key"]), again.log
    phases = [event["phase"] for event in again.events if event["event"] == "progress"]
    measured = [f"measure {label}" for label in ("eager", "aot_inductor", "onnxruntime", "onnxruntime-unpacked")]
    assert {"import", "export", *measured} == set(phases)
    for name, found in again.last["measured"].items():
        once = decoder.baked.last["measured"][name]
        assert (once["refused"], True) == (found["refused"], found["worst_error"] < 1e-4)
        assert once["refused"] or once["cold_ms"] != found["cold_ms"]
    assert before == {path.name: path.read_bytes() for path in decoder.snapshot.iterdir()}


def test_only_the_snapshot_that_was_verified_is_loaded_to_be_measured(
    bakery: Any, decoder: Any, tmp_path: Path
) -> None:
    again = bakery.bake(tmp_path, decoder.load, published=decoder.published, again="00" * 32)
    assert decoder.baked.last["measured"] == again.last["measured"], again.log


def test_a_module_with_its_own_msgpack_is_baked_with_that(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    load = decoder.changed(tmp_path, "import torch\n", "import torch\nimport msgpack\nassert msgpack.mine\n")
    (tmp_path / "code" / "msgpack.py").write_text("mine = True\n")
    baked = bakery.bake(tmp_path, load, published=decoder.published)
    assert ("done", True) == (baked.last["event"], baked.last["reused"]), baked.log


def test_a_module_with_its_own_torch_is_not_baked(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    """Its workers could not load an engine of the node's."""
    load = decoder.changed(tmp_path, "import torch\n", "import torch\n")
    (tmp_path / "code" / "torch").mkdir()
    (tmp_path / "code" / "torch" / "__init__.py").write_text("")
    failed = bakery.bake(tmp_path, load, published=decoder.published)
    assert "EngineUnavailable" == failed.last["error_type"], failed.log
    assert "its own torch" in failed.last["message"]


def test_a_changed_model_has_another_key(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    load = decoder.changed(tmp_path, "THETA = 10000.0", "THETA = 500.0")
    other = bakery.bake(tmp_path, load, wanted=Wanted("eager"), published=decoder.published)
    assert "done" == other.last["event"], other.log
    assert other.manifest.graph != decoder.baked.manifest.graph  # an equal one: the test of the edited handler
    assert other.manifest.key != decoder.baked.manifest.key


# --- bakes that fail --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "after", "error", "message"),
    [
        (
            "states = self.embed(ids)",
            "states = self.embed(ids) * (2 if ids.sum() > 3 else 1)",
            "ExportFailed",
            "at decoder.py:",
        ),
        ("@decoder.example\n", "", "ExampleInvalid", "model decoder: no example"),
        ("return Decoder()", "return Decoder", "BuildFailed", "returned type, not an nn.Module"),
        ("/ temperature", "/ (temperature - 1)", "CheckFailed", "eager's own output on the example is unusable"),
        ("return None if", "return key if", "WeightsMismatch", "not in the module: model.position_ids"),
        ("import torch\n", "import torch, nowhere\n", "ImportModuleError", "No module named 'nowhere'"),
    ],
)
def test_a_model_that_cannot_be_baked_says_why(
    bakery: Any, decoder: Any, tmp_path: Path, before: str, after: str, error: str, message: str
) -> None:
    failed = bakery.bake(tmp_path, decoder.changed(tmp_path, before, after), published=decoder.published)
    assert ("failed", error, 1) == (failed.last["event"], failed.last["error_type"], failed.status), failed.log
    assert message in failed.last["message"]
    assert not (failed.staging / "manifest.json").exists()


def test_without_a_compiler_the_bake_says_so_and_goes_on_without(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    baked = bakery.bake(tmp_path, decoder.load, published=tmp_path / "none", path="/nonexistent")
    assert "done" == baked.last["event"], baked.log
    assert baked.last["verdict"] in ("eager", "onnxruntime", "onnxruntime-unpacked")
    assert "no C++ compiler" in baked.last["measured"]["aot_inductor"]["refused"]
    assert baked.manifest.key != decoder.baked.manifest.key, "with a compiler it is baked again"


def test_nan_in_the_weights_is_found_before_anything_is_compiled(bakery: Any, decoder: Any, tmp_path: Path) -> None:
    tensors = load_file(decoder.files["model.safetensors"])
    tensors["model.bias"][3] = float("nan")
    files = {"model.safetensors": tmp_path / "model.safetensors"}
    save_file(tensors, files["model.safetensors"])
    failed = bakery.bake(
        tmp_path / "bake", bakery.load_of(decoder.task_root, "decoder.handler", files), published=tmp_path / "none"
    )
    assert "CheckFailed" == failed.last["error_type"], failed.log
    assert "(NaN)" in failed.last["message"]
    assert "compile" not in [event.get("phase") for event in failed.events]
