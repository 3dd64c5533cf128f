"""Make a snapshot: trace the model, make every candidate that this machine can, check each against eager, measure.

A bake ends with a staging directory whose last file is the manifest; whoever asked for it signs and publishes it by
rename. Each candidate is made in a forked child (``apart``): one that crashes, hangs or fails costs itself alone, and
its record says why. Measuring is the caller's (``measure``): it belongs in the state that a worker would be in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from . import cases, fingerprint, reuse, verify
from .apart import Died, Reported, apart
from .architecture import assemble
from .candidates import EAGER, Candidate, candidates
from .checkpoint import SNAPSHOT, Origin, TensorFiles
from .choice import Wanted, decide
from .definition import ModelDefinition
from .engines import torch_private
from .engines.table import create, kinds
from .errors import CheckFailed
from .manifest import (
    EXTRA_FILE,
    FILE,
    EngineRecord,
    Manifest,
    describe_artefacts,
    key_of,
    record_from_json,
    record_to_json,
    source_digest,
)
from .measure import Measurement
from .program import Program, export

ROUNDS = 3
"""Measurements of each candidate, in turns (A B A B …), each in a process of its own; the best counts. A bake runs
beside whatever the node serves, and a burst of that must not decide which engine a function gets for months."""

MAKING_S = 900.0
"""Most seconds to make one candidate. A large model compiles for minutes; one that takes longer hangs."""


@dataclass(frozen=True, slots=True)
class Job:
    """What to bake. ``published`` is the directory of finished snapshots, ``making_s`` bounds one candidate.

    ``again`` is the key of a finished snapshot whose engines are to be measured again. Whoever gives it has verified
    that snapshot: its engines are loaded.
    """

    definition: ModelDefinition
    files: Mapping[str, Path]
    staging: Path
    published: Path
    wanted: Wanted = field(default_factory=Wanted)
    again: str = ""
    making_s: float = MAKING_S


@dataclass(frozen=True, slots=True)
class Baked:
    """The result. ``reused``: a snapshot that will do was there already (``reuse``) and nothing was compiled;
    ``manifest`` is its own then, but for figures that were measured again and engines that cannot run here."""

    manifest: Manifest
    reused: bool
    verdict: str
    reason: str


Progress = Callable[[str, float], None]
Measure = Callable[[Manifest, str], Measurement]
"""Called with a draft manifest and a label; restores it from the staging directory in a process of its own."""


def bake(job: Job, *, progress: Progress, measure: Measure) -> Baked:
    """Bake a snapshot into ``job.staging``.

    Raises ``ModelError``, ``ExportFailed``, ``CheckFailed`` (eager's own outputs are not finite, or differ from call to
    call), ``cache.errors.WeightsError``. A candidate that cannot be made, is wrong or crashes is no error: its record
    says so.
    """
    progress("export", 0.05)
    torch.set_num_threads(1)  # candidates are made in forks, which would wait for threads that they do not have
    tensors = TensorFiles(job.files)
    assembled = assemble(job.definition, job.files, tensors, compare_ties=True)
    program = export(assembled, job.definition.make_example())
    chosen, refused = candidates(job.wanted.engine, job.wanted.precision, kinds())
    signature, here = program.signature.to_json(), fingerprint.current().to_json()
    source = source_digest(job.files)
    options = {
        "candidates": sorted(candidate.label for candidate in chosen),
        "batch_sizes": list(job.wanted.objective.batch_sizes),
    }
    key = key_of(source, program.digest, signature, options, here)
    existing = reuse.find(
        job.published,
        key,
        options,
        source=source,
        graph=program.digest,
        signature=signature,
        here=here,
        again=job.again,
    )
    if existing is not None:
        manifest = dataclasses.replace(existing, engines=reuse.usable(existing.engines))
        if manifest.key == job.again:
            manifest = _measured_again(job, program, manifest, progress, measure)
        return Baked(manifest, True, *decide(manifest.engines, job.wanted))
    outputs = cases.expected(job.definition.name, program)
    check = cases.write_check(program, outputs, job.staging)
    cases.write_cases(program, job.wanted.objective.batch_sizes, job.staging)
    engines = _made(job, chosen, program, outputs, progress)
    engines |= {label: EngineRecord(engine=label, refused=reason) for label, reason in refused.items()}
    if program.tensors():
        cases.save(program.tensors(), job.staging / EXTRA_FILE)
    draft = Manifest(
        key=key,
        source=source,
        graph=program.digest,
        fingerprint=here,
        signature=signature,
        computed={name: Origin(SNAPSHOT, EXTRA_FILE, name) for name in assembled.computed},
        aliases=assembled.aliases,
        engines=engines,
        verdict=EAGER,
        reason="",
        check=check,
        artefacts={},
        options=options,
    )
    engines = _measured(draft, 0.7, progress, measure)
    progress("check", 0.99)
    (job.staging / cases.CASES_FILE).unlink()
    verdict, reason = decide(engines, job.wanted)
    final = dataclasses.replace(
        draft, engines=engines, verdict=verdict, reason=reason, artefacts=describe_artefacts(job.staging)
    )
    (job.staging / FILE).write_bytes(final.to_bytes())
    return Baked(final, False, verdict, reason)


def _made(
    job: Job, chosen: Sequence[Candidate], program: Program, outputs: Any, progress: Progress
) -> dict[str, EngineRecord]:
    """Make every candidate; return label -> record, variants included."""
    plain = _plain_tolerance(program, outputs)
    leaves = torch_private.flatten(outputs)[0]
    engines: dict[str, EngineRecord] = {}
    for number, candidate in enumerate(chosen):
        progress(f"compile {candidate.label}", 0.15 + 0.55 * number / len(chosen))
        allowed = verify.tolerance_in(candidate.precision, plain, leaves)
        for variant, record in _make(job, candidate, program).items():
            named = dataclasses.replace(candidate, variant=variant)
            engines[named.label] = dataclasses.replace(
                record,
                engine=named.engine,
                precision=named.precision,
                variant=variant,
                absolute=allowed.absolute,
                relative=allowed.relative,
            )
    return engines


def _make(job: Job, candidate: Candidate, program: Program) -> dict[str, EngineRecord]:
    """Make one candidate in a child; a failure is a record that says so."""

    def work() -> dict[str, Any]:
        records = create(candidate.engine).export(program, job.staging, candidate.precision)
        return {variant: record_to_json(record) for variant, record in records.items()}

    try:
        made = apart(work, seconds=job.making_s)
    except (Reported, Died) as error:
        return {"": EngineRecord(refused=str(error))}
    return {variant: record_from_json(record) for variant, record in made.items()}


def _plain_tolerance(program: Program, outputs: Any) -> verify.Tolerance:
    weights = [parameter.dtype for parameter in program.assembled.module.parameters()]
    return verify.tolerance_for([*weights, *(output.dtype for output in torch_private.flatten(outputs)[0])])


def _measured_again(job: Job, program: Program, manifest: Manifest, progress: Progress, measure: Measure) -> Manifest:
    """Measure the engines of a finished snapshot, forgetting what was measured before.

    ``job.staging`` gets links to its files, and the cases that it was once measured on, which are not kept with it.
    """
    for name in manifest.artefacts:
        (job.staging / name).symlink_to(job.published / manifest.key / name)
    cases.write_cases(program, job.wanted.objective.batch_sizes, job.staging)
    engines = {
        label: dataclasses.replace(record, cold_ms=None, warm_ms=None, worst_error=0.0, refused="")
        if record.artefact or record.engine == EAGER  # else it was never made
        else record
        for label, record in manifest.engines.items()
    }
    draft = dataclasses.replace(manifest, engines=engines)
    return dataclasses.replace(manifest, engines=_measured(draft, 0.1, progress, measure))


def _measured(draft: Manifest, begin: float, progress: Progress, measure: Measure) -> dict[str, EngineRecord]:
    """Return the draft's engines with what was measured; ``begin`` is how much of the bake is over already."""
    engines = dict(draft.engines)
    turns = [label for _ in range(ROUNDS) for label, record in engines.items() if not record.refused]
    for number, label in enumerate(turns):
        progress(f"measure {label}", begin + (0.98 - begin) * number / len(turns))
        if not engines[label].refused:
            engines[label] = _better(engines[label], measure(draft, label))
    if engines[EAGER].refused:
        raise CheckFailed(f"eager could not be measured: {engines[EAGER].refused}")
    return engines


def _better(record: EngineRecord, found: Measurement) -> EngineRecord:
    """Merge a further measurement: best times, worst error, and refused for good once refused."""
    if found.refused:
        return dataclasses.replace(record, refused=found.refused)
    return dataclasses.replace(
        record,
        restore_ms=_least(record.restore_ms, found.restore_ms),
        first_ms=_least(record.first_ms, found.first_ms),
        cold_ms=_least(record.cold_ms, found.cold_ms),
        parked_ms=_least(record.parked_ms, found.parked_ms),
        warm_ms=_least(record.warm_ms, found.warm_ms),
        shapes={name: _least(record.shapes.get(name), took) for name, took in found.shapes.items()},
        batches={name: _least(record.batches.get(name), took) for name, took in found.batches.items()},
        private_bytes=max(found.private_bytes, record.private_bytes),
        shared_bytes=max(found.shared_bytes, record.shared_bytes),
        worst_error=max(found.worst_error, record.worst_error),
    )


def _least(before: float | None, now: float) -> float:
    return now if before is None else min(before, now)
