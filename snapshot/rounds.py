"""Measuring candidates in turns, and what one measurement is, for models of either kind. Torch-free."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .candidates import EAGER
from .errors import CheckFailed
from .manifest import EngineRecord, Manifest

ROUNDS = 3
"""Measurements of each candidate, in turns (A B A B …), each in a process of its own; the best counts. A bake runs
beside whatever the node serves, and a burst of that must not decide which engine a function gets for months."""

MOST_ROUNDS = 5
"""Candidates whose best figures were seen only once are measured again, so often at most in all."""

_SEEN_TWICE = 1.25  # the second best may be so much more than the best …
_SLACK_MS = 1.0  # … or this: times below are made of noise, and decide nothing

WARM_CALLS = 20
WARM_S = 3.0
"""Most seconds for the warm calls of one shape; a slow model is measured on fewer."""

OTHER_CALLS = 8
"""Warm calls of the shapes that are only shown."""


@dataclass(frozen=True, slots=True)
class Measurement:
    """What was found out; fields as in ``manifest.EngineRecord``. ``refused`` says why the candidate must not serve:
    the figures mean nothing then."""

    restore_ms: float = 0.0
    first_ms: float = 0.0
    cold_ms: float = 0.0
    parked_ms: float = 0.0
    warm_ms: float = 0.0
    shapes: Mapping[str, float] = field(default_factory=dict)
    batches: Mapping[str, float] = field(default_factory=dict)
    private_bytes: int = 0
    shared_bytes: int = 0
    worst_error: float = 0.0
    refused: str = ""


Progress = Callable[[str, float], None]
Measure = Callable[[Manifest, str], Measurement]
"""Called with a draft manifest and a label; restores it from the staging directory in a process of its own."""


def measured(draft: Manifest, begin: float, progress: Progress, measure: Measure) -> dict[str, EngineRecord]:
    """Return the draft's engines with what was measured; ``begin`` is how much of the bake is over already."""
    engines = dict(draft.engines)
    seen: dict[str, list[Measurement]] = {label: [] for label, record in engines.items() if not record.refused}
    for turn in range(MOST_ROUNDS):
        due = [label for label, found in seen.items() if turn < ROUNDS or not settled(found)]
        for number, label in enumerate(due):
            if engines[label].refused:
                continue
            progress(f"measure {label}", begin + (0.98 - begin) * (turn + number / len(due)) / MOST_ROUNDS)
            found = measure(draft, label)
            seen[label].append(found)
            engines[label] = _better(engines[label], found)
    if engines[EAGER].refused:
        raise CheckFailed(f"eager could not be measured: {engines[EAGER].refused}")
    return engines


def settled(found: Sequence[Measurement]) -> bool:
    """Return whether the best of some measurements were seen twice, or one of them refuses the candidate."""
    if any(one.refused for one in found):
        return True
    for times in ([one.parked_ms for one in found], [one.cold_ms for one in found], [one.warm_ms for one in found]):
        best, second = sorted(times)[:2]
        if second > max(best * _SEEN_TWICE, best + _SLACK_MS):
            return False
    return True


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


def warm_ms_of(call: Callable[[], Any], most: int) -> float:
    """Return the lower quartile of some calls: undisturbed ones."""
    warm: list[float] = []
    while len(warm) < most and sum(warm) < WARM_S:
        begin = time.perf_counter()
        call()
        warm.append(time.perf_counter() - begin)
    return lower_quartile(warm) * 1e3


def lower_quartile(values: Sequence[float]) -> float:
    """Return a value that a quarter of them lie below. One of them: an interpolated one may be below all of few."""
    return sorted(values)[len(values) // 4]


def private_bytes() -> int:
    """Return this process's anonymous memory that is its own: what it has written since it was forked."""
    found = 0
    with open("/proc/self/smaps_rollup", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(("Private_Dirty:", "Private_Hugetlb:")):
                found += int(line.split()[1]) * 1024
    return found
