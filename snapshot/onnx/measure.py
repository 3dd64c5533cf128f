"""Measure one candidate for an ONNX file as a worker would meet it: ``snapshot.measure`` without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..candidates import EAGER
from ..checkpoint import SNAPSHOT
from ..definition import OnnxDefinition
from ..errors import CheckFailed, EngineError
from ..manifest import CHECK_FILE, Manifest
from ..plan import Plan
from ..recorded import CASES_FILE, grouped, numbered
from ..rounds import Measurement
from ..trial import Case, trial
from .arrays import ArrayFiles
from .restore import Restored, compared, restore


def measure(
    definition: OnnxDefinition, files: Mapping[str, Path], staging: Path, manifest: Manifest, label: str, threads: int
) -> Measurement:
    """Return figures of the candidate ``label``, restored from ``staging`` with ``threads`` threads.

    One that cannot be restored or is wrong comes back as refused; errors of the file as it is are raised.
    """
    plan = Plan(label, staging, manifest.to_bytes())
    try:
        return trial(lambda: _Subject(restore(definition, files, plan), ArrayFiles({}, staging), threads))
    except (EngineError, CheckFailed, ValueError) as error:
        if label == EAGER:
            raise
        return Measurement(refused=f"{type(error).__name__}: {error}")


class _Subject:
    """An ONNX file in an engine. NumPy comes in with the first arrays: it is part of what a cold start pays."""

    fork_safe = False  # a session survives no fork

    def __init__(self, restored: Restored, recorded: ArrayFiles, threads: int) -> None:
        self._restored, self._recorded, self._threads = restored, recorded, threads
        self.mapped_bytes = restored.mapped_bytes

    def open(self) -> None:
        self._restored.engine.open(self._threads)

    def example(self) -> Case:
        return self._recorded.of(SNAPSHOT, CHECK_FILE)

    def others(self) -> Mapping[str, Case]:
        return grouped(self._recorded.of(SNAPSHOT, CASES_FILE))

    def inputs(self, case: Case) -> Sequence[Any]:
        return numbered(case, "input")

    def run(self, inputs: Sequence[Any]) -> Any:
        return self._restored.engine.run(inputs, {})

    def error(self, case: Case) -> float:
        return compared(self._restored, case)
