"""Measure one candidate as a worker would meet it: restore, first call, warm calls; and check every recorded case.

Run in a process of its own that was forked from one with torch and the author's module imported, as workers are
(``runtime.worker.bake``): no compiler, no thread pool, no earlier engine has been there, and a crash costs one
measurement.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from . import verify
from .checkpoint import SNAPSHOT
from .definition import ModelDefinition
from .engines import table
from .errors import CheckFailed, EngineError, SnapshotError, TensorUnbound
from .manifest import CHECK_FILE, Manifest
from .plan import Plan
from .recorded import CASES_FILE, grouped, numbered
from .restore import Restored, restore, tolerance
from .rounds import Measurement
from .signature import Signature
from .trial import Case, trial

_REFUSED = (EngineError, TensorUnbound, CheckFailed)


def prepare() -> None:
    """Bring a process into the state of a base zygote. Call once, before anything is measured in forks of it."""
    torch.set_num_threads(1)
    with torch.device("meta"):
        torch.empty(1).normal_()  # imports a second's worth of modules, which a base zygote has done long before
    table.preload()


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
    plan = Plan(label, staging, manifest.to_bytes(), device)
    try:
        return trial(lambda: _Subject(restore(definition, files, plan), signature, threads))
    except _REFUSED as error:
        if manifest.engines[label].engine == "eager":
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what engines raise when they run
        if manifest.engines[label].engine == "eager" or isinstance(error, SnapshotError):
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")


class _Subject:
    """A torch module in an engine, with ``threads`` threads."""

    def __init__(self, restored: Restored, signature: Signature, threads: int) -> None:
        self._restored, self._signature, self._threads = restored, signature, threads
        self.mapped_bytes = restored.mapped_bytes

    @property
    def fork_safe(self) -> bool:
        return self._restored.engine.fork_safe

    def open(self) -> None:
        torch.set_num_threads(self._threads)
        self._restored.engine.open(self._threads)

    def example(self) -> Case:
        return self._restored.tensors.of(SNAPSHOT, CHECK_FILE)

    def others(self) -> Mapping[str, Case]:
        return grouped(self._restored.tensors.of(SNAPSHOT, CASES_FILE))

    def inputs(self, case: Case) -> Mapping[str, Any]:
        return self._signature.unflatten_inputs(numbered(case, "input"))

    def run(self, inputs: Mapping[str, Any]) -> Any:
        return self._restored.engine.run((), inputs)

    def error(self, case: Case) -> float:
        expected = self._signature.unflatten(numbered(case, "output"))
        return verify.compare(self.run(self.inputs(case)), expected, tolerance(self._restored))
