"""Batches of messages: the event with its exact keys, and the answers that say what failed."""

from __future__ import annotations

import json
from typing import Any

import pytest
from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes import SQSEvent
from aws_lambda_powertools.utilities.parser.models import SqsModel
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.events.sqsbatch import FailedItems, failed_items, sqs_record, with_followers

QUEUE = "arn:aws:sqs:eu-central-1:123456789012:work"
ATTRIBUTES = {
    "SenderId": "AIDA",
    "ApproximateFirstReceiveTimestamp": "1545082649185",
    "ApproximateReceiveCount": "1",
    "SentTimestamp": "1545082649183",
}


def message(**changed: Any) -> dict[str, Any]:
    return {
        "MessageId": "059f36b4-87a3-44ab-83d2-661975830a7d",
        "ReceiptHandle": "AQEB",
        "MD5OfBody": "098f6bcd4621d373cade4e832627b4f6",
        "Body": "test",
        "Attributes": ATTRIBUTES,
        **changed,
    }


def test_a_message_of_a_standard_queue() -> None:
    assert (
        '{"messageId": "059f36b4-87a3-44ab-83d2-661975830a7d", "receiptHandle": "AQEB", "body": "test", "attributes": '
        '{"ApproximateReceiveCount": "1", "SentTimestamp": "1545082649183", "SenderId": "AIDA", '
        '"ApproximateFirstReceiveTimestamp": "1545082649185"}, "messageAttributes": {}, "md5OfBody": '
        '"098f6bcd4621d373cade4e832627b4f6", "eventSource": "aws:sqs", "eventSourceARN": '
        '"arn:aws:sqs:eu-central-1:123456789012:work", "awsRegion": "eu-central-1"}'
    ) == json.dumps(sqs_record(message(), QUEUE))


def test_message_attributes_and_what_fifo_queues_add() -> None:
    fifo = {
        **ATTRIBUTES,
        "MessageDeduplicationId": "d",
        "MessageGroupId": "g",
        "SequenceNumber": "18849496460467696128",
        "AWSTraceHeader": "Root=1",
        "DeadLetterQueueSourceArn": "arn:dlq",
        "New": "x",
    }
    attributes = {
        "Name": {"DataType": "String", "StringValue": "x"},
        "Blob": {"DataType": "Binary.png", "BinaryValue": b"\x00\xff"},
        "Empty": {"DataType": "String", "StringValue": ""},
    }
    given = message(Attributes=fifo, MessageAttributes=attributes, MD5OfMessageAttributes="b25f")
    event = {"Records": [sqs_record(given, QUEUE)]}
    record = event["Records"][0]
    assert (
        "messageId receiptHandle body attributes messageAttributes md5OfMessageAttributes md5OfBody eventSource "
        "eventSourceARN awsRegion"
    ).split() == list(record)
    assert (
        "ApproximateReceiveCount SentTimestamp SenderId ApproximateFirstReceiveTimestamp SequenceNumber MessageGroupId "
        "MessageDeduplicationId AWSTraceHeader DeadLetterQueueSourceArn New"
    ).split() == list(record["attributes"])
    assert (
        '{"Name": {"stringValue": "x", "stringListValues": [], "binaryListValues": [], "dataType": "String"}, '
        '"Blob": {"binaryValue": "AP8=", "stringListValues": [], "binaryListValues": [], "dataType": "Binary.png"}, '
        '"Empty": {"stringValue": "", "stringListValues": [], "binaryListValues": [], "dataType": "String"}}'
    ) == json.dumps(record["messageAttributes"])
    read = SqsModel.model_validate(event).Records[0]
    assert ("g", "x") == (read.attributes.MessageGroupId, read.messageAttributes["Name"].stringValue)
    (seen,) = SQSEvent(event).records
    assert ("test", QUEUE, "b25f") == (seen.body, seen.event_source_arn, seen["md5OfMessageAttributes"])


IDS = ("a", "b", "c")


