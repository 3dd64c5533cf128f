"""Who waits for messages, and when to call them: no polling, and no call is lost.

A *waiter* is one receive that found nothing. It is woken when a message of its queue may be received, one waiter for a
message; one that got messages wakes the next, because there may be more. A *listener* is a dispatcher: it is called
whenever there may be messages, and asks itself.

The moment at which a delay or a lease ends is an alarm, one per queue. When it rings nobody knows how many messages
there are: one waiter is woken, and an empty receive sets the alarm again.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from functools import partial

from glowplug.runtime.clock import Alarm, Clock

_log = logging.getLogger(__name__)
_LATE_S = 0.001  # a lease ends within its millisecond; ringing before its end would find nothing


class Bell:
    """The waiters and listeners of one queue."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._listeners: list[Callable[[], object]] = []
        self._alarm: Alarm | None = None
        self._alarm_ms = 0
        self.rings = 0
        """How often it rang: who looked before the last ring looks again instead of waiting."""

    def ring(self, messages: int) -> None:
        """There are ``messages`` more that may be received."""
        self.rings += 1
        self.wake(messages)
        for listener in tuple(self._listeners):
            try:
                listener()
            except Exception:  # a fault of one dispatcher must not keep others from their messages
                _log.exception("a listener of a queue failed")

    def wake(self, count: int = 1) -> None:
        """Wake waiters, those first that wait longest."""
        while count > 0 and self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                count -= 1

    def at(self, at_ms: int, now_ms: int) -> None:
        """Ring at a moment, unless the alarm is set for an earlier one. Unix ms."""
        if self._alarm is not None and self._alarm_ms <= at_ms:
            return
        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm_ms = at_ms
        self._alarm = self._clock.call_later((at_ms - now_ms) / 1000 + _LATE_S, self._rang)

    def _rang(self) -> None:
        self._alarm = None
        self.ring(1)

    async def wait(self, rings: int, timeout_s: float) -> None:
        """Return when it rings, at once if it rang since it had rung ``rings`` times, or after ``timeout_s``."""
        if self.rings != rings:
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        alarm = self._clock.call_later(timeout_s, partial(_end, waiter))
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self.wake()  # the call was for a message; it goes to the next
            raise
        finally:
            alarm.cancel()
            waiter.cancel()

    def listen(self, listener: Callable[[], object]) -> Callable[[], None]:
        """Call ``listener`` whenever there may be messages; returns what ends that."""
        self._listeners.append(listener)

        def end() -> None:
            if listener in self._listeners:
                self._listeners.remove(listener)

        return end

    def silence(self) -> None:
        """Let every waiter look once more, and set no alarm."""
        self.rings += 1
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        self.wake(len(self._waiters))

    @property
    def waiting(self) -> int:
        """How many wait."""
        return sum(not waiter.done() for waiter in self._waiters)


class Bells:
    """The bells of all queues, made when they are first needed."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._bells: dict[str, Bell] = {}

    def of(self, queue: str) -> Bell:
        """Return the bell of a queue."""
        bell = self._bells.get(queue)
        if bell is None:
            bell = self._bells[queue] = Bell(self._clock)
        return bell

    def known(self, queue: str) -> Bell | None:
        """Return the bell of a queue if somebody ever waited for it."""
        return self._bells.get(queue)

    def forget(self, queue: str) -> None:
        """A queue was deleted: whoever waits hears of it by looking."""
        bell = self._bells.pop(queue, None)
        if bell is not None:
            bell.silence()

    def silence(self) -> None:
        """The store ends."""
        for bell in self._bells.values():
            bell.silence()


def _end(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)
