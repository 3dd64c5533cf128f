"""The pool of contexts: when the next one is made, who gets one, and what ends them. No process, no clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.errors import RestoreFailed
from glowplug.runtime.process.contextpool import ContextPool, Pacing, next_in_s
from glowplug.runtime.process.workers import Worker
from glowplug.runtime.testing import FakeWorker, ManualClock, Script, settle

PACING = Pacing(floor=2, budget_mib=4096, pause_s=2.0)


@pytest.mark.parametrize(
    ("floor", "budget_mib", "most"), [(2, 4096, 2), (8, 1200, 2), (8, 511, 0), (0, 4096, 0), (1, 512, 1)]
)
def test_the_budget_bounds_the_floor(floor: int, budget_mib: int, most: int) -> None:
    assert most == Pacing(floor, budget_mib, each_mib=512).most


@pytest.mark.parametrize(
    ("given_", "due_s"),
    [
        ({"idle": 0, "making": False, "failures": 0, "since_s": float("inf")}, 0.0),
        ({"idle": 1, "making": False, "failures": 0, "since_s": 0.5}, 1.5),
        ({"idle": 1, "making": True, "failures": 0, "since_s": 10.0}, None),
        ({"idle": 2, "making": False, "failures": 0, "since_s": 10.0}, None),
        ({"idle": 0, "making": False, "failures": 3, "since_s": 1.0}, 15.0),
        ({"idle": 0, "making": False, "failures": 30, "since_s": 0.0}, 60.0),
    ],
)
def test_when_the_next_is_made(given_: dict[str, Any], due_s: float | None) -> None:
    assert due_s == next_in_s(PACING, **given_)


class Making:
    """What the pool asks for contexts. ``error`` is what the next one fails with, ``gate`` what it waits for."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.made: list[FakeWorker] = []
        self.at_s: list[float] = []
        self.error: Exception | None = None
        self.takes_s = 0.0
        self.at_once = self.most_at_once = 0

    async def __call__(self, name: str) -> Worker:
        self.at_s.append(self.clock.monotonic() - 1000.0)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.clock.sleep(self.takes_s)
        finally:
            self.at_once -= 1
        if self.error is not None:
            raise self.error
        self.made.append(FakeWorker(name, Script(), self.clock, forked=False))
        return cast(Worker, self.made[-1])

    def die(self) -> None:
        for one in self.made[-1:]:
            one.die(9)


def a_pool(pacing: Pacing = PACING) -> tuple[ContextPool, Making, ManualClock]:
    clock = ManualClock()
    making = Making(clock)
    return ContextPool(making, pacing, clock), making, clock


async def test_nothing_is_made_before_somebody_wants_it() -> None:
    pool, making, clock = a_pool()
    await clock.advance(100)
    assert ([], None) == (making.made, pool.take())
    pool.want(True)
    await clock.advance(0)
    assert 1 == pool.idle


async def test_they_are_made_one_at_a_time_with_a_pause_and_refilled_after_a_take() -> None:
    pool, making, clock = a_pool()
    making.takes_s = 1.0
    pool.want(True)
    await clock.advance(10)
    assert ([0.0, 3.0], 2, 1) == (making.at_s, pool.idle, making.most_at_once)
    first = pool.take()
    assert first is cast(Worker, making.made[0])
    await clock.advance(1.5)
    assert 1 == pool.idle
    await clock.advance(10)
    assert ([0.0, 3.0, 12.0], 2) == (making.at_s, pool.idle)
    await pool.close()
    assert [True, False, False] == [worker.alive for worker in making.made]


async def test_a_device_that_refuses_is_asked_ever_more_rarely_and_the_reason_is_kept() -> None:
    pool, making, clock = a_pool()
    making.error = RestoreFailed("cuda:0: the device is busy")
    pool.want(True)
    await clock.advance(30)
    assert [0.0, 4.0, 12.0, 28.0] == making.at_s
    assert ("cuda:0: the device is busy", None) == (pool.refusal, pool.take())
    making.error = None
    await clock.advance(70)
    assert ("", 2) == (pool.refusal, pool.idle)
    await pool.close()


async def test_one_that_dies_is_never_handed_out_and_is_replaced() -> None:
    pool, making, clock = a_pool()
    pool.want(True)
    await clock.advance(10)
    making.made[0].die(9)
    assert pool.take() is cast(Worker, making.made[1])
    await clock.advance(60)
    assert 2 == pool.idle
    await pool.close()


async def test_contexts_end_when_nobody_wants_them_or_their_memory_is_needed() -> None:
    pool, making, clock = a_pool()
    pool.want(True)
    await clock.advance(10)
    pool.drop(1, "memory")
    await settle()
    assert ([False, True], 1) == ([worker.alive for worker in making.made], pool.idle)
    pool.want(False)
    await clock.advance(100)
    assert ([False, False], 0) == ([worker.alive for worker in making.made], pool.idle)


async def test_one_that_is_being_made_when_the_node_stops_is_given_up() -> None:
    pool, making, _ = a_pool()
    making.takes_s = 100.0
    pool.want(True)
    await settle()
    await pool.close()
    assert (0, []) == (making.at_once, making.made)


Step = Callable[[ContextPool, Making, ManualClock], object]
steps: dict[str, Step] = {
    "take": lambda pool, making, clock: pool.take(),
    "drop": lambda pool, making, clock: pool.drop(1, "memory"),
    "want": lambda pool, making, clock: pool.want(True),
    "leave": lambda pool, making, clock: pool.want(False),
    "die": lambda pool, making, clock: making.die(),
    "fail": lambda pool, making, clock: setattr(making, "error", RestoreFailed("busy")),
    "mend": lambda pool, making, clock: setattr(making, "error", None),
}


@given(st.lists(st.tuples(st.sampled_from(sorted(steps)), st.floats(0, 5)), max_size=30))
def test_whatever_happens_the_budget_holds_and_nothing_dead_is_handed_out(story: list[tuple[str, float]]) -> None:
    async def play() -> None:
        pool, making, clock = a_pool()
        making.takes_s = 0.5
        pool.want(True)
        for name, pause_s in story:
            got = steps[name](pool, making, clock)
            assert name != "take" or got is None or cast(Worker, got).alive
            await clock.advance(pause_s)
            assert pool.idle <= PACING.most
            assert making.most_at_once <= 1
        making.error = None
        pool.want(True)
        await clock.advance(200)
        assert PACING.most == pool.idle
        await pool.close()
        assert making.at_once == 0

    asyncio.run(play())
