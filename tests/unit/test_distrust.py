"""When an engine is given up, and what comes next: figures, policy and memory of it, without a process."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime import errors
from glowplug.runtime.enginemetrics import EngineMetrics
from glowplug.runtime.enginewatch import EngineWatch
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.routing.distrust import LEAST_MS, MARGIN, MARGIN_UNKNOWN, STARTS, Expected, kind_of, too_slow
from glowplug.runtime.routing.enginefigures import MOST_ENGINES, MOST_PLACES, WINDOW, EngineFigures, EngineRow
from glowplug.runtime.routing.records import Phase, StartRecord
from glowplug.runtime.routing.words import describe_engine
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import MODEL, a_spec
from glowplug.snapshot.assignments import Assignment, Assignments, GivenUp, Measured

SPEC = a_spec(models=(MODEL,))


def start(way: Any = "fork", restore_ms: float | None = None) -> StartRecord:
    phases = () if restore_ms is None else (Phase("restore", 0.0, restore_ms), Phase("start", 0.0, 99.0))
    return StartRecord(
        *("s", SPEC.name, "$LATEST", SPEC.revision, None, "request", "parked", way), 0.0, 50.0, phases=phases
    )


def row(**fields: Any) -> EngineRow:
    given: dict[str, Any] = {
        "model": "",
        "engine": "fast",
        "calls": 100,
        "failed": 0,
        "warm_ms": 10.0,
        "parked_ms": 20.0,
        "parked_starts": STARTS,
        "cold_ms": None,
        "cold_starts": STARTS,
    }
    return EngineRow(**(given | fields))


# --- figures ----------------------------------------------------------------------------------------------------------


def test_figures_are_medians_of_warm_parked_and_cold_calls() -> None:
    figures = EngineFigures()
    for first_ms in (20.0, 30.0, 90.0):
        assert [("", "fast")] == figures.called(SPEC, start(), [["", "fast", 1, 0.0, first_ms, 0]])
    figures.called(SPEC, start("park and fork", restore_ms=5.0), [["", "fast", 1, 0.0, 40.0, 0]])
    for warm_ms in (10.0, 12.0, 50.0):
        assert [] == figures.called(SPEC, start(), [["", "fast", 2, 2 * warm_ms, -1.0, 1]])
    (live,) = figures.rows(SPEC.revision, "")
    assert (10, 3, 12.0) == (live.calls, live.failed, live.warm_ms)
    assert (30.0, 3, 45.0, 1) == (live.parked_ms, live.parked_starts, live.cold_ms, live.cold_starts)


def test_a_first_call_with_warm_ones_behind_it_counts_as_both() -> None:
    figures = EngineFigures()
    figures.called(SPEC, start(), [["", "fast", 3, 22.0, 30.0, 0]])
    (live,) = figures.rows(SPEC.revision, "")
    assert (3, 11.0, 30.0) == (live.calls, live.warm_ms, live.parked_ms)


def test_of_several_models_none_is_charged_with_the_restore_of_all() -> None:
    spec = a_spec(models=(replace(MODEL, name="a"), replace(MODEL, name="b")))
    figures = EngineFigures()
    figures.called(spec, start("exec", restore_ms=500.0), [["a", "fast", 1, 0.0, 30.0, 0]])
    assert 30.0 == figures.row(spec.revision, "a", "fast").cold_ms


def test_memory_is_bounded_whatever_a_worker_says() -> None:
    figures = EngineFigures()
    for number in range(WINDOW + 10):
        figures.called(SPEC, start(), [["", "fast", 1, float(number), -1.0, 0]])
    for number in range(100):
        figures.called(SPEC, start(), [["", f"engine{number}", 1, 1.0, -1.0, 0]])
    figures.called(SPEC, start(), [["", "x" * 1000, 1, 1.0, -1.0, 0], ["undeclared", "fast", 1, 1.0, -1.0, 0]])
    figures.called(SPEC, start(), [["", "fast", -5, 1.0, -1.0, 0]])
    assert MOST_ENGINES == len(figures.rows(SPEC.revision, "")) == len(list(figures.totals()))
    assert (WINDOW + 10, 41.5) == (
        figures.row(SPEC.revision, "", "fast").calls,
        figures.row(SPEC.revision, "", "fast").warm_ms,
    )
    for number in range(MOST_PLACES):
        figures.called(a_spec(f"g{number}", models=(MODEL,)), start(), [["", "fast", 1, 1.0, -1.0, 0]])
    assert () == figures.rows(SPEC.revision, "")


def test_engines_are_in_the_metrics_and_go_with_their_function() -> None:
    figures = EngineFigures()
    figures.called(SPEC, start(), [["", "fast", 2, 30.0, -1.0, 1]])
    retired = Counter({("f", "", "fast", "cold"): 1})
    families = {family.name: family for family in EngineMetrics(figures, lambda: retired).collect()}  # type: ignore[arg-type,return-value]
    samples = {
        (sample.name, sample.labels.get("le", "")): sample.value
        for family in families.values()
        for sample in family.samples
    }
    assert (2, 1, 1) == (
        samples["glowplug_engine_calls_total", ""],
        samples["glowplug_engine_failures_total", ""],
        samples["glowplug_engine_retired_total", ""],
    )
    assert (0, 2, 0.03) == (
        samples["glowplug_engine_call_seconds_bucket", "0.01"],
        samples["glowplug_engine_call_seconds_bucket", "0.02"],
        samples["glowplug_engine_call_seconds_sum", ""],
    )
    figures.forget("f")
    assert [] == list(figures.totals())


def test_figures_in_words() -> None:
    told = describe_engine(row(failed=2, verified=3, worst_error=0.25, model="m"))
    assert (
        "So far fast of m answered 100 calls: 10.0 ms a warm call, 20.0 ms the first after a start from parked "
        "(medians); 2 raised; 3 were verified, the largest difference was 0.25."
    ) == told


# --- policy -----------------------------------------------------------------------------------------------------------

OWN, RIVAL = Expected("fast", 8.0, 12.0, 10.0), Expected("plain", 20.0, 40.0, 12.0)


@pytest.mark.parametrize(
    ("live", "given_up"),
    [
        (row(parked_ms=20.0 * MARGIN + 1), True),
        (row(parked_ms=20.0 * MARGIN - 1), False),
        (row(parked_ms=500.0, parked_starts=STARTS - 1), False),
        (row(cold_ms=500.0, cold_starts=STARTS - 1), False),  # many from parked are no help
        (row(parked_ms=None, cold_ms=40.0 * MARGIN + 1), True),
        (row(parked_ms=None, cold_ms=40.0 * MARGIN - 1), False),
        (row(parked_ms=60.0, warm_ms=30.0), False),  # three times the load, or inputs three times as large
        (row(parked_ms=121.0, warm_ms=30.0), True),
        (row(parked_ms=60.0 * 0.9, warm_ms=None), False),
        (row(parked_ms=20.0 * MARGIN_UNKNOWN + 1, warm_ms=None), True),
        (row(parked_ms=41.0, warm_ms=5.0), True),  # faster than measured when warm: no excuse
    ],
)
def test_cold_times_worse_than_the_next_engines(live: EngineRow, *, given_up: bool) -> None:
    assert given_up is bool(too_slow(live, OWN, RIVAL))


def test_a_difference_that_nobody_notices_changes_nothing() -> None:
    rival = Expected("plain", 1.0, 1.0, 1.0)
    assert "" == too_slow(row(parked_ms=1.0 + LEAST_MS), OWN, rival)
    assert too_slow(row(parked_ms=2.0 + LEAST_MS), OWN, rival)


def test_without_a_next_engine_or_its_figures_nothing_is_compared() -> None:
    assert "" == too_slow(row(parked_ms=9e9), OWN, None)
    assert "" == too_slow(row(parked_ms=9e9, cold_ms=9e9), OWN, Expected("plain", None, None, None))


def test_what_a_failed_start_blames_its_engine_for() -> None:
    assert ["check", "crash", "restore"] == [
        kind_of(error) for error in (errors.CheckFailed("x"), WorkerDied("w", Exit(11)), errors.RestoreFailed("x"))
    ]


# --- the ladder -------------------------------------------------------------------------------------------------------

VERDICT = Assignment("a", "k" * 64, "least cost", "auto", "f", ladder=("a", "b", "c"))


def test_the_next_engine_serves_and_eager_is_last() -> None:
    serving, verdict = [VERDICT.engine], VERDICT
    for _ in range(4):
        verdict = verdict.without(GivenUp(verdict.engine, "check", "off"))
        serving.append(verdict.engine)
    assert ["a", "b", "c", "eager", "eager"] == serving
    assert ("b", "a was given up: off") == (
        VERDICT.next_engine,
        VERDICT.without(GivenUp("a", "check", "off")).reason,
    )


def test_an_engine_given_up_while_another_serves_is_skipped_later() -> None:
    verdict = VERDICT.without(GivenUp("b", "check", "off"))
    assert ("a", "c") == (verdict.engine, verdict.next_engine)


def test_what_was_given_up_is_remembered_across_restarts(tmp_path: Path) -> None:
    verdict = replace(VERDICT, measured=(Measured("a", 1.0, 2.0),)).without(GivenUp("a", "cold", "slow"))
    Assignments(tmp_path).set("owner", "m", verdict)
    assert verdict == Assignments(tmp_path).get("owner", "m")


# --- the watch --------------------------------------------------------------------------------------------------------


class Verdicts:
    """Serves ``fast`` until it is given up."""

    def __init__(self) -> None:
        self.engine = "fast"
        self.given_up: list[tuple[str, str, str]] = []

    def expected(self, spec: FunctionSpec, model_name: str, engine: str, /) -> tuple[Expected | None, Expected | None]:
        return (OWN, RIVAL) if engine == self.engine else (None, None)

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: str, /) -> bool:
        self.given_up.append((engine, kind, reason))
        served, self.engine = engine == self.engine, "plain"
        return served


def watch() -> tuple[EngineWatch, Verdicts, list[tuple[str, bool]]]:
    verdicts, told = Verdicts(), list[tuple[str, bool]]()
    return EngineWatch(verdicts, on_given_up=lambda spec, why, at_once: told.append((why, at_once))), verdicts, told


def test_slow_starts_move_the_function_once() -> None:
    watching, verdicts, told = watch()
    for _ in range(STARTS - 1):
        watching.called(SPEC, start(), [["", "fast", 2, 10.0, 80.0, 0]])
    assert [] == told
    for _ in range(3):  # instances that had the engine go on for a while
        watching.called(SPEC, start(), [["", "fast", 2, 10.0, 80.0, 0]])
    reason = "it adds 80.0 ms to a start from parked (median), plain was measured at 20.0 ms"
    assert [("fast", "cold", reason)] == verdicts.given_up
    assert [(f"fast was given up: {reason}", False)] == told


def test_a_bake_begins_the_figures_anew() -> None:
    watching, verdicts, _ = watch()
    for _ in range(STARTS - 1):
        watching.called(SPEC, start(), [["", "fast", 2, 10.0, 80.0, 0]])
    watching.baked(SPEC)
    watching.called(SPEC, start(), [["", "fast", 2, 10.0, 80.0, 0]])
    assert [] == verdicts.given_up


def test_a_wrong_answer_takes_the_engine_out_at_once_and_an_unknown_one_does_not() -> None:
    watching, verdicts, told = watch()
    watching.verified(SPEC, [["", "fast", "unknown", 9.0, "the model is not deterministic"]])
    watching.verified(SPEC, [["", "fast", "right", 1e-6, ""]])
    assert [] == verdicts.given_up
    watching.verified(SPEC, [["", "fast", "wrong", 0.5, "output 0: value 3 is 1, recorded 0.5"]])
    reason = "an answer differs from eager's by up to 0.5: output 0: value 3 is 1, recorded 0.5"
    assert [("fast", "mismatch", reason)] == verdicts.given_up
    assert [(f"fast was given up: {reason}", True)] == told
    (live,) = watching.rows(SPEC.revision, "")
    assert (2, 1, 0.5) == (live.verified, live.wrong, live.worst_error)


def test_race_a_second_instance_that_finds_the_same_fault_moves_nothing_again() -> None:
    """Both had sampled before the first was heard."""
    watching, _, told = watch()
    for _ in range(2):
        watching.verified(SPEC, [["", "fast", "wrong", 0.5, "off"]])
    assert 1 == len(told)
