"""A lease: temporary ownership of an instance by one request."""

from __future__ import annotations

from types import TracebackType
from typing import Protocol

from glowplug.runtime.clock import Clock
from glowplug.runtime.invocation import Invocation, Tier

from .instance import Instance
from .pool import Pool
from .waiter import Waiter


class Chooser(Protocol):
    """Decides about a request that no ready instance can take; the router."""

    def hold(self, pool: Pool, invocation: Invocation) -> Waiter:
        """Hold the request, with a start where one is wanted. Raises ``Throttled``."""

    def check(self, pool: Pool, instance: Instance) -> None:
        """Give an instance back once the check that its last answer announced is over."""


class Lease:
    """``async with`` gives an instance that nobody else can choose; leaving the block gives it back.

    What the request found and waited for stays readable afterwards: ``tier``, ``held_ms``, and ``start_id`` of the
    start that brought up its instance, when it is the instance's first request.
    """

    __slots__ = ("_chooser", "_clock", "_instance", "_invocation", "held_ms", "pool", "start_id", "tier", "waited")

    def __init__(self, pool: Pool, invocation: Invocation, chooser: Chooser, clock: Clock) -> None:
        self.pool = pool
        self.tier: Tier = "hot"
        self.held_ms = 0.0
        self.start_id: str | None = None
        self.waited: tuple[tuple[str, float], ...] = ()
        self._invocation = invocation
        self._chooser = chooser
        self._clock = clock
        self._instance: Instance | None = None

    async def __aenter__(self) -> Instance:
        """Raises ``Throttled``, ``HoldTimeout``, or the error of the start that the request waited for."""
        instance = self.pool.take()
        if instance is None:
            instance = await self._wait()
        self._instance = instance
        return instance

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._instance is not None:
            instance, self._instance = self._instance, None
            if instance.checking:
                self._chooser.check(self.pool, instance)
            else:
                self.pool.give_back(instance)

    async def _wait(self) -> Instance:
        began_s = self._clock.monotonic()
        self.tier = self.pool.tier
        waiter = self._chooser.hold(self.pool, self._invocation)
        try:
            instance = await waiter.wait()
        finally:
            self.pool = waiter.pool  # another one when the function was deployed meanwhile
            self.held_ms = (self._clock.monotonic() - began_s) * 1e3
            self.waited = (("hold", self.held_ms),)
        if instance.served == 0 and instance.record is not None:
            self.start_id = instance.record.start_id
            self.waited += tuple((phase.name, phase.duration_ms) for phase in instance.record.phases)
        return instance
