"""Calls that were served and are made again: what a process counts, samples, and finds out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from glowplug.handlers import model
from glowplug.runtime.worker import models
from glowplug.runtime.worker.calls import Calls, drawn
from glowplug.runtime.worker.model import Model
from glowplug.snapshot import verify
from glowplug.snapshot.errors import InputUnsupported
from glowplug.snapshot.manifest import EngineRecord
from glowplug.snapshot.onnx import outputs
from glowplug.snapshot.recheck import recheck, sample
from glowplug.snapshot.restore import Restored
from glowplug.snapshot.tolerance import Tolerance

CLOSE = Tolerance(1e-4, 1e-4)


# --- counting ---------------------------------------------------------------------------------------------------------


def test_the_first_call_of_an_instance_is_counted_apart_with_what_opening_took() -> None:
    calls = Calls()
    calls.answer(9.0)  # in a zygote, or for a check
    calls.begin()
    calls.opened_s = 0.5
    for took_s in (0.25, 0.010, 0.030):
        calls.answer(took_s)
    calls.failed += 1
    row = calls.take("m", "fast")
    assert row is not None
    assert ["m", "fast", 3, pytest.approx(40.0), 750.0, 1] == row
    assert calls.take("m", "fast") is None
    calls.answer(0.020)
    assert ["m", "fast", 1, 20.0, -1.0, 0] == calls.take("m", "fast")


def test_the_share_is_that_of_the_calls() -> None:
    assert 0 == sum(drawn(0.0) for _ in range(1000))
    assert 1000 == sum(drawn(1.0) for _ in range(1000))
    assert 300 < sum(drawn(0.5) for _ in range(1000)) < 700  # 12 standard deviations


# --- comparing --------------------------------------------------------------------------------------------------------


def test_a_sample_is_a_copy_whatever_the_handler_does_with_its_tensors() -> None:
    given, answered = torch.ones(2), {"scores": (torch.ones(2), "text")}
    taken = sample((given,), {"scale": 2}, answered, verify)
    given.zero_()
    answered["scores"][0].zero_()
    assert ([1.0, 1.0], 2) == (taken.args[0].tolist(), taken.kwargs["scale"])
    assert ([1.0, 1.0], "text") == (taken.outputs["scores"][0].tolist(), taken.outputs["scores"][1])


def verdict_of(outputs: Any, *eager: Any) -> tuple[str, float, str]:
    answers = iter(eager)

    def plain(args: Any, kwargs: Any) -> Any:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    found = recheck(sample((torch.ones(1),), {}, outputs, verify), plain, CLOSE, verify)
    return found.verdict, round(found.worst_error, 6), found.problem


ONE, HALF, NAN = torch.tensor([1.0]), torch.tensor([0.5]), torch.tensor([float("nan")])


@pytest.mark.parametrize(
    ("outputs", "eager", "expected"),
    [
        (ONE, [ONE], ("right", 0.0, "")),
        (ONE, [ONE + 1e-5], ("right", 0.00001, "")),
        (ONE, [HALF, HALF], ("wrong", 0.5, "output 0: value 0 is 1, recorded 0.5, off by more than 0.0001")),
        (torch.ones(2), [HALF, HALF], ("wrong", 0.0, "output 0: torch.float32 (2,), recorded torch.float32 (1,)")),
        (NAN, [ONE, ONE], ("wrong", 0.0, "output 0: 1 of 1 values are not finite (NaN)")),
        (NAN, [NAN], ("unknown", 0.0, "eager: output 0: 1 of 1 values are not finite (NaN)")),
        (ONE, [HALF, ONE * 0.7], ("unknown", 0.0, "the model is not deterministic: eager itself says something else twice")),
        (ONE, [MemoryError("no room")], ("unknown", 0.0, "eager raised MemoryError: no room")),
    ],
)  # fmt: skip
def test_verdicts(outputs: Any, eager: list[Any], expected: tuple[str, float, str]) -> None:
    assert expected == verdict_of(outputs, *eager)


# --- in a process -----------------------------------------------------------------------------------------------------


class Shifted:
    """An engine that is eager, off by ``shift``; inputs of more than two rows are not for it."""

    def __init__(self, plain: Restored, shift: float) -> None:
        self.plain = plain
        self.shift = shift

    def run(self, args: Any, kwargs: Any) -> Any:
        if args and len(args[0]) > 2:
            raise InputUnsupported("rows")
        return self.plain.engine.run(args, kwargs) + self.shift


@pytest.fixture
def weights(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "model.safetensors"
    save_file({"weight": torch.tensor([[1.0, 2.0]]), "bias": torch.tensor([0.5])}, path)
    yield path
    models.declare([])


def served_by(path: Path, shift: float, *, verify: float = 1.0) -> Model:
    """Return the only model of this process, served by an engine that has passed its check."""
    files = {"model.safetensors": str(path)}
    models.declare([{"name": "", "source": "package://x", "files": files, "verify": verify}])

    def linear(files: Any) -> nn.Module:
        return nn.Linear(2, 1)

    model(linear)
    authored = models.find("")
    authored.bind()
    plain = authored._restored
    assert plain is not None
    record = EngineRecord(engine="shifted", absolute=1e-4, relative=1e-4)
    manifest: Any = type("M", (), {"engines": {"shifted": record}})()
    authored._restored = replace(plain, label="shifted", engine=Shifted(plain, shift), manifest=manifest)  # type: ignore[arg-type]
    authored._opened = True
    models.begin()
    return authored


def test_warm_calls_are_sampled_and_the_first_is_not(weights: Path) -> None:
    authored = served_by(weights, 1.0)
    authored(torch.ones(1, 2))
    rows, checking = models.taken()
    assert ([["", "shifted", 1]], False) == ([row[:3] for row in rows], checking)
    for _ in range(3):
        authored(torch.ones(1, 2))
    rows, checking = models.taken()
    assert ([["", "shifted", 3]], True) == ([row[:3] for row in rows], checking)
    assert ([], True) == models.taken(), "it waits until somebody makes the check"
    ((name, engine, verdict, worst, problem),) = models.verify()
    assert ("", "shifted", "wrong", 1.0) == (name, engine, verdict, worst)
    assert "value 0 is 4.5, recorded 3.5" in problem
    assert ([], False) == models.taken()


def test_an_engine_that_is_right_goes_on_being_looked_at(weights: Path) -> None:
    authored = served_by(weights, 0.0)
    authored(torch.ones(1, 2))
    for _ in range(2):
        authored(torch.ones(1, 2))
        assert ["right"] == [row[2] for row in models.verify()]


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_nothing_is_copied_where_nobody_asked_or_eager_serves(weights: Path, rate: float) -> None:
    authored = served_by(weights, 1.0, verify=rate)
    if rate:
        authored.bind()
        models.begin()
    for _ in range(3):
        authored(torch.ones(1, 2))
    assert not models.taken()[1]


def test_a_call_that_cannot_be_copied_is_answered_all_the_same(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    authored = served_by(weights, 1.0)

    def refuse(self: Any) -> Any:
        raise MemoryError("no room")

    monkeypatch.setattr(torch.Tensor, "clone", refuse)
    for _ in range(3):
        assert [[4.5]] == authored(torch.ones(1, 2)).tolist()
    assert not models.taken()[1]
    assert 1 == capfd.readouterr().err.count("calls are not verified: a call cannot be copied: MemoryError: no room")


def test_a_model_that_wavers_is_not_verified_again_in_this_process(
    weights: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    authored = served_by(weights, 1.0)
    authored(torch.ones(1, 2))
    authored(torch.ones(1, 2))
    plain = authored._bind_plain()
    monkeypatch.setattr(plain.engine, "run", lambda args, kwargs: torch.rand(1, 1))
    assert ["unknown"] == [row[2] for row in models.verify()]
    assert "calls are not verified: the model is not deterministic" in capfd.readouterr().err
    authored(torch.ones(1, 2))
    assert not models.taken()[1]


def test_a_call_that_eager_answered_for_the_engine_is_neither_counted_nor_sampled(weights: Path) -> None:
    authored = served_by(weights, 1.0)
    assert [[3.5]] * 3 == authored(torch.ones(3, 2)).tolist()
    assert ([], False) == models.taken()


def test_a_call_that_raises_is_counted_as_failed(weights: Path) -> None:
    authored = served_by(weights, 1.0)
    with pytest.raises(RuntimeError):
        authored(torch.ones(1, 3))
    ((_, _, answered, _, first_ms, failed),) = models.taken()[0]
    assert (0, -1.0, 1) == (answered, first_ms, failed)


# --- a model that is an ONNX file -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("eager", "verdict", "worst_error"),
    [([[1.0, 2.0]] * 2, "right", 0.0), ([[1.0, 2.5]] * 2, "wrong", 0.5), ([[1.0, 2.5], [1.0, 2.0]], "unknown", 0.0)],
)
def test_arrays_are_judged_alike(eager: list[list[float]], verdict: str, worst_error: float) -> None:
    answers = iter(numpy.array(values, "float32") for values in eager)
    served = sample((), {"x": numpy.zeros(2)}, (numpy.array([1.0, 2.0], "float32"),), outputs)
    found = recheck(served, lambda args, kwargs: (next(answers),), CLOSE, outputs)
    assert (verdict, worst_error) == (found.verdict, round(found.worst_error, 6))
