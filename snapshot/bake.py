"""Make a snapshot: trace the model, make every candidate that this machine can, check each against eager, measure.

A bake ends with a staging directory whose last file is the manifest; whoever asked for it signs and publishes it by
rename. Each candidate is made in a forked child (``apart``): one that crashes, hangs or fails costs itself alone, and
its record says why. Measuring is the caller's (``measure``): it belongs in the state that a worker would be in.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

from . import bakeoff, cases, fingerprint, reuse, verify
from .architecture import assemble
from .candidates import EAGER, Candidate, candidates
from .checkpoint import SNAPSHOT, Origin, TensorFiles
from .choice import decide
from .definition import ModelDefinition
from .engines import Aims, Resumes, torch_private
from .engines.table import create, kinds, obstacle, versions
from .job import Baked, Job
from .manifest import EXTRA_FILE, EngineRecord, Manifest, key_of, source_digest
from .program import Program, export
from .rounds import Measure, Progress
from .tolerance import Tolerance


def bake(job: Job[ModelDefinition], *, progress: Progress, measure: Measure) -> Baked:
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
    chosen, refused = candidates(job.wanted.engine, job.wanted.precision, kinds(job.device))
    signature, here = program.signature.to_json(), fingerprint.current().to_json()
    source = source_digest(job.files)
    options = bakeoff.options(job, chosen, versions({candidate.engine for candidate in chosen}))
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
        manifest = dataclasses.replace(existing, engines=reuse.usable(existing.engines, obstacle))
        if manifest.key == job.again:
            bakeoff.link(job, manifest)
            cases.write_cases(program, job.wanted.objective.batch_sizes, job.staging)
            manifest = bakeoff.measured_again(manifest, progress, measure)
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
    return bakeoff.finish(job, draft, progress, measure)


def _made(
    job: Job[ModelDefinition], chosen: Sequence[Candidate], program: Program, outputs: Any, progress: Progress
) -> dict[str, EngineRecord]:
    """Make every candidate; return label -> record, variants included."""
    leaves = torch_private.flatten(outputs)[0]
    weights = [parameter.dtype for parameter in program.assembled.module.parameters()]
    plain = verify.tolerance_for([*weights, *(output.dtype for output in leaves)])

    def make(candidate: Candidate) -> dict[str, EngineRecord]:
        engine = create(candidate.engine)
        if isinstance(engine, Resumes):
            engine.resume(job.published)
        if isinstance(engine, Aims):
            engine.aim(job.device)
        return engine.export(program, job.staging, candidate.precision)

    def allowed(candidate: Candidate) -> Tolerance:
        return verify.tolerance_in(candidate.precision, plain, leaves)

    return bakeoff.made(job, chosen, make, allowed, progress)
