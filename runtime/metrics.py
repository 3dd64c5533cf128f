"""Prometheus metrics: Lambda's metric names (spec 6.6), start times by phase, and gauges read at scrape time.

Recording sits on the request path, so it looks its series up once per (function, version) and costs about two
microseconds; what can be asked for later (tiers, instances) is asked for when somebody scrapes. ``Duration`` is in
milliseconds, as Lambda's is; everything named by us is in seconds.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .clock import Clock
from .errors import FunctionNotFound, GlowplugError, HoldTimeout, Throttled
from .invocation import Invocation, Outcome
from .routing.records import StartRecord
from .routing.status import FunctionStatus

_DURATION_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000, 900_000)
_LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_START_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_TIERS = ("hot", "parked", "stored", "remote")
_PER_FUNCTION = ("function_name",)
_PER_VERSION = ("function_name", "version")

Invoke = Callable[[Invocation], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class _Series:
    """The series of one function at one version, looked up once."""

    invoked: Callable[[], None]
    failed: Callable[[], None]
    throttled: Callable[[], None]
    timed_out: Callable[[], None]
    took_ms: Callable[[float], None]


class Metrics:
    """All metrics of one node, in a registry of their own. ``statuses`` returns what the router says of its functions."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(self, *, statuses: Callable[[], Sequence[FunctionStatus]], clock: Clock) -> None:
        self._clock = clock
        self._registry = registry = CollectorRegistry()
        self._invocations = Counter("Invocations", "Invocations that ran or began to", _PER_VERSION, registry=registry)
        self._errors = Counter("Errors", "Invocations that ended in a function error", _PER_VERSION, registry=registry)
        self._throttles = Counter("Throttles", "Requests refused with 429", _PER_VERSION, registry=registry)
        self._hold_timeouts = Counter(
            "glowplug_hold_timeouts", "Requests that no instance was ready for in time", _PER_VERSION, registry=registry
        )
        self._duration = Histogram(
            "Duration", "Milliseconds in the handler", _PER_VERSION, buckets=_DURATION_MS, registry=registry
        )
        self._url_requests = Counter("UrlRequestCount", "Function URL requests", _PER_FUNCTION, registry=registry)
        self._url_4xx = Counter("Url4xxCount", "Function URL requests with 4xx", _PER_FUNCTION, registry=registry)
        self._url_5xx = Counter("Url5xxCount", "Function URL requests with 5xx", _PER_FUNCTION, registry=registry)
        self._url_latency = Histogram(
            "UrlRequestLatency", "Seconds at the function URL", _PER_FUNCTION, buckets=_LATENCY_S, registry=registry
        )
        self._starts = Counter(
            "faas_coldstarts", "Starts by what was found and how they ended",
            (*_PER_VERSION, "tier", "outcome"), registry=registry,
        )  # fmt: skip
        self._start_s = Histogram(
            "faas_coldstart_duration_seconds", "Seconds of successful starts, in all (phase total) and by phase",
            (*_PER_VERSION, "tier", "phase"), buckets=_START_S, registry=registry,
        )  # fmt: skip
        registry.register(_Statuses(statuses))
        ProcessCollector(registry=registry)
        self._series: dict[tuple[str, str], _Series] = {}
        self._url_series: dict[str, tuple[Callable[[], None], Callable[[float], None]]] = {}

    def __repr__(self) -> str:
        return f"<Metrics functions={len(self._series)} urls={len(self._url_series)}>"

    def observed(self, invoke: Invoke) -> Invoke:
        """Return ``invoke`` with every outcome and refusal recorded."""

        async def observed(invocation: Invocation) -> Outcome:
            try:
                outcome = await invoke(invocation)
            except GlowplugError as error:
                self.refused(invocation, error)
                raise
            self.invoked(invocation.function, outcome)
            return outcome

        return observed

    def invoked(self, function: str, outcome: Outcome) -> None:
        """Record an invocation that ran, or failed to start: both count, as on Lambda."""
        series = self._of(function, outcome.executed_version)
        series.invoked()
        series.took_ms(outcome.duration_ms)
        if outcome.function_error is not None:
            series.failed()

    def refused(self, invocation: Invocation, error: GlowplugError) -> None:
        """Record a request that nothing was run for. Throttled ones count in Throttles alone (spec 6.6)."""
        if isinstance(error, FunctionNotFound):
            return  # a name that callers choose must not make series
        series = self._of(invocation.function, invocation.qualifier)
        if isinstance(error, Throttled):
            series.throttled()
        elif isinstance(error, HoldTimeout):
            series.timed_out()
        else:
            series.failed()

    def url_request(self, function: str, status: int, seconds: float) -> None:
        """Record a function URL request that was answered with ``status`` after ``seconds``."""
        series = self._url_series.get(function)
        if series is None:
            series = (self._url_requests.labels(function).inc, self._url_latency.labels(function).observe)
            self._url_series[function] = series
        count, observe = series
        count()
        observe(seconds)
        if status >= 500:
            self._url_5xx.labels(function).inc()
        elif status >= 400:
            self._url_4xx.labels(function).inc()

    def started(self, record: StartRecord) -> None:
        """Record a start (a listener of the ledger)."""
        labels = (record.function, record.version, record.tier)
        self._starts.labels(*labels, record.outcome).inc()
        if record.outcome == "ready":
            self._start_s.labels(*labels, "total").observe(record.total_ms / 1e3)
            for phase in record.phases:
                self._start_s.labels(*labels, phase.name).observe(phase.duration_ms / 1e3)

    def forget(self, function: str) -> None:
        """Drop the series of a function that was deleted."""
        self._series = {key: series for key, series in self._series.items() if key[0] != function}
        self._url_series.pop(function, None)
        for family in (
            *(self._invocations, self._errors, self._throttles, self._hold_timeouts, self._duration, self._starts),
            *(self._start_s, self._url_requests, self._url_4xx, self._url_5xx, self._url_latency),
        ):
            family.remove_by_labels({"function_name": function})

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def _of(self, function: str, version: str) -> _Series:
        series = self._series.get((function, version))
        if series is None:
            labels = (function, version)
            series = self._series[labels] = _Series(
                invoked=self._invocations.labels(*labels).inc,
                failed=self._errors.labels(*labels).inc,
                throttled=self._throttles.labels(*labels).inc,
                timed_out=self._hold_timeouts.labels(*labels).inc,
                took_ms=self._duration.labels(*labels).observe,
            )
        return series


class _Statuses(Collector):
    """What the router says, asked for at scrape time."""

    def __init__(self, statuses: Callable[[], Sequence[FunctionStatus]]) -> None:
        self._statuses = statuses

    def collect(self) -> Iterator[Metric]:
        statuses = self._statuses()
        yield _gauge("ConcurrentExecutions", "Invocations under way", ((s, s.busy) for s in statuses))
        yield _gauge("glowplug_instances", "Instances", ((s, s.instances) for s in statuses))
        yield _gauge("glowplug_starting", "Starts under way or queued", ((s, s.starting) for s in statuses))
        yield _gauge("glowplug_held_requests", "Requests that wait", ((s, s.held) for s in statuses))
        tiers = GaugeMetricFamily("glowplug_tier", "1 for the tier the function is at", labels=[*_PER_VERSION, "tier"])
        for status in statuses:
            for tier in _TIERS:
                tiers.add_metric([status.name, status.version, tier], float(status.tier == tier))
        yield tiers


def _gauge(name: str, what: str, values: Iterable[tuple[FunctionStatus, int]]) -> Metric:
    family = GaugeMetricFamily(name, what, labels=_PER_VERSION)
    for status, value in values:
        family.add_metric([status.name, status.version], value)
    return family
