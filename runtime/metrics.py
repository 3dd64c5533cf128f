"""Prometheus metrics: Lambda's metric names (spec 6.6), start times by phase, and gauges read at scrape time.

Recording sits on the request path, and happens in the event loop alone: plain integers in ``_Version`` and ``_Door``
need no lock and cost under a microsecond. They become prometheus-client's families when somebody scrapes, as do tiers
and instances, which the router is asked for then. ``Duration`` is in milliseconds, as Lambda's is; what we named is in
seconds.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from .cachemetrics import CacheMetrics
from .enginemetrics import EngineMetrics
from .errors import FunctionNotFound, GlowplugError, HoldTimeout, Throttled
from .eventmetrics import EventMetrics
from .invocation import Invocation, Outcome
from .queuemetrics import QueueMetrics
from .routing.records import StartRecord
from .routing.status import FunctionStatus

_DURATION_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000, 300_000, 900_000)
_LATENCY_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_START_S = (0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0)
_TIERS = ("hot", "parked", "stored", "remote")
_VERSION = ["function_name", "version"]

Invoke = Callable[[Invocation], Awaitable[Outcome]]


class _Histogram:
    """Counts by upper bound (inclusive), the last one for everything above."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def buckets(self) -> list[tuple[str, float]]:
        names = [*(str(float(bound)) for bound in self.bounds), "+Inf"]
        return list(zip(names, accumulate(self.counts), strict=True))


@dataclass(slots=True)
class _Version:
    """What is counted of one function at one version."""

    invocations: int = 0
    errors: int = 0
    throttles: int = 0
    hold_timeouts: int = 0
    duration_ms: _Histogram = field(default_factory=lambda: _Histogram(_DURATION_MS))
    starts: dict[tuple[str, str], int] = field(default_factory=dict)
    start_s: dict[tuple[str, str], _Histogram] = field(default_factory=dict)


@dataclass(slots=True)
class _Door:
    """What is counted of one function's URL, or of one API."""

    requests: int = 0
    client_errors: int = 0
    server_errors: int = 0
    latency_s: _Histogram = field(default_factory=lambda: _Histogram(_LATENCY_S))

    def answered(self, status: int, seconds: float) -> None:
        self.requests += 1
        self.latency_s.observe(seconds)
        if status >= 500:
            self.server_errors += 1
        elif status >= 400:
            self.client_errors += 1


