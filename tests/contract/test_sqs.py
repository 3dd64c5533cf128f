"""Queues through boto3. What is here holds for the node and for moto, unless it says that it is the node's alone."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from moto import mock_aws

CREDENTIALS = {"region_name": "us-east-1", "aws_access_key_id": "test", "aws_secret_access_key": "test"}


@pytest.fixture(scope="module")
def node(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    state = tmp_path_factory.mktemp("sqs") / "state"
    with serving(None, state, GLOWPLUG_PRELOAD_TORCH="0") as served:
        yield served


def client_of(node: Any, **options: Any) -> Any:
    config = Config(retries={"max_attempts": 0}, max_pool_connections=50, **options)
    return boto3.client("sqs", endpoint_url=node.endpoint, config=config, **CREDENTIALS)


@pytest.fixture
def own(node: Any) -> Any:
    """A client of the node."""
    return client_of(node)


@pytest.fixture(params=["glowplug", "moto"])
def sqs(request: pytest.FixtureRequest, node: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the node, and one of moto."""
    if request.param == "glowplug":
        yield client_of(node)
        return
    monkeypatch.setenv("MOTO_ACCOUNT_ID", "000000000000")
    with mock_aws():
        yield boto3.client("sqs", **CREDENTIALS)


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in request.node.name)[-70:]


def refused(code: str, call: Callable[..., Any], **parameters: Any) -> str:
    with pytest.raises(ClientError) as error:
        call(**parameters)
    assert code == error.value.response["Error"]["Code"]
    return str(error.value.response["Error"]["Message"])


def test_a_queue_is_made_found_listed_and_deleted(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"}, tags={"a": "b"})["QueueUrl"]
    assert url == sqs.create_queue(QueueName=name, Attributes={"VisibilityTimeout": "60"})["QueueUrl"]
    refused("QueueAlreadyExists", sqs.create_queue, QueueName=name, Attributes={"VisibilityTimeout": "61"})
    with pytest.raises(sqs.exceptions.QueueNameExists):
        sqs.create_queue(QueueName=name, Attributes={"DelaySeconds": "1"})
    assert url == sqs.get_queue_url(QueueName=name)["QueueUrl"]
    assert [url] == sqs.list_queues(QueueNamePrefix=name)["QueueUrls"]
    assert {"a": "b"} == sqs.list_queue_tags(QueueUrl=url)["Tags"]
    sqs.tag_queue(QueueUrl=url, Tags={"c": "d"})
    sqs.untag_queue(QueueUrl=url, TagKeys=["a"])
    assert {"c": "d"} == sqs.list_queue_tags(QueueUrl=url)["Tags"]
    sqs.delete_queue(QueueUrl=url)
    refused("AWS.SimpleQueueService.NonExistentQueue", sqs.get_queue_url, QueueName=name)
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        sqs.send_message(QueueUrl=url, MessageBody="x")


def test_attributes_are_strings_and_can_be_changed(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    values = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    expected = {
        "VisibilityTimeout": "30",
        "DelaySeconds": "0",
        "MessageRetentionPeriod": "345600",
        "ReceiveMessageWaitTimeSeconds": "0",
        "ApproximateNumberOfMessages": "0",
        "ApproximateNumberOfMessagesNotVisible": "0",
        "ApproximateNumberOfMessagesDelayed": "0",
    }
    assert expected == {key: values[key] for key in expected}
    assert values["QueueArn"].endswith(f":{name}")
    sqs.set_queue_attributes(QueueUrl=url, Attributes={"VisibilityTimeout": "5"})
    assert {"VisibilityTimeout": "5"} == sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])[
        "Attributes"
    ]
    refused("InvalidAttributeName", sqs.get_queue_attributes, QueueUrl=url, AttributeNames=["Nonsense"])


