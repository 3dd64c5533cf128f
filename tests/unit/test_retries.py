"""Repeated POSTs of one invocation: joined, kept for a while, given up."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable

import pytest

from glowplug.runtime.errors import StartTimeout, Throttled
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.invocation import Outcome
from glowplug.runtime.testing.clock import ManualClock, settle


class Function:
    """A function whose runs end when the test says so."""

    def __init__(self) -> None:
        self.runs: list[asyncio.Future[Outcome]] = []

    def work(self) -> Callable[[], Awaitable[Outcome]]:
        async def run() -> Outcome:
            self.runs.append(asyncio.get_running_loop().create_future())
            return await self.runs[-1]

        return run


def outcome(payload: bytes = b'"done"') -> Outcome:
    return Outcome("r-1", payload, "$LATEST", "hot")


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def retries(clock: ManualClock) -> Retries:
    return Retries(clock, wait_s=25.0, kept_bytes=10)


async def gone(request: asyncio.Task[Outcome]) -> None:
    """The client closes its connection."""
    await settle()
    request.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await request


async def test_a_retry_joins_the_invocation_that_its_client_gave_up_waiting_for(retries: Retries) -> None:
    function = Function()
    await gone(asyncio.create_task(retries.join("k", function.work())))
    retry = asyncio.create_task(retries.join("k", function.work()))
    await settle()
    function.runs[0].set_result(outcome())
    assert await retry == outcome()
    assert len(function.runs) == 1
    assert len(retries) == 0


async def test_a_result_that_came_between_two_attempts_is_given_to_the_second(retries: Retries) -> None:
    function = Function()
    await gone(asyncio.create_task(retries.join("k", function.work())))
    function.runs[0].set_result(outcome())
    await settle()
    assert await retries.join("k", function.work()) == outcome()
    assert len(function.runs) == 1
    assert len(retries) == 0


async def test_two_attempts_at_once_both_get_the_one_result(retries: Retries) -> None:
    function = Function()
    attempts = [asyncio.create_task(retries.join("k", function.work())) for _ in range(2)]
    await settle()
    function.runs[0].set_result(outcome())
    assert await asyncio.gather(*attempts) == [outcome(), outcome()]
    assert len(function.runs) == 1


async def test_another_key_is_another_invocation(retries: Retries) -> None:
    function = Function()
    attempts = [asyncio.create_task(retries.join(key, function.work())) for key in "ab"]
    await settle()
    for run in function.runs:
        run.set_result(outcome())
    await asyncio.gather(*attempts)
    assert len(function.runs) == 2


async def test_an_invocation_that_nobody_comes_back_for_is_ended(retries: Retries, clock: ManualClock) -> None:
    function = Function()
    await gone(asyncio.create_task(retries.join("k", function.work())))
    await clock.advance(24.9)
    assert not function.runs[0].cancelled()
    await clock.advance(0.2)
    assert function.runs[0].cancelled()
    assert len(retries) == 0


async def test_a_retry_stops_the_clock_that_would_end_it(retries: Retries, clock: ManualClock) -> None:
    function = Function()
    await gone(asyncio.create_task(retries.join("k", function.work())))
    await clock.advance(20)
    retry = asyncio.create_task(retries.join("k", function.work()))
    await clock.advance(60)
    assert not function.runs[0].cancelled()
    function.runs[0].set_result(outcome())
    assert await retry == outcome()


async def test_an_error_of_the_node_is_not_kept_and_one_of_the_function_is(retries: Retries) -> None:
    function = Function()
    for key in "ab":
        await gone(asyncio.create_task(retries.join(key, function.work())))
    function.runs[0].set_exception(Throttled("Rate Exceeded.", reason="x", retry_after_s=1))
    function.runs[1].set_exception(StartTimeout("too slow"))
    await settle()
    assert len(retries) == 1
    with pytest.raises(StartTimeout):
        await retries.join("b", function.work())


async def test_results_that_nobody_takes_are_bounded_the_oldest_go_first(retries: Retries) -> None:
    function = Function()
    for key in "abc":
        await gone(asyncio.create_task(retries.join(key, function.work())))
    for run in function.runs:
        run.set_result(outcome(b"12345"))
    await settle()
    assert len(retries) == 2
    assert await retries.join("c", function.work()) == outcome(b"12345")
    again = asyncio.create_task(retries.join("a", function.work()))
    await gone(again)
    assert len(function.runs) == 4


async def test_close_ends_what_nobody_waits_for(retries: Retries) -> None:
    function = Function()
    await gone(asyncio.create_task(retries.join("k", function.work())))
    await retries.close()
    assert function.runs[0].cancelled()
    assert len(retries) == 0
