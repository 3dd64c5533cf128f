"""Events as sources send them: exact keys in their order, and Powertools' models, which read them."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import unquote_plus

import pytest
from aws_lambda_powertools.utilities.data_classes import EventBridgeEvent, S3Event, SNSEvent
from aws_lambda_powertools.utilities.parser.models import EventBridgeModel, S3Model, SnsModel
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.errors import InvalidEntry
from glowplug.runtime.events.envelopes import (
    Home,
    Notification,
    ObjectChange,
    bus_event,
    entry_bytes,
    rule_event,
    s3_event,
    scheduler_event,
    scheduler_input,
    sns_event,
)

HOME = Home("123456789012", "eu-central-1")
NOON = datetime(2026, 1, 1, 12, 0, 0, 987_654, tzinfo=UTC)
RULE = "arn:aws:events:eu-central-1:123456789012:rule/nightly"
SCHEDULE = "arn:aws:scheduler:eu-central-1:123456789012:schedule/default/nightly"


def test_a_rule_s_event() -> None:
    event = rule_event(RULE, "e-1", NOON, HOME)
    assert (
        '{"version": "0", "id": "e-1", "detail-type": "Scheduled Event", "source": "aws.events", '
        '"account": "123456789012", "time": "2026-01-01T12:00:00Z", "region": "eu-central-1", '
        f'"resources": ["{RULE}"], "detail": {{}}}}'
    ) == json.dumps(event)
    read = EventBridgeModel.model_validate(event)
    assert ("aws.events", [RULE], {}) == (read.source, read.resources, read.detail)
    assert "Scheduled Event" == EventBridgeEvent(event).detail_type


def test_a_schedule_s_event_has_its_detail_as_text() -> None:
    event = scheduler_event(SCHEDULE, "e-1", NOON, HOME)
    assert ("aws.scheduler", "{}", [SCHEDULE]) == (event["source"], event["detail"], event["resources"])
    assert list(rule_event(RULE, "e-1", NOON, HOME)) == list(event)


def test_the_context_attributes_of_an_input() -> None:
    text = '{"at": "<aws.scheduler.scheduled-time>", "by": "<aws.scheduler.schedule-arn>", "x": "<aws.scheduler.other>", "run": "<aws.scheduler.execution-id>/<aws.scheduler.attempt-number>"}'
    assert {"at": "2026-01-01T12:00:00Z", "by": SCHEDULE, "x": "<aws.scheduler.other>", "run": "r-1/1"} == json.loads(
        scheduler_input(text, SCHEDULE, "r-1", NOON, 1)
    )


def entry(**changed: Any) -> dict[str, Any]:
    return {"Source": "shop", "DetailType": "Order", "Detail": '{"price": 3.50, "items": []}', **changed}


def test_an_event_that_was_posted() -> None:
    event = bus_event(entry(Resources=["arn:x"], EventBusName="default"), "e-2", NOON, HOME)
    assert {
        "version": "0",
        "id": "e-2",
        "detail-type": "Order",
        "source": "shop",
        "account": "123456789012",
        "time": "2026-01-01T12:00:00Z",
        "region": "eu-central-1",
        "resources": ["arn:x"],
        "detail": {"price": 3.5, "items": []},
    } == event
    assert "shop" == EventBridgeModel.model_validate(event).source


@pytest.mark.parametrize(
    ("time", "expected"),
    [
        (None, "2026-01-01T12:00:00Z"),
        (0, "1970-01-01T00:00:00Z"),
        (1767225600.75, "2026-01-01T00:00:00Z"),
        ("2026-05-05T10:00:00+02:00", "2026-05-05T08:00:00Z"),
        ("2026-05-05T10:00:00Z", "2026-05-05T10:00:00Z"),
        ("2026-05-05T10:00:00", "2026-05-05T10:00:00Z"),
    ],
)
def test_the_time_of_a_posted_event(time: object, expected: str) -> None:
    assert expected == bus_event(entry(Time=time), "e", NOON, HOME)["time"]


@pytest.mark.parametrize(
    ("changed", "code", "problem"),
    [
        ({"Source": None}, "InvalidArgument", "Parameter Source is not valid. Reason: Source is a required argument."),
        ({"Source": ""}, "InvalidArgument", "Source is a required argument."),
        (
            {"DetailType": None},
            "InvalidArgument",
            "Parameter DetailType is not valid. Reason: DetailType is a required",
        ),
        ({"Detail": None}, "InvalidArgument", "Parameter Detail is not valid. Reason: Detail is a required argument."),
        ({"Source": 5}, "InvalidArgument", "Parameter Source is not valid. Reason: It has to be a string."),
        ({"DetailType": "d" * 129}, "InvalidArgument", "longer than 128"),
        ({"Source": "aws.ec2"}, "NotAuthorizedForSourceException", "Not authorized"),
        ({"Detail": {"already": "parsed"}}, "InvalidArgument", "It has to be a string."),
        ({"Detail": "{"}, "MalformedDetail", "Detail is malformed."),
        ({"Detail": "[]"}, "MalformedDetail", "Detail is malformed."),
        ({"Detail": '{"a": NaN}'}, "MalformedDetail", "Detail is malformed."),
        ({"Detail": '{"a":' * 100_000}, "MalformedDetail", "Detail is malformed."),
        ({"Resources": "arn:x"}, "InvalidArgument", "Parameter Resources is not valid"),
        ({"Resources": [1]}, "InvalidArgument", "Parameter Resources is not valid"),
        ({"Time": "yesterday"}, "InvalidArgument", "Parameter Time is not valid. Reason: 'yesterday' is no time."),
        ({"Time": 1e18}, "InvalidArgument", "Parameter Time is not valid"),
        ({"Time": float("inf")}, "InvalidArgument", "Parameter Time is not valid"),
        ({"Time": "0001-01-01T00:00:00+23:59"}, "InvalidArgument", "Parameter Time is not valid"),
        ({"Time": "9999-12-31T23:59:59-23:59"}, "InvalidArgument", "Parameter Time is not valid"),
        ({"Time": True}, "InvalidArgument", "Parameter Time is not valid"),
        ({"Time": []}, "InvalidArgument", "Parameter Time is not valid"),
    ],
)
def test_an_entry_that_is_refused_has_the_code_and_the_parameter(
    changed: dict[str, Any], code: str, problem: str
) -> None:
    with pytest.raises(InvalidEntry) as raised:
        bus_event(entry(**changed), "e", NOON, HOME)
    assert (code, True) == (raised.value.entry_code, problem in str(raised.value)), str(raised.value)


def test_the_size_of_an_entry_is_that_of_its_texts_and_14_bytes_for_a_time() -> None:
    """The user guide's own rule; what is no text is refused elsewhere."""
    given = {"Source": "s", "DetailType": "é", "Detail": "{}", "Resources": ["abc", 1], "EventBusName": "unweighed"}
    assert 8 == entry_bytes(given)
    assert 22 == entry_bytes({**given, "Time": 0})
    assert 3 == entry_bytes({"Detail": "\ud800", "Source": 7, "Resources": "no list"})


