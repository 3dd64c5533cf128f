"""The steps of a bake that are the same for models of either kind: making candidates apart, measuring, finishing.

Torch-free: an ONNX file is baked in a process that has no torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from .apart import Died, Reported, apart
from .candidates import CPU, EAGER, Candidate
from .choice import decide
from .job import Baked, Job
from .manifest import FILE, EngineRecord, Manifest, describe_artefacts, record_from_json, record_to_json
from .recorded import CASES_FILE
from .rounds import Measure, Progress, measured
from .tolerance import Tolerance

Make = Callable[[Candidate], dict[str, EngineRecord]]
"""Makes one candidate, in a child; returns a record per variant."""


def options(job: Job[Any], chosen: Sequence[Candidate], versions: Mapping[str, str]) -> dict[str, object]:
    """Return what a bake was asked for, for its snapshot's key: who takes part, on which sizes and device, and the
    ``versions`` of what their engines run in."""
    found: dict[str, object] = {
        "versions": dict(versions),
        "candidates": sorted(candidate.label for candidate in chosen),
        "batch_sizes": list(job.wanted.objective.batch_sizes),
    }
    return found if job.device == CPU else {**found, "device": job.device}


def made(
    job: Job[Any],
    chosen: Sequence[Candidate],
    make: Make,
    tolerance: Callable[[Candidate], Tolerance],
    progress: Progress,
) -> dict[str, EngineRecord]:
    """Make every candidate; return label -> record, variants included."""
    engines: dict[str, EngineRecord] = {}
    for number, candidate in enumerate(chosen):
        progress(f"compile {candidate.label}", 0.15 + 0.55 * number / len(chosen))
        allowed = tolerance(candidate)
        for variant, record in _made(job, candidate, make).items():
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


def _made(job: Job[Any], candidate: Candidate, make: Make) -> dict[str, EngineRecord]:
    """Make one candidate in a child; a failure is a record that says so."""

    def work() -> dict[str, Any]:
        return {variant: record_to_json(record) for variant, record in make(candidate).items()}

    try:
        found = apart(work, seconds=job.making_s)
    except (Reported, Died) as error:
        return {"": EngineRecord(refused=str(error))}
    return {variant: record_from_json(record) for variant, record in found.items()}


def finish(job: Job[Any], draft: Manifest, progress: Progress, measure: Measure) -> Baked:
    """Measure what the draft has, decide, and write the manifest over everything in ``job.staging``.

    Raises ``CheckFailed`` when eager cannot be measured.
    """
    engines = measured(draft, 0.7, progress, measure)
    progress("check", 0.99)
    (job.staging / CASES_FILE).unlink()
    verdict, reason = decide(engines, job.wanted)
    final = dataclasses.replace(
        draft, engines=engines, verdict=verdict, reason=reason, artefacts=describe_artefacts(job.staging)
    )
    (job.staging / FILE).write_bytes(final.to_bytes())
    return Baked(final, False, verdict, reason)


def link(job: Job[Any], manifest: Manifest) -> None:
    """Give ``job.staging`` links to the files of a finished snapshot."""
    for name in manifest.artefacts:
        (job.staging / name).symlink_to(job.published / manifest.key / name)


def measured_again(manifest: Manifest, progress: Progress, measure: Measure) -> Manifest:
    """Measure the engines of a finished snapshot, forgetting what was measured before.

    The staging directory has links to its files, and the cases that it was once measured on: it does not keep those.
    """
    draft = dataclasses.replace(manifest, engines={label: _new(one) for label, one in manifest.engines.items()})
    return dataclasses.replace(manifest, engines=measured(draft, 0.1, progress, measure))


def _new(record: EngineRecord) -> EngineRecord:
    """Return a record as it was before it was measured; one that was never made stays refused."""
    if not record.artefact and record.engine != EAGER:
        return record
    kept = ("engine", "precision", "variant", "artefact", "constants", "options", "absolute", "relative")
    return EngineRecord(**{name: getattr(record, name) for name in kept})
