"""Watches engines while they serve: counts their calls, and gives up those that turn out slow or wrong.

What it hears comes with outcomes, from workers (``routing.enginefigures`` has the figures); what it does about them is
the policy of ``routing.distrust``. Synchronous: it sits on the request path and costs a model's invocation a few
microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .routing.distrust import Expected, Kind, too_slow
from .routing.enginefigures import EngineFigures, EngineRow
from .routing.records import StartRecord
from .spec import FunctionSpec


class Verdicts(Protocol):
    """Which engine serves, and what it was measured to be. ``runtime.verdictbook.VerdictBook`` is one."""

    def expected(self, spec: FunctionSpec, model_name: str, engine: str, /) -> tuple[Expected | None, Expected | None]:
        """Return what was measured of an engine that serves and of the next one."""

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind, /) -> bool:
        """Give an engine up. Returns whether it served."""


class EngineWatch:
    """``on_given_up`` is called with a revision's spec, why, and whether its engine must not answer once more."""

    def __init__(self, verdicts: Verdicts, *, on_given_up: Callable[[FunctionSpec, str, bool], None]) -> None:
        self._verdicts = verdicts
        self._on_given_up = on_given_up
        self._figures = EngineFigures()

    def __repr__(self) -> str:
        return f"EngineWatch({self._figures!r})"

    @property
    def figures(self) -> EngineFigures:
        """What was counted, for metrics and listings."""
        return self._figures

    def rows(self, revision: str, model: str) -> tuple[EngineRow, ...]:
        """Return the live figures of a model's engines, by name."""
        return self._figures.rows(revision, model)

    def baked(self, spec: FunctionSpec) -> None:
        """A bake has measured the engines of this revision anew: what was seen before says nothing any more."""
        for model in spec.models:
            self._figures.begin(spec.revision, model.name)

    def called(self, spec: FunctionSpec, start: StartRecord, rows: Sequence[Sequence[Any]], /) -> None:
        """Count the calls of one invocation; after an instance's first, judge its engine's cold times."""
        for model, engine in self._figures.called(spec, start, rows):
            live = self._figures.row(spec.revision, model, engine)
            slow = too_slow(live, *self._verdicts.expected(spec, model, engine))
            if slow:
                self._give_up(spec, model, engine, slow, "cold")

    def verified(self, spec: FunctionSpec, rows: Sequence[Sequence[Any]], /) -> None:
        """Count answers that eager has made again, and give up an engine whose answer was another."""
        for model, engine, verdict, worst_error, problem in rows:
            if verdict == "unknown":
                continue
            wrong = verdict == "wrong"
            self._figures.verified(spec, model, engine, wrong=wrong, worst_error=worst_error)
            if wrong:
                reason = f"an answer differs from eager's by up to {worst_error:.3g}: {problem:.300}"
                self._give_up(spec, model, engine, reason, "mismatch")

    def _give_up(self, spec: FunctionSpec, model: str, engine: str, reason: str, kind: Kind) -> None:
        if self._verdicts.give_up(spec, model, engine, reason, kind):
            self._on_given_up(spec, f"{engine} was given up: {reason}", kind == "mismatch")
