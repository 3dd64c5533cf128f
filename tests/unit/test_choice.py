"""Who takes part in a bake-off, and who wins it: pure functions of what was asked for and measured."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.snapshot.candidates import PRECISIONS, Candidate, Kind, candidates
from glowplug.snapshot.choice import ALIKE, Objective, Wanted, decide, ranked
from glowplug.snapshot.manifest import EngineRecord

KINDS = {
    "eager": Kind(("fp32",)),
    "aot_inductor": Kind(PRECISIONS),
    "onnxruntime": Kind(("fp32", "int8")),
    "tensorrt": Kind(("fp32", "fp16"), "no CUDA device"),
}


def record(engine: str, cold: float, warm: float, *, parked: float | None = None, **changes: Any) -> EngineRecord:
    parked_ms = cold if parked is None else parked
    return EngineRecord(engine=engine, cold_ms=cold, parked_ms=parked_ms, warm_ms=warm, **changes)


MEASURED = {
    "eager": record("eager", 30, 5, parked=8),
    "aot_inductor": record("aot_inductor", 14, 4, parked=6),
    "aot_inductor-bf16": record("aot_inductor", 10, 1.5, parked=4, precision="bf16", worst_error=0.003),
    "onnxruntime": record("onnxruntime", 70, 2),
}


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("candidate", "label"),
    [
        (Candidate("eager"), "eager"),
        (Candidate("aot_inductor", "bf16"), "aot_inductor-bf16"),
        (Candidate("onnxruntime", "fp32", "unpacked"), "onnxruntime-unpacked"),
        (Candidate("onnxruntime", "int8", "unpacked"), "onnxruntime-int8-unpacked"),
    ],
)
def test_a_label_names_what_is_not_plain(candidate: Candidate, label: str) -> None:
    assert label == candidate.label


# --- who takes part ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "precision", "chosen", "refused"),
    [
        ("auto", "fp32", ["eager", "aot_inductor", "onnxruntime"], ["tensorrt"]),
        ("auto", "int8", ["eager", "aot_inductor-int8", "onnxruntime-int8"], []),
        (
            "aot_inductor",
            "auto",
            ["eager", "aot_inductor", "aot_inductor-bf16", "aot_inductor-fp16", "aot_inductor-int8"],
            [],
        ),
        ("tensorrt", "fp16", ["eager"], ["tensorrt-fp16"]),
        ("eager", "fp32", ["eager"], []),
        ("onnxruntime", "bf16", ["eager"], []),
    ],
)
def test_what_was_asked_for_takes_part_and_eager_always(
    engine: str, precision: str, chosen: list[str], refused: list[str]
) -> None:
    made, why_not = candidates(engine, precision, KINDS)
    assert (chosen, refused) == ([candidate.label for candidate in made], list(why_not))
    assert all(reason == "no CUDA device" for reason in why_not.values())


# --- who wins ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "winner"),
    [
        (Wanted(), "aot_inductor"),
        (Wanted(objective=Objective(cold_weight=0, warm_calls=1)), "onnxruntime"),
        (Wanted(objective=Objective(cold_weight=1, warm_calls=0)), "aot_inductor"),
        (Wanted(engine="onnxruntime"), "onnxruntime"),
        (Wanted(precision="bf16"), "aot_inductor-bf16"),
        (Wanted(precision="auto", max_error=0.01), "aot_inductor-bf16"),
        (Wanted(precision="auto", max_error=0.001), "aot_inductor"),
        (Wanted(engine="eager"), "eager"),
    ],
)
def test_the_least_cost_under_the_objective_wins(wanted: Wanted, winner: str) -> None:
    assert winner == decide(MEASURED, wanted)[0]


def test_an_engine_that_is_restored_for_each_instance_pays_for_it_from_parked_too() -> None:
    once = record("aot_inductor", 40, 4, parked=5)
    each = record("onnxruntime", 40, 4)
    objective = Objective()
    assert objective.cost_ms(each) - objective.cost_ms(once) == pytest.approx(35)


@pytest.mark.parametrize(
    ("wanted", "reason"),
    [
        (
            Wanted(engine="onnxruntime", precision="int8"),
            "there is no onnxruntime in int8 for this model; there are eager, aot_inductor, aot_inductor-bf16, onnxruntime",
        ),
        (
            Wanted(engine="aot_inductor", precision="bf16", max_error=0.001),
            "aot_inductor-bf16: its error of 0.003 is above MaxError 0.001",
        ),
    ],
)
def test_where_nothing_that_was_asked_for_may_serve_eager_does_and_says_why(wanted: Wanted, reason: str) -> None:
    assert ("eager", reason) == decide(MEASURED, wanted)


def test_a_refused_engine_never_serves_and_its_reason_is_told() -> None:
    broken = {"eager": MEASURED["eager"], "aot_inductor": record("aot_inductor", 1, 1, refused="crashed with SIGSEGV")}
    label, reason = decide(broken, Wanted())
    assert "eager" == label
    assert "aot_inductor refused: crashed with SIGSEGV" in reason
    assert ("eager", "aot_inductor: crashed with SIGSEGV") == decide(broken, Wanted(engine="aot_inductor"))


def test_warm_calls_of_the_batch_sizes_count_where_they_were_measured() -> None:
    small = record("a", 10, 1, batches={"1": 1.0, "8": 9.0})
    large = record("b", 10, 2, batches={"1": 2.0, "8": 3.0})
    objective = Objective(batch_sizes=(1, 8))
    assert (5.0, 2.5) == (objective.warm_ms(small), objective.warm_ms(large))
    assert 1 == objective.warm_ms(record("c", 10, 1, batches={"1": 1.0})), "one is missing: the example's sizes count"


def test_what_is_wanted_survives_json() -> None:
    wanted = Wanted("auto", "auto", 0.01, Objective(0.5, 3, (1, 16)))
    assert wanted == Wanted.from_json(json.loads(json.dumps(wanted.to_json())))


def test_of_engines_that_cost_as_good_as_the_same_the_one_that_wakes_fastest_is_taken() -> None:
    slow = record("onnxruntime", 50, 4.8, parked=15.4)
    fast = record("aot_inductor", 24, 6.0, parked=12)
    engines = {"onnxruntime": slow, "aot_inductor": fast}
    assert ["aot_inductor", "onnxruntime"] == ranked(engines, Wanted())
    warm = Wanted(objective=Objective(cold_weight=0, warm_calls=1))
    assert "onnxruntime" == ranked(engines, warm)[0], "nobody wakes under that objective"


@given(
    st.dictionaries(
        st.sampled_from(["eager", "aot_inductor", "onnxruntime", "tensorrt"]),
        st.tuples(st.floats(0.1, 1e4), st.floats(0.1, 1e4), st.booleans(), st.floats(0, 1)),
        min_size=1,
    ),
    st.sampled_from([None, 0.0, 0.5]),
)
def test_the_winner_is_allowed_and_nobody_allowed_is_cheaper(
    measured: dict[str, tuple[float, float, bool, float]], max_error: float | None
) -> None:
    engines = {
        name: record(name, cold, warm, refused="wrong" if refused else "", worst_error=error)
        for name, (cold, warm, refused, error) in measured.items()
    }
    wanted = Wanted(max_error=max_error)
    order, (winner, _) = ranked(engines, wanted), decide(engines, wanted)
    costs = {label: wanted.objective.cost_ms(engines[label]) for label in order}
    assert winner == (order[0] if order else "eager")
    assert not any(engines[label].refused for label in order)
    assert max_error is None or all(engines[label].worst_error <= max_error for label in order)
    best = min(costs, key=lambda label: costs[label], default="")
    for label in order:  # whoever costs clearly less than the winner wakes too late, or no sooner than the cheapest
        if costs[label] * ALIKE < costs[winner]:
            late = not wanted.objective.wakes_in_time(engines[label])
            assert late or (engines[label].parked_ms or 0) >= (engines[best].parked_ms or 0)


def test_an_engine_that_wakes_too_late_gives_way_to_one_that_wakes_faster() -> None:
    late, soon = record("onnxruntime", 47, 4.7, parked=15), record("aot_inductor", 25, 7.7, parked=11)
    engines = {"onnxruntime": late, "aot_inductor": soon}
    assert Objective().cost_ms(late) * ALIKE < Objective().cost_ms(soon)
    label, reason = decide(engines, Wanted())
    assert "aot_inductor" == label
    assert "of those that wake a parked function within 3 warm calls" in reason
    assert "onnxruntime" == decide(engines, Wanted(objective=Objective(max_parked_ratio=10)))[0]
    assert "onnxruntime" == decide(engines, Wanted(objective=Objective(cold_weight=0)))[0]


def test_one_that_wakes_too_late_does_not_win_by_costing_alike() -> None:
    late = record("onnxruntime", 34, 3.3, parked=10.0)
    soon = record("aot_inductor", 19, 4.0, parked=10.5)
    engines = {"onnxruntime": late, "aot_inductor": soon}
    assert Objective().cost_ms(soon) < Objective().cost_ms(late) < ALIKE * Objective().cost_ms(soon)
    assert not Objective().wakes_in_time(late)
    assert ["aot_inductor", "onnxruntime"] == ranked(engines, Wanted())


def test_one_that_is_better_in_everything_is_not_passed_over_for_its_fast_calls() -> None:
    better = record("aot_inductor", 18, 1.5, parked=8, precision="bf16")
    plain = record("aot_inductor", 25, 6, parked=11)
    engines = {"aot_inductor-bf16": better, "aot_inductor": plain}
    assert "aot_inductor-bf16" == decide(engines, Wanted(precision="auto", max_error=1))[0]
