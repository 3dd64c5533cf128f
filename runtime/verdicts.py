"""From what a spec asks for and a bake has measured to the engine that serves, and those behind it. Pure."""

from __future__ import annotations

import itertools
import json
from collections.abc import Sequence

from glowplug.snapshot.assignments import FIGURES, Measured
from glowplug.snapshot.candidates import AUTO, EAGER, Candidate
from glowplug.snapshot.choice import Wanted, ranked
from glowplug.snapshot.manifest import EngineRecord

from .bakereport import BakeVerdict
from .devices import CPU
from .spec import FunctionSpec, ModelSpec


def wanted(spec: FunctionSpec, model: ModelSpec, label: str = "") -> Wanted:
    """Return what a bake of this model is to decide by. ``label`` is an engine that the operator asks for: what the
    template asks for, where that includes it, so that nothing is compiled twice."""
    candidate = Candidate.parse(label or EAGER)
    included = model.engine in (AUTO, candidate.engine) and model.precision in (AUTO, candidate.precision)
    if not label or included:
        return Wanted(model.engine, model.precision, model.max_error, spec.objective)
    return Wanted(candidate.engine, candidate.precision, None, spec.objective)


def chosen(verdict: BakeVerdict, label: str) -> tuple[str, str]:
    """Return the engine to serve with, and why: the verdict's, or the one that the operator asked for if it passed."""
    if not label:
        return verdict.engine, verdict.reason
    found = next((row for row in verdict.measured if row.engine == label), None)
    if found is None or found.refused:
        return verdict.engine, f"{label}: {found.refused if found is not None else 'not made'}; {verdict.reason}"
    return label, "asked for by the operator"


def asked(spec: FunctionSpec, model: ModelSpec, device: str) -> str:
    """Return ``wanted`` in one line, and the device unless it is the CPU: a verdict answers exactly that."""
    where = {} if device == CPU else {"device": device}
    return json.dumps(wanted(spec, model).to_json() | where, sort_keys=True)


def ladder(serving: str, measured: Sequence[Measured], wanted: Wanted) -> tuple[str, ...]:
    """Return the engines that passed, the best first: the one that serves, then by cost, as far as they beat eager."""
    records = {}
    for row in measured:
        about = Candidate.parse(row.engine)
        figures = {name: getattr(row, name) for name in FIGURES}
        records[row.engine] = EngineRecord(about.engine, about.precision, about.variant, **figures)
    others = itertools.takewhile(lambda label: label != EAGER, ranked(records, wanted))
    return (serving, *(label for label in others if label != serving))
