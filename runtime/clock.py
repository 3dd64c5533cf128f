"""Time as an argument: whoever waits or measures is given a ``Clock``, so that tests can move it by hand."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """What ``Clock.call_later`` returns."""

    def cancel(self) -> None:
        """Forget the call; nothing happens when it was made already."""


class Clock(Protocol):
    """Monotonic seconds for ages, Unix seconds for time stamps, sleep and alarms."""

    def monotonic(self) -> float:
        """Return seconds on a clock that never goes back."""

    def time(self) -> float:
        """Return Unix seconds."""

    async def sleep(self, seconds: float) -> None:
        """Return after ``seconds``."""

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Call ``callback`` on the event loop ``delay_s`` seconds from now."""


class SystemClock:
    """The machine's clock. For one event loop: the one that runs when its first alarm is set."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def monotonic(self) -> float:
        """Return ``time.monotonic()``."""
        return time.monotonic()

    def time(self) -> float:
        """Return ``time.time()``."""
        return time.time()

    async def sleep(self, seconds: float) -> None:
        """Sleep on the running event loop."""
        await asyncio.sleep(seconds)

    def call_later(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Set a timer of the running event loop."""
        if self._loop is None:
            self._loop = asyncio.get_running_loop()  # a system call (getpid) each time, and every request sets an alarm
        return self._loop.call_later(delay_s, callback)
