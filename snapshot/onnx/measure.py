"""Measure one candidate for an ONNX file as a worker would meet it: ``snapshot.measure`` without torch."""

from __future__ import annotations

import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from ..candidates import EAGER
from ..checkpoint import SNAPSHOT
from ..definition import OnnxDefinition
from ..errors import CheckFailed, EngineError
from ..manifest import CHECK_FILE, Manifest
from ..plan import Plan
from ..rounds import OTHER_CALLS, WARM_CALLS, Measurement, private_bytes, warm_ms_of
from .arrays import ArrayFiles
from .restore import Restored, compared, numbered, restore


def measure(
    definition: OnnxDefinition, files: Mapping[str, Path], staging: Path, manifest: Manifest, label: str, threads: int
) -> Measurement:
    """Return figures of the candidate ``label``, restored from ``staging`` with ``threads`` threads.

    One that cannot be restored or is wrong comes back as refused; errors of the file as it is are raised.
    """
    recorded = ArrayFiles({}, staging)
    private = private_bytes()
    begin = time.perf_counter()
    try:
        restored = restore(definition, files, Plan(label, staging, manifest.to_bytes()))
        bound = time.perf_counter()
        restored.engine.open(threads)
        opened = time.perf_counter()
        inputs = numbered(recorded.of(SNAPSHOT, CHECK_FILE), "input")
        restored.engine.run(inputs, {})
        answered = time.perf_counter()
        warm_ms = warm_ms_of(partial(restored.engine.run, inputs, {}), WARM_CALLS)
        worst, shapes, batches = _other_cases(restored, manifest, label, recorded)
    except (EngineError, CheckFailed, ValueError) as error:
        if label == EAGER:
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")
    restore_ms, first_ms = (opened - begin) * 1e3, (answered - opened) * 1e3
    return Measurement(
        restore_ms=restore_ms,
        first_ms=first_ms,
        cold_ms=restore_ms + first_ms,
        parked_ms=(opened - bound) * 1e3 + first_ms,  # a session survives no fork
        warm_ms=warm_ms,
        shapes=shapes,
        batches=batches,
        private_bytes=max(0, private_bytes() - private),
        shared_bytes=restored.mapped_bytes,
        worst_error=worst,
    )


def _other_cases(
    restored: Restored, manifest: Manifest, label: str, recorded: ArrayFiles
) -> tuple[float, dict[str, float], dict[str, float]]:
    """Return the worst error over all cases, warm times by sizes, and by batch size where the template names some."""
    from .cases import CASES_FILE, grouped  # late: NumPy is part of what a cold start pays

    record = manifest.engines[label]
    cases = {"example": recorded.of(SNAPSHOT, CHECK_FILE), **grouped(recorded.of(SNAPSHOT, CASES_FILE))}
    worst, shapes, batches = 0.0, dict[str, float](), dict[str, float]()
    for name, case in cases.items():
        try:
            worst = max(worst, compared(restored, record, case))
        except CheckFailed as error:
            raise CheckFailed(f"{name}: {error}") from error
        kind, _, number = name.partition(".")
        if kind not in ("size", "batch"):
            continue
        inputs = numbered(case, "input")
        took = warm_ms_of(partial(restored.engine.run, inputs, {}), WARM_CALLS if kind == "batch" else OTHER_CALLS)
        shapes["x".join(map(str, inputs[0].shape))] = took
        if kind == "batch":
            batches[number] = took
    return worst, shapes, batches
