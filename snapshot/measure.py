"""Measure one engine as a worker would meet it: restore, first call, warm calls; and check every recorded case.

Run in a fresh process (``runtime.worker.bake`` starts it): no compiler, no thread pool, no earlier engine has been
there, and a crash costs one measurement.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Mapping
from pathlib import Path

import torch

from . import verify
from .bake import CASES, CASES_FILE, Measurement
from .checkpoint import SNAPSHOT
from .definition import ModelDefinition
from .errors import CheckFailed, EngineError, TensorUnbound
from .manifest import CHECK_FILE, Manifest
from .restore import Plan, Restored, numbered, restore
from .signature import Signature

WARM_CALLS = 20
WARM_S = 3.0
"""Most seconds for the warm calls; a slow model is measured on fewer."""


def measure(
    definition: ModelDefinition, files: Mapping[str, Path], staging: Path, manifest: Manifest, engine: str, threads: int
) -> Measurement:
    """Return times and the worst error of ``engine``, restored from ``staging`` with ``threads`` threads.

    An engine that cannot be restored or is wrong comes back as refused; eager's errors are raised.
    """
    torch.set_num_threads(1)
    with torch.device("meta"):
        torch.empty(1).normal_()  # imports a second's worth of modules, which a base zygote has done long before
    signature = Signature.from_json(manifest.signature)
    gc.collect()
    gc.freeze()  # as in a zygote: a collection over all of torch's objects takes a tenth of a second
    begin = time.perf_counter()
    try:
        restored = restore(definition, files, Plan(engine, staging, manifest.to_bytes()))
    except (EngineError, TensorUnbound) as error:
        if engine == "eager":
            raise
        return Measurement(0.0, 0.0, 0.0, refused=f"{type(error).__name__}: {error}")
    torch.set_num_threads(threads)
    inputs = signature.unflatten_inputs(numbered(restored.tensors.of(SNAPSHOT, CHECK_FILE), "input"))
    restored.engine.run((), inputs)
    cold_ms = (time.perf_counter() - begin) * 1e3
    warm: list[float] = []
    while len(warm) < WARM_CALLS and sum(warm) < WARM_S:
        call = time.perf_counter()
        restored.engine.run((), inputs)
        warm.append(time.perf_counter() - call)
    warm_ms = statistics.quantiles(warm, n=4)[0] * 1e3 if len(warm) > 1 else warm[0] * 1e3  # undisturbed calls
    try:
        worst = _worst_error(restored, signature, manifest)
    except CheckFailed as error:
        return Measurement(cold_ms, warm_ms, 0.0, refused=f"CheckFailed: {error}")
    return Measurement(cold_ms, warm_ms, worst)


def _worst_error(restored: Restored, signature: Signature, manifest: Manifest) -> float:
    tolerance = verify.Tolerance(manifest.check["absolute"], manifest.check["relative"])
    recorded = restored.tensors.of(SNAPSHOT, CASES_FILE)
    worst = 0.0
    cases = [restored.tensors.of(SNAPSHOT, CHECK_FILE)]
    cases += [
        {name.removeprefix(f"{number}."): tensor for name, tensor in recorded.items() if name.startswith(f"{number}.")}
        for number in range(CASES)
    ]
    for case in cases:
        if case:
            outputs = restored.engine.run((), signature.unflatten_inputs(numbered(case, "input")))
            worst = max(worst, verify.compare(outputs, signature.unflatten(numbered(case, "output")), tolerance))
    return worst
