"""What goes to other hosts, kept until it has arrived: a queue of the node's own, with back-off.

A delivery is put there in the transaction that ends its event, so nothing is lost while the other side is down. One
that arrived and could not be struck off, because the node was killed in between, arrives twice; one that a node was
killed over follows when its lease has run out. After ``delivery_age_s`` it is given up and counted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import GlowplugError, QueueFull, StaleLease, StateError, Throttled
from glowplug.runtime.queue.model import FOREVER_S, NOTHING, QueueSettings, Received, nothing
from glowplug.runtime.queue.steps import Delete, Release
from glowplug.runtime.queue.store import QueueStore

from .accepting import Acceptor, NewEvent
from .deliveries import Delivery
from .ending import OUTBOX, queue_step
from .figures import Book
from .retrying import Delays

_LEASE_S = 120.0
_LANES = 16
_BODY_BYTES = 16 * 2**20
_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class NotDelivered(Exception):
    """The other side did not take it. ``final``: it never will."""

    def __init__(self, problem: str, *, final: bool = False) -> None:
        super().__init__(problem)
        self.final = final


@dataclass(frozen=True, slots=True)
class Parcel:
    """A delivery with whose it is, an id that stays the same when it is tried again, and the lineage of the event that
    it becomes where it is for a function."""

    delivery: Delivery
    function: str
    request_id: str
    lineage: Mapping[str, int] = field(default_factory=nothing)


class Carrier(Protocol):
    """Brings parcels to other hosts."""

    async def carry(self, parcel: Parcel) -> None:
        """Return when it was taken. Raises ``NotDelivered``."""


class Outbox:
    """Delivers what is in the outbox, a few at a time."""

    def __init__(
        self,
        store: QueueStore,
        carrier: Carrier,
        acceptor: Acceptor,
        figures: Book,
        clock: Clock,
        *,
        delays: Delays,
        age_s: float,
    ) -> None:
        self._store = store
        self._carrier = carrier
        self._acceptor = acceptor
        self._figures = figures
        self._clock = clock
        self._delays = delays
        self._age_s = age_s
        self._tasks: set[asyncio.Task[None]] = set()
        self._receiving = False
        self._more = True
        self._alarm: Alarm | None = None
        self._stopped = False

    async def start(self) -> None:
        """Make the queue, and go on with what is in it."""
        settings = QueueSettings(retention_s=FOREVER_S, max_message_bytes=_BODY_BYTES, owner="outbox")
        await self._store.create(OUTBOX, settings, replace=True)
        self._store.listen(OUTBOX, self._rung)

    def _rung(self) -> None:
        self._more = True
        self._pump()

    def _pump(self) -> None:
        if self._stopped or self._receiving or not self._more or len(self._tasks) >= _LANES:
            return
        self._more, self._receiving = False, True
        task = asyncio.create_task(self._receive(_LANES - len(self._tasks)), name="receive the outbox")
        self._spawned(task)

    def _spawned(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("a delivery ended", exc_info=error)
        self._pump()

    async def _receive(self, limit: int) -> None:
        try:
            found = await self._store.receive(OUTBOX, limit, wait_s=0, visibility_s=_LEASE_S)
        except StateError as error:
            log.warning("deliveries wait: %s", error)
            self._alarm = self._clock.call_later(_PAUSE_S, self._rung)
            return
        finally:
            self._receiving = False
        self._more = self._more or bool(found)  # until one comes back empty: that sets the alarm for what is delayed
        for received in found:
            self._spawned(asyncio.create_task(self._deliver(received), name=f"deliver {received.message.id.hex()}"))

    async def _deliver(self, received: Received) -> None:
        message, clock = received.message, self._clock
        offset_s = clock.time() - clock.monotonic()  # ages are told by this, whatever the clock is set to meanwhile
        try:
            parcel = parcel_of(message.attributes, message.body)
        except KeyError as lost:
            log.error("a delivery is damaged, and given up: nobody knows its %s any more", lost)
            await self._settle(Delete(received.lease))
            return
        try:
            await self._carry(parcel)
        except NotDelivered as problem:
            await self._failed(received, parcel, problem, clock.monotonic() + offset_s)
            return
        await self._settle(Delete(received.lease))

    async def _carry(self, parcel: Parcel) -> None:
        delivery = parcel.delivery
        try:
            if delivery.way == "queue":
                await self._store.apply(queue_step(delivery))
            elif delivery.way == "function":
                function, _, qualifier = delivery.target.partition(":")
                event = NewEvent(
                    function,
                    qualifier,
                    delivery.body,
                    idempotency_key=f"{parcel.request_id}:{delivery.arn}",
                    caller="outbox",
                    source=f"destination:{parcel.function}",
                    lineage=parcel.lineage,
                )
                await self._acceptor.accept(event)
            else:
                await self._carrier.carry(parcel)
        except GlowplugError as error:
            final = not isinstance(error, StateError | QueueFull | Throttled)
            raise NotDelivered(str(error), final=final) from error

    async def _failed(self, received: Received, parcel: Parcel, problem: NotDelivered, now_s: float) -> None:
        message = received.message
        delay_s = self._delays.after_requeue(message.receives)
        age_s = now_s + delay_s - message.sent_ms / 1000
        where = f"{parcel.function}: request {parcel.request_id}: {parcel.delivery.arn}"
        if not problem.final and age_s <= self._age_s:
            log.info("%s: again in %g s: %s", where, delay_s, problem)
            await self._settle(Release(received.lease, delay_s))
            return
        log.warning("%s: given up: %s", where, problem)
        figures = self._figures.of(parcel.function)
        if parcel.delivery.dead_letter:
            figures.dead_letter_errors += 1
        else:
            figures.delivery_failures += 1
        await self._settle(Delete(received.lease))

    async def _settle(self, step: Delete | Release) -> None:
        try:
            await self._store.apply(step)
        except (StaleLease, StateError) as error:
            log.warning("a delivery may be made twice: %s", error)

    async def close(self) -> None:
        """End deliveries that are under way; they are made again after the next start."""
        self._stopped = True
        if self._alarm is not None:
            self._alarm.cancel()
        for task in self._tasks:
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


def parcel_of(kept: Mapping[str, Any], body: bytes) -> Parcel:
    """Return what a message of the outbox holds. Raises ``KeyError`` for one whose attributes are damaged."""
    delivery = Delivery(kept["w"], kept["a"], kept["t"], body, kept.get("m") or {}, kept.get("d", False))
    return Parcel(delivery, kept["f"], kept["i"], kept.get("l", NOTHING))
