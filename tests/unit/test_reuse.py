"""Which finished snapshot stands in for a bake."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.snapshot import reuse
from glowplug.snapshot.engines.eager import Eager
from glowplug.snapshot.engines.table import obstacle
from glowplug.snapshot.manifest import EngineRecord, Manifest

BOTH = {"eager": EngineRecord(), "aot_inductor": EngineRecord(engine="aot_inductor", artefact="model.so")}
ONLY_EAGER = {"eager": EngineRecord(), "aot_inductor": EngineRecord(engine="aot_inductor", refused="no compiler")}
HERE = {"torch": "2.13"}


def publish(root: Path, key: str, engines: dict[str, EngineRecord], **changed: Any) -> str:
    fields: dict[str, Any] = {
        "source": "s", "graph": "g", "fingerprint": HERE, "signature": {"inputs": []}, "computed": {}, "aliases": {},
        "verdict": "eager", "reason": "", "check": {}, "artefacts": {},
    }  # fmt: skip
    (root / key).mkdir(parents=True)
    manifest = Manifest(key=key, engines=engines, **(fields | changed))
    (root / key / "manifest.json").write_bytes(manifest.to_bytes())
    return key


def found(
    root: Path,
    key: str = "k0",
    labels: tuple[str, ...] = ("eager",),
    again: str = "",
    batch_sizes: tuple[int, ...] = (),
    device: str = "cpu",
    **versions: str,
) -> str | None:
    options = {"candidates": labels, "batch_sizes": batch_sizes, "versions": versions, "device": device}
    manifest = reuse.find(root, key, options, source="s", graph="g", signature={"inputs": []}, here=HERE, again=again)
    return None if manifest is None else manifest.key


def test_a_snapshot_with_all_that_is_wanted_stands_in_under_whatever_key(tmp_path: Path) -> None:
    assert found(tmp_path / "none") is None
    publish(tmp_path, "other", BOTH)
    assert "other" == found(tmp_path) == found(tmp_path, labels=("eager", "aot_inductor"))
    assert found(tmp_path, labels=("eager", "aot_inductor", "onnxruntime")) is None
    publish(tmp_path, "k0", BOTH)
    assert ("k0", "other") == (found(tmp_path), found(tmp_path, again="other"))


def test_what_could_not_be_made_elsewhere_is_made_here(tmp_path: Path) -> None:
    publish(tmp_path, "other", ONLY_EAGER)
    assert ("other", None) == (found(tmp_path), found(tmp_path, labels=("eager", "aot_inductor")))


def test_a_batch_size_that_was_not_measured_is_only_lacking_where_more_is_gained(tmp_path: Path) -> None:
    both = ("eager", "aot_inductor")
    publish(tmp_path, "other", BOTH)
    assert (None, "other") == (found(tmp_path, labels=both, batch_sizes=(8,)), found(tmp_path, batch_sizes=(8,)))
    publish(tmp_path, "measured", BOTH | {"eager": EngineRecord(batches={"1": 2.0, "8": 9.0})})
    assert "measured" == found(tmp_path, labels=both, batch_sizes=(8,))
    assert found(tmp_path, labels=both, batch_sizes=(8, 16)) is None


def test_a_bake_without_a_compiler_does_not_stand_in_the_way_of_a_snapshot_that_was_brought(tmp_path: Path) -> None:
    publish(tmp_path, "k0", ONLY_EAGER)
    publish(tmp_path, "brought", BOTH)
    assert "brought" == found(tmp_path)


@pytest.mark.parametrize(
    "changed", [{"source": "t"}, {"graph": "h"}, {"signature": {"inputs": [1]}}, {"fingerprint": {"torch": "2.12"}}]
)
def test_another_model_or_machine_does_not(tmp_path: Path, changed: dict[str, Any]) -> None:
    """The same weights in another graph give other answers, and its own check would not notice."""
    publish(tmp_path, "other", BOTH, **changed)
    assert found(tmp_path) is None


def test_figures_of_another_device_say_nothing_here(tmp_path: Path) -> None:
    publish(tmp_path, "gpu", BOTH, options={"device": "cuda:0"})
    assert found(tmp_path) is None
    assert "gpu" == found(tmp_path, device="cuda:0")
    publish(tmp_path, "cpu", BOTH)
    assert ("cpu", "gpu") == (found(tmp_path), found(tmp_path, device="cuda:0"))


def test_what_is_hidden_or_no_manifest_is_passed_over(tmp_path: Path) -> None:
    publish(tmp_path, ".retired-k0", BOTH)
    publish(tmp_path, "broken", BOTH)
    (tmp_path / "broken" / "manifest.json").write_text("{}")
    (tmp_path / "assigned").mkdir()
    assert found(tmp_path) is None
    assert set() == reuse.sources(tmp_path)
    publish(tmp_path, "k1", BOTH)
    assert {"s"} == reuse.sources(tmp_path)


def test_engines_that_cannot_run_here_are_refused_here(monkeypatch: pytest.MonkeyPatch) -> None:
    engines = {**ONLY_EAGER, "abacus": EngineRecord(engine="abacus", artefact="beads")}
    refused = {label: record.refused for label, record in reuse.usable(engines, obstacle).items()}
    assert ("", "no compiler") == (refused["eager"], refused["aot_inductor"])
    assert "no engine 'abacus'" in refused["abacus"]
    monkeypatch.setattr(Eager, "obstacle", staticmethod(lambda making=False: "not here"))
    assert "not here" == reuse.usable({"eager": BOTH["eager"]}, obstacle)["eager"].refused


def test_an_engine_that_ran_in_another_version_is_made_anew(tmp_path: Path) -> None:
    publish(tmp_path, "other", BOTH, options={"versions": {"onnxruntime": "1.20"}})
    assert ("other", "other") == (found(tmp_path), found(tmp_path, onnxruntime="1.20"))
    assert (None, None) == (found(tmp_path, onnxruntime="1.21"), found(tmp_path, tensorrt="10"))