def test_a_message_comes_with_its_digests_and_attributes_and_goes_when_deleted(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    sent = sqs.send_message(  # boto3 compares the digests of what it sent and of what it receives
        QueueUrl=url,
        MessageBody="grüße ☃",
        MessageAttributes={
            "text": {"DataType": "String", "StringValue": "ü"},
            "count": {"DataType": "Number.int", "StringValue": "17"},
            "raw": {"DataType": "Binary", "BinaryValue": b"\x00\xff"},
        },
    )
    (message,) = sqs.receive_message(QueueUrl=url, AttributeNames=["All"], MessageAttributeNames=["All"])["Messages"]
    assert (sent["MessageId"], "grüße ☃") == (message["MessageId"], message["Body"])
    assert sent["MD5OfMessageAttributes"] == message["MD5OfMessageAttributes"]
    assert b"\x00\xff" == message["MessageAttributes"]["raw"]["BinaryValue"]
    assert "17" == message["MessageAttributes"]["count"]["StringValue"]
    assert "1" == message["Attributes"]["ApproximateReceiveCount"]
    assert abs(time.time() * 1000 - int(message["Attributes"]["SentTimestamp"])) < 60_000
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    sqs.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
    values = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert ("0", "0") == (values["ApproximateNumberOfMessages"], values["ApproximateNumberOfMessagesNotVisible"])


def test_only_what_is_asked_for_is_shown(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    attributes = {key: {"DataType": "String", "StringValue": "x"} for key in ("a.one", "a.two", "b")}
    for _ in range(2):
        sqs.send_message(QueueUrl=url, MessageBody="x", MessageAttributes=attributes)
    (plain,) = sqs.receive_message(QueueUrl=url)["Messages"]
    assert {"Attributes", "MessageAttributes", "MD5OfMessageAttributes"}.isdisjoint(plain)
    (some,) = sqs.receive_message(
        QueueUrl=url, MessageAttributeNames=["a.*"], MessageSystemAttributeNames=["SentTimestamp"]
    )["Messages"]
    assert {"a.one", "a.two"} == set(some["MessageAttributes"])
    assert {"SentTimestamp"} == set(some["Attributes"])


def test_visibility_zero_gives_a_message_back(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="x")
    (first,) = sqs.receive_message(QueueUrl=url)["Messages"]
    sqs.change_message_visibility(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"], VisibilityTimeout=0)
    (second,) = sqs.receive_message(QueueUrl=url, AttributeNames=["ApproximateReceiveCount"], WaitTimeSeconds=2)[
        "Messages"
    ]
    assert "2" == second["Attributes"]["ApproximateReceiveCount"]


def test_batches_answer_for_each_entry(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    entries = [{"Id": f"m{number}", "MessageBody": f"{number}"} for number in range(10)]
    sent = sqs.send_message_batch(QueueUrl=url, Entries=entries)
    assert [entry["Id"] for entry in entries] == [one["Id"] for one in sent["Successful"]]
    found = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert 10 == len(found)
    handles = [{"Id": str(number), "ReceiptHandle": one["ReceiptHandle"]} for number, one in enumerate(found)]
    changed = sqs.change_message_visibility_batch(
        QueueUrl=url, Entries=[{**one, "VisibilityTimeout": 100} for one in handles]
    )
    assert 10 == len(changed["Successful"])
    assert 10 == len(sqs.delete_message_batch(QueueUrl=url, Entries=handles)["Successful"])


def test_a_batch_is_as_long_as_its_bodies_and_attributes(own: Any, name: str) -> None:
    """Names, types and values count; what the system says of a message does not. (moto counts bodies alone.)"""
    url = own.create_queue(QueueName=name)["QueueUrl"]

    def batch(of_bytes: int) -> list[dict[str, Any]]:
        value = "x" * (of_bytes - len("body") - len("name") - len("String"))
        one = {"MessageBody": "body", "MessageAttributes": {"name": {"DataType": "String", "StringValue": value}}}
        return [{"Id": str(n), **one} for n in range(4)]

    most = 2**20 // 4
    code = "AWS.SimpleQueueService.BatchRequestTooLong"
    message = refused(code, own.send_message_batch, QueueUrl=url, Entries=batch(most + 1))
    assert "You have sent 1048580 bytes" in message
    traced = {"AWSTraceHeader": {"DataType": "String", "StringValue": "Root=1-2-3"}}
    entries = [{**one, "MessageSystemAttributes": traced} for one in batch(most)]
    assert 4 == len(own.send_message_batch(QueueUrl=url, Entries=entries)["Successful"])


def test_a_message_that_is_too_long_for_any_batch_makes_the_batch_too_long(own: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    entries = [{"Id": "a", "MessageBody": "x" * (2**20 + 1)}, {"Id": "b", "MessageBody": "x"}]
    refused("AWS.SimpleQueueService.BatchRequestTooLong", own.send_message_batch, QueueUrl=url, Entries=entries)


@pytest.mark.parametrize(
    ("code", "entries"),
    [
        ("AWS.SimpleQueueService.EmptyBatchRequest", []),
        (
            "AWS.SimpleQueueService.TooManyEntriesInBatchRequest",
            [{"Id": str(n), "MessageBody": "x"} for n in range(11)],
        ),
        ("AWS.SimpleQueueService.BatchEntryIdsNotDistinct", [{"Id": "a", "MessageBody": "x"}] * 2),
        ("AWS.SimpleQueueService.InvalidBatchEntryId", [{"Id": "a b", "MessageBody": "x"}]),
        (
            "AWS.SimpleQueueService.BatchRequestTooLong",
            [{"Id": str(n), "MessageBody": "x" * 300_000} for n in range(4)],
        ),
    ],
    ids=lambda value: value.rpartition(".")[2] if isinstance(value, str) else "",
)
def test_a_wrong_batch_is_refused_as_a_whole(sqs: Any, name: str, code: str, entries: list[Any]) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    refused(code, sqs.send_message_batch, QueueUrl=url, Entries=entries)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


def test_a_wrong_receipt_handle_is_refused(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    refused("ReceiptHandleIsInvalid", sqs.delete_message, QueueUrl=url, ReceiptHandle="nonsense")


def test_a_message_that_was_received_too_often_goes_to_the_dead_letter_queue(sqs: Any, name: str) -> None:
    dead = sqs.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 2})
    url = sqs.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy, "VisibilityTimeout": "0"})["QueueUrl"]
    assert [url] == sqs.list_dead_letter_source_queues(QueueUrl=dead)["queueUrls"]
    sqs.send_message(QueueUrl=url, MessageBody="poison")
    for _ in range(2):
        time.sleep(0.01)
        (message,) = sqs.receive_message(QueueUrl=url)["Messages"]
    time.sleep(0.01)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)
    (moved,) = sqs.receive_message(QueueUrl=dead, AttributeNames=["All"])["Messages"]
    assert (message["MessageId"], "poison") == (moved["MessageId"], moved["Body"])


def test_fifo_keeps_order_in_a_group_and_knows_duplicates(sqs: Any, name: str) -> None:
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    url = sqs.create_queue(QueueName=f"{name}.fifo", Attributes=fifo)["QueueUrl"]
    for body in ("a", "b", "a", "c"):
        sqs.send_message(QueueUrl=url, MessageBody=body, MessageGroupId="g")
    (first,) = sqs.receive_message(QueueUrl=url, AttributeNames=["All"])["Messages"]
    assert ("a", "g") == (first["Body"], first["Attributes"]["MessageGroupId"])
    assert "Messages" not in sqs.receive_message(QueueUrl=url)  # the group is blocked
    sqs.send_message(QueueUrl=url, MessageBody="other", MessageGroupId="h")
    assert ["other"] == [one["Body"] for one in sqs.receive_message(QueueUrl=url)["Messages"]]
    sqs.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    rest = sqs.receive_message(QueueUrl=url, MaxNumberOfMessages=10)["Messages"]
    assert ["b", "c"] == [one["Body"] for one in rest]


def test_purging_leaves_nothing(sqs: Any, name: str) -> None:
    url = sqs.create_queue(QueueName=name)["QueueUrl"]
    for _ in range(3):
        sqs.send_message(QueueUrl=url, MessageBody="x")
    sqs.purge_queue(QueueUrl=url)
    assert "Messages" not in sqs.receive_message(QueueUrl=url)


# --- the node's alone -------------------------------------------------------------------------------------------------


def test_a_duplicate_gets_the_id_of_the_first(own: Any, name: str) -> None:
    fifo = {"FifoQueue": "true", "ContentBasedDeduplication": "true"}
    url = own.create_queue(QueueName=f"{name}.fifo", Attributes=fifo)["QueueUrl"]
    first, second = (own.send_message(QueueUrl=url, MessageBody="a", MessageGroupId=group) for group in "gh")
    assert (first["MessageId"], first["SequenceNumber"]) == (second["MessageId"], second["SequenceNumber"])
    third = own.send_message(QueueUrl=url, MessageBody="b", MessageGroupId="g")
    assert first["SequenceNumber"] < third["SequenceNumber"]


def test_a_stale_handle_deletes_nothing(own: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    own.send_message(QueueUrl=url, MessageBody="x")
    (first,) = own.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    time.sleep(0.01)
    (second,) = own.receive_message(QueueUrl=url)["Messages"]
    own.delete_message(QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])  # SQS says nothing either
    counts = own.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert "1" == counts["ApproximateNumberOfMessagesNotVisible"]
    message = refused(
        "InvalidParameterValue",
        own.change_message_visibility,
        QueueUrl=url,
        ReceiptHandle=first["ReceiptHandle"],
        VisibilityTimeout=0,
    )
    assert "not available for visibility timeout change" in message
    own.delete_message(QueueUrl=url, ReceiptHandle=second["ReceiptHandle"])
    counts = own.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
    assert "0" == counts["ApproximateNumberOfMessagesNotVisible"]


def test_a_fifo_queue_says_that_a_handle_has_expired(own: Any, name: str) -> None:
    url = own.create_queue(QueueName=f"{name}.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    own.send_message(QueueUrl=url, MessageBody="x", MessageGroupId="g", MessageDeduplicationId="1")
    (first,) = own.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"]
    time.sleep(0.01)
    own.receive_message(QueueUrl=url)
    message = refused("InvalidParameterValue", own.delete_message, QueueUrl=url, ReceiptHandle=first["ReceiptHandle"])
    assert "The receipt handle has expired." in message


def test_a_long_poll_ends_with_the_first_message(node: Any, own: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    found: list[Any] = []
    poll = threading.Thread(
        target=lambda: found.extend(client_of(node).receive_message(QueueUrl=url, WaitTimeSeconds=20)["Messages"])
    )
    poll.start()
    time.sleep(0.3)
    sent_s = time.monotonic()
    own.send_message(QueueUrl=url, MessageBody="x")
    poll.join(10)
    assert ["x"] == [one["Body"] for one in found]
    assert time.monotonic() - sent_s < 5


def test_a_client_that_goes_away_while_it_polls_takes_no_message_with_it(own: Any, node: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    impatient = client_of(node, read_timeout=0.5)
    with pytest.raises(Exception, match="Read timeout"):
        impatient.receive_message(QueueUrl=url, WaitTimeSeconds=20)
    time.sleep(0.2)
    own.send_message(QueueUrl=url, MessageBody="x")
    (message,) = own.receive_message(QueueUrl=url, WaitTimeSeconds=5, AttributeNames=["ApproximateReceiveCount"])[
        "Messages"
    ]
    assert "1" == message["Attributes"]["ApproximateReceiveCount"]


def test_pages_of_queues(own: Any, name: str) -> None:
    prefix = name[:40]
    urls = [own.create_queue(QueueName=f"{prefix}-{number}")["QueueUrl"] for number in range(5)]
    pages = own.get_paginator("list_queues").paginate(QueueNamePrefix=prefix, PaginationConfig={"PageSize": 2})
    assert [urls[:2], urls[2:4], urls[4:]] == [page["QueueUrls"] for page in pages]


@pytest.mark.parametrize(
    ("code", "parameters"),
    [
        ("InvalidMessageContents", {"MessageBody": "\x00"}),
        ("InvalidParameterValue", {"MessageBody": "x" * 1_048_577}),
        ("InvalidParameterValue", {"MessageBody": "x", "DelaySeconds": 901}),
        ("InvalidParameterValue", {"MessageBody": "x", "MessageDeduplicationId": "d"}),
        ("InvalidParameterValue", {"MessageBody": "x", "MessageAttributes": {"aws.x": {"DataType": "String", "StringValue": "x"}}}),
        ("InvalidParameterValue", {"MessageBody": "x", "MessageAttributes": {"x": {"DataType": "Text", "StringValue": "x"}}}),
        ("InvalidParameterValue", {"MessageBody": "x", "MessageAttributes": {"x": {"DataType": "Number", "StringValue": "x"}}}),
        ("MissingParameter", {"MessageBody": ""}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_wrong_message_is_refused(own: Any, code: str, parameters: dict[str, Any]) -> None:
    url = own.create_queue(QueueName="wrong-messages")["QueueUrl"]
    refused(code, own.send_message, QueueUrl=url, **parameters)


@pytest.mark.parametrize(
    ("code", "queue", "attributes"),
    [
        ("InvalidParameterValue", "a b", {}),
        ("InvalidParameterValue", "async:embed", {}),
        ("InvalidParameterValue", "not-fifo", {"FifoQueue": "true"}),
        ("InvalidParameterValue", "x.fifo", {}),
        ("InvalidAttributeName", "x", {"Nonsense": "1"}),
        ("InvalidAttributeValue", "x", {"VisibilityTimeout": "43201"}),
        ("InvalidAttributeValue", "x", {"DelaySeconds": "a"}),
        ("InvalidParameterValue", "x", {"RedrivePolicy": "{"}),
        ("InvalidParameterValue", "x", {"RedrivePolicy": '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:none", "maxReceiveCount": 1}'}),
    ],
)  # fmt: skip
def test_a_wrong_queue_is_refused(own: Any, code: str, queue: str, attributes: dict[str, str]) -> None:
    refused(code, own.create_queue, QueueName=queue, Attributes=attributes)


def moved_from(own: Any, arn: str) -> tuple[str, int]:
    """Run a move task; return how it ended, and how many messages it moved."""
    own.start_message_move_task(SourceArn=arn)
    deadline_s = time.monotonic() + 10
    while (task := own.list_message_move_tasks(SourceArn=arn)["Results"][0])["Status"] == "RUNNING":
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return task["Status"], task["ApproximateNumberOfMessagesMoved"]


def test_dead_letters_are_moved_back(own: Any, name: str) -> None:
    dead = own.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = own.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    url = own.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    for number in range(3):
        own.send_message(QueueUrl=url, MessageBody=str(number))
    assert 3 == len(own.receive_message(QueueUrl=url, MaxNumberOfMessages=10, VisibilityTimeout=0)["Messages"])
    time.sleep(0.01)
    assert "Messages" not in own.receive_message(QueueUrl=url)
    (seen,) = own.receive_message(QueueUrl=dead, AttributeNames=["All"], VisibilityTimeout=0)["Messages"]
    assert seen["Attributes"]["DeadLetterQueueSourceArn"].endswith(f":{name}")
    time.sleep(0.01)
    assert ("COMPLETED", 3) == moved_from(own, arn)
    back = own.receive_message(QueueUrl=url, MaxNumberOfMessages=10, AttributeNames=["All"])["Messages"]
    assert [("0", "1"), ("1", "1"), ("2", "1")] == sorted(
        (one["Body"], one["Attributes"]["ApproximateReceiveCount"]) for one in back
    )
    refused("InvalidParameterValue", own.start_message_move_task, SourceArn=arn.removesuffix("-dead"))


def test_dead_letters_are_moved_back_from_behind_what_was_sent_there(own: Any, name: str) -> None:
    dead = own.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
    arn = own.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": "1"})
    url = own.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"]
    entries = [{"Id": str(number), "MessageBody": "sent there"} for number in range(10)]
    for _ in range(10):
        own.send_message_batch(QueueUrl=dead, Entries=entries)
    own.send_message(QueueUrl=url, MessageBody="dead letter")
    assert 1 == len(own.receive_message(QueueUrl=url, VisibilityTimeout=0)["Messages"])
    time.sleep(0.01)
    assert "Messages" not in own.receive_message(QueueUrl=url)
    assert ("COMPLETED", 1) == moved_from(own, arn)
    assert ["dead letter"] == [one["Body"] for one in own.receive_message(QueueUrl=url)["Messages"]]


def test_an_unknown_operation_is_refused_by_name(own: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    message = refused(
        "InvalidAction", own.add_permission, QueueUrl=url, Label="x", AWSAccountIds=["111122223333"], Actions=["*"]
    )
    assert "AddPermission is not supported" == message


def test_messages_and_settings_survive_the_node_being_killed(
    serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    state = tmp_path_factory.mktemp("killed") / "state"
    with serving(None, state, GLOWPLUG_PRELOAD_TORCH="0") as node:
        client = client_of(node)
        url = client.create_queue(QueueName="kept", Attributes={"VisibilityTimeout": "77"})["QueueUrl"]
        for number in range(20):
            client.send_message(QueueUrl=url, MessageBody=str(number))
        held = client.receive_message(QueueUrl=url)["Messages"][0]
        node.process.kill()
        node.process.wait()
        node.start()
        client = client_of(node)
        values = client.get_queue_attributes(QueueUrl=url, AttributeNames=["All"])["Attributes"]
        assert ("77", "19", "1") == (
            values["VisibilityTimeout"],
            values["ApproximateNumberOfMessages"],
            values["ApproximateNumberOfMessagesNotVisible"],
        )
        client.delete_message(QueueUrl=url, ReceiptHandle=held["ReceiptHandle"])
        found: list[str] = []
        while messages := client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            found += [message["Body"] for message in messages]
        assert sorted(str(number) for number in range(20) if str(number) != held["Body"]) == sorted(found)


# --- what no client of AWS's sends ------------------------------------------------------------------------------------

QUEUE = {"QueueUrl": "http://x/000000000000/odd"}
POLICY = '{"deadLetterTargetArn": "arn:aws:sqs:us-east-1:000000000000:odd", "maxReceiveCount": 1e999}'


def told(node: Any, operation: str, body: bytes) -> tuple[int, str, str]:
    """Send a request as no SDK would; return its status, the type of its error and the code that boto3 would show."""
    headers = {"X-Amz-Target": f"AmazonSQS.{operation}", "Content-Type": "application/x-amz-json-1.0"}
    status, answered, text = node.request_raw("POST", "/", body, headers)
    shape = str(json.loads(text).get("__type", "")).rpartition("#")[2]
    return status, shape, answered.get("x-amzn-query-error", "").partition(";")[0]


@pytest.mark.parametrize(
    ("operation", "parameters", "shape"),
    [
        ("SendMessage", {"QueueUrl": "http://[", "MessageBody": "x"}, "InvalidAddress"),
        ("SetQueueAttributes", QUEUE | {"Attributes": {"RedrivePolicy": POLICY}}, "InvalidParameterValueException"),
        (
            "SetQueueAttributes",
            QUEUE | {"Attributes": {"RedrivePolicy": "[" * 100_000}},
            "InvalidParameterValueException",
        ),
        ("SetQueueAttributes", QUEUE | {"Attributes": {"DelaySeconds": "9" * 5000}}, "InvalidAttributeValue"),
        ("SetQueueAttributes", QUEUE | {"Attributes": {"Policy": "x" * 8193}}, "InvalidAttributeValue"),
        (
            "CreateQueue",
            {"QueueName": "tagged", "tags": {str(number): "" for number in range(51)}},
            "InvalidParameterValueException",
        ),
        *(
            (
                "SendMessage",
                QUEUE | {"MessageBody": "x", "MessageAttributes": {"a": {"DataType": kind, "StringValue": value}}},
                "InvalidParameterValueException",
            )
            for kind, value in (
                ("String.\ud800", "x"), ("Number", "nan"), ("Number", "1_000"), ("Number", "inf"), ("Number", "٣")
            )
        ),
        (
            "SendMessage",
            QUEUE
            | {
                "MessageBody": "x",
                "MessageSystemAttributes": {"AWSTraceHeader": {"DataType": "Binary", "BinaryValue": "eA=="}},
            },
            "InvalidParameterValueException",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_is_the_clients_fault(
    own: Any, node: Any, operation: str, parameters: dict[str, Any], shape: str
) -> None:
    own.create_queue(QueueName="odd")
    status, found, code = told(node, operation, json.dumps(parameters).encode())
    assert (400, shape) == (status, found)
    assert code


@pytest.mark.parametrize("number", ["1", "-1.5", "+.5e3", "12345678901234567890123456789012345678", "1E-128"])
def test_numbers_are_numbers(own: Any, number: str) -> None:
    url = own.create_queue(QueueName="numbers")["QueueUrl"]
    own.send_message(
        QueueUrl=url, MessageBody="x", MessageAttributes={"n": {"DataType": "Number", "StringValue": number}}
    )
    (message,) = own.receive_message(QueueUrl=url, MessageAttributeNames=["n"])["Messages"]
    assert {"n": {"DataType": "Number", "StringValue": number}} == message["MessageAttributes"]
    own.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])


# --- what the node's operator sees ------------------------------------------------------------------------------------


def glowplug(node: Any, *arguments: str) -> Any:
    command = [sys.executable, "-m", "glowplug.deploy.cli", "queues", *arguments, "--endpoint", node.endpoint, "--json"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 0 == ran.returncode, ran.stderr
    return json.loads(ran.stdout)


def test_the_command_line_and_the_metrics_show_depth_and_dead_letters(own: Any, node: Any) -> None:
    dead = own.create_queue(QueueName="cli-dead")["QueueUrl"]
    arn = own.get_queue_attributes(QueueUrl=dead, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": 1})
    url = own.create_queue(QueueName="cli", Attributes={"RedrivePolicy": policy})["QueueUrl"]
    own.send_message(QueueUrl=url, MessageBody="poison")
    own.send_message(QueueUrl=url, MessageBody="later", DelaySeconds=900)
    own.receive_message(QueueUrl=url, VisibilityTimeout=0)
    time.sleep(0.01)
    assert "Messages" not in own.receive_message(QueueUrl=url)
    rows = {row["name"]: row for row in glowplug(node, "ls")["queues"]}
    assert (0, 0, 1, "cli-dead", 1) == tuple(
        rows["cli"][key] for key in ("visible", "in_flight", "delayed", "dead_letter", "dead_letters")
    )
    (letter,) = glowplug(node, "peek", "cli-dead")["messages"]
    assert ("poison", "cli") == (letter["body"], letter["source"])
    text = node.request_raw("GET", "/metrics")[2]
    for line in (
        'glowplug_queue_messages{queue="cli-dead",state="visible"} 1.0',
        'glowplug_queue_messages{queue="cli",state="delayed"} 1.0',
        'glowplug_queue_dead_letters_total{queue="cli"} 1.0',
        'glowplug_queue_oldest_age_seconds{queue="cli-dead"}',
    ):
        assert line in text
    assert {"moved": 1, "left": 0} == glowplug(node, "redrive", "cli-dead")
    assert 1 == glowplug(node, "show", "cli")["visible"]
    assert {"purged": 2} == glowplug(node, "purge", "cli", "--yes")


def test_who_may_use_queues_and_who_may_not(serving: Callable[..., Any], tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(0o700)
    (state / "credentials.toml").write_text(
        "".join(
            f'[[credential]]\nname = "{right}"\naccess_key_id = "AKIA{right.upper():0<12}"\n'
            f'secret_access_key = "a-secret-of-forty-characters-{right}"\nrights = ["{right}"]\n'
            for right in ("queue", "invoke")
        )
    )
    (state / "credentials.toml").chmod(0o600)
    with serving(None, state, GLOWPLUG_PRELOAD_TORCH="0") as node:

        def of(right: str) -> Any:
            return boto3.client(
                "sqs", endpoint_url=node.endpoint, region_name="us-east-1", config=Config(retries={"max_attempts": 0}),
                aws_access_key_id=f"AKIA{right.upper():0<12}",
                aws_secret_access_key=f"a-secret-of-forty-characters-{right}",
            )  # fmt: skip

        url = of("queue").create_queue(QueueName="jobs")["QueueUrl"]
        of("queue").send_message(QueueUrl=url, MessageBody="x")
        assert "not authorized" in refused("AccessDenied", of("invoke").send_message, QueueUrl=url, MessageBody="x")
        with pytest.raises(ClientError) as error:
            client_of(node).list_queues()
        assert 403 == error.value.response["ResponseMetadata"]["HTTPStatusCode"]


def test_a_stack_brings_its_queues_and_takes_them_along(own: Any, node: Any) -> None:
    dead = "arn:aws:sqs:us-east-1:000000000000:shop-dead"
    policy = {"deadLetterTargetArn": dead, "maxReceiveCount": 2}
    queues = {
        "Jobs": {"QueueName": "shop-jobs", "RedrivePolicy": policy},
        "Dead": {"QueueName": "shop-dead"},
    }
    node.admin("PUT", "stacks/shop", {"Functions": {}, "Queues": queues})
    url = own.get_queue_url(QueueName="shop-jobs")["QueueUrl"]
    values = own.get_queue_attributes(QueueUrl=url, AttributeNames=["RedrivePolicy"])["Attributes"]
    assert dead == json.loads(values["RedrivePolicy"])["deadLetterTargetArn"]
    status, _, answer = node.request(
        "PUT", "/_glowplug/stacks/other", {"Functions": {}, "Queues": {"Q": {"QueueName": "shop-jobs"}}}
    )
    assert (409, "Q: queue shop-jobs belongs to the stack shop") == (status, answer["message"])
    node.admin("DELETE", "stacks/shop")
    assert "QueueUrls" not in own.list_queues(QueueNamePrefix="shop-")


def test_changes_of_one_queue_at_the_same_time_are_all_kept(own: Any, node: Any, name: str) -> None:
    url = own.create_queue(QueueName=name)["QueueUrl"]
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda number: own.tag_queue(QueueUrl=url, Tags={f"t{number}": "x"}), range(24)))
    assert {f"t{number}" for number in range(24)} == set(own.list_queue_tags(QueueUrl=url)["Tags"])
