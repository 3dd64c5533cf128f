"""From a plan to an engine that can answer: compare fingerprints, load, bind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import fingerprint, verify
from .candidates import EAGER, needs_gpu
from .checkpoint import SNAPSHOT, TensorFiles
from .definition import ModelDefinition
from .engines import Engine, Given
from .engines.table import create
from .errors import CheckFailed, EngineUnavailable, ExampleInvalid, FingerprintMismatch, SnapshotCorrupt
from .manifest import CHECK_FILE, Manifest
from .plan import Checked, Plan
from .recorded import numbered
from .signature import Signature
from .tolerance import Tolerance


@dataclass(frozen=True, slots=True)
class Restored:
    """An engine with its weights, not opened yet. ``label`` is the plan's; ``mapped_bytes`` of the weights are pages
    shared with every process that maps the file."""

    label: str
    engine: Engine
    definition: ModelDefinition
    manifest: Manifest | None
    tensors: TensorFiles
    mapped_bytes: int


def restore(definition: ModelDefinition, files: Mapping[str, Path], plan: Plan) -> Restored:
    """Bring a model back without recomputing anything that the snapshot holds.

    Starts no thread as long as torch may use only one (``torch.set_num_threads(1)``), so the process may be forked
    afterwards. Raises ``EngineError`` (another engine may do), ``ModelError``, ``cache.errors.WeightsError``.
    """
    manifest = Manifest.from_bytes(plan.manifest) if plan.manifest else None
    if manifest is not None:
        differences = fingerprint.compare(manifest.fingerprint)
        if differences:
            raise FingerprintMismatch(f"model {definition.name}: {plan.engine} engine: {'; '.join(differences)}")
    record = manifest.engines.get(plan.engine) if manifest is not None else None
    if record is None and plan.engine != EAGER:
        raise EngineUnavailable(f"model {definition.name}: the snapshot has no {plan.engine} engine")
    if plan.device == "cpu" and needs_gpu(plan.engine):
        raise EngineUnavailable(f"model {definition.name}: {plan.engine} needs a GPU, and the function is on the CPU")
    engine = create(record.engine if record is not None else plan.engine)
    tensors = TensorFiles(files, plan.snapshot)
    engine.load(Given(definition, files, plan.snapshot, manifest, record, plan.device))
    return Restored(plan.engine, engine, definition, manifest, tensors, engine.bind(tensors))


def tolerance(restored: Restored) -> Tolerance:
    """Return how far the engine's outputs may be from those that were recorded. Only with a manifest."""
    if restored.manifest is None:
        raise RuntimeError("nothing was recorded")
    record = restored.manifest.engines.get(restored.label)
    if record is None:
        raise SnapshotCorrupt(f"manifest: no record of {restored.label}")
    return Tolerance(record.absolute, record.relative)


def check(restored: Restored) -> Checked:
    """Run the model on its example. With a snapshot the outputs must be the recorded ones, else finite.

    A model without an example and without a snapshot has nothing to run; that passes as not recorded.
    Raises ``CheckFailed``, ``ExampleInvalid``, ``SnapshotCorrupt``.
    """
    if restored.manifest is None:
        return _check_plain(restored)
    signature = Signature.from_json(restored.manifest.signature)
    recorded = restored.tensors.of(SNAPSHOT, CHECK_FILE)
    inputs, expected = numbered(recorded, "input"), numbered(recorded, "output")
    if len(inputs) != sum(item.dtype is not None for item in signature.inputs) or not expected:
        raise SnapshotCorrupt(f"{CHECK_FILE}: {len(inputs)} inputs and {len(expected)} outputs")
    outputs = _run(restored, (), signature.unflatten_inputs(inputs))
    try:
        return Checked(verify.compare(outputs, signature.unflatten(expected), tolerance(restored)), recorded=True)
    except CheckFailed as error:
        raise _named(error, restored) from error


def _check_plain(restored: Restored) -> Checked:
    if restored.definition.example is None:
        return Checked(0.0, recorded=False)
    example = restored.definition.make_example()
    try:
        verify.finite(_run(restored, example.args, example.kwargs))
    except CheckFailed as error:
        raise _named(error, restored) from error
    return Checked(0.0, recorded=False)


def _run(restored: Restored, args: Any, kwargs: Mapping[str, Any]) -> Any:
    try:
        return restored.engine.run(args, kwargs)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # what torch operations raise
        where = f"model {restored.definition.name}: {restored.label} raised on its example"
        kind = ExampleInvalid if restored.manifest is None else CheckFailed
        raise kind(f"{where}: {type(error).__name__}: {error}") from error


def _named(error: CheckFailed, restored: Restored) -> CheckFailed:
    return CheckFailed(f"model {restored.definition.name}, {restored.label} engine: {error}")