class Metrics(Collector):
    """All metrics of one node. ``statuses`` returns the router's account of its functions, ``cache`` has the families
    of the cache, ``engines`` those of the engines, ``queues`` those of the queues."""

    content_type = CONTENT_TYPE_LATEST

    def __init__(
        self,
        *,
        statuses: Callable[[], Sequence[FunctionStatus]],
        cache: CacheMetrics | None = None,
        engines: EngineMetrics | None = None,
        queues: QueueMetrics | None = None,
    ) -> None:
        self._statuses = statuses
        self._cache = cache
        self._events: EventMetrics | None = None
        self._queues = queues
        self._versions: dict[tuple[str, str], _Version] = {}
        self._urls: dict[str, _Door] = {}
        self._apis: dict[str, _Door] = {}
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)
        if cache is not None:
            self._registry.register(cache)
        if engines is not None:
            self._registry.register(engines)
        if queues is not None:
            self._registry.register(queues)

    def add(self, events: EventMetrics) -> None:
        """Show the families of asynchronous invocations too."""
        self._events = events
        self._registry.register(events)

    def __repr__(self) -> str:
        return f"<Metrics versions={len(self._versions)} urls={len(self._urls)}>"

    def include(self, families: Collector) -> None:
        """Show the families of another part too."""
        self._registry.register(families)

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
        version = self._version(function, outcome.executed_version)
        version.invocations += 1
        version.duration_ms.observe(outcome.duration_ms)
        if outcome.function_error is not None:
            version.errors += 1

    def refused(self, invocation: Invocation, error: GlowplugError) -> None:
        """Record a request that nothing was run for. Throttled ones count in Throttles alone (spec 6.6)."""
        if isinstance(error, FunctionNotFound):
            return  # a name that callers choose must not make series
        version = self._version(invocation.function, invocation.version)
        if isinstance(error, Throttled):
            version.throttles += 1
        elif isinstance(error, HoldTimeout):
            version.hold_timeouts += 1
        else:
            version.errors += 1

    def url_request(self, function: str, status: int, seconds: float) -> None:
        """Record a function URL request that was answered with ``status`` after ``seconds``."""
        url = self._urls.get(function)
        if url is None:
            url = self._urls[function] = _Door()
        url.answered(status, seconds)

    def api_request(self, api_id: str, status: int, seconds: float) -> None:
        """Record a request to an API that was answered with ``status`` after ``seconds``."""
        api = self._apis.get(api_id)
        if api is None:
            api = self._apis[api_id] = _Door()
        api.answered(status, seconds)

    def started(self, record: StartRecord) -> None:
        """Record a start (a listener of the ledger)."""
        version = self._version(record.function, record.version)
        key = (record.tier, record.outcome)
        version.starts[key] = version.starts.get(key, 0) + 1
        if record.outcome != "ready":
            return
        for name, milliseconds in [("total", record.total_ms), *((p.name, p.duration_ms) for p in record.phases)]:
            histogram = version.start_s.setdefault((record.tier, name), _Histogram(_START_S))
            histogram.observe(milliseconds / 1e3)

    def forget(self, function: str) -> None:
        """Drop the series of a function that was deleted."""
        self._versions = {key: version for key, version in self._versions.items() if key[0] != function}
        self._urls.pop(function, None)

    async def scrape(self) -> bytes:
        """Return all metrics in Prometheus' text format, those of cache and queues as of now."""
        if self._cache is not None:
            await self._cache.refresh()
        if self._events is not None:
            await self._events.refresh()
        if self._queues is not None:
            await self._queues.refresh()
        return self.render()

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        yield from self._invocation_families()
        yield from self._start_families()
        yield from _door_families("Url", "Function URL requests", "function_name", self._urls)
        yield from _door_families("Api", "Requests to an API", "api_id", self._apis)
        yield from self._status_families()

    def _version(self, function: str, version: str) -> _Version:
        found = self._versions.get((function, version))
        if found is None:
            found = self._versions[function, version] = _Version()
        return found

    def _invocation_families(self) -> Iterator[Metric]:
        for name, what, counted in (
            ("Invocations", "Invocations that ran or began to", "invocations"),
            ("Errors", "Invocations that ended in a function error", "errors"),
            ("Throttles", "Requests refused with 429", "throttles"),
            ("glowplug_hold_timeouts", "Requests that no instance was ready for in time", "hold_timeouts"),
        ):
            yield _counter(name, what, _VERSION, ((key, getattr(v, counted)) for key, v in self._versions.items()))
        durations = ((key, version.duration_ms) for key, version in self._versions.items())
        yield _histogram("Duration", "Milliseconds in the handler", _VERSION, durations)

    def _start_families(self) -> Iterator[Metric]:
        counts = [((*key, *how), n) for key, version in self._versions.items() for how, n in version.starts.items()]
        yield _counter("faas_coldstarts", "Starts, by the tier found and how they ended",
                       [*_VERSION, "tier", "outcome"], counts)  # fmt: skip
        times = [((*key, *what), h) for key, version in self._versions.items() for what, h in version.start_s.items()]
        yield _histogram("faas_coldstart_duration_seconds", "Successful starts, in all (phase total) and by phase",
                         [*_VERSION, "tier", "phase"], times)  # fmt: skip

    def _status_families(self) -> Iterator[Metric]:
        statuses = self._statuses()
        for name, what, counted in (
            ("ConcurrentExecutions", "Invocations under way", "busy"),
            ("glowplug_instances", "Instances", "instances"),
            ("glowplug_starting", "Starts under way or queued", "starting"),
            ("glowplug_held_requests", "Requests that wait for an instance", "held"),
        ):
            family = GaugeMetricFamily(name, what, labels=_VERSION)
            for status in statuses:
                family.add_metric([status.name, status.version], getattr(status, counted))
            yield family
        tiers = GaugeMetricFamily("glowplug_tier", "1 for the tier the function is at", labels=[*_VERSION, "tier"])
        for status in statuses:
            for tier in _TIERS:
                tiers.add_metric([status.name, status.version, tier], float(status.tier == tier))
        yield tiers


def _door_families(kind: str, what: str, label: str, doors: Mapping[str, _Door]) -> Iterator[Metric]:
    for name, suffix, counted in (
        ("RequestCount", "", "requests"),
        ("4xxCount", " answered with 4xx", "client_errors"),
        ("5xxCount", " answered with 5xx", "server_errors"),
    ):
        rows = (((key,), getattr(door, counted)) for key, door in doors.items())
        yield _counter(f"{kind}{name}", f"{what}{suffix}", [label], rows)
    latencies = (((key,), door.latency_s) for key, door in doors.items())
    yield _histogram(f"{kind}RequestLatency", f"Seconds of {what[0].lower()}{what[1:]}", [label], latencies)


def _counter(name: str, what: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], int]]) -> Metric:
    family = CounterMetricFamily(name, what, labels=labels)
    for key, value in rows:
        family.add_metric(key, value)
    return family


def _histogram(name: str, what: str, labels: Sequence[str], rows: Iterable[tuple[Sequence[str], _Histogram]]) -> Metric:
    family = HistogramMetricFamily(name, what, labels=labels)
    for key, histogram in rows:
        family.add_metric(key, buckets=histogram.buckets(), sum_value=histogram.total)
    return family
