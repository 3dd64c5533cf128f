"""Workers that hold a CUDA context and have no function yet: the node's pool of them.

A context cannot be forked, so no zygote may have one, and making it is the largest part of a start on a GPU that is
the same for every function. The pool makes it ahead of time, in processes of its own, and a start takes one over.

Contexts are made one at a time, with a pause between: each loads the driver on one core and takes device memory. The
pause also follows a take, because the start that took one has the cores then. A context that cannot be made doubles the
pause, up to a minute: a device that is busy or full is not asked again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.devices import CONTEXT_MIB
from glowplug.runtime.errors import GlowplugError

from .workers import Worker

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Pacing:
    """``floor``: how many idle contexts there should be; ``budget_mib``: what idle ones may take of the device's
    memory, all together; ``pause_s``: between two that are made."""

    floor: int
    budget_mib: int
    each_mib: int = CONTEXT_MIB
    pause_s: float = 2.0
    longest_pause_s: float = 60.0

    @property
    def most(self) -> int:
        """How many idle contexts there may be."""
        return max(0, min(self.floor, self.budget_mib // self.each_mib))


def next_in_s(pacing: Pacing, *, idle: int, making: bool, failures: int, since_s: float) -> float | None:
    """Return in how many seconds the next context should be made, 0 for now; None when none should.

    ``failures`` in a row came before; ``since_s`` is how long ago one was made, failed or was taken.
    """
    if making or idle >= pacing.most:
        return None
    pause_s = min(pacing.pause_s * 2.0 ** min(failures, 20), pacing.longest_pause_s)
    left_s = pause_s - since_s
    return left_s if left_s > 1e-3 else 0.0  # an alarm may ring a rounding error early


class ContextPool:
    """The idle contexts. ``make`` starts a worker that holds one, by a name; it raises ``GlowplugError`` when that
    fails. Nothing is made before ``want(True)``.

    ``refusal`` is why the last one could not be made; empty when it could.
    """

    def __init__(self, make: Callable[[str], Awaitable[Worker]], pacing: Pacing, clock: Clock) -> None:
        self.refusal = ""
        self._make = make
        self._pacing = pacing
        self._clock = clock
        self._idle: list[Worker] = []
        self._making: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._wanted = False
        self._failures = 0
        self._made = 0
        self._moved_at_s = float("-inf")

    def __repr__(self) -> str:
        return f"<ContextPool idle={len(self._idle)} of {self._pacing.most}, making={self._making is not None}>"

    @property
    def idle(self) -> int:
        """How many contexts wait for a function."""
        return len(self._idle)

    @property
    def each_mib(self) -> int:
        """What each takes of the device's memory, as far as is known."""
        return self._pacing.each_mib

    def want(self, wanted: bool) -> None:
        """Say whether there is any function that would use one; without, idle ones end."""
        self._wanted = wanted
        if not wanted:
            self.drop(len(self._idle), "no function uses a GPU any more")
        self._look()

    def take(self) -> Worker | None:
        """Hand over the oldest idle one, which is the caller's from here on; None when there is none."""
        while self._idle:
            worker = self._idle.pop(0)
            if worker.alive:
                self._moved()
                return worker
        return None

    def drop(self, count: int, why: str) -> None:
        """End up to ``count`` idle ones, the oldest first: their memory is needed."""
        dropped, self._idle = self._idle[:count], self._idle[count:]
        for worker in dropped:
            worker.kill(why)
        if dropped:
            self._moved()

    async def close(self) -> None:
        """Make no more; end those that are idle or being made."""
        self._wanted = False
        if self._alarm is not None:
            self._alarm.cancel()
        if self._making is not None:
            self._making.cancel()
            await asyncio.wait([self._making])
        ending, self._idle = self._idle, []
        for worker in ending:
            worker.kill("the node is stopping")
        await asyncio.gather(*(asyncio.shield(worker.exited) for worker in ending))

    def _moved(self) -> None:
        self._moved_at_s = self._clock.monotonic()
        self._look()

    def _look(self) -> None:
        """Make the next one, now or later, if one is missing."""
        if self._alarm is not None:
            self._alarm.cancel()
            self._alarm = None
        if not self._wanted:
            return
        due_s = next_in_s(
            self._pacing,
            idle=len(self._idle),
            making=self._making is not None,
            failures=self._failures,
            since_s=self._clock.monotonic() - self._moved_at_s,
        )
        if due_s is None:
            return
        if due_s > 0:
            self._alarm = self._clock.call_later(due_s, self._look)
            return
        self._made += 1
        self._making = asyncio.create_task(self._add(f"context-{self._made}"), name=f"context {self._made}")

    async def _add(self, name: str) -> None:
        try:
            worker = await self._make(name)
        except GlowplugError as error:
            self._failures += 1
            if str(error) != self.refusal:
                _log.warning("no CUDA context could be made: %s", error)
            self.refusal = str(error)
        else:
            self._failures, self.refusal = 0, ""
            if self._wanted:
                self._idle.append(worker)
                worker.exited.add_done_callback(lambda _: self._died(worker))
            else:
                worker.kill("no function uses a GPU any more")
        finally:
            self._making = None
            self._moved()

    def _died(self, worker: Worker) -> None:
        if worker in self._idle:
            _log.warning("%s ended while it was idle", worker)
            self._idle.remove(worker)
            self._failures += 1
            self._moved()
