"""Which engine should serve: the objective, its cost, and the decision. Pure.

The cost of an engine for a function is

    ColdWeight x (parked_ms + cold_ms) + WarmCalls x warm_ms

one start from each of the two cold tiers, and so many warm calls. ``parked_ms`` is what the engine adds to a start from
a parked zygote: the first call alone where it survives a fork, restoring it and the first call where it must be made
after the fork. ``cold_ms`` is what it adds to a start from disk: always both. Counting only one of them would make an
engine that is restored for every instance look as cheap as one that is restored once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from .candidates import AUTO, EAGER
from .manifest import EngineRecord


@dataclass(frozen=True, slots=True)
class Objective:
    """What ``Engine: auto`` minimises. ``batch_sizes`` are those whose warm calls count, evenly; the example's own
    sizes where there are none. Where starts count at all, an engine that adds more than ``max_parked_ratio`` warm
    calls to a start from parked gives way to one that does not and wakes faster."""

    cold_weight: float = 1.0
    warm_calls: float = 20.0
    batch_sizes: tuple[int, ...] = ()
    max_parked_ratio: float = 3.0

    def cost_ms(self, record: EngineRecord) -> float:
        """Return the cost of one engine in milliseconds; infinite for one that is refused or was not measured."""
        if record.refused or record.cold_ms is None or record.parked_ms is None or record.warm_ms is None:
            return float("inf")
        return self.cold_weight * (record.parked_ms + record.cold_ms) + self.warm_calls * self.warm_ms(record)

    def wakes_in_time(self, record: EngineRecord) -> bool:
        """Return whether a start from parked is short against a warm call, both of the example's sizes. Only for one
        that was measured."""
        return (record.parked_ms or 0.0) <= self.max_parked_ratio * (record.warm_ms or 0.0)

    def warm_ms(self, record: EngineRecord) -> float:
        """Return the warm time that counts: the mean over ``batch_sizes`` where all of them were measured."""
        sizes = [record.batches[str(size)] for size in self.batch_sizes if str(size) in record.batches]
        if sizes and len(sizes) == len(self.batch_sizes):
            return sum(sizes) / len(sizes)
        return record.warm_ms if record.warm_ms is not None else float("inf")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a template asks of a model's engine. ``max_error`` bounds the largest absolute difference from eager in
    fp32 and is what ``precision`` of ``auto`` chooses within; None: the tolerance of the precision alone."""

    engine: str = AUTO
    precision: str = "fp32"
    max_error: float | None = None
    objective: Objective = field(default_factory=Objective)

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Wanted:
        """Read what ``to_json`` wrote."""
        sizes = tuple(value["objective"]["batch_sizes"])
        return cls(**{**value, "objective": Objective(**{**value["objective"], "batch_sizes": sizes})})


def ranked(engines: Mapping[str, EngineRecord], wanted: Wanted) -> list[str]:
    """Return the labels that may serve, the best first: by cost, but see ``ALIKE`` and ``Objective``. ``eager`` is
    among them only where the template leaves it in the race: it serves after all of these anyway."""
    costs = {
        label: wanted.objective.cost_ms(record)
        for label, record in engines.items()
        if not _objection(label, record, wanted)
    }
    by_cost = sorted(costs, key=lambda label: costs[label])
    if not by_cost or not wanted.objective.cold_weight:
        return by_cost
    parked = {label: engines[label].parked_ms or 0.0 for label in by_cost}
    awake = [label for label in by_cost if wanted.objective.wakes_in_time(engines[label])]
    first = awake if by_cost[0] in awake else [label for label in awake if parked[label] < parked[by_cost[0]]]
    first = first or by_cost
    alike = [label for label in first if costs[label] <= ALIKE * costs[first[0]]]
    return list(dict.fromkeys([*sorted(alike, key=lambda label: parked[label]), *first, *by_cost]))


ALIKE = 1.05
"""Engines whose cost is within this factor of the least are as good as it: measurements on a machine that serves
meanwhile differ by more. Among them the one that wakes a parked function fastest is taken."""


def decide(engines: Mapping[str, EngineRecord], wanted: Wanted) -> tuple[str, str]:
    """Return the label of the engine that should serve, and why. ``eager`` where nothing that was asked for may."""
    allowed = ranked(engines, wanted)
    if not allowed:
        return EAGER, _why_none(engines, wanted)
    best = allowed[0]
    if wanted.engine != AUTO and wanted.precision != AUTO and len(allowed) == 1:
        return best, "asked for"
    return best, f"{_why(best, allowed, engines, wanted.objective)} ({_compared(engines, wanted.objective)})"


def _why(best: str, allowed: Sequence[str], engines: Mapping[str, EngineRecord], objective: Objective) -> str:
    costs = {label: objective.cost_ms(engines[label]) for label in allowed}
    if costs[best] == min(costs.values()):
        return f"least cost of {_words(objective)}"
    if any(costs[label] * ALIKE < costs[best] for label in allowed):
        within = f"within {objective.max_parked_ratio:g} warm calls"
        return f"least cost, of those that wake a parked function {within}, of {_words(objective)}"
    return f"fastest to wake of those within 5 % of the least cost of {_words(objective)}"


def _objection(label: str, record: EngineRecord, wanted: Wanted) -> str:
    """Return why an engine must not serve; empty when it may."""
    if record.refused:
        return record.refused
    if record.cold_ms is None:
        return "not measured"
    if wanted.engine not in (AUTO, record.engine):
        return "not asked for"
    if wanted.precision not in (AUTO, record.precision):
        return "not in the precision that was asked for"
    if wanted.max_error is not None and record.worst_error > wanted.max_error:
        return f"its error of {record.worst_error:.2g} is above MaxError {wanted.max_error:g}"
    return ""


def _why_none(engines: Mapping[str, EngineRecord], wanted: Wanted) -> str:
    asked = [
        (label, record)
        for label, record in engines.items()
        if label != EAGER and wanted.engine in (AUTO, record.engine) and wanted.precision in (AUTO, record.precision)
    ]
    reasons = [f"{label}: {_objection(label, record, wanted)}" for label, record in asked]
    if reasons:
        return "; ".join(reasons)
    precision = "" if wanted.precision == AUTO else f" in {wanted.precision}"
    named = "engine" if wanted.engine == AUTO else wanted.engine
    return f"there is no {named}{precision} for this model; there are {', '.join(engines)}"


def _compared(engines: Mapping[str, EngineRecord], objective: Objective) -> str:
    return ", ".join(
        f"{label} refused: {record.refused.splitlines()[0]}"
        if record.refused
        else f"{label} {record.cold_ms or 0:.1f} ms cold, {objective.warm_ms(record):.1f} ms warm"
        for label, record in engines.items()
    )


def _words(objective: Objective) -> str:
    starts = f"a start from parked and one from stored, weight {objective.cold_weight:g}"
    sizes: Sequence[int] = objective.batch_sizes
    calls = f"{objective.warm_calls:g} warm calls"
    return f"{starts}, and {calls}" + (f" of {', '.join(map(str, sizes))} at a time" if sizes else "")
