"""A queue of another server, as mappings see it: boto3 against moto on the loopback."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
import urllib3
from moto.server import ThreadedMotoServer

from glowplug.runtime.clock import SystemClock
from glowplug.runtime.errors import InvalidParameter, QueueNotFound, QueueUnreachable
from glowplug.runtime.events.mapping.external import ExternalQueue
from glowplug.runtime.events.mapping.sources import Sources
from glowplug.runtime.queue.attributes import MessageAttribute
from glowplug.runtime.queue.embedded import EmbeddedQueue
from glowplug.runtime.queue.model import QueueSettings
from glowplug.runtime.queue.store import QueueStore

ARN = "arn:aws:sqs:us-east-1:123456789012:"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    made = boto3.client("sqs", endpoint_url=endpoint, region_name="us-east-1")
    yield made
    made.close()
    urllib3.request("POST", f"{endpoint}/moto-api/reset")


def queue(endpoint: str, name: str = "jobs") -> ExternalQueue:
    return ExternalQueue(ARN + name, endpoint, SystemClock())


async def test_messages_go_and_come_with_everything_that_an_event_shows(client: Any, endpoint: str) -> None:
    url = client.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "45"})["QueueUrl"]
    jobs = queue(endpoint)
    assert 45 == await jobs.visibility_s()
    attributes = {"a": MessageAttribute("String", "é"), "b": MessageAttribute("Binary", b"\0\1")}
    given = {
        "a": {"DataType": "String", "StringValue": "é"},
        "b": {"DataType": "Binary", "BinaryValue": b"\0\1"},
    }
    sent = client.send_message(QueueUrl=url, MessageBody="body", MessageAttributes=given)
    (message,) = await jobs.receive(10, wait_s=1)
    assert (sent["MessageId"], "body", attributes) == (message.id, message.body, message.attributes)
    assert "1" == message.system["ApproximateReceiveCount"]
    assert message.attributes_md5
    assert [] == await jobs.delete([message.handle])
    jobs.close()


async def test_more_than_ten_are_deleted_and_kept_in_chunks(client: Any, endpoint: str) -> None:
    url = client.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "2"})["QueueUrl"]
    jobs = queue(endpoint)
    for first in range(0, 25, 5):
        entries = [{"Id": str(number), "MessageBody": str(first + number)} for number in range(5)]
        client.send_message_batch(QueueUrl=url, Entries=entries)
    handles: list[str] = []
    while len(handles) < 25:
        handles += [one.handle for one in await jobs.receive(10, wait_s=1)]
    assert [] == await jobs.extend(handles, 60)
    await asyncio.sleep(2.2)
    assert [] == await jobs.receive(10, wait_s=0)  # they would be visible again
    assert [] == await jobs.delete(handles)
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    left = client.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    assert {"0"} == set(left.values())
    jobs.close()


async def test_messages_of_a_fifo_queue_come_with_their_group(client: Any, endpoint: str) -> None:
    url = client.create_queue(QueueName="jobs.fifo", Attributes={"FifoQueue": "true"})["QueueUrl"]
    jobs = queue(endpoint, "jobs.fifo")
    client.send_message(QueueUrl=url, MessageBody="a", MessageGroupId="g", MessageDeduplicationId="1")
    (message,) = await jobs.receive(10, wait_s=1)
    assert "g" == message.system["MessageGroupId"]
    jobs.close()


async def test_cancel_race_messages_for_a_receiver_that_has_gone_are_given_back(client: Any, endpoint: str) -> None:
    url = client.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
    jobs = queue(endpoint)
    await jobs.visibility_s()
    receiving = asyncio.create_task(jobs.receive(10, wait_s=10))
    await asyncio.sleep(0.3)
    receiving.cancel()
    jobs.close()
    client.send_message(QueueUrl=url, MessageBody="late")
    other, found, end = queue(endpoint), list[Any](), time.monotonic() + 10
    while not found and time.monotonic() < end:
        found = await other.receive(1, wait_s=0)
        await asyncio.sleep(0.05)
    assert ["late"] == [one.body for one in found]
    other.close()


async def test_cancel_race_messages_that_came_in_the_moment_of_the_cancel_are_given_back(
    client: Any, endpoint: str
) -> None:
    """They are here, and whoever asked has not looked at them yet and never will."""
    url = client.create_queue(QueueName="jobs", Attributes={"VisibilityTimeout": "600"})["QueueUrl"]
    jobs = queue(endpoint)
    await jobs.visibility_s()
    client.send_message(QueueUrl=url, MessageBody="here")
    receiving = asyncio.create_task(jobs.receive(10, wait_s=10))
    await asyncio.sleep(0)
    while jobs._threads._busy:  # noqa: ASYNC110 - until the turn in which the answer is handed over, not one longer
        await asyncio.sleep(0)
    assert not receiving.done()
    receiving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await receiving
    (message,) = await jobs.receive(1, wait_s=10)
    assert ("here", "2") == (message.body, message.system["ApproximateReceiveCount"])
    jobs.close()


async def test_a_server_that_was_away_is_asked_again_and_nothing_is_lost_or_doubled(monkeypatch: Any) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "made-up")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "made-up")
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("sqs", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    url = client.create_queue(QueueName="away")["QueueUrl"]
    jobs = queue(f"http://{host}:{port}", "away")
    for body in ("a", "b"):
        client.send_message(QueueUrl=url, MessageBody=body)
    (first,) = await jobs.receive(1, wait_s=1)
    server.stop()
    for call in (jobs.receive(1, wait_s=0), jobs.delete([first.handle]), jobs.extend([first.handle], 60)):
        with pytest.raises(QueueUnreachable):
            await call
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=port, verbose=False)  # its queues are the process's own
    server.start()
    try:
        assert [] == await jobs.delete([first.handle])
        (second,) = await jobs.receive(10, wait_s=1)
        assert {"a", "b"} == {first.body, second.body}
        assert [] == await jobs.delete([second.handle])
        assert [] == await jobs.receive(10, wait_s=0)
    finally:
        jobs.close()
        client.delete_queue(QueueUrl=url)
        client.close()
        server.stop()


@pytest.mark.parametrize(
    ("code", "stale"),
    [
        ("ReceiptHandleIsInvalid", True),
        ("InvalidParameterValue", True),
        ("AWS.SimpleQueueService.MessageNotInflight", True),
        ("RequestThrottled", False),
        ("AccessDenied", False),
        ("InternalFailure", False),
    ],
)
async def test_only_what_says_so_is_a_message_that_others_have(
    client: Any, endpoint: str, monkeypatch: Any, code: str, stale: bool
) -> None:
    """A processed message must not be left because the server was busy, nor the lease of one that runs given up."""
    client.create_queue(QueueName="jobs")
    jobs = queue(endpoint)
    made, _ = await asyncio.to_thread(jobs._ready)
    answer = {"Failed": [{"Id": "1", "SenderFault": True, "Code": code, "Message": "no"}], "Successful": [{"Id": "0"}]}
    for operation in ("delete_message_batch", "change_message_visibility_batch"):
        monkeypatch.setattr(made, operation, lambda **_: answer)
    for call in (jobs.delete(["a", "b"]), jobs.extend(["a", "b"], 30)):
        if stale:
            assert ["b"] == await call
        else:
            with pytest.raises(QueueUnreachable, match=code):
                await call
    jobs.close()


async def test_what_is_not_there_and_who_does_not_answer(client: Any, endpoint: str) -> None:
    with pytest.raises(QueueNotFound):
        await queue(endpoint, "nobodys").visibility_s()
    with pytest.raises(QueueUnreachable, match="EndpointConnectionError"):
        await queue("http://127.0.0.1:1").visibility_s()


async def test_queues_of_this_node_are_embedded_and_all_others_are_looked_for_elsewhere(
    client: Any, endpoint: str, tmp_path: Any
) -> None:
    client.create_queue(QueueName="there")
    async with await QueueStore.open(tmp_path / "queue.db") as store:
        await store.create("here", QueueSettings())
        sources = Sources(store, SystemClock(), "us-east-1", "123456789012", endpoint)
        assert isinstance(sources.open(f"{ARN}here").queue, EmbeddedQueue)
        assert isinstance(sources.open(f"{ARN}there").queue, ExternalQueue)
        await sources.check(f"{ARN}there", 30)
        with pytest.raises(
            InvalidParameter, match="Queue visibility timeout: 30 seconds is less than Function timeout: 31"
        ):
            await sources.check(f"{ARN}there", 31)
        with pytest.raises(InvalidParameter, match="NonExistentQueue"):
            await sources.check(f"{ARN}nowhere", 1)
        alone = Sources(store, SystemClock(), "us-east-1", "123456789012")
        with pytest.raises(QueueNotFound):
            alone.open(f"{ARN}there")
