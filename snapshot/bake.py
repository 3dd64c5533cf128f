"""Make a snapshot: trace the model, compile what this machine can, check it against eager, measure, decide.

A bake ends with a staging directory whose last file is the manifest; whoever asked for it signs and publishes it by
rename. Measuring is the caller's (``measure``): it belongs in a fresh process, in the state a worker would be in, and
in one that may crash.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from . import fingerprint, verify
from .architecture import Assembled, assemble
from .checkpoint import SNAPSHOT, Origin, TensorFiles
from .definition import ModelDefinition
from .engines import torch_private
from .engines.table import create
from .errors import CheckFailed, ExampleInvalid
from .manifest import (
    CHECK_FILE,
    EXTRA_FILE,
    FILE,
    EngineRecord,
    Manifest,
    describe_artefacts,
    key_of,
    source_digest,
)
from .program import Program, export

CASES_FILE = "cases.safetensors"
"""Inputs of other sizes with eager's outputs, for ``measure``; removed before the snapshot is finished."""

ROUNDS = 3
"""Measurements of each engine, in turns (A B A B …), each in a fresh process; the best counts. A bake runs beside
whatever the node serves meanwhile, and a burst of that must not decide which engine a function gets for months."""

CASES = 3
_LARGEST = 48  # largest random size of a dimension without an upper bound


@dataclass(frozen=True, slots=True)
class Job:
    """What to bake. ``engine`` is ``auto`` or an engine's name; ``published`` the directory of finished snapshots.

    ``again`` is the key of a finished snapshot whose engines are to be measured again. Whoever gives it has verified
    that snapshot: its engines are loaded.
    """

    definition: ModelDefinition
    files: Mapping[str, Path]
    staging: Path
    published: Path
    engine: str = "auto"
    precision: str = "fp32"
    again: str = ""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What ``measure`` found out. ``refused`` says why the engine must not serve; then the times mean nothing."""

    cold_ms: float
    warm_ms: float
    worst_error: float
    refused: str = ""


@dataclass(frozen=True, slots=True)
class Baked:
    """The result. ``reused``: a snapshot with this key was there already and nothing was compiled; ``manifest`` is its
    own then, but for figures that were measured again."""

    manifest: Manifest
    reused: bool
    verdict: str
    reason: str


Progress = Callable[[str, float], None]
Measure = Callable[[Manifest, str], Measurement]
"""Called with a draft manifest and an engine's name; restores it from the staging directory in a process of its own."""


def bake(job: Job, *, progress: Progress, measure: Measure) -> Baked:
    """Bake a snapshot into ``job.staging``.

    Raises ``ModelError``, ``BakeError``, ``EngineUnavailable``, ``CheckFailed`` (eager's own outputs are not finite),
    ``cache.errors.WeightsError``. An engine that was made but is wrong or crashes is no error: its record says so.
    """
    progress("export", 0.05)
    tensors = TensorFiles(job.files)
    assembled = assemble(job.definition, job.files, tensors, compare_ties=True)
    program = export(assembled, job.definition.make_example())
    signature, here = program.signature.to_json(), fingerprint.current().to_json()
    source = source_digest(job.files)
    options = {"precision": job.precision, "engines": _engines(job.engine)}
    key = key_of(source, program.digest, signature, options, here)
    existing = job.published / key / FILE
    if existing.exists():
        manifest = Manifest.from_bytes(existing.read_bytes())
        if key == job.again:
            manifest = _measured_again(job, program, manifest, progress, measure)
        return Baked(manifest, True, *decide(manifest.engines, job.engine))
    expected = _expected(job.definition, assembled, program)
    draft = Manifest(
        key=key,
        source=source,
        graph=program.digest,
        precision=job.precision,
        fingerprint=here,
        signature=signature,
        computed={name: Origin(SNAPSHOT, EXTRA_FILE, name) for name in assembled.computed},
        aliases=assembled.aliases,
        engines={},
        verdict="eager",
        reason="",
        check=_write_checks(job, program, expected),
        artefacts={},
    )
    progress("compile", 0.15)
    engines = {name: create(name).export(program, job.staging) for name in _engines(job.engine)}
    extra = {**program.constants(), **assembled.computed}
    if extra:
        _save(extra, job.staging / EXTRA_FILE)
    draft = dataclasses.replace(draft, engines=engines)
    engines = _measured(draft, 0.7, progress, measure)
    progress("check", 0.99)
    (job.staging / CASES_FILE).unlink()
    verdict, reason = decide(engines, "auto")
    final = dataclasses.replace(
        draft, engines=engines, verdict=verdict, reason=reason, artefacts=describe_artefacts(job.staging)
    )
    (job.staging / FILE).write_bytes(final.to_bytes())
    return Baked(final, False, *decide(engines, job.engine))


def decide(engines: Mapping[str, EngineRecord], wanted: str) -> tuple[str, str]:
    """Return the engine that should serve, and why: the one asked for, or the one with the least cost.

    One that was asked for and must not serve gives way to eager.
    """
    if wanted != "auto":
        record = engines.get(wanted)
        if record is not None and not record.refused:
            return wanted, "asked for"
        return "eager", f"{wanted}: {record.refused if record is not None else 'not made'}"
    best = min(engines, key=lambda name: engines[name].cost_ms())
    costs = ", ".join(
        f"{name} refused: {record.refused.splitlines()[0]}"
        if record.refused
        else f"{name} {record.cold_ms:.1f} ms cold, {record.warm_ms:.1f} ms warm"
        for name, record in engines.items()
    )
    return best, f"least cost of one cold start and 20 warm calls ({costs})"


