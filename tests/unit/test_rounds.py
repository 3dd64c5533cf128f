"""What a bake makes of several timings, and when it measures once more."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from glowplug.snapshot.errors import CheckFailed
from glowplug.snapshot.manifest import EngineRecord, Manifest
from glowplug.snapshot.rounds import MOST_ROUNDS, ROUNDS, Measurement, lower_quartile, measured, settled


@pytest.mark.parametrize(
    ("values", "expected"),
    [([3.0], 3.0), ([0.1, 9.0], 0.1), ([5.0, 1.0, 3.0, 2.0], 2.0), ([float(n) for n in range(20)], 5.0)],
)
def test_the_lower_quartile_is_one_of_the_values(values: list[float], expected: float) -> None:
    assert expected == lower_quartile(values)


def took(ms: float, **changes: Any) -> Measurement:
    return Measurement(**{"cold_ms": ms, "parked_ms": ms, "warm_ms": ms, **changes})


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ([took(10), took(12), took(90)], True),
        ([took(10), took(13), took(90)], False),
        ([took(10), took(10, warm_ms=20), took(10, warm_ms=30)], False),
        ([took(0.1), took(0.9), took(5)], True),
        ([took(10), took(90, refused="crashed with SIGSEGV")], True),
    ],
)
def test_the_best_counts_once_it_was_seen_twice(found: list[Measurement], expected: bool) -> None:
    assert expected is settled(found)


class Bench:
    """Answers measurements from a list per label, the last one again and again."""

    def __init__(self, **answers: list[Measurement]) -> None:
        self.answers = answers
        self.asked: Counter[str] = Counter()
        self.progress: list[float] = []

    def __call__(self, draft: Manifest, label: str) -> Measurement:
        found = self.answers[label]
        self.asked[label] += 1
        return found[min(self.asked[label], len(found)) - 1]

    def run(self) -> dict[str, EngineRecord]:
        engines = {label: EngineRecord(engine=label) for label in self.answers}
        draft = Manifest("k", "s", "g", {}, {}, {}, {}, engines, "eager", "", {}, {})
        return measured(draft, 0.5, lambda phase, fraction: self.progress.append(fraction), self)


def test_a_machine_that_was_busy_for_all_three_rounds_does_not_decide() -> None:
    bench = Bench(eager=[took(5)], fast=[took(60), took(90), took(40), took(2), took(2)])
    assert 2.0 == bench.run()["fast"].warm_ms
    assert {"eager": ROUNDS, "fast": 5} == dict(bench.asked)
    assert sorted(bench.progress) == bench.progress
    assert bench.progress[-1] < 1


def test_one_that_never_settles_ends() -> None:
    bench = Bench(eager=[took(5)], wild=[took(3.0**n) for n in range(20, 0, -1)])
    bench.run()
    assert MOST_ROUNDS == bench.asked["wild"]


def test_a_refused_one_is_not_measured_again_and_eager_must_be_measured() -> None:
    bench = Bench(eager=[took(5)], broken=[took(1, refused="CheckFailed: output 0")])
    assert "CheckFailed: output 0" == bench.run()["broken"].refused
    assert 1 == bench.asked["broken"]
    with pytest.raises(CheckFailed, match="eager could not be measured"):
        Bench(eager=[took(1, refused="crashed")]).run()
