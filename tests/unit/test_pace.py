"""The pace of one response: a burst at once, then so many bytes a second."""

from __future__ import annotations

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.http.pace import Pace
from glowplug.runtime.testing import ManualClock


async def test_after_the_burst_every_byte_has_its_time() -> None:
    clock = ManualClock()
    pace = Pace(100, 1000, clock)
    await pace.take(1000)
    waiting = asyncio.create_task(pace.take(50))
    await clock.advance(0.49)
    assert not waiting.done()
    await clock.advance(0.01)
    assert waiting.done()


async def test_without_a_limit_nobody_waits() -> None:
    clock = ManualClock()
    await Pace(0, 1, clock).take(10**12)
    assert repr(clock) == "<ManualClock at 1000.000 s, 0 alarms>"


@given(st.lists(st.integers(1, 5000), min_size=1, max_size=20))
def test_no_more_is_sent_in_a_time_than_burst_and_rate_allow(sizes: list[int]) -> None:
    clock, sent = Leaping(), 0

    async def run() -> None:
        nonlocal sent
        pace = Pace(1000, 2000, clock)
        for size in sizes:
            await pace.take(size)
            sent += size
            assert sent <= 2000 + clock.monotonic() * 1000 + 1e-6

    asyncio.run(run())
    assert clock.monotonic() <= sent / 1000, "and nobody waits for more than that"


class Leaping(ManualClock):
    """A clock that leaps to the end of each sleep."""

    def __init__(self) -> None:
        super().__init__()
        self.slept_s = 0.0

    def monotonic(self) -> float:
        return self.slept_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds
