"""Make a snapshot of a model that is an ONNX file: ``snapshot.bake`` without torch, to the same manifest.

Everything that starts ONNX Runtime happens in children (``apart``), so this process can go on forking.
"""

from __future__ import annotations

import dataclasses
import hashlib
from pathlib import Path
from typing import Any

from .. import bakeoff, fingerprint, reuse
from ..apart import Died, Reported, apart
from ..candidates import EAGER, Candidate, Kind, candidates
from ..choice import decide
from ..definition import OnnxDefinition
from ..errors import CheckFailed, ExampleInvalid
from ..job import Baked, Job
from ..manifest import CHECK_FILE, EngineRecord, Manifest, key_of, source_digest
from ..plan import Plan
from ..rounds import Measure, Progress
from ..tolerance import Tolerance
from . import calls, outline
from .session import obstacle, version

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
    options = bakeoff.options(job, chosen, {ENGINE: version()})
    key = key_of(source, graph, signature, options, here)
    existing = reuse.find(
        job.published, key, options, source=source, graph=graph, signature=signature, here=here, again=job.again
    )
    if existing is not None:
        manifest = dataclasses.replace(existing, engines=reuse.usable(existing.engines, _obstacle))
        if manifest.key == job.again:
            bakeoff.link(job, manifest)
            (job.staging / CHECK_FILE).unlink()  # written anew, with the other cases
            _written(job, found)
            manifest = bakeoff.measured_again(manifest, progress, measure)
        return Baked(manifest, True, *decide(manifest.engines, job.wanted))
    tolerances = _written(job, found)

    def make(candidate: Candidate) -> dict[str, EngineRecord]:
        if candidate.engine == EAGER:
            return {"": EngineRecord()}
        from .making import make  # late: imports what belongs into the child

        return make(path, job.staging, candidate.precision)

    engines = bakeoff.made(job, chosen, make, lambda candidate: tolerances[candidate.precision], progress)
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
        options=options,
    )
    return bakeoff.finish(job, draft, progress, measure)


def _obstacle(engine: str) -> str:
    """Return why an engine of a snapshot cannot serve here; empty when it can."""
    return obstacle() if engine in (EAGER, ENGINE) else f"no engine {engine!r} for an ONNX file"


def _inside(found: outline.Outline) -> str:
    """Return why a model is not optimised: the optimiser would look for external data beside a file of the store."""
    return "the file keeps weights in other files; it is served as it is" if found.external else ""


def _written(job: Job[OnnxDefinition], found: outline.Outline) -> dict[str, Tolerance]:
    """Write what candidates are compared with; return precision -> tolerance.

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
        allowed = apart(work, seconds=job.making_s)
    except Reported as error:
        kind = ExampleInvalid if error.error_type == "ExampleInvalid" else CheckFailed
        raise kind(error.args[0]) from error
    except Died as error:
        raise CheckFailed(f"model {job.definition.name}: the file as it is {error}") from error
    return {precision: Tolerance(*bounds) for precision, bounds in allowed.items()}
