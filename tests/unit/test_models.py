"""The models of a process: which declared one a decorator means, binding, checking, and life without a node."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glowplug.handlers import Example, model
from glowplug.runtime.worker import models
from glowplug.runtime.worker.sources import SOURCE_VARIABLE
from glowplug.snapshot.errors import (
    CheckFailed,
    EngineFailed,
    EngineUnavailable,
    ExampleInvalid,
    InputUnsupported,
    ModelUnknown,
    SnapshotError,
)

EAGER = {"engine": "eager", "snapshot": "", "manifest": b""}


@pytest.fixture(autouse=True)
def _nothing_declared(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.delenv(SOURCE_VARIABLE, raising=False)
    threads = torch.get_num_threads()
    models.declare([])
    yield
    models.declare([])
    torch.set_num_threads(threads)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([0.5])}, path)
    return path


def declared(path: Path, *names: str) -> list[dict[str, Any]]:
    return [{"name": name, "source": "package://x", "files": {"model.safetensors": str(path)}} for name in names]


def linear(files: Any) -> nn.Module:
    return nn.Linear(2, 1)


def test_the_only_model_needs_no_name(weights: Path) -> None:
    models.declare(declared(weights, ""))
    authored = model(linear)
    assert [""] == models.registered()
    assert {"model.safetensors": weights} == dict(authored.files)


def test_of_several_models_the_name_decides(weights: Path, tmp_path: Path) -> None:
    models.declare(declared(weights, "first", "linear"))
    model("first")(linear)
    model(linear)
    assert ["first", "linear"] == models.registered()


def test_a_model_that_the_template_does_not_have_is_refused(weights: Path) -> None:
    models.declare(declared(weights, "encoder"))
    with pytest.raises(ModelUnknown, match="declares a model 'encoder'; the code has a model 'decoder'"):
        model("decoder")(linear)


def test_two_builders_for_one_model_are_refused(weights: Path) -> None:
    models.declare(declared(weights, ""))
    model("")(linear)
    with pytest.raises(ModelUnknown, match="the code has a model 'other'"):
        model(lambda_named("other"))


def lambda_named(name: str) -> Any:
    def build(files: Any) -> nn.Module:
        return nn.Linear(2, 1)

    build.__name__ = build.__qualname__ = name
    return build


def test_a_declared_model_without_a_decorator_is_refused_at_bind(weights: Path) -> None:
    models.declare(declared(weights, ""))
    with pytest.raises(
        ModelUnknown,
        match=re.escape("declares a model (Metadata.Glowplug.Model); the handler has none (@model is missing?)"),
    ):
        models.bind([{"name": "", **EAGER}])


def test_bind_gives_an_engine_and_counts_shared_bytes(weights: Path) -> None:
    models.declare(declared(weights, ""))
    authored = model(linear)
    assert "" == authored.engine
    report = models.bind([{"name": "", **EAGER}])
    assert models.BindReport({"": "eager"}, 12) == report
    assert [[3.5]] == authored(torch.ones(1, 2)).tolist()
    assert [[3.5]] == authored(input=torch.ones(1, 2)).tolist()


def test_a_model_called_while_importing_binds_itself(weights: Path) -> None:
    models.declare(declared(weights, ""))
    assert [[3.5]] == model(linear)(torch.ones(1, 2)).tolist()


def test_bind_leaves_one_thread(weights: Path) -> None:
    models.declare(declared(weights, ""))
    model(linear)
    torch.set_num_threads(2)
    models.bind([{"name": "", **EAGER}])
    assert 1 == torch.get_num_threads()


def test_bind_to_an_engine_without_a_snapshot_is_refused(weights: Path) -> None:
    models.declare(declared(weights, ""))
    model(linear)
    with pytest.raises(EngineUnavailable, match="model linear: the snapshot has no aot_inductor engine"):
        models.bind([{"name": "", **EAGER, "engine": "aot_inductor"}])


def test_check_runs_the_example(weights: Path) -> None:
    models.declare(declared(weights, ""))
    authored = model(linear)
    seen: list[int] = []

    @authored.example
    def _example() -> Example:
        seen.append(torch.get_num_threads())
        return Example(args=(torch.ones(1, 2),))

    models.bind([{"name": "", **EAGER}])
    assert models.CheckReport(0.0, recorded=False) == models.check(2)
    assert [2] == seen


def test_nan_in_the_warm_up_is_said_with_model_and_engine(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.tensor([[1.0, float("nan")]]), "bias": torch.zeros(1)}, path)
    models.declare(declared(path, ""))
    authored = model(linear)
    authored.example(lambda: Example(args=(torch.ones(1, 2),)))
    models.bind([{"name": "", **EAGER}])
    with pytest.raises(
        CheckFailed, match=r"model linear, eager engine: output 0: 1 of 1 values are not finite \(NaN\)"
    ):
        models.check(1)


def test_an_example_that_the_model_cannot_take_is_the_authors(weights: Path) -> None:
    models.declare(declared(weights, ""))
    authored = model(linear)
    authored.example(lambda: Example(args=(torch.ones(1, 3),)))
    models.bind([{"name": "", **EAGER}])
    with pytest.raises(ExampleInvalid, match="model linear: eager raised on its example: RuntimeError"):
        models.check(1)


def test_nothing_registered_is_nothing_to_do() -> None:
    assert models.BindReport({}, 0) == models.bind([])
    assert models.CheckReport(0.0, recorded=False) == models.check(1)


def test_without_a_node_the_source_is_the_codes(weights: Path) -> None:
    authored = model(source=f"file://{weights}")(linear)
    assert {"model.safetensors": weights} == dict(authored.files)
    assert [[3.5]] == authored(torch.ones(1, 2)).tolist()


def test_without_a_node_the_variable_gives_a_source(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SOURCE_VARIABLE, f"file://{weights.parent}")
    assert [[3.5]] == model(linear)(torch.ones(1, 2)).tolist()


def test_without_any_source_the_message_says_where_to_put_one() -> None:
    authored = model(linear)
    with pytest.raises(ModelUnknown, match=r"model linear has no source: .*Metadata.Glowplug.Model.*@model\(source="):
        authored(torch.ones(1, 2))


def test_a_bound_model_cannot_be_described_any_more(weights: Path) -> None:
    authored = model(source=f"file://{weights}")(linear)
    authored(torch.ones(1, 2))
    with pytest.raises(SnapshotError, match="model linear is bound already"):
        authored.weights(lambda key: key)


def test_calls_that_the_engine_refuses_or_fails_at_run_eagerly(
    weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    authored = model(source=f"file://{weights}")(linear)
    authored(torch.ones(1, 2))
    bound = models.find("linear")
    assert bound._restored is not None
    refusal = InputUnsupported("input: dimension 0 is 3; the engine needs 1")

    def refuse(args: Any, kwargs: Any) -> None:
        raise refusal

    bound._restored.engine.run = refuse  # type: ignore[method-assign]
    assert [[3.5]] * 3 == authored(torch.ones(3, 2)).tolist()
    authored(torch.ones(3, 2))
    assert f"glowplug: model linear: runs eagerly: {refusal}\n" == capsys.readouterr().err
    failure = EngineFailed("cuda:0: out of memory")

    def fail(args: Any, kwargs: Any) -> None:
        raise failure

    bound._restored.engine.run = fail  # type: ignore[method-assign]
    with pytest.raises(EngineFailed, match="out of memory"):
        authored(torch.ones(1, 2))  # eager itself: there is nothing behind it
    bound._restored = replace(bound._restored, label="fast")
    for _ in range(2):
        assert [[3.5]] == authored(torch.ones(1, 2)).tolist()
    assert f"glowplug: model linear: runs eagerly: {failure}\n" == capsys.readouterr().err
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        authored(torch.ones(1, 3))
    (row,) = models.taken()[0]
    assert ["linear", "fast", 1, 4] == [*row[:3], row[5]]
