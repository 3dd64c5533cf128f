"""An alias that moves under load: no request may fail, and traffic follows within a moment."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import uvloop
from botocore.config import Config

from .contract_calls import LEAN, PAYLOAD, TEMPLATE, URL
from .figures import Figure, at_most, median
from .served import Node, serve, wait_until_answers

REQUESTS = 10_000
SWITCHES = 20
CONNECTIONS = 8
_PATH = "/2015-03-31/functions/echo/invocations?Qualifier=live"


@dataclass(frozen=True)
class Answered:
    """One answer: when it was there, its status, and the version that gave it."""

    at: float
    status: int
    version: str


@dataclass(frozen=True)
class Switch:
    """One UpdateAlias: when it was answered, and the version that it moved the alias to."""

    at: float
    version: str


def figures(directory: Path) -> list[Figure]:
    """Send 10,000 requests to an alias while it moves 20 times between two versions."""
    template = directory / "alias.yaml"
    template.write_text(TEMPLATE)
    with serve(directory / "alias", template, LEAN) as node:
        wait_until_answers(node, URL, {})
        client = _client(node)
        versions = [_published(client, description) for description in ("one", "two")]
        client.create_alias(FunctionName="echo", Name="live", FunctionVersion=versions[0])
        answers, switches = uvloop.run(_under_load(node.port, client, versions))
    failed = [answer for answer in answers if answer.status != 200]
    moved_ms = [moved(switch, following, answers) * 1000 for switch, following in _until_the_next(switches)]
    section = f"an alias that moves: {len(answers):,} requests, {len(switches)} switches, {CONNECTIONS} connections"
    return [
        at_most(section, "failed requests", len(failed), "", 0),
        at_most(section, "from UpdateAlias's answer to the last one of the old version", max(moved_ms), "ms", 100),
        Figure(section, "the same, median", median(moved_ms), "ms"),
    ]


def moved(switch: Switch, until: float, answers: list[Answered]) -> float:
    """Return after how many seconds a switch had moved all traffic: the last answer of another version was there, and
    the first of its own. ``until`` is when the next switch began. Raises ``RuntimeError`` when it did not."""
    during = [answer for answer in answers if switch.at <= answer.at < until and answer.status == 200]
    others = [answer.at for answer in during if answer.version != switch.version]
    own = [answer.at for answer in during if answer.version == switch.version]
    if not own:
        raise RuntimeError(f"no request reached version {switch.version} before the next switch")
    return max([own[0], *others]) - switch.at


def _until_the_next(switches: list[tuple[float, Switch]]) -> list[tuple[Switch, float]]:
    ends = [begun for begun, _ in switches[1:]] + [float("inf")]
    return [(switch, end) for (_, switch), end in zip(switches, ends, strict=True)]


async def _under_load(port: int, client: Any, versions: list[str]) -> tuple[list[Answered], list[tuple[float, Switch]]]:
    """Return all answers in the order they came in, and each switch with when it was begun."""
    answers: list[Answered] = []
    switches: list[tuple[float, Switch]] = []
    left = iter(range(REQUESTS))
    due: asyncio.Queue[None] = asyncio.Queue()
    callers = [asyncio.create_task(_caller(port, left, answers, due)) for _ in range(CONNECTIONS)]
    for number in range(SWITCHES):
        await due.get()
        version = versions[(number + 1) % 2]
        begun = time.perf_counter()
        await asyncio.to_thread(client.update_alias, FunctionName="echo", Name="live", FunctionVersion=version)
        switches.append((begun, Switch(time.perf_counter(), version)))
    await asyncio.gather(*callers)
    return answers, switches


async def _caller(port: int, left: Iterator[int], answers: list[Answered], due: asyncio.Queue[None]) -> None:
    """Send requests until none is left; say in ``due`` when it is time to switch."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request = f"POST {_PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: {len(PAYLOAD)}\r\n\r\n".encode()
    for _ in left:
        writer.write(request + PAYLOAD)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        await reader.readexactly(int(_header(head, "content-length")))
        status = int(head.split(" ", 2)[1])
        answers.append(Answered(time.perf_counter(), status, _header(head, "x-amz-executed-version")))
        if len(answers) % (REQUESTS // SWITCHES) == REQUESTS // SWITCHES // 2:
            due.put_nowait(None)
    writer.close()


def _header(head: str, name: str) -> str:
    return head.partition(f"\r\n{name}: ")[2].partition("\r\n")[0]


def _published(client: Any, description: str) -> str:
    client.update_function_configuration(FunctionName="echo", Description=description)
    client.get_waiter("function_updated_v2").wait(FunctionName="echo", WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    version: str = client.publish_version(FunctionName="echo")["Version"]
    answer = client.invoke(FunctionName="echo", Qualifier=version, Payload=PAYLOAD)
    if json.loads(answer["Payload"].read()) != json.loads(PAYLOAD):
        raise RuntimeError(f"version {version} answers otherwise")
    return version


def _client(node: Node) -> Any:
    return boto3.client(
        "lambda", endpoint_url=f"http://127.0.0.1:{node.port}", region_name="us-east-1", aws_access_key_id="any",
        aws_secret_access_key="any", config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
