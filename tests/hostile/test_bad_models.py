"""A bake-off with models and engines that go wrong: what is wrong never serves, and its record says why.

One program bakes them all, in a process of its own. Its engines are doubles that take no compiler: ``exported`` runs
torch's exported program as it is, the others do one thing wrong each.
"""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(240)]

PROGRAM = """
import dataclasses, json, os, sys, time, types, warnings
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from glowplug.snapshot.apart import Died, apart
from glowplug.snapshot.bake import Job, bake
from glowplug.snapshot.candidates import AUTO
from glowplug.snapshot.choice import Wanted
from glowplug.snapshot.definition import Example, ModelDefinition
from glowplug.snapshot.engines import table
from glowplug.snapshot.errors import CompileFailed, SnapshotError
from glowplug.snapshot.manifest import EngineRecord
from glowplug.snapshot.measure import Measurement, measure, prepare

warnings.simplefilter("ignore")
root = Path(sys.argv[1])
fakes = sys.modules["glowplug.snapshot.engines.fakes"] = types.ModuleType("fakes")


class Exported:
    fork_safe = True
    precisions = ("fp32",)

    @staticmethod
    def obstacle(*, making=False):
        return ""

    def export(self, program, staging, precision):
        torch.export.save(program.exported, staging / f"{self.name}.pt2")
        return {"": EngineRecord(artefact=f"{self.name}.pt2")}

    def load(self, given):
        self._module = torch.export.load(given.snapshot / given.record.artefact).module()

    def bind(self, tensors):
        return 0

    def open(self, threads):
        pass

    def run(self, args, kwargs):
        with torch.inference_mode():
            return self._module(*args, **kwargs)


class Lacking(Exported):
    def export(self, program, staging, precision):
        raise CompileFailed("there is no operator aten::hypot")


class Full(Exported):
    def export(self, program, staging, precision):
        with open("/dev/full", "wb", buffering=0) as disk:
            disk.write(b"an artefact")


class Crashing(Exported):
    def export(self, program, staging, precision):
        os.abort()


class Hanging(Exported):
    def export(self, program, staging, precision):
        time.sleep(60)


class CrashingLater(Exported):
    def load(self, given):
        os.abort()


class NotFinite(Exported):
    def run(self, args, kwargs):
        return super().run(args, kwargs) * torch.nan


class WrongElsewhere(Exported):
    def run(self, args, kwargs):
        answer = super().run(args, kwargs)
        return answer if answer.shape[0] == 2 else answer + 1


class WrongSometimes(Exported):
    def run(self, args, kwargs):
        return super().run(args, kwargs) + (torch.rand(()) < 0.5)


KINDS = (Exported, Lacking, Full, Crashing, Hanging, CrashingLater, NotFinite, WrongElsewhere, WrongSometimes)
for kind in KINDS:
    kind.name = kind.__name__.lower()
    setattr(fakes, kind.__name__, kind)


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(3))

    def forward(self, x):
        return x * self.weight


class Random(Plain):
    def forward(self, x):
        return x * self.weight + torch.rand(())


class Branching(Plain):
    def forward(self, x):
        return x * self.weight if x.sum() > 0 else x


class NanAlways(Plain):
    def forward(self, x):
        return (x * self.weight) / 0 * 0


class AnotherWhenExported(Plain):
    def forward(self, x):
        return x + 1 if torch.compiler.is_compiling() else x * self.weight


def baked(model, engines):
    table.ENGINES.clear()
    table.ENGINES.update({"eager": "eager:Eager"} | {kind.name: f"fakes:{kind.__name__}" for kind in engines})
    home = root / f"{model.__name__}-{len(engines)}"
    (home / "staging").mkdir(parents=True)
    files = {"model.safetensors": home / "model.safetensors"}
    save_file({"weight": torch.tensor([1.0, 2.0, 3.0])}, files["model.safetensors"])
    example = lambda: Example(args=(torch.ones(2, 3),), dynamic={"x": ("n", None)})
    definition = ModelDefinition("m", lambda given: model(), example=example)

    def measured(draft, label):
        def work():
            return dataclasses.asdict(measure(definition, files, home / "staging", draft, label, 1))

        try:
            return Measurement(**apart(work, seconds=60.0))
        except Died as error:
            return Measurement(refused=str(error))

    job = Job(definition, files, home / "staging", home / "published", Wanted(engine=AUTO), making_s=3.0)
    try:
        done = bake(job, progress=lambda phase, fraction: None, measure=measured)
    except SnapshotError as error:
        return {"error": f"{type(error).__name__}: {error}"}
    refused = {label: record.refused for label, record in done.manifest.engines.items()}
    return {"verdict": done.verdict, "reason": done.reason, "refused": refused}


prepare()
answers = {"all": baked(Plain, KINDS)}
for model in (Random, Branching, NanAlways, AnotherWhenExported):
    answers[model.__name__] = baked(model, (Exported,))
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def bakes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("bakes")
    command = [sys.executable, "-c", PROGRAM, str(root)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert 0 == done.returncode, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_an_engine_that_works_is_chosen_or_eager_is(bakes: dict[str, Any]) -> None:
    assert ("", "") == (bakes["all"]["refused"]["eager"], bakes["all"]["refused"]["exported"])
    assert bakes["all"]["verdict"] in ("eager", "exported")


@pytest.mark.parametrize(
    ("engine", "words"),
    [
        ("lacking", "no operator aten::hypot"),
        ("full", "No space left on device"),
        ("crashing", "SIGABRT"),
        ("hanging", "3 s"),
        ("crashinglater", "SIGABRT"),
        ("notfinite", "not finite"),
        ("wrongelsewhere", "size."),
        ("wrongsometimes", "CheckFailed"),
    ],
)
def test_an_engine_that_goes_wrong_is_refused_alone_with_its_reason(
    bakes: dict[str, Any], engine: str, words: str
) -> None:
    assert words in bakes["all"]["refused"][engine]
    assert f"{engine} refused: " in bakes["all"]["reason"]


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("Random", "CheckFailed: model m: two calls with the same example gave different outputs"),
        ("Branching", "ExportFailed: "),
        ("NanAlways", "CheckFailed: model m: eager's own output on the example is unusable"),
    ],
)
def test_a_model_that_nothing_can_be_made_of_says_so(bakes: dict[str, Any], model: str, error: str) -> None:
    assert bakes[model]["error"].startswith(error)


def test_a_model_that_becomes_another_when_it_is_exported_is_served_by_eager(bakes: dict[str, Any]) -> None:
    found = bakes["AnotherWhenExported"]
    assert "eager" == found["verdict"]
    assert "CheckFailed: example: " in found["refused"]["exported"]
