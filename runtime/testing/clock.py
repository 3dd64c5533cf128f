"""A clock moved by hand."""

from __future__ import annotations

import asyncio
import heapq
import itertools
from collections.abc import Callable
from functools import partial

from glowplug.runtime.clock import Alarm

TURNS = 40
"""Turns of the event loop that ``ManualClock`` gives after each alarm; more than any chain of callbacks here takes."""


class ManualAlarm:
    """A timer of a ``ManualClock``."""

    def __init__(self, callback: Callable[[], object]) -> None:
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """Forget the call."""
        self.callback = None


class ManualClock:
    """Time stands still until ``advance``; then alarms ring in order, each at its own moment."""

    def __init__(self, *, unix_s: float = 1_767_225_600.0) -> None:
        self._now_s = 1000.0
        self._unix_offset_s = unix_s - self._now_s
        self._alarms: list[tuple[float, int, ManualAlarm]] = []
        self._numbers = itertools.count()

    def __repr__(self) -> str:
        waiting = sum(alarm.callback is not None for _, _, alarm in self._alarms)
        return f"<ManualClock at {self._now_s:.3f} s, {waiting} alarms>"

    def monotonic(self) -> float:
        """Return the seconds it was moved to."""
        return self._now_s

    def time(self) -> float:
        """Return Unix seconds; the clock begins at 2026-01-01T00:00:00Z."""
        return self._now_s + self._unix_offset_s

    def set_s(self, by_s: float) -> None:
        """Set the wall clock forward or back; no time passes."""
        self._unix_offset_s += by_s

    async def sleep(self, seconds: float) -> None:
        """Return when the clock has been moved by ``seconds``; at once for none."""
        if seconds <= 0:
            await asyncio.sleep(0)
            return
        woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        alarm = self.call_later(seconds, partial(_wake, woken))
        try:
            await woken
        finally:
            alarm.cancel()

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Call ``callback`` when the clock has been moved by ``delay_s`` seconds."""
        alarm = ManualAlarm(callback)
        heapq.heappush(self._alarms, (self._now_s + max(0.0, delay_s), next(self._numbers), alarm))
        return alarm

    async def advance(self, seconds: float) -> None:
        """Move the clock, letting everything that an alarm sets off happen before the next one rings."""
        target_s = self._now_s + seconds
        await settle()
        while self._alarms and self._alarms[0][0] <= target_s:
            at_s, _, alarm = heapq.heappop(self._alarms)
            callback, alarm.callback = alarm.callback, None
            if callback is not None:
                self._now_s = at_s
                callback()
                await settle()
        self._now_s = target_s
        await settle()


async def settle() -> None:
    """Let everything happen that can happen without time passing."""
    for _ in range(TURNS):
        await asyncio.sleep(0)


def _wake(woken: asyncio.Future[None]) -> None:
    if not woken.done():
        woken.set_result(None)


class HandClock:
    """A clock for code without an event loop: ``pass_s`` lets time pass, ``set_s`` sets the wall clock alone."""

    def __init__(self, *, unix_s: float = 1_767_225_600.0) -> None:
        self._monotonic_s = 1000.0
        self._unix_s = unix_s

    def monotonic(self) -> float:
        """Return the seconds that have passed."""
        return self._monotonic_s

    def time(self) -> float:
        """Return Unix seconds."""
        return self._unix_s

    def pass_s(self, seconds: float) -> None:
        """Let time pass."""
        self._monotonic_s += seconds
        self._unix_s += seconds

    def set_s(self, by_s: float) -> None:
        """Set the wall clock forward or back."""
        self._unix_s += by_s

    async def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.pass_s(seconds)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Return an alarm that never rings: there is no event loop."""
        return ManualAlarm(callback)
