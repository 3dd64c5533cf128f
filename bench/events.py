"""Event source mappings: 10,000 messages to a function, from the node's queue, and through boto3 from another node's.

Each message has to be processed exactly once, which the function's log tells. A moto server (``moto_serial``) counts
its whole backlog for every message of every request, so it gets fewer of them, and its own speed is measured beside: a
client that receives and deletes as many and does nothing else. A mapping can be no faster.
"""

from __future__ import annotations

import contextlib
import io
import re
import socket
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import boto3

from .figures import Figure, at_least
from .served import ROOT, serve

MESSAGES = 10_000
_MOTO_MESSAGES = 1_000
_KEYS = {"region_name": "us-east-1", "aws_access_key_id": "bench", "aws_secret_access_key": "bench"}
_HANDLER = """\
def handler(event, context):
    print("\\n".join("seen " + record["body"] for record in event["Records"]))
"""
_LIMIT_S = 120
_ACCOUNT = "123456789012"  # moto's own


def figures(directory: Path) -> list[Figure]:
    """Measure all; state goes into ``directory``."""
    print("events: a queue of the node …", flush=True)
    with serve(directory / "embedded", None, {"GLOWPLUG_PRELOAD_TORCH": "0"}) as node:
        endpoint = f"http://127.0.0.1:{node.port}"
        rate, once = _drained(endpoint, endpoint, "0" * 12, node.state, MESSAGES)
    rows = _rows("mapping, queue of the node, 10 a batch", rate, once)
    print("events: a queue of another node …", flush=True)
    with serve(directory / "other", None, {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_ACCOUNT_ID": _ACCOUNT}) as other:
        rate, once = _external(directory / "first", f"http://127.0.0.1:{other.port}", MESSAGES)
    rows += _rows("mapping, queue of another node through boto3, 10 a batch", rate, once)
    print("events: a queue of moto …", flush=True)
    with _moto() as server:
        bare = _bare(server)
        rate, once = _external(directory / "second", server, _MOTO_MESSAGES)
    section = f"mapping, queue of a moto server, 10 a batch, {_MOTO_MESSAGES} messages"
    note = f"5 threads that receive and delete, and do nothing else: {bare:.0f} /s"
    return [
        *rows,
        Figure(section, "messages", rate, "/s", note=note),
        at_least(section, "processed exactly once", once, "", _MOTO_MESSAGES),
    ]


def _rows(section: str, rate: float, once: int) -> list[Figure]:
    return [
        at_least(section, "messages", rate, "/s", 1_000),
        at_least(section, f"of {MESSAGES} processed exactly once", once, "", MESSAGES),
    ]


def _external(state: Path, server: str, count: int) -> tuple[float, int]:
    environ = {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_SQS_ENDPOINT": server}
    environ |= {"AWS_ACCESS_KEY_ID": "bench", "AWS_SECRET_ACCESS_KEY": "bench"}
    with serve(state, None, environ) as node:
        return _drained(f"http://127.0.0.1:{node.port}", server, _ACCOUNT, node.state, count)


def _drained(endpoint: str, server: str, account: str, state: Path, count: int) -> tuple[float, int]:
    """Send messages, then make a mapping, and measure until the queue is empty; the first start is part of it.

    Return messages per second, and how many of them the function has seen exactly once.
    """
    functions, queues = (
        boto3.client(name, endpoint_url=url, **_KEYS) for name, url in (("lambda", endpoint), ("sqs", server))
    )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("app.py", _HANDLER)
    functions.create_function(
        FunctionName="work", Runtime="python3.11", Handler="app.handler", Code={"ZipFile": packed.getvalue()},
        Role="arn:aws:iam::000000000000:role/any", Timeout=10,
    )  # fmt: skip
    url = queues.create_queue(QueueName="work", Attributes={"VisibilityTimeout": "300"})["QueueUrl"]
    _send(queues, url, count)
    began_s = time.monotonic()
    functions.create_event_source_mapping(
        FunctionName="work", EventSourceArn=f"arn:aws:sqs:us-east-1:{account}:work", BatchSize=10
    )
    while _left(queues, url) and time.monotonic() - began_s < _LIMIT_S:
        time.sleep(0.1)
    spent_s = time.monotonic() - began_s
    time.sleep(1)  # the log of the last batches
    text = "".join(file.read_text() for file in sorted((state / "logs").glob("work*")))
    seen = Counter(re.findall(r"^seen (m\d+)$", text, re.MULTILINE))
    return count / spent_s, sum(seen[f"m{number}"] == 1 for number in range(count))


def _send(queues: Any, url: str, count: int) -> None:
    def send(first: int) -> None:
        entries = [{"Id": str(number), "MessageBody": f"m{first + number}"} for number in range(10)]
        queues.send_message_batch(QueueUrl=url, Entries=entries)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(send, range(0, count, 10)))


def _left(queues: Any, url: str) -> int:
    names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
    found = queues.get_queue_attributes(QueueUrl=url, AttributeNames=names)["Attributes"]
    return sum(int(found[name]) for name in names)


def _bare(server: str) -> float:
    """Return how many messages a second a client receives and deletes that does nothing else."""
    queues = boto3.client("sqs", endpoint_url=server, **_KEYS)
    url = queues.create_queue(QueueName="bare", Attributes={"VisibilityTimeout": "300"})["QueueUrl"]
    _send(queues, url, _MOTO_MESSAGES)

    def drain(_: int) -> None:
        while found := queues.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages"):
            entries = [{"Id": str(n), "ReceiptHandle": one["ReceiptHandle"]} for n, one in enumerate(found)]
            queues.delete_message_batch(QueueUrl=url, Entries=entries)

    began_s = time.monotonic()
    with ThreadPoolExecutor(5) as pool:
        list(pool.map(drain, range(5)))
    return _MOTO_MESSAGES / (time.monotonic() - began_s)


@contextlib.contextmanager
def _moto() -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "bench.moto_serial", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()
