"""The queues of a node, put together: the store, and everything that shows it to somebody."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from .clock import Clock
from .config import NodeConfig
from .http.queue_admin import QueueAdmin
from .http.sqs.api import SqsApi
from .http.sqs.call import Services
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

    @classmethod
    async def open(cls, path: Path, config: NodeConfig, clock: Clock) -> Queueing:
        """Open the queues' file. Raises ``StateError`` as ``QueueStore.open`` does."""
        store = await QueueStore.open(path, clock)
        services = Services(store, clock, region=config.region, account_id=config.account_id)
        stacks = StackQueues(store, region=config.region, account_id=config.account_id)
        return cls(store, SqsApi(services), QueueAdmin(store), QueueMetrics(store), stacks)

    async def close(self) -> None:
        """End what goes on in the background, then the store."""
        await self.sqs.close()
        await self.store.close()
