"""How engines do while they serve: success counts and live medians, per model of a revision. Pure, and bounded.

What a worker tells of its models' calls with each outcome (``wire.Outcome.models``) comes in, rows come out. Medians
are of the last ``WINDOW`` samples:

- warm: one sample per invocation, the mean of its calls but an instance's first;
- parked: the first call of an instance that was forked from a zygote that was there already, with the time to open
  the engine for it;
- cold: the same where the start also built the zygote, or needs none, with the restore.

A worker is its author's: it can only ever lie about its own function, and about no more than ``MOST_ENGINES`` engines.
In memory only; after a restart the figures begin anew. What was given up is kept elsewhere (``assignments``).
"""

from __future__ import annotations

import re
import statistics
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from glowplug.runtime.spec import FunctionSpec

from .records import StartRecord

WINDOW = 64
MOST_ENGINES = 16
MOST_PLACES = 1024
"""How many (revision, model) are kept, those called last: a kilobyte or two each."""

_ENGINE = re.compile(r"[a-z0-9_-]{1,48}")
_CALL_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)


@dataclass(frozen=True, slots=True)
class EngineRow:
    """One engine of one model, live. ``calls`` answered, ``failed`` raised; milliseconds are medians, None before there
    is a sample; of the two cold ones over so many starts.

    ``verified`` answers were made again by eager, ``wrong`` of them differed, by ``worst_error`` at most.
    """

    model: str
    engine: str
    calls: int
    failed: int
    warm_ms: float | None
    parked_ms: float | None
    parked_starts: int
    cold_ms: float | None
    cold_starts: int
    verified: int = 0
    wrong: int = 0
    worst_error: float = 0.0


@dataclass(slots=True)
class Live:
    """The samples of one engine of one model of one revision."""

    calls: int = 0
    failed: int = 0
    verified: int = 0
    wrong: int = 0
    worst_error: float = 0.0
    warm_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    parked_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    cold_ms: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def row(self, model: str, engine: str) -> EngineRow:
        """Return the figures as of now."""
        return EngineRow(
            model,
            engine,
            self.calls,
            self.failed,
            _median(self.warm_ms),
            _median(self.parked_ms),
            len(self.parked_ms),
            _median(self.cold_ms),
            len(self.cold_ms),
            self.verified,
            self.wrong,
            self.worst_error,
        )


@dataclass(slots=True)
class Totals:
    """What is counted of one engine of a function's model, over all its revisions. ``buckets`` as for Prometheus: how
    many invocations' mean call took at most ``BOUNDS_S``, the last for everything above."""

    calls: int = 0
    failed: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(_CALL_S) + 1))


BOUNDS_S = _CALL_S


class EngineFigures:
    """The figures of one node's engines."""

    def __init__(self) -> None:
        self._live: OrderedDict[tuple[str, str], dict[str, Live]] = OrderedDict()
        self._totals: dict[tuple[str, str, str], Totals] = {}

    def __repr__(self) -> str:
        return f"<EngineFigures places={len(self._live)} series={len(self._totals)}>"

    def called(self, spec: FunctionSpec, start: StartRecord, rows: Sequence[Sequence[Any]]) -> list[tuple[str, str]]:
        """Count the calls of one invocation; return the (model, engine) of which it had an instance's first call."""
        first = []
        for model, engine, answered, warm_ms, first_ms, failed in rows:
            live = self._at(spec, model, engine)
            if live is None or answered < 0 or failed < 0:
                continue
            warm = answered - (1 if first_ms >= 0 else 0)
            live.calls += answered
            live.failed += failed
            if warm > 0:
                live.warm_ms.append(warm_ms / warm)
            if first_ms >= 0:
                _cold_samples(live, start).append(first_ms + _restored_ms(spec, start))
                first.append((model, engine))
            self._count(spec.name, model, engine, answered, failed, warm_ms + max(0.0, first_ms))
        return first

    def verified(self, spec: FunctionSpec, model: str, engine: str, *, wrong: bool, worst_error: float) -> None:
        """Count an answer that was made again."""
        live = self._at(spec, model, engine)
        if live is not None:
            live.verified += 1
            live.wrong += wrong
            live.worst_error = max(live.worst_error, worst_error)

    def rows(self, revision: str, model: str) -> tuple[EngineRow, ...]:
        """Return a row for each engine that has answered a call of the model, by name."""
        engines = self._live.get((revision, model), {})
        return tuple(engines[name].row(model, name) for name in sorted(engines))

    def row(self, revision: str, model: str, engine: str) -> EngineRow:
        """Return one engine's figures; all of them empty where it was never called."""
        return self._live.get((revision, model), {}).get(engine, Live()).row(model, engine)

    def totals(self) -> Iterator[tuple[tuple[str, str, str], Totals]]:
        """Iterate over (function, model, engine) and what was counted of it."""
        yield from self._totals.items()

    def forget(self, function: str) -> None:
        """Drop the series of a function that was deleted."""
        self._totals = {key: totals for key, totals in self._totals.items() if key[0] != function}

    def begin(self, revision: str, model: str) -> None:
        """Forget the samples of a model: it has been measured anew."""
        self._live.pop((revision, model), None)

    def _at(self, spec: FunctionSpec, model: str, engine: str) -> Live | None:
        """Return where to count; None for what the function has not declared, or cannot be an engine's name."""
        place = (spec.revision, model)
        engines = self._live.get(place)
        if engines is None:
            if not any(declared.name == model for declared in spec.models):
                return None
            engines = self._live[place] = {}
        self._live.move_to_end(place)
        if len(self._live) > MOST_PLACES:
            self._live.popitem(last=False)
        live = engines.get(engine)
        if live is None and len(engines) < MOST_ENGINES and _ENGINE.fullmatch(engine):
            live = engines[engine] = Live()
        return live

    def _count(self, function: str, model: str, engine: str, answered: int, failed: int, took_ms: float) -> None:
        totals = self._totals.setdefault((function, model, engine), Totals())
        totals.calls += answered
        totals.failed += failed
        if answered:
            totals.seconds += took_ms / 1e3
            mean_s = took_ms / 1e3 / answered
            place = next((number for number, bound in enumerate(BOUNDS_S) if mean_s <= bound), len(BOUNDS_S))
            totals.buckets[place] += answered


def _cold_samples(live: Live, start: StartRecord) -> deque[float]:
    return live.parked_ms if start.way == "fork" else live.cold_ms


def _restored_ms(spec: FunctionSpec, start: StartRecord) -> float:
    """Return what restoring engines took in this start. It is not known by model, so of several nobody is charged."""
    if len(spec.models) != 1:
        return 0.0
    return sum(phase.duration_ms for phase in start.phases if phase.name == "restore")


def _median(samples: deque[float]) -> float | None:
    return statistics.median(samples) if samples else None