@pytest.mark.parametrize(
    ("response", "failed", "problem"),
    [
        # the whole batch succeeds
        (b"", (), ""),
        (b"  ", (), ""),
        (b"null", (), ""),
        (b"{}", (), ""),
        (b'""', (), ""),
        (b"[]", (), ""),
        (b'{"batchItemFailures": null}', (), ""),
        (b'{"batchItemFailures": []}', (), ""),
        (b'{"statusCode": 200}', (), ""),
        # some fail
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}]}', ("b",), ""),
        (b'{"batchItemFailures": [{"itemIdentifier": "c"}, {"itemIdentifier": "a"}]}', ("a", "c"), ""),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "b", "x": 1}]}', ("b",), ""),
        # the whole batch fails
        (b"{", IDS, "not JSON"),
        (b"\xff", IDS, "not JSON"),
        (b"[" * 100_000, IDS, "not JSON"),
        (b'"ok"', IDS, "no object"),
        (b"7", IDS, "no object"),
        (b"false", IDS, "no object"),
        (b"0", IDS, "no object"),
        (b'[{"itemIdentifier": "b"}]', IDS, "no object"),
        (b'{"batchItemFailures": {}}', IDS, "no list"),
        (b'{"batchItemFailures": "b"}', IDS, "no list"),
        (b'{"batchItemFailures": false}', IDS, "no list"),
        (b'{"batchItemFailures": ["b"]}', IDS, "batchItemFailures[0] has no itemIdentifier"),
        (b'{"batchItemFailures": [null]}', IDS, "batchItemFailures[0] has no itemIdentifier"),
        (b'{"batchItemFailures": [{}]}', IDS, "batchItemFailures[0] has no itemIdentifier"),
        (
            b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"ItemIdentifier": "c"}]}',
            IDS,
            "batchItemFailures[1] has no",
        ),
        (b'{"batchItemFailures": [{"itemIdentifier": null}]}', IDS, "null, empty or no string"),
        (b'{"batchItemFailures": [{"itemIdentifier": ""}]}', IDS, "null, empty or no string"),
        (b'{"batchItemFailures": [{"itemIdentifier": 1}]}', IDS, "null, empty or no string"),
        (b'{"batchItemFailures": [{"itemIdentifier": ["b"]}]}', IDS, "null, empty or no string"),
        (b'{"batchItemFailures": [{"itemIdentifier": "b"}, {"itemIdentifier": "z"}]}', IDS, "no message of the batch"),
    ],
)
def test_what_an_answer_says_of_a_batch(response: bytes, failed: tuple[str, ...], problem: str) -> None:
    found = failed_items(response, IDS)
    assert failed == found.ids
    assert problem in found.problem
    assert bool(problem) == bool(found.problem)


def test_the_answer_of_powertools_batch_processor() -> None:
    messages = [message(MessageId=one, Body=one) for one in IDS]

    def handle(record: Any) -> None:
        if record.body == "b":
            raise ValueError(record.body)

    answer = process_partial_response(
        event={"Records": [sqs_record(one, QUEUE) for one in messages]},
        record_handler=handle,
        processor=BatchProcessor(event_type=EventType.SQS),
    )
    assert FailedItems(("b",)) == failed_items(json.dumps(answer).encode(), IDS)


@given(
    st.binary(max_size=60)
    | st.recursive(
        st.none() | st.booleans() | st.sampled_from(["a", "z", ""]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["batchItemFailures", "itemIdentifier"]), inner)
        ),
        max_leaves=6,
    ).map(lambda one: json.dumps(one).encode())
)
def test_any_answer_is_understood_or_fails_the_whole_batch(response: bytes) -> None:
    found = failed_items(response, IDS)
    assert set(found.ids) <= set(IDS)
    assert found.ids == IDS or not found.problem


def test_in_a_group_everything_behind_a_failure_fails_too() -> None:
    ids, groups = ("1", "2", "3", "4", "5"), {"1": "x", "2": "y", "3": "x", "4": "y", "5": "x"}
    assert ("2", "4") == with_followers(FailedItems(("2",)), groups, ids).ids
    assert ("1", "3", "4", "5") == with_followers(FailedItems(("4", "1")), groups, ids).ids
    assert FailedItems((), "p") == with_followers(FailedItems((), "p"), groups, ids)
