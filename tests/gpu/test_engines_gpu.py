"""Engines on a real GPU: ``pytest -m gpu``. Needs a torch with CUDA; the tests of tensorrt also TensorRT 10 or 11.

Builds take minutes the first time, less with the timing cache that the tests share.
"""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from glowplug.snapshot.engines.aot_inductor import CUDA, AotInductor
from glowplug.snapshot.engines.tensorrt import REFIT, TensorRt
from glowplug.snapshot.errors import EngineFailed, FingerprintMismatch, InputUnsupported
from glowplug.snapshot.tensorrt import gpu, session

if TYPE_CHECKING:
    from conftest import Traced

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
tensorrt = pytest.mark.skipif(bool(gpu.obstacle()), reason=gpu.obstacle() or "TensorRT is here")

PART = {"fp32": 1e-4, "fp16": 1e-2, "bf16": 4e-2, "int8": 1e-1}


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where timing caches lie for the next build."""
    return tmp_path_factory.mktemp("published")


def made(traced: Traced, published: Path, precision: str = "fp32", **options: Any) -> dict[str, Any]:
    engine = TensorRt(**options)
    engine.resume(published)
    records = engine.export(traced.program, traced.staging, precision)
    (published / "one").mkdir(exist_ok=True)
    for cache in traced.staging.glob("timing-*.cache"):
        (published / "one" / cache.name).write_bytes(cache.read_bytes())
    return records


@tensorrt
@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16", "int8"])
def test_plans_answer_as_eager_does(traced: Traced, published: Path, precision: str) -> None:
    if precision == "bf16" and torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("this GPU has no bf16")
    records = made(traced, published, precision)
    for variant, record in records.items():
        assert "" == record.refused
        traced.compare(traced.restored(TensorRt, record, "tensorrt", variant), PART[precision])


@tensorrt
def test_a_stripped_plan_is_smaller_by_the_weights(traced: Traced, published: Path) -> None:
    records = made(traced, published)
    whole, stripped = ((traced.staging / records[variant].artefact).stat().st_size for variant in ("", REFIT))
    assert stripped < whole


@tensorrt
def test_shapes_that_keep_coming_are_captured(traced: Traced, published: Path) -> None:
    engine = traced.restored(TensorRt, made(traced, published)[""], "tensorrt")
    assert isinstance(engine, TensorRt)
    assert engine._session is not None
    for _ in range(session.CAPTURE_AFTER + 1):
        traced.compare(engine, PART["fp32"])
    assert "" == engine._session.uncaptured
    assert len(engine._session._graphs) >= 5


@tensorrt
def test_a_version_compatible_plan_is_restored(traced: Traced, published: Path) -> None:
    records = made(traced, published, version_compatible=True)
    traced.compare(traced.restored(TensorRt, records[""], "tensorrt"), PART["fp32"])


@tensorrt
def test_plans_that_are_not_for_here_are_refused_and_the_process_goes_on(traced: Traced, published: Path) -> None:
    record = made(traced, published)[""]
    other = {**record.options, "gpu": {**record.options["gpu"], "driver": "1.0"}}
    with pytest.raises(FingerprintMismatch, match=r"driver 1\.0, here"):
        traced.restored(TensorRt, dataclasses.replace(record, options=other), "tensorrt")
    plan = (traced.staging / record.artefact).read_bytes()
    for bad in (b"", plan[: len(plan) // 2], bytes(64) + plan[64:]):
        (traced.staging / "bad.plan").write_bytes(bad)
        with pytest.raises(EngineFailed, match=r"bad\.plan: TensorRT"):
            traced.restored(TensorRt, dataclasses.replace(record, artefact="bad.plan"), "tensorrt")
    engine = traced.restored(TensorRt, record, "tensorrt")
    with pytest.raises(InputUnsupported):
        engine.run((torch.ones(600, 2, dtype=torch.long), torch.ones(600, 2)), {})
    traced.compare(engine, PART["fp32"])


@tensorrt
def test_a_device_that_is_full_is_an_error_of_the_engine(traced: Traced, published: Path) -> None:
    record = made(traced, published)[""]
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-6)
    try:
        with pytest.raises(EngineFailed, match="out of memory"):
            traced.restored(TensorRt, record, "tensorrt")
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_looking_for_obstacles_leaves_forks_able_to_use_the_gpu() -> None:
    program = (
        "import os, torch\n"
        "from glowplug.snapshot.engines.table import kinds\n"
        "kinds('cuda:0')\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    os._exit(0 if torch.ones(1, device='cuda').item() == 1 else 1)\n"
        "print(os.waitpid(child, 0)[1])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert ("0", "") == (ran.stdout.strip(), ran.stderr.strip())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "bf16"])
def test_a_library_for_the_gpu_answers_as_eager_does(traced: Traced, precision: str) -> None:
    record = AotInductor().export(traced.program, traced.staging, precision)[CUDA]
    assert "" == record.refused
    traced.compare(traced.restored(AotInductor, record, "aot_inductor", CUDA), PART[precision])