def _engines(wanted: str) -> list[str]:
    return ["eager"] if wanted == "eager" else ["eager", "aot_inductor"]


def _measured_again(job: Job, program: Program, manifest: Manifest, progress: Progress, measure: Measure) -> Manifest:
    """Measure the engines of a finished snapshot, forgetting what was measured before.

    ``job.staging`` gets links to its files, and the cases that it was once measured on, which are not kept with it.
    """
    for name in manifest.artefacts:
        (job.staging / name).symlink_to(job.published / manifest.key / name)
    _write_cases(job, program)
    engines = {
        name: dataclasses.replace(record, cold_ms=None, warm_ms=None, worst_error=0.0, refused="")
        for name, record in manifest.engines.items()
    }
    draft = dataclasses.replace(manifest, engines=engines)
    return dataclasses.replace(manifest, engines=_measured(draft, 0.1, progress, measure))


def _measured(draft: Manifest, begin: float, progress: Progress, measure: Measure) -> dict[str, EngineRecord]:
    """Return the draft's engines with what was measured; ``begin`` is how much of the bake is over already."""
    engines = dict(draft.engines)
    turns = [name for _ in range(ROUNDS) for name in engines]
    for number, name in enumerate(turns):
        progress("measure", begin + (0.98 - begin) * number / len(turns))
        engines[name] = _better(engines[name], measure(draft, name))
    return engines


def _better(record: EngineRecord, found: Measurement) -> EngineRecord:
    """Merge a further measurement: best times, worst error, and refused for good once refused."""
    if record.refused or found.refused:
        return dataclasses.replace(record, refused=record.refused or found.refused)
    return dataclasses.replace(
        record,
        cold_ms=min(found.cold_ms, record.cold_ms or found.cold_ms),
        warm_ms=min(found.warm_ms, record.warm_ms or found.warm_ms),
        worst_error=max(found.worst_error, record.worst_error),
    )


def _expected(definition: ModelDefinition, assembled: Assembled, program: Program) -> Any:
    outputs = _eager(assembled, program.inputs)
    try:
        verify.finite(outputs)
    except CheckFailed as error:
        raise CheckFailed(f"model {definition.name}: eager's own output on the example is unusable: {error}") from error
    return outputs


def _eager(assembled: Assembled, inputs: Mapping[str, Any]) -> Any:
    with torch.inference_mode():
        return assembled.module(**inputs)


def _write_checks(job: Job, program: Program, expected: Any) -> dict[str, Any]:
    """Write the example with its outputs, and the cases of other sizes; return the manifest's ``check``."""
    inputs = program.signature.flatten((), program.inputs)
    outputs = torch_private.flatten(expected)[0]
    _save(_flat(inputs, outputs), job.staging / CHECK_FILE)
    _write_cases(job, program)
    weights = [parameter.dtype for parameter in program.assembled.module.parameters()]
    tolerance = verify.tolerance_for([*weights, *(output.dtype for output in outputs)])
    return {"file": CHECK_FILE, "absolute": tolerance.absolute, "relative": tolerance.relative}


def _write_cases(job: Job, program: Program) -> None:
    cases: dict[str, Tensor] = {}
    for number, sample in enumerate(_samples(program)):
        outputs_here = torch_private.flatten(_eager(program.assembled, sample))[0]
        flat = _flat(program.signature.flatten((), sample), outputs_here)
        cases.update({f"{number}.{name}": tensor for name, tensor in flat.items()})
    _save(cases, job.staging / CASES_FILE)


def _flat(inputs: list[Tensor], outputs: list[Tensor]) -> dict[str, Tensor]:
    return {f"input.{i}": tensor for i, tensor in enumerate(inputs)} | {
        f"output.{i}": tensor for i, tensor in enumerate(outputs)
    }


def _save(tensors: Mapping[str, Tensor], path: Path) -> None:
    # clone: the format stores each tensor by itself and refuses two that share memory
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)


def _samples(program: Program) -> Iterator[dict[str, Any]]:
    """Inputs of other sizes, made of the example's own values: sizes of 1 first, since export never tried those."""
    names = sorted({name for dimensions in program.dynamic.values() for name in dimensions if isinstance(name, str)})
    generator = random.Random(0)  # noqa: S311 - sizes of test inputs
    bounds = _bounds(program)
    for number in range(CASES if names else 0):
        sizes = {name: low if number == 0 else generator.randint(low, high) for name, (low, high) in bounds.items()}
        sample = dict(program.inputs)
        for parameter, dimensions in program.dynamic.items():
            tensor = sample[parameter]
            for position, name in enumerate(dimensions):
                if isinstance(name, str):
                    rows = torch.arange(sizes[name]) % tensor.shape[position]
                    tensor = tensor.index_select(position, rows)
            sample[parameter] = tensor.contiguous()
        yield sample


def _bounds(program: Program) -> dict[str, tuple[int, int]]:
    """Return the author's dimension name -> sizes that every input with that dimension allows."""
    bounds: dict[str, tuple[int, int]] = {}
    for item in program.signature.inputs:
        for name, size in zip(program.dynamic.get(item.name, ()), item.shape, strict=False):
            if not isinstance(name, str):
                continue
            if not isinstance(size, str):
                raise ExampleInvalid(f"{item.name}: dimension {name!r} does not vary: the model needs {size}")
            low, high = program.signature.ranges[size]
            before = bounds.get(name, (1, _LARGEST))
            bounds[name] = (max(low, before[0]), max(low, min(before[1], high or _LARGEST)))
    return bounds
