"""Event source mappings, put together: where queues are, and what polls them for the functions of this node."""

from __future__ import annotations

from dataclasses import dataclass

from .catalog import Version
from .clock import Clock
from .config import NodeConfig
from .events.mapping.functions import Functions
from .events.mapping.pollers import Pollers
from .events.mapping.sources import Sources
from .http.invoking import Invoke
from .http.lambda_api.invoke import refuse_unready
from .identifiers import new_request_id, new_trace_id
from .queue.store import QueueStore
from .registry import Registry
from .routing.router import Router


@dataclass(frozen=True)
class Polling:
    """``sources`` opens the queue of an ARN, ``pollers`` follow the mappings of the catalog."""

    sources: Sources
    pollers: Pollers

    @classmethod
    def of(
        cls, config: NodeConfig, queues: QueueStore, registry: Registry, router: Router, invoke: Invoke, clock: Clock
    ) -> Polling:
        """Return what polls nothing until ``pollers.follow`` has heard of a catalog."""

        def runnable(name: str, qualifier: str) -> Version:
            target = registry.target(name, qualifier)
            refuse_unready(target, f"{config.arn_prefix}{name}")
            return target

        sources = Sources(queues, clock, config.region, config.account_id, config.sqs_endpoint)
        functions = Functions(
            target=runnable,
            room=router.room,
            invoke=invoke,
            new_request_id=new_request_id,
            new_trace_id=lambda: new_trace_id(clock.time()),
            event_bytes=config.limits.sync_request_bytes,
        )
        return cls(sources, Pollers(functions, sources.open, clock))
