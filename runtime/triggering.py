"""What sends events to functions by itself, made of its parts: schedules, rules, buckets, topics, and batch jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .bucketlisting import BucketListing
from .clock import Clock
from .config import NodeConfig
from .events.accepting import Acceptor
from .events.bucketwatch import BucketWatch
from .events.bus import Bus
from .events.delivery import Delivery
from .events.deployed import Deployed, DeployedTriggers
from .events.envelopes import Home
from .events.jobs import Jobs
from .events.results import Results
from .events.scheduler import Scheduler
from .events.topics import Topics
from .queue.store import QueueStore


class Triggering(Collector):
    """Everything that sends events. ``start`` after the functions are deployed, ``close`` before the queues are."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        deployed: Deployed,
        acceptor: Acceptor,
        results: Results,
        room: Callable[[str, str], int],
        queues: QueueStore,
        clock: Clock,
    ) -> None:
        home = Home(config.account_id, config.region)
        self._triggers = DeployedTriggers(deployed)
        self._delivery = Delivery(acceptor, queues, home)
        self.scheduler = Scheduler(self._triggers.all, self._delivery, queues, home, clock)
        self.bus = Bus(self._triggers, self._delivery, home, clock)
        self._buckets = BucketWatch(
            self._triggers, self._delivery, queues, home, clock,
            listed=BucketListing(config.s3_endpoint, config.region), directories=config.buckets,
            every_s=config.s3_poll_s,
        )  # fmt: skip
        self.topics = Topics(self._triggers, self._delivery, home, clock)

        def free(name: str, qualifier: str) -> int:
            function = deployed.catalog.functions.get(name)
            versions = () if function is None else function.versions_of(qualifier)
            return max((room(name, version) for version in versions), default=0)

        self.jobs = Jobs(acceptor, results, queues, free, clock)

    async def start(self) -> None:
        """Begin. Raises ``StateError``."""
        await self.scheduler.start()
        await self._buckets.start()

    def changed(self) -> None:
        """What is deployed has changed."""
        self.scheduler.changed()
        self._buckets.changed()

    async def close(self) -> None:
        """Send nothing more."""
        await self.scheduler.close()
        await self._buckets.close()

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics of triggers."""
        fired = CounterMetricFamily("glowplug_schedule_runs", "Runs of a schedule", labels=["schedule"])
        missed = CounterMetricFamily(
            "glowplug_schedule_missed", "Runs passed over: the node was down", labels=["schedule"]
        )
        due = GaugeMetricFamily(
            "glowplug_schedule_waiting", "1: waits for a clock that was set back", labels=["schedule"]
        )
        for one in self.scheduler.listing():
            name = f"{one.stack}/{one.logical_id}"
            fired.add_metric([name], one.fired)
            missed.add_metric([name], one.missed)
            due.add_metric([name], one.state == "WAITING")
        failed = CounterMetricFamily("glowplug_trigger_failures", "Events nobody could be given", labels=["trigger"])
        for name, count in sorted(self._delivery.failed.items()):
            failed.add_metric([name], count)
        yield from (fired, missed, due, failed)
