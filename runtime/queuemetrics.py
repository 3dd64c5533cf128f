"""Prometheus metrics of the queues: depth, age, dead letters. Counted before a scrape, in the queue's thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .errors import GlowplugError
from .queue.model import Counts
from .queue.store import QueueStore

log = logging.getLogger(__name__)


class QueueMetrics(Collector):
    """The queues' families."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store
        self._counts: Mapping[str, Counts] = {}

    def __repr__(self) -> str:
        return f"<QueueMetrics queues={len(self._counts)}>"

    async def refresh(self) -> None:
        """Count; what cannot be counted stays as it was."""
        try:
            self._counts = await self._store.all_counts()
        except GlowplugError as error:
            log.warning("the depth of the queues is not known: %s", error)

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        messages = GaugeMetricFamily("glowplug_queue_messages", "Messages in a queue", labels=["queue", "state"])
        oldest = GaugeMetricFamily(
            "glowplug_queue_oldest_age_seconds", "Age of the oldest of a queue's next messages", labels=["queue"]
        )
        for name, counts in self._counts.items():
            messages.add_metric([name, "visible"], counts.visible)
            messages.add_metric([name, "in_flight"], counts.in_flight)
            messages.add_metric([name, "delayed"], counts.delayed)
            oldest.add_metric([name], counts.oldest_s)
        statistics = self._store.statistics
        dead = CounterMetricFamily(
            "glowplug_queue_dead_letters", "Messages that went to the dead-letter queue of a queue", labels=["queue"]
        )
        for name in self._counts:
            dead.add_metric([name], statistics.dead_letters[name])
        yield from (messages, oldest, dead)
        yield CounterMetricFamily("glowplug_queue_units", "Units carried out", value=statistics.units)
        yield CounterMetricFamily(
            "glowplug_queue_transactions", "Transactions of these units", value=statistics.batches
        )