def change(key: str = "in/a file+1.txt", **changed: Any) -> ObjectChange:
    made: dict[str, Any] = {
        "size": 11,
        "etag": '"e7ag"',
        "sequencer": "0055AED6DCD90281E5",
        "request_id": "q-1",
    } | changed
    return ObjectChange("ObjectCreated:Put", "uploads", key, NOON, **made)


def test_a_notification_of_a_bucket() -> None:
    event = s3_event(change(version_id="v1"), "uploads-to-embed", HOME)
    assert (
        '{"eventVersion": "2.1", "eventSource": "aws:s3", "awsRegion": "eu-central-1", "eventTime": '
        '"2026-01-01T12:00:00.987Z", "eventName": "ObjectCreated:Put", "userIdentity": {"principalId": "123456789012"}, '
        '"requestParameters": {"sourceIPAddress": "127.0.0.1"}, "responseElements": {"x-amz-request-id": "q-1", '
        '"x-amz-id-2": "q-1"}, "s3": {"s3SchemaVersion": "1.0", "configurationId": "uploads-to-embed", "bucket": {"name": '
        '"uploads", "ownerIdentity": {"principalId": "123456789012"}, "arn": "arn:aws:s3:::uploads"}, "object": {"key": '
        '"in/a+file%2B1.txt", "size": 11, "eTag": "e7ag", "versionId": "v1", "sequencer": "0055AED6DCD90281E5"}}}'
    ) == json.dumps(event["Records"][0])
    record = S3Model.model_validate(event).Records[0]
    assert record.s3.object is not None
    assert ("in/a+file%2B1.txt", 11.0) == (record.s3.object.key, record.s3.object.size)
    assert ("uploads", "in/a file+1.txt") == (S3Event(event).bucket_name, S3Event(event).object_key)


def test_a_deletion_has_no_size_and_no_etag() -> None:
    event = s3_event(ObjectChange("ObjectRemoved:Delete", "uploads", "x", NOON, "00", "q"), "c", HOME)
    assert {"key": "x", "sequencer": "00"} == event["Records"][0]["s3"]["object"]
    assert "ObjectRemoved:Delete" == S3Model.model_validate(event).Records[0].eventName


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_every_key_is_read_back_as_it_was(key: str) -> None:
    shown = s3_event(change(key), "c", HOME)["Records"][0]["s3"]["object"]["key"]
    assert key == unquote_plus(shown)
    assert shown.isascii()
    assert " " not in shown


def notification(**changed: Any) -> Notification:
    return Notification(
        **{
            "message_id": "95df01b4-ee98-5cb9-9903-4c221d41eb5e",
            "topic_arn": "arn:aws:sns:eu-central-1:123456789012:orders",
            "message": "hello",
            "time": NOON.astimezone(timezone(timedelta(hours=2))),
            "subscription_arn": "arn:aws:sns:eu-central-1:123456789012:orders:s-1",
            "unsubscribe_url": "http://localhost:9000/unsubscribe",
            **changed,
        }
    )


def test_a_topic_s_message() -> None:
    signed = {"SigningCertUrl": "https://sns.example/c.pem", "Signature": "c2ln", "SignatureVersion": "1", "Other": "x"}
    event = sns_event(notification(subject="News", attributes={"kind": ("String", "a")}, signed=signed))
    record = event["Records"][0]
    assert ["EventSource", "EventVersion", "EventSubscriptionArn", "Sns"] == list(record)
    assert (
        "Type MessageId TopicArn Subject Message Timestamp SignatureVersion Signature SigningCertUrl UnsubscribeUrl "
        "MessageAttributes"
    ).split() == list(record["Sns"])
    assert ("2026-01-01T12:00:00.987Z", {"kind": {"Type": "String", "Value": "a"}}) == (
        record["Sns"]["Timestamp"],
        record["Sns"]["MessageAttributes"],
    )
    read = SnsModel.model_validate(event).Records[0]
    assert ("aws:sns", "hello", "News") == (read.EventSource, read.Sns.Message, read.Sns.Subject)
    assert "hello" == SNSEvent(event).sns_message


def test_a_message_without_a_signature_has_none_of_its_fields() -> None:
    event = sns_event(notification())
    assert not {"SignatureVersion", "Signature", "SigningCertUrl"} & event["Records"][0]["Sns"].keys()
    assert SnsModel.model_validate(event).Records[0].Sns.Subject is None
