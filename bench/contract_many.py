"""A thousand functions in one template: to deploy, to list, and what the node keeps of each in memory."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import boto3
from botocore.config import Config

from .figures import Figure, at_most
from .served import ROOT, Node, serve

FUNCTIONS = 1000
_HEAD = "Transform: AWS::Serverless-2016-10-31\nGlobals: {Function: {Runtime: python3.11, Timeout: 30}}\nResources:\n"
_FUNCTION = """  F{number:04}:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: f{number:04}
      Handler: index.handler
      Environment: {{Variables: {{NUMBER: "{number}"}}}}
      InlineCode: |
        def handler(event, context):
            return {number}
"""


def figures(directory: Path) -> list[Figure]:
    """Deploy them, one further time without a change, list them both ways and weigh the node before and after."""
    small, large = directory / "one" / "template.yaml", directory / "thousand" / "template.yaml"
    for template, count in ((small, 1), (large, FUNCTIONS)):
        template.parent.mkdir()
        functions = [_FUNCTION.format(number=number) for number in range(count)]
        template.write_text(_HEAD + "".join(functions).replace("f0000", "f0000" if count > 1 else "first"))
    with serve(directory / "many", small, {"GLOWPLUG_PRELOAD_TORCH": "0"}) as node:
        _deploy(node, small)
        _listed(node)  # what the first listing imports and caches is not a function's
        before = anonymous_bytes(node.process.pid)
        deploy_s = _deploy(node, large)
        after = anonymous_bytes(node.process.pid)
        again_s = _deploy(node, large)
        api_s, by_api = _listed(node)
        begun = time.perf_counter()
        rows = node.admin("GET", "functions")["functions"]
        control_s = time.perf_counter() - begun
        if not len(rows) == by_api == FUNCTIONS + 1:
            raise RuntimeError(f"{len(rows)} and {by_api} functions are listed")
        status, _, answer = node.request("POST", f"/2015-03-31/functions/f{FUNCTIONS - 1:04}/invocations", {})
        if (status, answer) != (200, FUNCTIONS - 1):
            raise RuntimeError(f"the last function answers {status} {answer}")
    section = f"{FUNCTIONS:,} functions in one template"
    return [
        at_most(section, "deploy: translate, upload, put", deploy_s, "s", 30),
        Figure(section, "the same template again", again_s, "s"),
        at_most(section, "list, boto3's ListFunctions, all pages", api_s, "s", 1),
        at_most(section, "list, as `glowplug ls` asks", control_s, "s", 1),
        at_most(section, "the node's growth, each", (after - before) / FUNCTIONS / 1000, "KB", 60),
    ]


def anonymous_bytes(pid: int) -> int:
    """Return the memory that a process has written: RssAnon, in bytes."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) * 1024


def _deploy(node: Node, template: Path) -> float:
    """Return how long ``glowplug deploy`` takes, its own start included."""
    command = [sys.executable, "-m", "glowplug.deploy.cli", "deploy", str(template)]
    begun = time.perf_counter()
    done = subprocess.run(
        [*command, "--endpoint", f"http://127.0.0.1:{node.port}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"deploy ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - begun


def _listed(node: Node) -> tuple[float, int]:
    """Return how long it takes to list all functions through boto3, and how many there are."""
    client: Any = boto3.client(
        "lambda", endpoint_url=f"http://127.0.0.1:{node.port}", region_name="us-east-1", aws_access_key_id="any",
        aws_secret_access_key="any", config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip
    client.get_account_settings()  # the connection
    begun = time.perf_counter()
    count = sum(len(page["Functions"]) for page in client.get_paginator("list_functions").paginate())
    return time.perf_counter() - begun, count
