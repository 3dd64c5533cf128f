"""Deliveries to other hosts: SQS and S3 as moto speaks them, webhooks on the loopback; and the outbox in front."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import boto3
import pytest
from aiohttp import web
from moto.server import ThreadedMotoServer

from glowplug.runtime.carrier import NetworkCarrier, signature, webhook_key
from glowplug.runtime.clock import SystemClock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.events.deliveries import Delivery
from glowplug.runtime.events.ending import OUTBOX, outgoing
from glowplug.runtime.events.figures import Book
from glowplug.runtime.events.outbox import NotDelivered, Outbox, Parcel
from glowplug.runtime.events.retrying import Delays
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing import FakeAcceptor, ManualClock, settle

ID = "0190a000-0000-7000-8000-000000000001"
KEY = b"k" * 32


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
async def carrier(endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[NetworkCarrier]:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    config = NodeConfig(state=tmp_path, cache=tmp_path, sqs_endpoint=endpoint, s3_endpoint=endpoint)
    made = NetworkCarrier(config, SystemClock(), KEY)
    yield made
    await made.close()


def client(service: str, endpoint: str) -> Any:
    return boto3.client(
        service, endpoint_url=endpoint, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
    )


async def test_a_queue_elsewhere_gets_the_message_with_its_attributes(endpoint: str, carrier: NetworkCarrier) -> None:
    sqs = client("sqs", endpoint)
    url = sqs.create_queue(QueueName="away")["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    attributes = {"ErrorCode": {"DataType": "Number", "StringValue": "200"}}
    await carrier.carry(Parcel(Delivery("sqs", arn, arn, b'{"a":1}', attributes, dead_letter=True), "f", ID))
    (message,) = sqs.receive_message(QueueUrl=url, MessageAttributeNames=["All"])["Messages"]
    assert ({"a": 1}, attributes) == (json.loads(message["Body"]), message["MessageAttributes"])


async def test_a_bucket_gets_an_object_whose_key_says_what_it_is_of(endpoint: str, carrier: NetworkCarrier) -> None:
    s3 = client("s3", endpoint)
    s3.create_bucket(Bucket="failures")
    for _ in range(2):  # a repeat writes the same object
        await carrier.carry(Parcel(Delivery("s3", "arn:aws:s3:::failures", "failures", b"{}"), "f", ID))
    (found,) = s3.list_objects_v2(Bucket="failures")["Contents"]
    assert found["Key"].startswith("aws/lambda/async/f/20")
    assert found["Key"].endswith(f"/{ID}")


@pytest.mark.parametrize(
    ("way", "target"),
    [("sqs", "arn:aws:sqs:us-east-1:123456789012:nowhere"), ("s3", "no-such-bucket"), ("none", "arn:aws:x")],
)
async def test_what_does_not_exist_is_final(carrier: NetworkCarrier, way: Any, target: str) -> None:
    with pytest.raises(NotDelivered) as refused:
        await carrier.carry(Parcel(Delivery(way, target, target, b"{}"), "f", ID))
    assert refused.value.final


@pytest.mark.parametrize(("status", "final"), [(204, None), (503, False), (404, False), (302, False), (410, True)])
async def test_a_webhook_is_signed_and_its_answer_decides(
    carrier: NetworkCarrier, status: int, final: bool | None
) -> None:
    seen: list[tuple[dict[str, str], bytes]] = []

    async def take(request: web.BaseRequest) -> web.Response:
        seen.append((dict(request.headers), await request.read()))
        return web.Response(status=status, headers={"Location": "http://127.0.0.1:1/"})

    server = web.Server(take)
    runner = web.ServerRunner(server)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[union-attr]
    parcel = Parcel(Delivery("webhook", "arn:t", f"http://127.0.0.1:{port}/", b'{"a":1}'), "f", ID)
    try:
        if final is None:
            await carrier.carry(parcel)
        else:
            with pytest.raises(NotDelivered) as refused:
                await carrier.carry(parcel)
            assert final == refused.value.final
    finally:
        await runner.cleanup()
    ((headers, body),) = seen
    at_s = int(headers["X-Glowplug-Signature"].partition(",")[0].removeprefix("t="))
    assert signature(webhook_key(KEY), body, at_s) == headers["X-Glowplug-Signature"]
    assert (ID, b'{"a":1}') == (headers["X-Glowplug-Request-Id"], body)


async def test_nobody_who_listens_is_not_final(carrier: NetworkCarrier) -> None:
    with pytest.raises(NotDelivered) as refused:
        await carrier.carry(Parcel(Delivery("webhook", "arn:t", "http://127.0.0.1:1/", b""), "f", ID))
    assert not refused.value.final


class Road:
    """A carrier that fails as often as it is told."""

    def __init__(self, *problems: NotDelivered) -> None:
        self.problems = list(problems)
        self.carried: list[Parcel] = []

    async def carry(self, parcel: Parcel) -> None:
        if self.problems:
            raise self.problems.pop(0)
        self.carried.append(parcel)


async def outboxed(
    tmp_path: Path, road: Road, *, seconds: int, age_s: float = 100, damaged: bool = False
) -> tuple[int, Book]:
    """Put one delivery into an outbox, let time pass; return what is left, and what was counted."""
    clock, book = ManualClock(), Book()
    async with await QueueStore.open(tmp_path / "queue.db", clock) as store:
        outbox = Outbox(store, road, FakeAcceptor(), book, clock, delays=Delays(), age_s=age_s)
        await outbox.start()
        step = outgoing(Delivery("webhook", "arn:t", "http://x/", b"{}"), "f", ID)
        await store.apply(replace(step, attributes={}) if damaged else step)
        for _ in range(seconds):
            await clock.advance(1)
            for _ in range(20):
                await settle()
                while store._commits.busy:
                    await settle()
        left = (await store.counts(OUTBOX)).total
        await outbox.close()
    return left, book


async def test_the_outbox_tries_until_it_is_taken(tmp_path: Path) -> None:
    road = Road(NotDelivered("down"), NotDelivered("down"))
    left, book = await outboxed(tmp_path, road, seconds=6)
    assert (0, 1, 0) == (left, len(road.carried), book.of("f").delivery_failures)


async def test_the_outbox_gives_up_what_is_refused_for_good_and_what_is_too_old(tmp_path: Path) -> None:
    left, book = await outboxed(tmp_path, Road(NotDelivered("no", final=True)), seconds=2)
    assert (0, 1) == (left, book.of("f").delivery_failures)
    (tmp_path / "queue.db").unlink()
    left, book = await outboxed(tmp_path, Road(*(NotDelivered("down") for _ in range(9))), seconds=20, age_s=10)
    assert (0, 1) == (left, book.of("f").delivery_failures)


async def test_the_outbox_gives_up_what_is_damaged(tmp_path: Path) -> None:
    road = Road()
    left, _ = await outboxed(tmp_path, road, seconds=2, damaged=True)
    assert (0, []) == (left, road.carried)
