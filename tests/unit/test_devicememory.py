"""Who may have the device's memory: the decision, and a start that waits for it. No device, no clock of its own."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.errors import DeviceFull
from glowplug.runtime.routing.devicememory import DeviceMemory, Idle, Room, decide, promised
from glowplug.runtime.routing.scaler import Action, IdleInstance, PoolState
from glowplug.runtime.testing import ManualClock, settle
from glowplug.snapshot.cuda.devices import Gpu
from glowplug.snapshot.errors import DeviceUnavailable

NOTHING: dict[str, Any] = {"promised_mib": 0, "leaving_mib": 0, "contexts": 0, "each_mib": 500, "idle": ()}


def an_idle(name: str, unused_s: float, mib: int) -> Idle:
    return Idle(Action("stop", name, "device memory", f"{name}1"), unused_s, mib)


OLD, NEW = an_idle("old", 90.0, 4000), an_idle("new", 5.0, 4000)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"free_mib": 8000}, Room(fits=True)),
        ({"free_mib": 9000, "promised_mib": 1001}, Room()),
        ({"free_mib": 7100, "contexts": 3}, Room(contexts=2)),
        ({"free_mib": 7000, "idle": (NEW, OLD)}, Room(stop=(OLD,))),
        ({"free_mib": 4000, "idle": (NEW, OLD), "contexts": 2}, Room(contexts=2, stop=(OLD,))),
        ({"free_mib": 500, "idle": (NEW, OLD)}, Room(stop=(OLD, NEW))),
        ({"free_mib": 500, "idle": (OLD,)}, Room()),
        ({"free_mib": 500, "idle": (NEW, OLD), "leaving_mib": 7500}, Room()),
    ],
)
def test_what_goes_for_a_start_of_8000_mib(changes: dict[str, Any], expected: Room) -> None:
    assert expected == decide(8000, **{**NOTHING, **changes})


mib = st.integers(0, 20_000)


@given(mib, mib, mib, mib, st.integers(0, 5), st.lists(st.tuples(st.floats(0, 1e4), mib), max_size=6))
def test_nothing_is_stopped_in_vain_and_never_more_than_is_needed(
    needed: int, free: int, promises: int, leaving: int, contexts: int, idle: list[tuple[float, int]]
) -> None:
    held = [an_idle(f"f{number}", unused_s, size) for number, (unused_s, size) in enumerate(idle)]
    verdict = decide(
        needed, free_mib=free, promised_mib=promises, leaving_mib=leaving, contexts=contexts, each_mib=500, idle=held
    )
    assert verdict.fits == (needed <= free - promises)
    gained = verdict.contexts * 500 + sum(one.mib for one in verdict.stop)
    if verdict.contexts or verdict.stop:
        assert free - promises + leaving + gained >= needed
        assert verdict.contexts <= contexts
        last = verdict.stop[-1].mib if verdict.stop else 500
        assert free - promises + leaving + gained - last < needed
        assert all(
            one.unused_s >= other.unused_s for one in verdict.stop for other in held if other not in verdict.stop
        )


class World:
    """A device of 10,000 MiB and what is on it; what is stopped is free a second later."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.free_mib: int | None = 10_000
        self.error: Exception | None = None
        self.pools: list[PoolState] = []
        self.stopped: list[Action] = []
        self.idle = 0
        self.each_mib = 500
        self.memory = DeviceMemory(self.ask, self, self.clock, pools=lambda: self.pools, perform=self.perform)

    async def ask(self) -> Gpu:
        if self.error is not None:
            raise self.error
        return Gpu(0, "L4", self.free_mib, None if self.free_mib is None else 10_000, "8.9", "550")

    def take(self) -> None:
        return None

    def drop(self, count: int, why: str) -> None:
        self.idle -= count
        self.clock.call_later(1.0, lambda: self.give(count * self.each_mib))

    def perform(self, action: Action) -> None:
        self.stopped.append(action)
        self.pools = [pool for pool in self.pools if pool.revision != action.revision]
        self.clock.call_later(1.0, lambda: self.give(4000))

    def give(self, size: int) -> None:
        self.free_mib = (self.free_mib or 0) + size

    async def runs(self, revision: str, size: int, unused_s: float) -> None:
        (await self.memory.admit(revision, size, within_s=0))()
        self.free_mib = (self.free_mib or 0) - size
        self.pools.append(
            PoolState(revision, (IdleInstance("i", unused_s),), 1, None, 0, unused_s, 60, 60, 60, settling=False)
        )

    def start(self, revision: str, size: int, within_s: float = 54.0) -> asyncio.Task[Any]:
        return asyncio.create_task(self.memory.admit(revision, size, within_s=within_s))


async def test_two_starts_are_not_promised_the_same_memory() -> None:
    world = World()
    first = await world.memory.admit("a", 6000, within_s=0)
    second = world.start("b", 6000)
    await settle()
    assert not second.done()
    with promised(first):
        pass
    await world.clock.advance(1)
    assert second.done()


async def test_contexts_and_then_the_longest_unused_instance_go_for_a_start() -> None:
    world = World()
    await world.runs("old", 4000, unused_s=50)
    await world.runs("new", 4000, unused_s=5)
    world.idle = 2
    start = world.start("c", 6500)
    await world.clock.advance(0.5)
    assert ([Action("stop", "old", "device memory", "i")], 0) == (world.stopped, world.idle)
    await world.clock.advance(2)
    assert start.done()


async def test_a_start_that_does_not_fit_in_time_says_the_numbers() -> None:
    world = World()
    busy = await world.memory.admit("busy", 7000, within_s=0)
    start = world.start("c", 6500, within_s=9.0)
    await world.clock.advance(8.9)
    assert not start.done()
    await world.clock.advance(1)
    with pytest.raises(
        DeviceFull, match=r"needs 6500 MiB.*10000 MiB of L4 10000 are free, 7000 of them promised.*in 9 s"
    ):
        await start
    busy()


async def test_what_can_never_fit_is_refused_at_once() -> None:
    with pytest.raises(DeviceFull, match="needs 10001 MiB of device memory; L4 has 10000 MiB in all"):
        await World().memory.admit("c", 10_001, within_s=54)


async def test_an_instance_of_the_same_function_is_not_stopped_for_it() -> None:
    world = World()
    await world.runs("a", 6000, unused_s=50)
    start = world.start("a", 6000, within_s=1.0)
    await world.clock.advance(5)
    with pytest.raises(DeviceFull):
        await start
    assert [] == world.stopped


async def test_unified_memory_is_not_asked_about_and_a_silent_driver_is_an_error() -> None:
    world = World()
    world.free_mib = None
    (await world.memory.admit("a", 10**6, within_s=0))()
    world.error = DeviceUnavailable("nvidia-smi did not answer within 10 s")
    with pytest.raises(DeviceUnavailable):
        await world.memory.admit("a", 1, within_s=0)
