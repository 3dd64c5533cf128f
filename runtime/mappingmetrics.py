"""Prometheus metrics of event source mappings: Lambda's names (spec 6.6), and whether each of them receives."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from .events.mapping.pollers import Pollers

_LABELS = ["function_name", "event_source_mapping_uuid"]
_COUNTERS = (
    ("PolledEventCount", "Messages that were received", "polled"),
    ("FilteredOutEventCount", "Messages that no filter keeps", "filtered_out"),
    ("InvokedEventCount", "Messages that were given to the function", "invoked"),
    ("FailedInvokeEventCount", "Messages that the function did not process or was not given", "failed"),
    ("DeletedEventCount", "Messages that were processed and deleted", "deleted"),
)


class MappingMetrics(Collector):
    """The families of the mappings that ``pollers`` poll."""

    def __init__(self, pollers: Pollers) -> None:
        self._pollers = pollers

    def __repr__(self) -> str:
        return f"<MappingMetrics of {self._pollers}>"

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        polled = [
            ([poller.settings.function, poller.settings.uuid], poller.figures, poller.problem)
            for poller in self._pollers.polled
        ]
        for name, what, counted in _COUNTERS:
            counter = CounterMetricFamily(name, what, labels=_LABELS)
            for labels, figures, _ in polled:
                counter.add_metric(labels, getattr(figures, counted))
            yield counter
        receives = GaugeMetricFamily(
            "glowplug_mapping_receives", "1, or 0 where its queue has a problem", labels=_LABELS
        )
        for labels, _, problem in polled:
            receives.add_metric(labels, float(not problem))
        yield receives
