"""Real nodes for tests: ``glowplug up`` in a process of its own, which dies with the session, even one that is killed.

Tests of several folders run nodes; they get ``served`` and ``mortal`` by fixtures of ``tests/conftest.py``.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, TypeVar

import boto3
import pytest
from botocore.config import Config

from glowplug.runtime.registry import Registry
from glowplug.runtime.spec import FunctionSpec

Made = TypeVar("Made")

SECRET = {"AWS_SECRET_ACCESS_KEY": "the-operators-own", "OPERATOR_TOKEN": "never-to-be-seen"}

# PR_SET_PDEATHSIG is 1 in linux/prctl.h; exec keeps it. A parent that died before it was set is seen by its number.
_MORTAL = """
import ctypes, os, signal, sys
if ctypes.CDLL(None).prctl(1, int(signal.SIGTERM), 0, 0, 0) or os.getppid() != int(sys.argv[1]):
    sys.exit("its parent is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""


def mortal(*arguments: str) -> list[str]:
    """Return the command of Python with ``arguments`` as a server that gets SIGTERM when the tests' process dies.

    Start it from the main thread: the kernel sends the signal at the end of the thread that started the process.
    """
    return [sys.executable, "-S", "-c", _MORTAL, str(os.getpid()), sys.executable, *arguments]


def kept_specs(state: Path) -> dict[str, FunctionSpec]:
    """Return the functions that a node keeps in its state directory, by name; it may be running."""

    async def read() -> dict[str, FunctionSpec]:
        registry = await Registry.open(state / "registry.db")
        try:
            return {function.name: function.spec for function in registry.functions()}
        finally:
            await registry.close()

    return asyncio.run(read())


class ServedNode:
    """A node under test. ``restart`` gives the same state directory to a new process."""

    def __init__(self, template: Path | None, state: Path, **environ: str) -> None:
        self.template, self.state, self.environ = template, state, environ
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None
        self.log = state.parent / f"{state.name}.log"

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self, limit_s: float = 60.0) -> None:
        """Start and wait until every function of the template is deployed."""
        template = [] if self.template is None else [str(self.template)]
        # Port 0: one that was free a moment ago may be taken by whatever else connects to something now.
        command = mortal("-m", "glowplug.deploy.cli", "up", *template, "--port", "0", "--state", str(self.state))
        with self.log.open("ab") as sink:
            self.process = subprocess.Popen(
                command, stdout=sink, stderr=sink, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**os.environ, **SECRET, **self.environ},
            )  # fmt: skip
        end = time.monotonic() + limit_s
        while time.monotonic() < end:
            if self.process.poll() is not None:
                pytest.fail(f"the node ended with {self.process.returncode}:\n{self.log.read_text()[-4000:]}")
            with contextlib.suppress(OSError, ValueError, RuntimeError):
                self.port = self._announced_port()
                self.admin("GET", "health")
                if self.template is None or self.admin("GET", "stacks")["stacks"]:
                    return
            time.sleep(0.02)
        pytest.fail(f"the node did not come up:\n{self.log.read_text()[-4000:]}")

    def _announced_port(self) -> int:
        """Return the port that this process has written down. ``ValueError`` or ``OSError`` until it has."""
        address = json.loads((self.state / "node.lock").read_text())
        if address["pid"] != self.pid or not address["endpoint"]:  # that of the process before, or not listening yet
            raise ValueError(address)
        return int(address["endpoint"].rpartition(":")[2])

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the node, wait for its end and return its exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"the node did not stop:\n{self.log.read_text()[-4000:]}")

    def exchange(
        self, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        """Send one request on a connection of its own; return the status, all headers as they came, and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=900)  # no test may take as long
        with contextlib.closing(connection):
            connection.request(method, path, data, headers or {})
            response = connection.getresponse()
            return response.status, response.getheaders(), response.read()

    def request_raw(
        self, method: str, path: str, data: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, dict[str, str], str]:
        """As ``exchange``, with headers by their names in lower case and the body as text."""
        status, answered, body = self.exchange(method, path, data, headers)
        return status, {name.lower(): value for name, value in answered}, body.decode(errors="replace")

    def request(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, str], Any]:
        """As ``request_raw`` with JSON both ways."""
        data = None if body is None else json.dumps(body).encode()
        headers = {} if data is None else {"Content-Type": "application/json"}
        status, answered, text = self.request_raw(method, path, data, headers)
        with contextlib.suppress(ValueError):
            return status, answered, json.loads(text)
        return status, answered, text

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Call the control API; ``RuntimeError`` unless it succeeded."""
        status, _, answer = self.request(method, f"/_glowplug/{path}", body)
        if status >= 300:
            raise RuntimeError(f"{method} {path}: {status} {answer}")
        return answer

    def family(self) -> list[int]:
        """Return every process below the node."""
        return below(self.pid)

    def bake(self, name: str, engine: str = "") -> None:
        """Bake what is missing and wait for it. ``engine`` is to serve then, whichever was measured to be the best."""
        body = {"wait": True, "engine": engine}
        self.unhurried(lambda: self.admin("POST", f"functions/{name}/bake", body))

    def unhurried(self, work: Callable[[], Made]) -> Made:
        """Return what ``work`` returns, which waits for a bake, with bakes at the priority of everything else.

        A bake is nice, and beside whatever else the machine does, such as other tests, it would take many minutes.
        """
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(work)
            while not wait([waiting], timeout=0.5).done:
                for pid in self.family():
                    with contextlib.suppress(OSError):  # gone, or we are not root
                        os.setpriority(os.PRIO_PROCESS, pid, 0)
                        Path(f"/proc/{pid}/autogroup").write_text("0")
            return waiting.result()

    def cool(self, name: str, to: str) -> None:
        """Sink a function. Again and again: after a bake it may be just about to move to its engine, and warm for it."""
        end = time.monotonic() + 60
        while (tier := self.admin("POST", f"functions/{name}/cool", {"to": to})["tier"]) != to:
            assert time.monotonic() < end, f"{name} is {tier}, not {to}"
            time.sleep(0.2)

    def function(self, name: str) -> dict[str, Any]:
        """Return one function's row of the listing."""
        return next(row for row in self.admin("GET", "functions")["functions"] if row["name"] == name)

    def lambda_client(self) -> Any:
        """Return a boto3 client of this node, without retries."""
        return boto3.client(
            "lambda", endpoint_url=self.endpoint, region_name="us-east-1",
            aws_access_key_id="test", aws_secret_access_key="test",
            config=Config(read_timeout=120, retries={"max_attempts": 0}, max_pool_connections=50),
        )  # fmt: skip


def below(pid: int) -> list[int]:
    """Return every process below ``pid``; none when it is gone."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return [found for child in map(int, children) for found in (child, *below(child))]


@contextlib.contextmanager
def served(template: Path | None, state: Path, **environ: str) -> Iterator[ServedNode]:
    """Run a node for the length of a block and leave no process of it behind."""
    node = ServedNode(template, state, **environ)
    node.start()
    try:
        yield node
    finally:
        node.stop()
