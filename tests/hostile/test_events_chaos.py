"""Processes are killed and the disk gets full at random moments while clients send: what was accepted is not lost.

``CHAOS_ROUNDS`` says how often, 10 without it and 200 for a claim; each round is one fault. The functions write what
they begin and end into a journal that survives them.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from nodes import ServedNode, served

DISK_SIZE = "96m"
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "10"))
SENDERS, GROUPS = 3, 4
SETTINGS = {
    "GLOWPLUG_PRELOAD_TORCH": "0",
    "GLOWPLUG_ASYNC_RETRY_SECONDS": "0.1",
    "GLOWPLUG_ASYNC_REQUEUE_SECONDS": "0.1",
    "GLOWPLUG_DRAIN_SECONDS": "1",
}
TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {{Runtime: python3.11, CodeUri: code/, Timeout: 3, Environment: {{Variables: {{JOURNAL: "{journal}"}}}}}}
Resources:
  Single:
    Type: AWS::Serverless::Function
    Properties: {{FunctionName: single, Handler: app.single}}
  Ordered:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: ordered
      Handler: app.ordered
      Events:
        Jobs: {{Type: SQS, Properties: {{Queue: !GetAtt Jobs.Arn, BatchSize: 5}}}}
  Jobs:
    Type: AWS::SQS::Queue
    Properties: {{QueueName: jobs.fifo, FifoQueue: true, ContentBasedDeduplication: true, VisibilityTimeout: 3}}
"""
CODE = """\
import json, os, time

journal = os.open(os.environ["JOURNAL"], os.O_WRONLY | os.O_APPEND)

def write(what, name):
    os.write(journal, f"{time.time()} {what} {name}\\n".encode())

def run(name):
    write("begins", name)
    time.sleep(0.002)
    write("ends", name)

def single(event, context):
    run(event["name"])

def ordered(event, context):
    for record in event["Records"]:
        run(record["body"])
"""


@dataclass
class Sent:
    """What the node has said that it has."""

    events: dict[str, str] = field(default_factory=dict)  # name -> request id
    messages: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass
class Journal:
    """What the functions wrote: for each name when it began, and what began and ended in order."""

    begun: dict[str, list[float]]
    ended: set[str]
    lines: list[tuple[str, str]]

    @classmethod
    def read(cls, path: Path) -> Journal:
        begun: dict[str, list[float]] = defaultdict(list)
        lines = [line.split() for line in path.read_text().splitlines()]
        for at_s, what, name in lines:
            if what == "begins":
                begun[name].append(float(at_s))
        ended = {name for _, what, name in lines if what == "ends"}
        return cls(begun, ended, [(what, name) for _, what, name in lines])


@pytest.fixture
def node(tmp_path: Path, small_disk: Path) -> Iterator[ServedNode]:
    code = tmp_path / "code"
    code.mkdir()
    (code / "app.py").write_text(CODE)
    shared = Path(f"/dev/shm/chaos-{os.getpid()}")  # functions have a /tmp of their own
    shared.write_text("")
    shared.chmod(0o666)
    template = tmp_path / "template.yaml"
    template.write_text(TEMPLATE.format(journal=shared))
    try:
        with served(template, small_disk / "state", **SETTINGS) as node:
            node.template = None  # a later start serves what is deployed
            yield node
    finally:
        shared.unlink()


def send_events(node: ServedNode, sent: Sent, sender: int) -> None:
    """Send until the end, as fast as answers come; who gets no 202 has sent nothing."""
    for number in itertools.count():
        if sent.ended.wait(0.01):
            return
        name = f"{sender}-{number}"
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection("127.0.0.1", node.port, timeout=10)
            with contextlib.closing(connection):
                connection.request(
                    "POST", "/2015-03-31/functions/single/invocations", json.dumps({"name": name}),
                    {"X-Amz-Invocation-Type": "Event"},
                )  # fmt: skip
                response = connection.getresponse()
                response.read()
                if response.status == 202:
                    sent.events[name] = response.headers["x-amzn-requestid"]


