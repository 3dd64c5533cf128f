"""The pure parts of mappings: batches, pace, visibility, what a document says."""

from __future__ import annotations

import json
from itertools import zip_longest

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.events.mapping.batches import Item, event_bytes, event_of, item_of, record_of, split
from glowplug.runtime.events.mapping.pace import FIRST, MOST, Pace, pause_s
from glowplug.runtime.events.mapping.settings import settings_of, visibility_s
from glowplug.runtime.queue.attributes import MessageAttribute
from glowplug.runtime.queue.ports import Incoming

ARN = "arn:aws:sqs:eu-west-1:123456789012:jobs.fifo"


def items(*sizes: int) -> list[Item]:
    return [Item(f"id-{n}", f"h-{n}", "", b'"' + b"x" * (size - 2) + b'"') for n, size in enumerate(sizes)]


@given(st.lists(st.integers(2, 60), max_size=40), st.integers(1, 12), st.integers(20, 150))
def test_batches_hold_everything_in_order_and_none_is_too_large(sizes: list[int], most: int, limit: int) -> None:
    given_items = items(*sizes)
    batches = split(given_items, most, limit)
    assert given_items == [item for batch in batches for item in batch]
    for batch, following in zip_longest(batches, batches[1:]):
        assert 1 <= len(batch) <= most
        assert len(event_of(batch)) == event_bytes(batch)
        assert len(event_of(batch)) <= limit or len(batch) == 1
        if following is not None:  # none is smaller than it has to be
            assert len(batch) == most or len(event_of([*batch, following[0]])) > limit
        assert len(batch) == len(json.loads(event_of(batch))["Records"])


def test_a_record_has_what_lambda_s_have() -> None:
    attributes = {"s": MessageAttribute("String", "é"), "b": MessageAttribute("Binary", b"\0")}
    system = {"MessageGroupId": "g", "SentTimestamp": "5", "AWSTraceHeader": "Root=1-2-3"}
    item = item_of(message := Incoming("m", "h", "body", "md5", system, attributes, "md5a"), record_of(message, ARN))
    assert ("m", "h", "g", "Root=1-2-3") == (item.id, item.handle, item.group, item.trace)
    assert {
        "messageId": "m", "receiptHandle": "h", "body": "body",
        "attributes": {"SentTimestamp": "5", "MessageGroupId": "g", "AWSTraceHeader": "Root=1-2-3"},
        "messageAttributes": {
            "s": {"stringValue": "é", "stringListValues": [], "binaryListValues": [], "dataType": "String"},
            "b": {"binaryValue": "AA==", "stringListValues": [], "binaryListValues": [], "dataType": "Binary"},
        },
        "md5OfMessageAttributes": "md5a", "md5OfBody": "md5", "eventSource": "aws:sqs", "eventSourceARN": ARN,
        "awsRegion": "eu-west-1",
    } == json.loads(item.record)  # fmt: skip


@pytest.mark.parametrize(
    ("queue_s", "window_s", "timeout_s", "expected"),
    [(30, 0, 3.0, 30), (30, 27, 3.0, 30), (30, 28, 3.0, 61), (5, 0, 10.0, 40), (43_200, 300, 5_400.0, 43_200)],
)
def test_messages_are_hidden_for_as_long_as_a_batch_may_take(
    queue_s: int, window_s: int, timeout_s: float, expected: int
) -> None:
    assert expected == visibility_s(queue_s, window_s, timeout_s)


def test_a_mapping_is_read_with_its_qualifier_and_defaults() -> None:
    read = settings_of({"UUID": "u", "EventSourceArn": ARN, "FunctionArn": "arn:aws:lambda:r:1:function:f:live"})
    assert ("f", "live", 10, 0, (), False, None, True) == (
        read.function, read.qualifier, read.batch_size, read.window_s, read.patterns, read.report_failures,
        read.max_concurrency, read.fifo,
    )  # fmt: skip


def test_pace_grows_by_five_a_second_while_it_is_the_limit_and_halves_when_batches_fail() -> None:
    pace = Pace()
    pace.succeeded(0.0, running=FIRST)
    pace.succeeded(0.5, running=10)  # not again within the second
    assert 10 == pace.limit
    pace.succeeded(2.0, running=3)  # and not while fewer run than may
    assert 10 == pace.limit
    pace.failed(3.0, began_s=2.5)
    pace.failed(3.1, began_s=2.6)  # was under way at the first failure
    assert (5, 3.2) == (pace.limit, pace.paused_until_s)
    pace.failed(4.0, began_s=3.5)
    assert (2, 4.4) == (pace.limit, pace.paused_until_s)
    pace.succeeded(5.0, running=2)
    pace.idle()
    assert FIRST == pace.limit


@given(st.integers(0, 10_000))
def test_pauses_are_bounded(failures: int) -> None:
    assert 0 <= pause_s(failures) <= 30
    assert MOST == 1000
