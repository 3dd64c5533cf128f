"""A real node in a process of its own, for the benchmarks to call."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "template.yaml"


@dataclass
class Node:
    """A running node: its process, port and how long it took to listen. Times in seconds."""

    process: subprocess.Popen[bytes]
    port: int
    state: Path
    started_s: float
    listening_s: float

    def connect(self, timeout_s: float = 300.0) -> http.client.HTTPConnection:
        """Open a keep-alive connection with Nagle's delay off."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        connection.connect()
        connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
        """Send one request on a new connection; the answer's body is parsed when it is JSON."""
        with contextlib.closing(self.connect()) as connection:
            return exchange(connection, method, path, body)

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API; raises ``RuntimeError`` with the answer unless it succeeded."""
        status, _, answer = self.request(method, f"/_glowplug/{path}", body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def function(self, name: str) -> dict[str, Any]:
        """Return one function's row of the listing."""
        listing = self.admin("GET", "functions")
        rows = listing["functions"] if isinstance(listing, dict) else listing
        return next(row for row in rows if row["name"] == name)


def exchange(
    connection: http.client.HTTPConnection, method: str, path: str, body: object = None
) -> tuple[int, dict[str, str], Any]:
    """Send one request and read the whole answer."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Content-Type": "application/json"} if data is not None else {}
    connection.request(method, path, data, headers)
    response = connection.getresponse()
    raw = response.read()
    try:
        answer = json.loads(raw)
    except ValueError:
        answer = raw.decode(errors="replace")
    return response.status, {name.lower(): value for name, value in response.getheaders()}, answer


def free_port() -> int:
    """Return a port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def serve(state: Path, template: Path | None = TEMPLATE, environ: dict[str, str] | None = None) -> Iterator[Node]:
    """Run ``glowplug up`` (None: without a template) until the block ends.

    Raises ``RuntimeError`` with its log if it dies or never listens.
    """
    port = free_port()
    log = state.parent / f"{state.name}.node.log"
    begun = time.monotonic()
    command = [sys.executable, "-m", "glowplug.deploy.cli", "up", "--port", str(port)]
    with log.open("ab") as sink:
        process = subprocess.Popen(
            [*command, *([] if template is None else [str(template)]), "--state", str(state)],
            stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, env={**os.environ, **(environ or {})},
            start_new_session=True,
        )  # fmt: skip
    try:
        while True:
            if process.poll() is not None:
                raise RuntimeError(f"the node ended with {process.returncode}:\n{log.read_text()[-2000:]}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
                break
            if time.monotonic() - begun > 60:
                raise RuntimeError(f"the node does not listen:\n{log.read_text()[-2000:]}")
            time.sleep(0.005)
        yield Node(process, port, state, begun, time.monotonic() - begun)
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_until_deployed(node: Node, count: int, limit_s: float = 240.0) -> None:
    """Return once the node has ``count`` functions: it listens before its template is deployed."""
    deadline = time.monotonic() + limit_s
    while len(node.admin("GET", "functions")["functions"]) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"{count} functions were not deployed in {limit_s:.0f} s")
        time.sleep(0.2)


def wait_until_answers(node: Node, path: str, body: object, limit_s: float = 120.0) -> float:
    """Repeat a request until it succeeds; return seconds since the node's process was started."""
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        with contextlib.suppress(OSError, http.client.HTTPException):
            status, _, _ = node.request("POST", path, body)
            if status == 200:
                return time.monotonic() - node.started_s
        time.sleep(0.005)
    raise RuntimeError(f"{path} did not answer within {limit_s} s")
