"""From a plan to an engine that can answer: compare fingerprints, load, bind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from . import fingerprint, verify
from .checkpoint import SNAPSHOT, TensorFiles
from .definition import ModelDefinition
from .engines import Engine
from .engines.table import create
from .errors import CheckFailed, ExampleInvalid, FingerprintMismatch, SnapshotCorrupt
from .manifest import CHECK_FILE, Manifest
from .signature import Signature


@dataclass(frozen=True, slots=True)
class Plan:
    """What to serve a model with. ``snapshot`` is the published directory and ``manifest`` its verified text; both are
    empty (None, ``b""``) before the first bake."""

    engine: str = "eager"
    snapshot: Path | None = None
    manifest: bytes = b""


@dataclass(frozen=True, slots=True)
class Restored:
    """An engine with its weights. ``mapped_bytes`` of them are pages shared with every process that maps the file."""

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
    engine = create(plan.engine)
    tensors = TensorFiles(files, plan.snapshot)
    engine.load(definition, files, plan.snapshot, manifest)
    return Restored(engine, definition, manifest, tensors, engine.bind(tensors))


@dataclass(frozen=True, slots=True)
class Checked:
    """The engine check passed. ``worst_error`` is the largest absolute difference from the recorded outputs;
    ``recorded`` is false where there were none, and outputs were only looked at."""

    worst_error: float
    recorded: bool


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
        tolerance = verify.Tolerance(restored.manifest.check["absolute"], restored.manifest.check["relative"])
    except KeyError as error:
        raise SnapshotCorrupt(f"manifest: check has no {error}") from error
    try:
        return Checked(verify.compare(outputs, signature.unflatten(expected), tolerance), recorded=True)
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
        where = f"model {restored.definition.name}: {restored.engine.name} raised on its example"
        kind = ExampleInvalid if restored.manifest is None else CheckFailed
        raise kind(f"{where}: {type(error).__name__}: {error}") from error


def _named(error: CheckFailed, restored: Restored) -> CheckFailed:
    return CheckFailed(f"model {restored.definition.name}, {restored.engine.name} engine: {error}")


def numbered(tensors: Mapping[str, torch.Tensor], prefix: str) -> list[torch.Tensor]:
    """Return ``prefix.0``, ``prefix.1`` … as long as they go on."""
    found: list[torch.Tensor] = []
    while f"{prefix}.{len(found)}" in tensors:
        found.append(tensors[f"{prefix}.{len(found)}"])
    return found
