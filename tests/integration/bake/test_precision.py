"""A model in every precision: made, measured, compared with eager in fp32, served from one shared file of weights."""

from __future__ import annotations

import dataclasses
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from glowplug.runtime.worker import models
from glowplug.snapshot.choice import Objective, Wanted, decide
from glowplug.snapshot.manifest import EngineRecord
from glowplug.snapshot.plan import Plan
from glowplug.snapshot.restore import check, restore

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

WANTED = Wanted("aot_inductor", "auto", 0.05, Objective(batch_sizes=(1, 4)))
HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


@dataclasses.dataclass(frozen=True)
class Mlp:
    """The baked model: what the bake said and made, and the author's definition."""

    baked: Any
    definition: Any
    files: dict[str, Path]


@pytest.fixture(scope="module")
def mlp(bakery: Any, tmp_path_factory: pytest.TempPathFactory) -> Mlp:
    root, code = tmp_path_factory.mktemp("precision"), Path(__file__).parent / "models"
    models.declare([])
    spec = importlib.util.spec_from_file_location("mlp", code / "mlp.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules["mlp"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(3)
    files = {"model.safetensors": root / "model.safetensors"}
    save_file(module.Mlp().state_dict(), files["model.safetensors"])
    load = bakery.load_of(code, "mlp.handler", files)
    baked = bakery.bake(root / "bake", load, wanted=WANTED, published=root / "none")
    assert "done" == baked.last["event"], baked.log
    return Mlp(baked, module.mlp._model.definition, files)


def made_of(mlp: Mlp) -> dict[str, EngineRecord]:
    """The records of what any machine can make; the others are refused without a GPU."""
    return {name: record for name, record in mlp.baked.manifest.engines.items() if not name.startswith("tensorrt")}


def test_each_precision_is_made_and_is_as_exact_as_it_says(mlp: Mlp) -> None:
    engines = made_of(mlp)
    labels = ["aot_inductor", *(f"aot_inductor-{precision}" for precision in (*HALVES, "int8"))]
    assert {"eager", *labels} == set(engines)
    assert ["" for _ in engines] == [record.refused for record in engines.values()]
    errors = [engines[label].worst_error for label in labels]
    assert errors[0] < 1e-5 < min(errors[1:]), "less precise, and measured to be"
    assert all(engines[label].absolute > error for label, error in zip(labels, errors, strict=True))


def test_converted_weights_are_one_file_each_that_processes_map(mlp: Mlp) -> None:
    for precision, dtype in HALVES.items():
        stored = load_file(mlp.baked.staging / f"weights-{precision}.safetensors")
        assert {dtype} == {tensor.dtype for tensor in stored.values()}
    assert torch.int8 in {t.dtype for t in load_file(mlp.baked.staging / "weights-int8.safetensors").values()}


def test_the_batch_sizes_that_the_template_names_are_timed(mlp: Mlp) -> None:
    assert all({"1", "4"} == set(record.batches) for record in made_of(mlp).values())
    assert all({"1x32", "2x32", "4x32"} & set(record.shapes) for record in made_of(mlp).values())


def test_the_bound_of_the_template_decides_who_may_serve(mlp: Mlp) -> None:
    engines = mlp.baked.manifest.engines
    assert "aot_inductor" == decide(engines, dataclasses.replace(WANTED, max_error=1e-5))[0]
    label, reason = decide(engines, dataclasses.replace(WANTED, precision="bf16", max_error=1e-9))
    assert ("eager", True) == (label, "above MaxError" in reason)


@pytest.mark.parametrize("precision", [*HALVES, "int8"])
def test_what_is_served_has_the_form_of_the_authors_outputs(mlp: Mlp, precision: str) -> None:
    plan = Plan(f"aot_inductor-{precision}", mlp.baked.staging, (mlp.baked.staging / "manifest.json").read_bytes())
    restored = restore(mlp.definition, mlp.files, plan)
    restored.engine.open(1)
    assert check(restored).recorded
    served = restored.engine.run((torch.zeros(3, 32),), {})
    plain = restore(mlp.definition, mlp.files, Plan()).engine.run((torch.zeros(3, 32),), {})
    assert (torch.float32, plain.shape) == (served.dtype, served.shape)
    assert torch.allclose(plain, served, atol=0.1)
