"""Whether a snapshot fits: this machine, these weights, and the runtime that its engine needs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.snapshotfit import unusable_here
from glowplug.runtime.spec import ModelSpec, SourceFile
from glowplug.snapshot import fingerprint
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.store import VerifiedSnapshot

MODEL = ModelSpec("", "package://m", files=(SourceFile("model.safetensors", 4, "a" * 64),))
OLD = EngineRecord(engine="onnxruntime", artefact="onnxruntime.onnx", options={"onnxruntime": "1.0.0"})


def snapshot(**changes: Any) -> VerifiedSnapshot:
    manifest = Manifest(
        key="k" * 64, source=MODEL.source_digest, graph="g", fingerprint=fingerprint.current().to_json(), signature={},
        computed={}, aliases={}, engines={"eager": EngineRecord(), "onnxruntime": OLD}, verdict="eager", reason="",
        check={}, artefacts={}, options={},
    )  # fmt: skip
    return VerifiedSnapshot("k" * 64, Path("/"), dataclasses.replace(manifest, **changes).to_bytes())


def test_one_of_this_machine_and_these_weights_fits() -> None:
    assert "" == unusable_here(snapshot(), MODEL)
    assert "" == unusable_here(snapshot(), MODEL, "eager")


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"source": "b" * 64}, "it was baked from weights bbbbbbbbbbbb, this revision pins"),
        (
            {"fingerprint": {**fingerprint.current().to_json(), "torch": "1.0"}},
            "it was baked elsewhere: torch 1.0, here",
        ),
    ],
)
def test_one_of_other_weights_or_another_machine_says_which(changes: dict[str, Any], reason: str) -> None:
    assert reason in unusable_here(snapshot(**changes), MODEL, "eager")


def test_an_engine_made_with_another_onnx_runtime_is_found_before_a_start_loads_it() -> None:
    assert "1.0.0" in unusable_here(snapshot(), MODEL, "onnxruntime")
