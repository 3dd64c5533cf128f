"""Work that several want: done once, ended with the last who wants it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from glowplug.runtime.flights import Flights
from glowplug.runtime.testing import settle


class Work:
    """Work that ends when the test says so."""

    def __init__(self) -> None:
        self.begun = self.cancelled = 0
        self.gate: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.tell: Callable[[int], None] = lambda progress: None

    async def __call__(self, tell: Callable[[int], None]) -> str:
        self.begun += 1
        self.tell = tell
        try:
            return await asyncio.shield(self.gate)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise


async def joined(flights: Flights[str, int], work: Work, count: int) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(flights.join("key", work, name="work")) for _ in range(count)]
    await settle()
    return tasks


async def test_everybody_gets_the_result_of_one() -> None:
    flights, work = Flights[str, int](), Work()
    tasks = await joined(flights, work, 3)
    work.gate.set_result("done")
    assert (["done"] * 3, 1, 0) == (await asyncio.gather(*tasks), work.begun, len(flights))


async def test_everybody_gets_the_error_and_the_next_begins_anew() -> None:
    flights, work = Flights[str, int](), Work()
    tasks = await joined(flights, work, 2)
    work.gate.set_exception(ValueError("no"))
    for task in tasks:
        with pytest.raises(ValueError, match="no"):
            await task
    again = Work()
    [task] = await joined(flights, again, 1)
    again.gate.set_result("yes")
    assert "yes" == await task


async def test_a_start_that_is_cancelled_does_not_end_a_fetch_that_others_wait_for() -> None:
    flights, work = Flights[str, int](), Work()
    first, second = await joined(flights, work, 2)
    first.cancel()
    await settle()
    assert (True, 0) == (first.cancelled(), work.cancelled)
    work.gate.set_result("done")
    assert "done" == await second


async def test_with_the_last_who_waits_it_ends_before_he_returns() -> None:
    flights, work = Flights[str, int](), Work()
    [task] = await joined(flights, work, 1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (1, 0) == (work.cancelled, len(flights))


async def test_progress_reaches_everybody_who_still_waits() -> None:
    flights, work = Flights[str, int](), Work()
    heard: list[tuple[str, int]] = []
    tasks = [
        asyncio.create_task(flights.join("key", work, name="w", on_progress=lambda n, who=who: heard.append((who, n))))  # type: ignore[misc]
        for who in ("a", "b")
    ]
    await settle()
    work.tell(1)
    tasks[0].cancel()
    await settle()
    work.tell(2)
    work.gate.set_result("done")
    await tasks[1]
    assert [("a", 1), ("b", 1), ("b", 2)] == heard
