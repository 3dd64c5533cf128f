"""From a plan to a model that is an ONNX file and can answer: ``snapshot.restore`` without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import fingerprint
from ..candidates import EAGER
from ..checkpoint import SNAPSHOT
from ..definition import OnnxDefinition
from ..errors import CheckFailed, EngineUnavailable, ExampleInvalid, FingerprintMismatch, SnapshotCorrupt
from ..manifest import CHECK_FILE, EngineRecord, Manifest
from ..plan import Checked, Plan
from ..recorded import numbered
from ..tolerance import Tolerance
from . import calls
from .arrays import ArrayFiles
from .engines import AsItIs, Optimised


@dataclass(frozen=True, slots=True)
class Restored:
    """An engine, not opened yet; fields as in ``snapshot.restore.Restored``. ``record`` is None without a snapshot."""

    label: str
    engine: AsItIs | Optimised
    definition: OnnxDefinition
    snapshot: Path | None
    record: EngineRecord | None
    mapped_bytes: int


def restore(definition: OnnxDefinition, files: Mapping[str, Path], plan: Plan) -> Restored:
    """Bring a model back; starts no thread.

    Raises ``EngineError`` (the file as it is may do), ``OnnxInvalid``, ``cache.errors.WeightsError``.
    """
    manifest = Manifest.from_bytes(plan.manifest) if plan.manifest else None
    if manifest is not None and (differences := fingerprint.compare(manifest.fingerprint)):
        raise FingerprintMismatch(f"model {definition.name}: {plan.engine} engine: {'; '.join(differences)}")
    record = manifest.engines.get(plan.engine) if manifest is not None else None
    engine: AsItIs | Optimised
    if plan.engine == EAGER:
        engine = AsItIs(definition.name, calls.chosen(definition.name, definition.file, files), files)
    elif manifest is None or record is None or plan.snapshot is None:
        raise EngineUnavailable(f"model {definition.name}: the snapshot has no {plan.engine} engine")
    else:
        engine = Optimised(definition.name, plan.snapshot, record, manifest.signature)
    return Restored(plan.engine, engine, definition, plan.snapshot, record, engine.bind())


def tolerance(restored: Restored) -> Tolerance:
    """Return how far the engine's outputs may be from those that were recorded. Only with a snapshot."""
    if restored.record is None:
        raise RuntimeError("nothing was recorded")
    return Tolerance(restored.record.absolute, restored.record.relative)


def check(restored: Restored) -> Checked:
    """Run the model on its example. With a snapshot the outputs must be the recorded ones, else finite.

    The engine is open. Raises ``CheckFailed``, ``ExampleInvalid``, ``SnapshotCorrupt``.
    """
    if restored.record is not None and restored.snapshot is not None:
        recorded = ArrayFiles({}, restored.snapshot).of(SNAPSHOT, CHECK_FILE)
        try:
            return Checked(compared(restored, recorded), recorded=True)
        except CheckFailed as error:
            raise CheckFailed(f"model {restored.definition.name}, {restored.label} engine: {error}") from error
    if restored.definition.example is None:
        return Checked(0.0, recorded=False)
    from . import outputs  # late, as above

    example = restored.definition.make_example()
    try:
        outputs.finite(outputs.listed(restored.engine.run(example.args, example.kwargs)))
    except CheckFailed as error:
        raise CheckFailed(f"model {restored.definition.name}, {restored.label} engine: {error}") from error
    except (TypeError, ValueError) as error:
        raise ExampleInvalid(f"model {restored.definition.name}: the example: {error}") from error
    return Checked(0.0, recorded=False)


def compared(restored: Restored, case: Mapping[str, Any]) -> float:
    """Run one recorded case, ``input.N`` to ``output.N``; return the largest difference.

    Raises ``CheckFailed``, ``SnapshotCorrupt``.
    """
    from . import outputs  # late: imports NumPy, and a zygote restores with this module

    inputs, expected = numbered(case, "input"), numbered(case, "output")
    if not expected:
        raise SnapshotCorrupt(f"{CHECK_FILE}: {len(inputs)} inputs and no outputs")
    try:
        given = outputs.listed(restored.engine.run(inputs, {}))
    except (TypeError, ValueError) as error:
        raise CheckFailed(str(error)) from error
    return outputs.compare(given, expected, tolerance(restored))
