"""Asynchronous invocation, made of its parts: what accepts events, runs them, tells of them and delivers records.

``start`` after the router and the functions; ``stop`` first of all, then ``drained`` beside the drain of requests, and
``close`` before the router goes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from .carrier import NetworkCarrier
from .clock import Clock
from .config import NodeConfig
from .errors import QueueNotFound
from .eventmetrics import EventMetrics
from .events.attempts import Neighbours
from .events.deployed import Deployed
from .events.dispatcher import Dispatcher
from .events.ending import Endings
from .events.figures import Backlog, Book
from .events.intake import Intake
from .events.outbox import Outbox
from .events.pressure import Pressure
from .events.results import Results
from .events.retrying import Delays
from .events.settling import Settler
from .events.stored import function_of
from .events.watching import Watchers
from .invocation import Invocation, Outcome
from .queue.store import QueueStore
from .routing.ledger import Ledger
from .routing.router import Router

_LANES = 2


class Asynchronous:
    """The asynchronous side of a node. ``invoke`` is ``Router.invoke`` with whatever observes it; ``key`` the node's
    own."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        queues: QueueStore,
        deployed: Deployed,
        router: Router,
        invoke: Callable[[Invocation], Awaitable[Outcome]],
        ledger: Ledger,
        key: bytes,
        clock: Clock,
    ) -> None:
        self._queues = queues
        self._router = router
        self._ledger = ledger
        self._figures = Book()
        delays = Delays(config.async_retry_s, config.async_requeue_s, config.async_requeue_limit_s)
        settler, watchers, pressure = Settler(queues, clock), Watchers(), Pressure(clock)
        self.intake = Intake(
            queues, deployed, config, clock, self._figures, pressure,
            opened=lambda function: self._dispatcher.opened(function),
        )  # fmt: skip
        endings = Endings(queues, config, clock, keep=self.intake.step)
        self._dispatcher = Dispatcher(
            Neighbours(
                store=queues,
                deployed=deployed,
                invoke=invoke,
                room=router.room,
                cancel=router.cancel,
                settler=settler,
                endings=endings,
                watchers=watchers,
                clock=clock,
                delays=delays,
                pressure=pressure,
                arn_prefix=config.arn_prefix,
                lanes=max(_LANES, config.cores),
            ),
            settler,
            self._figures,
        )
        self.results = Results(
            queues, self._dispatcher, watchers, self._figures, clock, endings=endings, start=self._start_of
        )
        self._carrier = NetworkCarrier(config, clock, key)
        self._outbox = Outbox(
            queues, self._carrier, self.intake, self._figures, clock, delays=delays, age_s=config.delivery_age_s
        )
        self.metrics = EventMetrics(self._figures, self.backlogs)

    def __repr__(self) -> str:
        return f"<Asynchronous {self._dispatcher!r}>"

    async def start(self) -> None:
        """Go on with what was accepted before."""
        await self._outbox.start()
        await self._dispatcher.resume()

    def changed(self) -> None:
        """What is deployed has changed."""
        self._dispatcher.changed()

    def forget(self, function: str) -> None:
        """A function was deleted: its series go. Its events wait for another of its name, or grow too old."""
        self._figures.forget(function)

    def stop(self) -> None:
        """Begin no more attempts."""
        self._dispatcher.stop()

    async def drained(self) -> None:
        """Return when no attempt is under way."""
        await self._dispatcher.drained()

    async def close(self) -> None:
        """End attempts and deliveries that are under way; they are made again after the next start."""
        await self._dispatcher.close()
        await self._outbox.close()
        await self._carrier.close()

    async def backlogs(self) -> dict[str, Backlog]:
        """Return how each function that has a queue is doing."""
        found = {}
        for queue in self._queues.queues:
            if (function := function_of(queue.name)) is not None:
                try:
                    counts = await self._queues.counts(queue.name)
                except QueueNotFound:  # its function was deleted, and it has just become empty
                    continue
                counted = self._figures.of(function)
                found[function] = Backlog(counts.total, counts.oldest_s, counted.retries, counted.dead_letters)
        return found

    def _start_of(self, function: str) -> Mapping[str, Any]:
        """Return how far a function is on its way to run something."""
        status = next(
            (one for one in self._router.describe() if (one.name, one.version) == (function, "$LATEST")), None
        )
        if status is None:
            return {}
        return {
            "tier": status.tier,
            "instances": status.instances - status.starting,
            "held": status.held,
            "starting": [{"tier": one.tier, **one.so_far()} for one in self._ledger.under_way(function)],
        }
