"""Event source mappings of a node that polls nothing, and a queue in memory for pollers."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from glowplug.runtime.errors import GlowplugError, InvalidParameter
from glowplug.runtime.events.mapping.pollers import MappingStatus
from glowplug.runtime.queue.ports import Incoming

from .clock import ManualClock


class FakeMappings:
    """Queues and pollers of mappings. ``timeouts`` is by ARN the longest timeout that a queue takes; None: all queues
    are there, and take every function."""

    def __init__(self, timeouts: Mapping[str, float] | None = None) -> None:
        self.timeouts = timeouts
        self.statuses: dict[str, MappingStatus] = {}

    async def check(self, arn: str, timeout_s: float) -> None:
        """Raise ``InvalidParameter`` unless the queue is there and takes functions of that timeout."""
        if self.timeouts is not None and self.timeouts.get(arn, -1) < timeout_s:
            raise InvalidParameter(f"{arn}: no such queue")

    def status(self, uuid: str) -> MappingStatus:
        """Return what was said of a mapping."""
        return self.statuses.get(uuid, MappingStatus())


@dataclass(eq=False)
class _Kept:
    number: int
    body: str
    group: str
    visible_s: float
    receives: int = 0
    first_s: float = 0.0


class FakeQueue:
    """A queue in memory, whose leases run out with a clock moved by hand. ``failure``, where it is set, is what every
    call raises; messages that were leased are ``late_s`` on their way. ``deleted`` has the bodies in the order in which
    they went, ``calls`` each call by name."""

    def __init__(self, clock: ManualClock, *, visibility_s: int = 30, fifo: bool = False) -> None:
        self.arn = f"arn:aws:sqs:us-east-1:000000000000:jobs{'.fifo' if fifo else ''}"
        self.hidden_s = visibility_s
        self.failure: GlowplugError | None = None
        self.late_s = 0.0
        self.deleted: list[str] = []
        self.calls: list[str] = []
        self.asked: list[tuple[int, float | None]] = []
        self._clock = clock
        self._fifo = fifo
        self._numbers = itertools.count(1)
        self._messages: dict[int, _Kept] = {}
        self._rung = asyncio.Event()

    def put(self, *bodies: str, group: str = "") -> None:
        """Add messages."""
        for body in bodies:
            number = next(self._numbers)
            self._messages[number] = _Kept(number, body, group, self._clock.monotonic())
        self._rung.set()

    @property
    def left(self) -> list[str]:
        """The bodies of all messages that were not deleted."""
        return [one.body for one in self._messages.values()]

    @property
    def visible(self) -> list[str]:
        """The bodies of the messages that somebody could receive now."""
        return [one.body for one in self._ready()]

    @property
    def receives(self) -> dict[str, int]:
        """How often each message that is left was received."""
        return {one.body: one.receives for one in self._messages.values()}

    async def visibility_s(self) -> int:
        """Return for how long messages are hidden where a receive does not say."""
        self._fail("visibility_s")
        return self.hidden_s

    async def receive(self, limit: int, *, wait_s: float, visibility_s: float | None = None) -> list[Incoming]:
        """Lease messages, as soon as there are any."""
        self._fail("receive")
        self.asked.append((limit, visibility_s))
        closes_s = self._clock.monotonic() + wait_s
        while not (found := self._ready()[:limit]) and self._clock.monotonic() < closes_s:
            self._rung.clear()
            alarm = self._clock.call_later(min(1.0, closes_s - self._clock.monotonic()), self._rung.set)
            try:
                await self._rung.wait()
            finally:
                alarm.cancel()
            self._fail("receive")
        leased = [self._lease(one, self.hidden_s if visibility_s is None else visibility_s) for one in found]
        if self.late_s:
            await self._clock.sleep(self.late_s)
        return leased

    async def delete(self, handles: Sequence[str]) -> list[str]:
        """Acknowledge messages."""
        self._fail("delete")
        stale = []
        for handle in handles:
            one = self._held(handle)
            if one is None:
                stale.append(handle)
            else:
                self.deleted.append(self._messages.pop(one.number).body)
        return stale

    async def extend(self, handles: Sequence[str], visibility_s: float) -> list[str]:
        """Renew leases."""
        self._fail("extend")
        stale = []
        for handle in handles:
            one = self._held(handle)
            if one is None:
                stale.append(handle)
            else:
                one.visible_s = self._clock.monotonic() + visibility_s
        return stale

    def _fail(self, call: str) -> None:
        self.calls.append(call)
        if self.failure is not None:
            raise self.failure

    def _ready(self) -> list[_Kept]:
        now_s = self._clock.monotonic()
        busy = {one.group for one in self._messages.values() if one.visible_s > now_s} if self._fifo else set()
        return [one for one in self._messages.values() if one.visible_s <= now_s and one.group not in busy]

    def _held(self, handle: str) -> _Kept | None:
        number, _, receives = handle.partition("/")
        one = self._messages.get(int(number))
        return one if one is not None and one.receives == int(receives) else None

    def _lease(self, one: _Kept, visibility_s: float) -> Incoming:
        one.receives += 1
        one.visible_s = self._clock.monotonic() + visibility_s
        system = {"ApproximateReceiveCount": str(one.receives), "SentTimestamp": "0", "SenderId": "me"}
        if self._fifo:
            system["MessageGroupId"] = one.group
        return Incoming(f"id-{one.number}", f"{one.number}/{one.receives}", one.body, "md5", system)
