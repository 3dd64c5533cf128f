"""Metrics: what counts as what, series per (function, version), gauges read at scrape time."""

from __future__ import annotations

import pytest

from glowplug.runtime.errors import FunctionNotFound, HoldTimeout, Throttled
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.metrics import Metrics
from glowplug.runtime.routing.records import Phase, StartRecord
from glowplug.runtime.routing.status import FunctionStatus
from glowplug.runtime.tracing import traced

INVOCATION = Invocation("r", "echo", "$LATEST", "arn", b"{}", 0.0)
OK = Outcome("r", b"{}", "$LATEST", "hot", duration_ms=1.5)
ECHO = '{function_name="echo",version="$LATEST"}'
STATUS = FunctionStatus(
    name="echo", version="$LATEST", revision="r", tier="parked", instances=2, busy=1, starting=0, draining=0, held=3,
    unparkable_reason="", last_start=None, last_error="",
)  # fmt: skip


def rendered(metrics: Metrics) -> dict[str, float]:
    lines = [line for line in metrics.render().decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def test_outcomes_and_refusals_are_counted_apart() -> None:
    metrics = Metrics(statuses=list)
    answers: list[Outcome | Exception] = [
        OK,
        Outcome("r", b"{}", "$LATEST", "hot", function_error="Unhandled", duration_ms=20.0),
        Throttled("Rate Exceeded.", reason="r", retry_after_s=1.0),
        HoldTimeout("late"),
        FunctionNotFound("nobody"),
    ]

    async def invoke(invocation: Invocation) -> Outcome:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    observed = metrics.observed(invoke)
    for _ in range(2):
        await observed(INVOCATION)
    for refused in (Throttled, HoldTimeout, FunctionNotFound):
        with pytest.raises(refused):
            await observed(INVOCATION)
    values = rendered(metrics)
    assert [2.0, 1.0, 1.0, 1.0] == [
        values[f"{name}_total{ECHO}"] for name in ("Invocations", "Errors", "Throttles", "glowplug_hold_timeouts")
    ]
    assert 21.5 == values[f"Duration_sum{ECHO}"]
    assert [1.0, 2.0, 2.0] == [
        values[f'Duration_bucket{{function_name="echo",le="{bound}",version="$LATEST"}}']
        for bound in ("2.0", "20.0", "+Inf")
    ]


def test_url_statuses() -> None:
    metrics = Metrics(statuses=list)
    for status in (200, 404, 429, 502):
        metrics.url_request("echo", status, 0.01)
    values = rendered(metrics)
    assert [4.0, 2.0, 1.0] == [
        values[f'{name}_total{{function_name="echo"}}'] for name in ("UrlRequestCount", "Url4xxCount", "Url5xxCount")
    ]


def start(outcome: str) -> StartRecord:
    return StartRecord(
        "s", "echo", "$LATEST", "rev", "r", "request", "parked", "fork", 0.0, 25.0, (Phase("fork", 0.0, 5.0),),
        outcome=outcome,
    )  # fmt: skip


def test_starts_by_tier_and_phase_without_the_failed_ones() -> None:
    metrics = Metrics(statuses=list)
    metrics.started(start("ready"))
    metrics.started(start("failed"))
    values = rendered(metrics)
    sums = {
        phase: values[
            f'faas_coldstart_duration_seconds_sum{{function_name="echo",phase="{phase}",tier="parked",version="$LATEST"}}'
        ]
        for phase in ("total", "fork")
    }
    assert {"total": 0.025, "fork": 0.005} == sums
    assert [1.0, 1.0] == [
        values[f'faas_coldstarts_total{{function_name="echo",outcome="{outcome}",tier="parked",version="$LATEST"}}']
        for outcome in ("ready", "failed")
    ]


def test_gauges_are_read_when_somebody_scrapes() -> None:
    statuses = [STATUS]
    metrics = Metrics(statuses=lambda: statuses)
    values = rendered(metrics)
    assert [1.0, 2.0, 3.0] == [
        values[f"{name}{ECHO}"] for name in ("ConcurrentExecutions", "glowplug_instances", "glowplug_held_requests")
    ]
    assert 1.0 == values['glowplug_tier{function_name="echo",tier="parked",version="$LATEST"}']
    statuses.clear()
    assert f"ConcurrentExecutions{ECHO}" not in rendered(metrics)


def test_a_deleted_function_leaves_no_series() -> None:
    metrics = Metrics(statuses=list)
    metrics.invoked("echo", OK)
    metrics.invoked("embed", OK)
    metrics.url_request("echo", 200, 0.1)
    metrics.forget("echo")
    text = metrics.render().decode()
    assert (False, True) == ('"echo"' in text, '"embed"' in text)


def test_without_a_provider_tracing_costs_nothing() -> None:
    async def invoke(invocation: Invocation) -> Outcome:
        return OK

    assert traced(invoke) is invoke
