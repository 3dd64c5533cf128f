"""When accepting goes first."""

from __future__ import annotations

from pathlib import Path

import pytest
from eventrig import EventRig

from glowplug.runtime.events.pressure import BREATH_S, LOOK_S, Pressure
from glowplug.runtime.testing import ManualClock, settle

LONG_ENOUGH_S = 1.01 * LOOK_S


class Work:
    """The seconds that a process has worked."""

    def __init__(self) -> None:
        self.done_s = 0.0

    def __call__(self) -> float:
        return self.done_s


@pytest.mark.parametrize(
    ("accepted", "share", "high"),
    [
        pytest.param(200, 0.95, True, id="more than fits"),
        pytest.param(200, 0.5, False, id="there is time for both"),
        pytest.param(20, 0.95, False, id="working off what is there"),
        pytest.param(0, 0.0, False, id="nothing to do"),
    ],
)
async def test_a_rush_is_many_that_come_while_there_is_no_time_left(accepted: int, share: float, high: bool) -> None:
    clock, work = ManualClock(), Work()
    pressure = Pressure(clock, work)
    for _ in range(accepted):
        pressure.accepted()
    work.done_s += share * LOOK_S
    assert not pressure.high()  # the time since the last look is too short to tell
    await clock.advance(LONG_ENOUGH_S)
    assert high == pressure.high()


async def test_a_rush_is_over_at_the_next_look() -> None:
    clock, work = ManualClock(), Work()
    pressure = Pressure(clock, work)
    for _ in range(200):
        pressure.accepted()
    work.done_s = LOOK_S
    await clock.advance(LONG_ENOUGH_S)
    assert pressure.high()
    work.done_s += LOOK_S
    await clock.advance(LONG_ENOUGH_S / 2)
    assert pressure.high()
    await clock.advance(LONG_ENOUGH_S / 2)
    assert not pressure.high()


async def test_a_lane_takes_a_breath_after_each_event_of_a_rush_and_all_of_them_run(tmp_path: Path) -> None:
    async with EventRig(tmp_path) as rig:
        rig.handlers.held = True
        rig.handlers.room = 1
        sent = [await rig.send() for _ in range(200)]
        await settle()
        assert 1 == len(rig.handlers.seen)
        rig.worked_s += LOOK_S
        await rig.clock.advance(LONG_ENOUGH_S)
        rig.handlers.room, rig.handlers.held = 100, False
        rig.handlers.let_go()
        await settle()
        assert 1 == len(rig.handlers.seen)  # its lane breathes
        await rig.pass_s(BREATH_S, BREATH_S)
        assert 1 < len(rig.handlers.seen) < 10
        await rig.clock.advance(LONG_ENOUGH_S)  # nothing more comes
        await rig.quiet()
        assert len(sent) == len(rig.handlers.seen)
