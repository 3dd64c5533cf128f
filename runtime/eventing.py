"""All that runs functions without a request that waits for them: accepted events, what sends them, and pollers of
queues."""

from __future__ import annotations

import asyncio
import contextlib

from .asynchronous import Asynchronous
from .clock import Clock
from .config import NodeConfig
from .http.invoking import Invoke
from .mappingmetrics import MappingMetrics
from .metrics import Metrics
from .polling import Polling
from .queue.store import QueueStore
from .registry import Registry
from .routing.ledger import Ledger
from .routing.router import Router
from .triggering import Triggering


class Eventing:
    """The three parts of it, which start and stop together.

    ``start`` after the functions are deployed; ``stop`` first of all, then ``drained`` beside the drain of requests,
    and ``close`` before the router goes. ``key`` is the node's own.
    """

    def __init__(
        self,
        *,
        config: NodeConfig,
        queues: QueueStore,
        registry: Registry,
        router: Router,
        invoke: Invoke,
        ledger: Ledger,
        metrics: Metrics,
        key: bytes,
        clock: Clock,
    ) -> None:
        self.asynchronous = Asynchronous(
            config=config, queues=queues, deployed=registry, router=router, invoke=invoke, ledger=ledger, key=key,
            clock=clock,
        )  # fmt: skip
        self.triggering = Triggering(
            config=config, deployed=registry, acceptor=self.asynchronous.intake, results=self.asynchronous.results,
            room=router.room, queues=queues, clock=clock,
        )  # fmt: skip
        self.polling = Polling.of(config, queues, registry, router, invoke, clock)
        metrics.add(self.asynchronous.metrics)
        metrics.include(self.triggering)
        metrics.include(MappingMetrics(self.polling.pollers))

    def changed(self) -> None:
        """What is deployed has changed."""
        self.asynchronous.changed()
        self.triggering.changed()

    def forget(self, function: str) -> None:
        """A function was deleted: its series go."""
        self.asynchronous.forget(function)

    async def start(self) -> None:
        """Go on with what was accepted before, and begin to send. Raises ``StateError``."""
        await self.asynchronous.start()
        await self.triggering.start()

    def stop(self) -> None:
        """Begin no more attempts, and receive no more batches."""
        self.asynchronous.stop()
        self.polling.pollers.stop()

    async def drained(self, limit_s: float) -> None:
        """Return when no attempt and no batch is under way, after ``limit_s`` at the latest."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(limit_s):
                await asyncio.gather(self.asynchronous.drained(), self.polling.pollers.drained())

    async def close(self) -> None:
        """End what is under way; it is done again after the next start."""
        await self.triggering.close()
        await self.asynchronous.close()
        await self.polling.pollers.close()
