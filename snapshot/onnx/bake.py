"""Make a snapshot of a model that is an ONNX file: ``snapshot.bake`` without torch, to the same manifest.

Everything that starts ONNX Runtime happens in children (``apart``), so this process can go on forking.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from .. import fingerprint
from ..apart import Died, Reported, apart
from ..candidates import EAGER, Candidate, Kind, candidates
from ..choice import decide
from ..definition import OnnxDefinition
from ..errors import CheckFailed, ExampleInvalid
from ..job import Baked, Job
from ..manifest import (
    CHECK_FILE,
    FILE,
    EngineRecord,
    Manifest,
    describe_artefacts,
    key_of,
    record_from_json,
    record_to_json,
    source_digest,
)
from ..plan import Plan
from ..rounds import Measure, Progress, measured
from . import calls, outline
from .record import VERSION
from .session import obstacle, version

CASES_FILE = "cases.safetensors"  # as ``cases`` has it, which imports NumPy
ENGINE = "onnxruntime"


def bake(job: Job[OnnxDefinition], *, progress: Progress, measure: Measure) -> Baked:
    """Bake a snapshot into ``job.staging``.

    Raises ``ModelError``, ``CheckFailed`` (outputs of the file as it is are not finite, or differ from call to call). A
    candidate that cannot be made, is wrong or crashes is no error: its record says so.
    """
    progress("export", 0.05)
    file = calls.chosen(job.definition.name, job.definition.file, job.files)
    path = Path(job.files[file])
    found = outline.read(path, file)
    outline.refuse_escapes(found, file, job.files)
    kinds = {EAGER: Kind(("fp32",)), ENGINE: Kind(("fp32", "int8"), obstacle("onnx") or _inside(found))}
    chosen, refused = candidates(job.wanted.engine, job.wanted.precision, kinds)
    with path.open("rb") as model:
        graph = hashlib.file_digest(model, "sha256").hexdigest()
    signature, here, source = calls.to_json(file, found), fingerprint.current().to_json(), source_digest(job.files)
    options = {
        VERSION: version(),
        "candidates": sorted(candidate.label for candidate in chosen),
        "batch_sizes": list(job.wanted.objective.batch_sizes),
    }
    key = key_of(source, graph, signature, options, here)
    existing = job.published / key / FILE
    if existing.exists():
        manifest = Manifest.from_bytes(existing.read_bytes())
        if key == job.again:
            manifest = _measured_again(job, found, manifest, progress, measure)
        return Baked(manifest, True, *decide(manifest.engines, job.wanted))
    tolerances = _written(job, found)
    engines = _made(job, chosen, path, tolerances, progress)
    engines |= {label: EngineRecord(engine=label, refused=reason) for label, reason in refused.items()}
    draft = Manifest(
        key=key,
        source=source,
        graph=graph,
        fingerprint=here,
        signature=signature,
        computed={},
        aliases={},
        engines=engines,
        verdict=EAGER,
        reason="",
        check={"file": CHECK_FILE},
        artefacts={},
    )
    engines = measured(draft, 0.7, progress, measure)
    progress("check", 0.99)
    (job.staging / CASES_FILE).unlink()
    verdict, reason = decide(engines, job.wanted)
    final = dataclasses.replace(
        draft, engines=engines, verdict=verdict, reason=reason, artefacts=describe_artefacts(job.staging)
    )
    (job.staging / FILE).write_bytes(final.to_bytes())
    return Baked(final, False, verdict, reason)


def _inside(found: outline.Outline) -> str:
    """Return why a model is not optimised: the optimiser would look for external data beside a file of the store."""
    return "the file keeps weights in other files; it is served as it is" if found.external else ""


def _written(job: Job[OnnxDefinition], found: outline.Outline) -> dict[str, Any]:
    """Write what candidates are compared with; return precision -> (absolute, relative).

    Raises ``ExampleInvalid``, ``CheckFailed``.
    """

    def work() -> dict[str, Any]:
        from . import cases, outputs  # late, both: NumPy's threads belong into the child
        from .restore import restore

        engine = restore(job.definition, job.files, Plan()).engine
        engine.open(1)
        given = cases.write(job.definition, found, engine, job.wanted.objective.batch_sizes, job.staging)
        allowed = {precision: outputs.tolerance_in(precision, given) for precision in ("fp32", "int8")}
        return {precision: [each.absolute, each.relative] for precision, each in allowed.items()}

    try:
        return dict(apart(work, seconds=job.making_s))
    except Reported as error:
        kind = ExampleInvalid if error.error_type == "ExampleInvalid" else CheckFailed
        raise kind(error.args[0]) from error
    except Died as error:
        raise CheckFailed(f"model {job.definition.name}: the file as it is {error}") from error


def _made(
    job: Job[OnnxDefinition], chosen: list[Candidate], path: Path, tolerances: dict[str, Any], progress: Progress
) -> dict[str, EngineRecord]:
    """Make every candidate; return label -> record, variants included."""
    engines: dict[str, EngineRecord] = {}
    for number, candidate in enumerate(chosen):
        progress(f"compile {candidate.label}", 0.15 + 0.55 * number / len(chosen))
        absolute, relative = tolerances[candidate.precision]
        for variant, record in _make(job, candidate, path).items():
            named = dataclasses.replace(candidate, variant=variant)
            engines[named.label] = dataclasses.replace(
                record,
                engine=named.engine,
                precision=named.precision,
                variant=variant,
                absolute=absolute,
                relative=relative,
            )
    return engines


def _make(job: Job[OnnxDefinition], candidate: Candidate, path: Path) -> dict[str, EngineRecord]:
    """Make one candidate in a child; a failure is a record that says so."""
    if candidate.engine == EAGER:
        return {"": EngineRecord()}

    def work() -> dict[str, Any]:
        from .making import make  # late: imports what belongs into the child

        records = make(path, job.staging, candidate.precision)
        return {variant: record_to_json(record) for variant, record in records.items()}

    try:
        made = apart(work, seconds=job.making_s)
    except (Reported, Died) as error:
        return {"": EngineRecord(refused=str(error))}
    return {variant: record_from_json(record) for variant, record in made.items()}


def _measured_again(
    job: Job[OnnxDefinition], found: outline.Outline, manifest: Manifest, progress: Progress, measure: Measure
) -> Manifest:
    """Measure the engines of a finished snapshot anew, on links to its files."""
    for name in manifest.artefacts:
        (job.staging / name).symlink_to(job.published / manifest.key / name)
    (job.staging / CHECK_FILE).unlink()
    _written(job, found)
    engines = {
        label: dataclasses.replace(record, cold_ms=None, warm_ms=None, worst_error=0.0, refused="")
        if record.artefact or record.engine == EAGER  # else it was never made
        else record
        for label, record in manifest.engines.items()
    }
    draft = dataclasses.replace(manifest, engines=engines)
    return dataclasses.replace(manifest, engines=measured(draft, 0.1, progress, measure))
