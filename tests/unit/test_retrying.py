"""Asynchronous invocations: the matrix of what follows an attempt, row by row, and what is told at the end."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.events.outcomes import (
    MESSAGE_BYTES,
    Invocation,
    Response,
    bus_entry,
    dead_letter_attributes,
    invocation_record,
)
from glowplug.runtime.events.retrying import (
    Attempt,
    Condition,
    Delays,
    Finished,
    Limits,
    Progress,
    Retry,
    overdue,
    settle,
)
from glowplug.runtime.events.schedule import DAY_S
from glowplug.runtime.queue.model import LONGEST_LEASE_S

SUCCESS, ERROR, THROTTLED = Attempt.SUCCESS, Attempt.FUNCTION_ERROR, Attempt.THROTTLED
SYSTEM, ZERO = Attempt.SYSTEM_ERROR, Attempt.NO_CONCURRENCY


def retry(at_s: float, runs: int = 0, requeues: int = 0) -> Retry:
    return Retry(at_s, Progress(0, runs, requeues))


def ended(condition: Condition, runs: int) -> Finished:
    return Finished(condition, runs)


EXHAUSTED, TOO_OLD = Condition.RETRIES_EXHAUSTED, Condition.EVENT_AGE_EXCEEDED


@pytest.mark.parametrize(
    ("attempt", "runs", "requeues", "now_s", "limits", "expected"),
    [
        # succeeded: whatever came before, and however late
        (SUCCESS, 0, 0, 1, Limits(), ended(Condition.SUCCESS, 1)),
        (SUCCESS, 2, 0, 200, Limits(), ended(Condition.SUCCESS, 3)),
        (SUCCESS, 0, 9, 99_999, Limits(), ended(Condition.SUCCESS, 1)),
        # function errors: one minute, two minutes, over
        (ERROR, 0, 0, 5, Limits(), retry(65, runs=1)),
        (ERROR, 1, 0, 70, Limits(), retry(190, runs=2)),
        (ERROR, 2, 0, 200, Limits(), ended(EXHAUSTED, 3)),
        (ERROR, 0, 0, 5, Limits(maximum_retry_attempts=0), ended(EXHAUSTED, 1)),
        (ERROR, 0, 0, 5, Limits(maximum_retry_attempts=1), retry(65, runs=1)),
        (ERROR, 1, 0, 70, Limits(maximum_retry_attempts=1), ended(EXHAUSTED, 2)),
        (ERROR, 0, 5, 5, Limits(), retry(65, runs=1)),  # throttles before it use up no retry, and their row ends
        # throttled: 1 s, doubled, 5 min at most; no retry is used up
        (THROTTLED, 0, 0, 5, Limits(), retry(6, requeues=1)),
        (THROTTLED, 0, 1, 5, Limits(), retry(7, requeues=2)),
        (THROTTLED, 0, 8, 5, Limits(), retry(261, requeues=9)),
        (THROTTLED, 0, 9, 5, Limits(), retry(305, requeues=10)),
        (THROTTLED, 0, 5000, 5, Limits(), retry(305, requeues=5001)),
        (THROTTLED, 2, 0, 5, Limits(), retry(6, runs=2, requeues=1)),
        (THROTTLED, 0, 0, 5, Limits(maximum_retry_attempts=0), retry(6, requeues=1)),
        (SYSTEM, 1, 1, 5, Limits(), retry(7, runs=1, requeues=2)),
        # reserved concurrency 0
        (ZERO, 0, 0, 0, Limits(), ended(Condition.ZERO_RESERVED_CONCURRENCY, 0)),
        (ZERO, 1, 0, 60, Limits(), ended(Condition.ZERO_RESERVED_CONCURRENCY, 1)),
        # too old by the time of the next attempt; exhausted retries come first
        (ERROR, 0, 0, 0, Limits(maximum_event_age_s=60), retry(60, runs=1)),
        (ERROR, 0, 0, 1, Limits(maximum_event_age_s=60), ended(TOO_OLD, 1)),
        (ERROR, 1, 0, 61, Limits(maximum_event_age_s=100), ended(TOO_OLD, 2)),
        (ERROR, 2, 0, 61, Limits(maximum_event_age_s=60), ended(EXHAUSTED, 3)),
        (THROTTLED, 0, 0, 59, Limits(maximum_event_age_s=60), retry(60, requeues=1)),
        (THROTTLED, 0, 0, 59.5, Limits(maximum_event_age_s=60), ended(TOO_OLD, 0)),
        (SYSTEM, 1, 8, 21_500, Limits(), ended(TOO_OLD, 1)),
    ],
)
def test_what_follows_an_attempt(
    attempt: Attempt, runs: int, requeues: int, now_s: float, limits: Limits, expected: Retry | Finished
) -> None:
    assert expected == settle(attempt, Progress(0, runs, requeues), now_s, limits, Delays())


def test_delays_are_settings() -> None:
    delays = Delays(error_base_s=0.5, requeue_base_s=0.25, requeue_limit_s=1)
    assert retry(10.5, runs=1) == settle(ERROR, Progress(0), 10, Limits(), delays)
    assert retry(11, runs=2) == settle(ERROR, Progress(0, 1), 10, Limits(), delays)
    assert retry(10.25, requeues=1) == settle(THROTTLED, Progress(0), 10, Limits(), delays)
    assert retry(11, requeues=7) == settle(THROTTLED, Progress(0, 0, 6), 10, Limits(), delays)


def test_an_event_that_grew_old_in_the_queue_is_not_attempted() -> None:
    limits = Limits(maximum_event_age_s=60)
    assert overdue(Progress(100, runs=1), 160, limits) is None
    assert ended(TOO_OLD, 1) == overdue(Progress(100, runs=1), 160.1, limits)
    assert overdue(Progress(100), 50, limits) is None  # the clock was set back


@given(
    st.lists(st.sampled_from([ERROR, THROTTLED, SYSTEM]), min_size=200, max_size=200),
    st.integers(0, 2),
    st.integers(60, 21_600),
)
def test_whatever_happens_an_event_ends_in_time_with_at_most_its_retries(
    attempts: list[Attempt], retries: int, age_s: int
) -> None:
    limits = Limits(retries, age_s)
    progress, now_s = Progress(1000), 1000.0
    for attempt in attempts:
        decided = settle(attempt, progress, now_s, limits, Delays())
        if isinstance(decided, Finished):
            assert decided.runs <= retries + 1
            assert decided.condition.failed
            return
        assert now_s < decided.at_s <= 1000 + age_s
        progress, now_s = decided.progress, decided.at_s
    raise AssertionError("after 200 attempts it was still going on")


@given(st.integers(0, 21_600))
@example(21_600)
def test_no_setting_makes_a_delay_that_a_restart_would_cut(base_s: int) -> None:
    delays = Delays(NodeConfig(state=Path("/s"), cache=Path("/c"), async_retry_s=base_s).async_retry_s)
    longest = Limits(185, DAY_S)  # of a schedule's RetryPolicy; a function's own are shorter
    progress, now_s = Progress(0), 0.0
    while isinstance(decided := settle(ERROR, progress, now_s, longest, delays), Retry):
        assert decided.at_s - now_s <= LONGEST_LEASE_S
        progress, now_s = decided.progress, decided.at_s


NOW = datetime(2025, 11, 25, 22, 18, 25, 123_999, tzinfo=UTC)
ARN = "arn:aws:lambda:us-east-1:123456789012:function:embed:$LATEST"
ERROR_BODY = b'{"errorMessage": "boom", "errorType": "ValueError", "stackTrace": []}'


def invocation(condition: Condition, runs: int, response: Response | None) -> Invocation:
    return Invocation("r-1", ARN, b'{"text": "hi"}', Finished(condition, runs), response)


FAILED = invocation(EXHAUSTED, 3, Response(ERROR_BODY, "$LATEST", function_error="Unhandled"))


def test_the_record_of_a_failure_has_the_recorded_fields_in_their_order() -> None:
    assert (
        '{"version": "1.0", "timestamp": "2025-11-25T22:18:25.123Z", "requestContext": {"requestId": "r-1", '
        f'"functionArn": "{ARN}", "condition": "RetriesExhausted", "approximateInvokeCount": 3}}, '
        '"requestPayload": {"text": "hi"}, "responseContext": {"statusCode": 200, "executedVersion": "$LATEST", '
        '"functionError": "Unhandled"}, "responsePayload": {"errorMessage": "boom", "errorType": "ValueError", '
        '"stackTrace": []}}'
    ) == json.dumps(invocation_record(FAILED, NOW))


def test_the_record_of_a_success_has_no_error() -> None:
    record = invocation_record(invocation(Condition.SUCCESS, 1, Response(b"[1]", "7")), NOW)
    assert ({"statusCode": 200, "executedVersion": "7"}, [1]) == (record["responseContext"], record["responsePayload"])


def test_what_never_reached_the_function_has_no_response() -> None:
    record = invocation_record(invocation(Condition.ZERO_RESERVED_CONCURRENCY, 0, None), NOW)
    assert ["version", "timestamp", "requestContext", "requestPayload"] == list(record)
    assert 0 == record["requestContext"]["approximateInvokeCount"]


@pytest.mark.parametrize(("payload", "shown"), [(b"", None), (b"oh no {", "oh no {"), (b"\xff", "\ufffd")])
def test_a_payload_that_is_no_json_is_shown_as_text(payload: bytes, shown: str | None) -> None:
    record = invocation_record(invocation(EXHAUSTED, 1, Response(payload, "1", function_error="Unhandled")), NOW)
    assert shown == record["responsePayload"]


def test_a_record_for_an_event_bus() -> None:
    entry = bus_entry(FAILED, NOW, "arn:aws:events:us-east-1:123456789012:event-bus/default")
    assert ("lambda", "Lambda Function Invocation Result - Failure") == (entry["Source"], entry["DetailType"])
    assert ["arn:aws:events:us-east-1:123456789012:event-bus/default", ARN] == entry["Resources"]
    assert invocation_record(FAILED, NOW) == json.loads(entry["Detail"])
    good = bus_entry(invocation(Condition.SUCCESS, 1, Response(b"1", "1")), NOW, "arn:bus")
    assert "Lambda Function Invocation Result - Success" == good["DetailType"]


def test_a_dead_letter_s_attributes() -> None:
    assert {
        "RequestID": {"DataType": "String", "StringValue": "r-1"},
        "ErrorCode": {"DataType": "Number", "StringValue": "200"},
        "ErrorMessage": {"DataType": "String", "StringValue": "boom"},
    } == dead_letter_attributes(FAILED, 200)


def message_of(payload: bytes | None, condition: Condition = EXHAUSTED) -> str | None:
    response = None if payload is None else Response(payload, "1", function_error="Unhandled")
    found = dead_letter_attributes(invocation(condition, 1, response), 429).get("ErrorMessage")
    return found["StringValue"] if found else None


def test_a_dead_letter_s_message() -> None:
    assert "x" * MESSAGE_BYTES == message_of(json.dumps({"errorMessage": "x" * 5000}).encode())
    assert "é" * (MESSAGE_BYTES // 2 - 1) + "z" == message_of(
        json.dumps({"errorMessage": "é" * 511 + "z" + "é"}).encode()
    )
    assert "a\ufffdb\ufffd\n" == message_of(json.dumps({"errorMessage": "a\x00b\ud800\n"}).encode())
    assert message_of(b'{"errorMessage": ""}') is None
    assert '{"errorType": "X"}' == message_of(b'{"errorType": "X"}')
    assert "plain" == message_of(b"plain")
    assert "The function's reserved concurrency is 0." == message_of(None, Condition.ZERO_RESERVED_CONCURRENCY)
    assert "MaximumEventAgeInSeconds" in (message_of(None, TOO_OLD) or "")


@given(st.text())
def test_a_dead_letter_s_message_is_one_that_a_queue_takes(text: str) -> None:
    shown = message_of(json.dumps({"errorMessage": text}).encode()) or ""
    assert len(shown.encode()) <= MESSAGE_BYTES
    assert all(sign in "\t\n\r" or (sign >= " " and sign not in "\ufffe\uffff") for sign in shown)
