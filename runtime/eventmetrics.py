"""Metrics of asynchronous invocations: Lambda's names where it has one (spec 6.6), depth and age when scraped."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .events.figures import Backlog, Book

_LABEL = ["function_name"]
_COUNTERS = (
    ("AsyncEventsReceived", "Events that were accepted", "received"),
    ("AsyncEventsDropped", "Events that ended without success", "dropped"),
    ("RecursiveInvocationsDropped", "Those that went round in a loop of destinations", "recursive"),
    ("DeadLetterErrors", "Events that could not be sent to a dead-letter queue", "dead_letter_errors"),
    ("DestinationDeliveryFailures", "Records that could not be sent to a destination", "delivery_failures"),
    ("glowplug_async_retries", "Attempts that follow a function error", "retries"),
    ("glowplug_async_requeues", "Attempts put back: throttled, or a fault of the node", "requeues"),
    ("glowplug_async_succeeded", "Events that ended with success", "succeeded"),
    ("glowplug_async_cancelled", "Events that were cancelled", "cancelled"),
    ("glowplug_async_dead_letters", "Failed events that were sent on", "dead_letters"),
    ("glowplug_async_first_attempts", "Events that were attempted for the first time", "first_attempts"),
    ("AsyncEventAge", "Seconds from acceptance to the first attempt, in all", "age_s"),
)


class EventMetrics(Collector):
    """The families. ``backlogs`` returns what waits, by function."""

    def __init__(self, book: Book, backlogs: Callable[[], Awaitable[Mapping[str, Backlog]]]) -> None:
        self._book = book
        self._backlogs = backlogs
        self._known: Mapping[str, Backlog] = {}

    async def refresh(self) -> None:
        """Look at the queues: what ``collect`` tells then."""
        self._known = await self._backlogs()

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        for name, what, counted in _COUNTERS:
            counter = CounterMetricFamily(name, what, labels=_LABEL)
            for function, figures in self._book.functions.items():
                counter.add_metric([function], getattr(figures, counted))
            yield counter
        depth = GaugeMetricFamily("glowplug_async_events", "Events that are not over", labels=_LABEL)
        oldest = GaugeMetricFamily("glowplug_async_oldest_seconds", "Age of the oldest of them", labels=_LABEL)
        for function, backlog in self._known.items():
            depth.add_metric([function], backlog.events)
            oldest.add_metric([function], backlog.oldest_s)
        yield depth
        yield oldest
