"""Asynchronous invocation through a node: events accepted per second, each on disk, events run per second, and how soon
one runs on a function that is parked."""

from __future__ import annotations

import re
import time
import urllib.request
from pathlib import Path

from . import load, parkedevents
from .figures import Figure, at_least, at_most, percentile
from .served import serve, wait_until_deployed

_TEMPLATE = f"""\
Transform: AWS::Serverless-2016-10-31
Resources:
  Echo:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: echo
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "def handler(event, context): ..."
  Stamp:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: stamp
      Runtime: python3.11
      Handler: index.handler
      InlineCode: "{parkedevents.HANDLER}"
"""
_EVENT = "X-Amz-Invocation-Type: Event\r\n"
SECONDS = 8


def figures(directory: Path) -> list[Figure]:
    """Measure; the node's files go into ``directory``, which is on the disk that is measured."""
    section = "events over HTTP, 32 connections, every 202 on disk; they run as far as there is time"
    template = directory / "events.yaml"
    template.write_text(_TEMPLATE)
    with serve(directory / "events", template, {"GLOWPLUG_PRELOAD_TORCH": "0"}) as node:
        origin = f"http://127.0.0.1:{node.port}"
        url = f"{origin}/2015-03-31/functions/echo/invocations"
        wait_until_deployed(node, 2)
        parked = parkedevents.figures(node)
        load.spent(url, "{}", 1, 2, _EVENT)
        spent_ms, per_second = load.spent(url, '{"text": "a small event"}', 32, SECONDS, _EVENT)
        before, began_s = _waiting(origin), time.perf_counter()
        while _waiting(origin) and time.perf_counter() - began_s < 60:
            time.sleep(0.2)
        run = (before - _waiting(origin)) / (time.perf_counter() - began_s)
    return [
        at_least(section, "accepted", per_second, "/s", 4_000),
        Figure(section, "p50", percentile(spent_ms, 0.5), "ms"),
        at_most(section, "p99", percentile(spent_ms, 0.99), "ms", 50),
        at_least("no-op events", "run", run, "/s", 2_000),
        *parked,
    ]


def _get(url: str) -> bytes:
    with urllib.request.urlopen(url) as answer:
        data: bytes = answer.read()
    return data


def _waiting(origin: str) -> float:
    text = _get(f"{origin}/metrics").decode()
    found = re.search(r'^glowplug_async_events{function_name="echo"} (\S+)$', text, re.MULTILINE)
    return 0.0 if found is None else float(found[1])
