"""The queues of a node, put together: the store, and everything that shows it to somebody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .clock import Clock
from .config import NodeConfig
from .http.queue_admin import QueueAdmin
from .http.sqs.api import SqsApi
from .http.sqs.call import Services
from .queue.embedded import EmbeddedQueue
from .queue.store import QueueStore
from .queuemetrics import QueueMetrics
from .stackqueues import StackQueues


@dataclass(frozen=True)
class Queueing:
    """Made by ``await Queueing.open(path, config, clock)``; ended by ``await close()``."""

    store: QueueStore
    sqs: SqsApi
    admin: QueueAdmin
    metrics: QueueMetrics
    stacks: StackQueues
    region: str
    account_id: str

    @classmethod
    async def open(cls, path: Path, config: NodeConfig, clock: Clock) -> Queueing:
        """Open the queues' file. Raises ``StateError`` as ``QueueStore.open`` does."""
        store = await QueueStore.open(path, clock)
        services = Services(store, clock, region=config.region, account_id=config.account_id)
        stacks = StackQueues(store, region=config.region, account_id=config.account_id)
        admin, metrics = QueueAdmin(store), QueueMetrics(store)
        return cls(store, SqsApi(services), admin, metrics, stacks, config.region, config.account_id)

    def embedded(self, name: str) -> EmbeddedQueue:
        """Return a queue of the node as a ``MessageQueue``."""
        return EmbeddedQueue(self.store, name, region=self.region, account_id=self.account_id)

    async def close(self) -> None:
        """End what goes on in the background, then the store."""
        await self.sqs.close()
        await self.store.close()
