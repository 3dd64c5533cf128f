"""What ``Invoke`` costs beside a function URL, and boto3's beside boto3 itself; in one run, calls in turn."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import boto3
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials

from .figures import Figure, at_most, median
from .served import ROOT, Node, free_port, serve, wait_until_answers

CALLS = 4000
BOTO3_CALLS = 1500
WARM_UP = 300
PAYLOAD = b'{"hello":"world"}'
INVOKE = "/2015-03-31/functions/echo/invocations"
URL = "/_url/echo/"
TEMPLATE = f"""
Transform: AWS::Serverless-2016-10-31
Resources:
  Echo:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: echo
      Handler: echo.handler
      Runtime: python3.11
      CodeUri: {ROOT / "handlers"}
      FunctionUrlConfig: {{AuthType: NONE}}
"""
LEAN = {"GLOWPLUG_PRELOAD_TORCH": "0"}


class RawCaller:
    """Sends the same POST again and again on one connection."""

    def __init__(self, port: int, path: str, headers: dict[str, str]) -> None:
        lines = [f"POST {path} HTTP/1.1", f"Content-Length: {len(PAYLOAD)}"]
        lines += [f"{name}: {value}" for name, value in {"Host": f"127.0.0.1:{port}", **headers}.items()]
        self._request = "\r\n".join(lines).encode() + b"\r\n\r\n" + PAYLOAD
        self._socket = socket.create_connection(("127.0.0.1", port), 30)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __call__(self) -> bytes:
        """Return the whole answer. Raises ``RuntimeError`` unless it is a 200."""
        self._socket.sendall(self._request)
        data = b""
        while True:
            data += self._socket.recv(65536)
            head, found, body = data.partition(b"\r\n\r\n")
            if not found:
                continue
            length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
            if len(body) == length:
                break
        if not head.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(data.decode())
        return data

    def close(self) -> None:
        """Close the connection."""
        self._socket.close()


def in_turn(calls: Sequence[Callable[[], object]], count: int) -> list[float]:
    """Return the median of each call in milliseconds; they take turns, so that all of them see the same machine."""
    spent: list[list[float]] = [[] for _ in calls]
    for number in range(WARM_UP + count):
        for call, times in zip(calls, spent, strict=True):
            begun = time.perf_counter()
            call()
            if number >= WARM_UP:
                times.append((time.perf_counter() - begun) * 1000)
    return [median(times) for times in spent]


def figures(directory: Path) -> list[Figure]:
    """Measure three pairs: ``Invoke`` and the URL, signed and not, boto3 and a server that does nothing."""
    template = directory / "echo.yaml"
    template.write_text(TEMPLATE)
    with serve(directory / "open", template, LEAN) as node, _signing(directory, template) as (guarded, key):
        wait_until_answers(node, URL, {})
        callers = [
            RawCaller(node.port, INVOKE, {}),
            RawCaller(node.port, URL, {"Content-Type": "application/json"}),
            RawCaller(guarded.port, INVOKE, _signature(guarded, key)),
        ]
        invoke_ms, url_ms, signed_ms = in_turn(callers, CALLS)
        answer = callers[0]()
        for caller in callers:
            caller.close()
        with _null_server(answer) as null:
            through_ms, null_ms = in_turn([_boto3(node.port), _boto3(null)], BOTO3_CALLS)
    section = "Invoke beside what it is compared with, p50, calls in turn"
    return [
        Figure(section, "Invoke over raw HTTP", invoke_ms, "ms"),
        Figure(section, "the same function by its URL", url_ms, "ms"),
        at_most(section, "Invoke over raw HTTP, beyond the URL", invoke_ms - url_ms, "ms", 0.3),
        Figure(section, "Invoke through boto3", through_ms, "ms"),
        Figure(section, "boto3 and a server that does nothing", null_ms, "ms"),
        at_most(section, "Invoke through boto3, beyond boto3", through_ms - null_ms, "ms", 0.5),
        Figure(section, "a signed Invoke, beyond one that nobody checks", signed_ms - invoke_ms, "ms"),
    ]


def _boto3(port: int) -> Callable[[], object]:
    client = boto3.client(
        "lambda", endpoint_url=f"http://127.0.0.1:{port}", region_name="us-east-1", aws_access_key_id="any",
        aws_secret_access_key="any", config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip

    def call() -> object:
        return client.invoke(FunctionName="echo", Payload=PAYLOAD)["Payload"].read()

    return call


@contextlib.contextmanager
def _signing(directory: Path, template: Path) -> Iterator[tuple[Node, Credentials]]:
    """Run a node that checks signatures; yield it with a key of its."""
    state = directory / "signing"
    command = [sys.executable, "-m", "glowplug.deploy.cli", "credentials", "add", "bench", "--json"]
    made = json.loads(subprocess.check_output([*command, "--state", str(state)]))
    key = Credentials(made["access_key_id"], made["secret_access_key"])
    with serve(state, template, LEAN) as node:
        wait_until_answers(node, URL, {})
        yield node, key


def _signature(node: Node, key: Credentials) -> dict[str, str]:
    """Return the headers of a signed ``Invoke``, good for as long as AWS's are."""
    request = AWSRequest("POST", f"http://127.0.0.1:{node.port}{INVOKE}", data=PAYLOAD)
    SigV4Auth(key, "lambda", "us-east-1").add_auth(request)
    return dict(request.headers)


@contextlib.contextmanager
def _null_server(answer: bytes) -> Iterator[int]:
    """Run a server that gives ``answer`` to everything; yield its port."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "bench.null_server", str(port)], stdin=subprocess.PIPE, cwd=ROOT, env=dict(os.environ)
    )
    assert process.stdin is not None
    process.stdin.write(answer)
    process.stdin.close()
    try:
        end = time.monotonic() + 30
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            time.sleep(0.02)
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(10)
