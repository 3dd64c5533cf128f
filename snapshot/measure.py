"""Measure one candidate as a worker would meet it: restore, first call, warm calls; and check every recorded case.

Run in a process of its own that was forked from one with torch and the author's module imported, as workers are
(``runtime.worker.bake``): no compiler, no thread pool, no earlier engine has been there, and a crash costs one
measurement.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch

from . import cases, verify
from .checkpoint import SNAPSHOT
from .definition import ModelDefinition
from .errors import CheckFailed, EngineError, SnapshotError, TensorUnbound
from .manifest import CHECK_FILE, Manifest
from .plan import Plan
from .restore import Restored, numbered, restore, tolerance
from .rounds import OTHER_CALLS, WARM_CALLS, Measurement, private_bytes, warm_ms_of
from .signature import Signature

_REFUSED = (EngineError, TensorUnbound, CheckFailed)


def prepare() -> None:
    """Bring a process into the state of a base zygote. Call once, before anything is measured in forks of it."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        torch.empty(1).normal_()  # imports a second's worth of modules, which a base zygote has done long before


def measure(
    definition: ModelDefinition,
    files: Mapping[str, Path],
    staging: Path,
    manifest: Manifest,
    label: str,
    threads: int,
    *,
    device: str = "cpu",
) -> Measurement:
    """Return figures of the candidate ``label``, restored from ``staging`` with ``threads`` threads for ``device``.

    One that cannot be restored or is wrong comes back as refused; eager's errors are raised.
    """
    signature = Signature.from_json(manifest.signature)
    private = private_bytes()
    begin = time.perf_counter()
    try:
        restored = restore(definition, files, Plan(label, staging, manifest.to_bytes(), device))
        bound = time.perf_counter()
        torch.set_num_threads(threads)
        restored.engine.open(threads)
        opened = time.perf_counter()
        inputs = signature.unflatten_inputs(numbered(restored.tensors.of(SNAPSHOT, CHECK_FILE), "input"))
        restored.engine.run((), inputs)
        answered = time.perf_counter()
        warm_ms = warm_ms_of(partial(restored.engine.run, (), inputs), WARM_CALLS)
        worst = _worst_error(restored, signature)
        shapes, batches = _other_shapes(restored, signature)
    except _REFUSED as error:
        if manifest.engines[label].engine == "eager":
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what engines raise when they run
        if manifest.engines[label].engine == "eager" or isinstance(error, SnapshotError):
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")
    restore_ms, first_ms = (opened - begin) * 1e3, (answered - opened) * 1e3
    return Measurement(
        restore_ms=restore_ms,
        first_ms=first_ms,
        cold_ms=restore_ms + first_ms,
        parked_ms=first_ms if restored.engine.fork_safe else (opened - bound) * 1e3 + first_ms,
        warm_ms=warm_ms,
        shapes=shapes,
        batches=batches,
        private_bytes=max(0, private_bytes() - private),
        shared_bytes=restored.mapped_bytes,
        worst_error=worst,
    )


def _other_shapes(restored: Restored, signature: Signature) -> tuple[dict[str, float], dict[str, float]]:
    """Return warm times by sizes, and by batch size where the template names some."""
    shapes: dict[str, float] = {}
    batches: dict[str, float] = {}
    for name, case in _recorded(restored).items():
        kind, _, number = name.partition(".")
        if kind == "random":
            continue
        flat = numbered(case, "input")
        inputs = signature.unflatten_inputs(flat)
        restored.engine.run((), inputs)
        took = warm_ms_of(partial(restored.engine.run, (), inputs), WARM_CALLS if kind == "batch" else OTHER_CALLS)
        shapes[cases.shape_of(flat)] = took
        if kind == "batch":
            batches[number] = took
    return shapes, batches


def _worst_error(restored: Restored, signature: Signature) -> float:
    """Return the largest difference from eager over all cases. Raises ``CheckFailed`` with the name of the case."""
    allowed, worst = tolerance(restored), 0.0
    for name, case in {"example": restored.tensors.of(SNAPSHOT, CHECK_FILE), **_recorded(restored)}.items():
        outputs = restored.engine.run((), signature.unflatten_inputs(numbered(case, "input")))
        try:
            worst = max(worst, verify.compare(outputs, signature.unflatten(numbered(case, "output")), allowed))
        except CheckFailed as error:
            raise CheckFailed(f"{name}: {error}") from error
    return worst


def _recorded(restored: Restored) -> dict[str, dict[str, torch.Tensor]]:
    return cases.read(restored.tensors.of(SNAPSHOT, cases.CASES_FILE))