def send_messages(node: ServedNode, sent: Sent) -> None:
    """Send in turn to each group; a message that was not answered is sent again, and de-duplicated by its text."""
    client: Any = None
    for number in itertools.count():
        name = f"group{number % GROUPS}-{number}"
        while not sent.ended.wait(0.01):
            try:
                if client is None or client.meta.endpoint_url != node.endpoint:
                    client = boto3.client(
                        "sqs", endpoint_url=node.endpoint, region_name="us-east-1", aws_access_key_id="a",
                        aws_secret_access_key="b", config=Config(retries={"max_attempts": 0}, read_timeout=10),
                    )  # fmt: skip
                url = f"{node.endpoint}/000000000000/jobs.fifo"
                client.send_message(QueueUrl=url, MessageBody=name, MessageGroupId=name.partition("-")[0])
            except (BotoCoreError, ClientError):
                continue
            sent.messages.append(name)
            break
        else:
            return


@pytest.mark.timeout(120 + 4 * ROUNDS)
def test_what_was_accepted_is_not_lost_whatever_is_killed(
    node: ServedNode, small_disk: Path, fill: Callable[[Path], Path]
) -> None:
    sent, faults = Sent(), []
    threads = [threading.Thread(target=send_events, args=(node, sent, sender)) for sender in range(SENDERS)]
    threads.append(threading.Thread(target=send_messages, args=(node, sent)))
    for thread in threads:
        thread.start()
    chance = random.Random(ROUNDS)
    try:
        for number in range(ROUNDS):
            time.sleep(chance.uniform(0.05, 0.4))
            faults.append(time.time())
            strike(number % 4, node, small_disk, fill, chance)
            faults.append(time.time())
    finally:
        sent.ended.set()
        for thread in threads:
            thread.join()
    journal = settled(node, sent)
    assert len(sent.events) > 5 * ROUNDS
    assert len(sent.messages) > ROUNDS
    lost = [
        name for name, request_id in sent.events.items() if name not in journal.ended and not told(node, request_id)
    ]
    assert lost == []
    assert [name for name in sent.messages if name not in journal.ended] == []
    again = [times for name, times in journal.begun.items() if len(times) > 1]
    assert [times for times in again if not cut_off(times, faults)] == []
    in_order(journal)


def strike(kind: int, node: ServedNode, disk: Path, fill: Callable[[Path], Path], chance: random.Random) -> None:
    """Kill the node, kill one of its processes (twice as often), or take the disk for a moment."""
    if kind == 0:
        node.stop(signal.SIGKILL)
        node.start()
    elif kind == 1:
        filler = fill(disk)
        time.sleep(0.2)
        filler.unlink()
    elif family := node.family():
        with contextlib.suppress(ProcessLookupError):
            os.kill(chance.choice(family), signal.SIGKILL)


def settled(node: ServedNode, sent: Sent) -> Journal:
    """Wait until nothing is left to be done, and a little longer: what has ended does not begin again."""
    end = time.monotonic() + 120
    while node.function("single")["events"] or any(
        queue["visible"] + queue["in_flight"] + queue["delayed"] for queue in node.admin("GET", "queues")["queues"]
    ):
        assert time.monotonic() < end, (node.function("single"), node.admin("GET", "queues"))
        time.sleep(0.1)
    path = Path(f"/dev/shm/chaos-{os.getpid()}")
    before = path.stat().st_size
    time.sleep(1)
    assert path.stat().st_size == before
    return Journal.read(path)


def told(node: ServedNode, request_id: str) -> bool:
    """Tell whether an event without success ended as Lambda's do: after three attempts, with a record that says so."""
    record = node.admin("GET", f"async/{request_id}")
    return bool(record["state"] == "failed" and record["attempts"] == 3)


def cut_off(begun: list[float], faults: list[float]) -> bool:
    """Tell whether something struck between each attempt and the next."""
    pairs = list(zip(faults[::2], faults[1::2], strict=True))
    return all(
        any(struck - 0.5 < later and over + 0.5 > earlier for struck, over in pairs)
        for earlier, later in itertools.pairwise(begun)
    )


def in_order(journal: Journal) -> None:
    """A message begins only when all that its group has before it have ended."""
    last: dict[str, int] = {}
    for what, name in journal.lines:
        group, _, number = name.partition("-")
        if group.startswith("group"):
            if what == "ends":
                last[group] = max(last.get(group, -1), int(number))
            else:
                assert int(number) <= last.get(group, int(group[5:]) - GROUPS) + GROUPS, name
