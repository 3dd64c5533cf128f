"""When a fetch tries again: pure back-off, and the counting around it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.cache.errors import SourceUnreachable
from glowplug.cache.retry import PROGRESS_BYTES, Backoff, Retries


def retries(backoff: Backoff | None = None, chance: float = 1.0) -> tuple[Retries, list[float]]:
    slept: list[float] = []
    return Retries(backoff or Backoff(), sleep=slept.append, chance=lambda: chance), slept


def refused(retry_after_s: float | None = None) -> SourceUnreachable:
    error = SourceUnreachable("busy")
    error.retry_after_s = retry_after_s
    return error


def test_waits_double_up_to_the_cap() -> None:
    backoff = Backoff(base_s=1.0, cap_s=5.0, attempts=6)
    assert [1.0, 2.0, 4.0, 5.0, 5.0, None] == [backoff.wait_s(n, asked_s=None, chance=1.0) for n in range(1, 7)]


@given(failures=st.integers(1, 5), chance=st.floats(0, 1), asked_s=st.none() | st.floats(0, 60))
def test_a_wait_is_within_its_bounds(failures: int, chance: float, asked_s: float | None) -> None:
    backoff = Backoff()
    waited = backoff.wait_s(failures, asked_s=asked_s, chance=chance)
    assert waited is not None
    assert (asked_s or 0.0) <= waited <= max(asked_s or 0.0, backoff.cap_s)


@given(failures=st.integers(1, 10**9))
def test_any_number_of_failures_can_be_asked_about(failures: int) -> None:
    assert (failures >= 6) == (Backoff().wait_s(failures, asked_s=None, chance=0.5) is None)


def test_the_last_error_is_raised_after_so_many_attempts() -> None:
    counted, slept = retries(Backoff(attempts=3))
    counted.failed(refused())
    counted.failed(refused())
    last = refused()
    with pytest.raises(SourceUnreachable) as caught:
        counted.failed(last)
    assert last is caught.value
    assert ([0.2, 0.4], 2) == (slept, counted.total)


def test_progress_forgives_earlier_failures() -> None:
    counted, slept = retries(Backoff(attempts=2))
    for _ in range(10):
        counted.failed(refused())
        counted.arrived(PROGRESS_BYTES)
    assert [0.2] * 10 == slept


def test_a_byte_now_and_then_is_not_progress() -> None:
    counted, _ = retries(Backoff(attempts=3))
    for _ in range(2):
        counted.arrived(PROGRESS_BYTES - 1)
        counted.failed(refused())
    counted.arrived(PROGRESS_BYTES - 1)
    with pytest.raises(SourceUnreachable):
        counted.failed(refused())


def test_a_server_is_not_asked_sooner_than_it_says() -> None:
    counted, slept = retries(chance=0.0)
    counted.failed(refused(7.0))
    counted.failed(refused())
    assert [7.0, 0.0] == slept


@pytest.mark.parametrize("asked_s", [61.0, 1e9, math.inf])
def test_a_server_that_asks_for_too_long_is_not_asked_again(asked_s: float) -> None:
    counted, slept = retries()
    with pytest.raises(SourceUnreachable):
        counted.failed(refused(asked_s))
    assert [] == slept
