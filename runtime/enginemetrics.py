"""Prometheus metrics of engines: calls while serving, and those that were given up. This node's since it started."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from .routing.distrust import Kind
from .routing.enginefigures import BOUNDS_S, EngineFigures

_ENGINE = ["function_name", "model", "engine"]


class EngineMetrics(Collector):
    """The engines' families. ``given_up`` returns what was, by function, model, engine and kind of reason."""

    def __init__(self, figures: EngineFigures, given_up: Callable[[], Counter[tuple[str, str, str, Kind]]]) -> None:
        self._figures = figures
        self._given_up = given_up

    def __repr__(self) -> str:
        return f"EngineMetrics({self._figures!r})"

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        calls = CounterMetricFamily("glowplug_engine_calls", "Model calls that were answered", labels=_ENGINE)
        failures = CounterMetricFamily("glowplug_engine_failures", "Model calls that raised", labels=_ENGINE)
        seconds = HistogramMetricFamily(
            "glowplug_engine_call_seconds", "Seconds of a model call, the mean of each invocation's", labels=_ENGINE
        )
        names = [*(str(bound) for bound in BOUNDS_S), "+Inf"]
        for labels, totals in self._figures.totals():
            calls.add_metric(labels, totals.calls)
            failures.add_metric(labels, totals.failed)
            buckets = list(zip(names, accumulate(totals.buckets), strict=True))
            seconds.add_metric(labels, buckets=buckets, sum_value=totals.seconds)
        retired = CounterMetricFamily(
            "glowplug_engine_retired", "Engines that were given up for a function", labels=[*_ENGINE, "reason"]
        )
        for key, count in self._given_up().items():
            retired.add_metric(key, count)
        yield from (calls, failures, seconds, retired)
