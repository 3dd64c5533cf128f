"""Real processes below an event loop; each test runs on asyncio's own and on uvloop, which production uses."""

from __future__ import annotations

import asyncio
import os
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import pytest
import uvloop

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.process import wire
from glowplug.runtime.process.workers import Worker
from glowplug.runtime.process.zygotes import FunctionZygote, Zygotes

HANDLER = """
    import os, signal, subprocess, sys, time

    print("imported")

    def handler(event, context):
        what = event.get("do")
        print("doing", what)
        if what == "exit":
            sys.exit(3)
        if what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if what == "hang":
            time.sleep(600)
        if what == "spawn":
            return subprocess.Popen(["sleep", "600"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).pid
        if what == "environment":
            return dict(os.environ)
        if what == "descriptors":
            return sorted(os.readlink(f"/proc/self/fd/{n}").split(":")[0] for n in os.listdir("/proc/self/fd")[:-1])
        return {"pid": os.getpid(), "uid": os.getuid(), "event": event}
"""


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops that every asynchronous test below this folder is run on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Node:
    """Zygotes over a state directory with one function's code in it, and short ways to use them."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.code = state / "code" / "f"
        for directory in (self.code, state / "snapshots", state / "cache" / "blobs"):
            directory.mkdir(parents=True)
        state.chmod(0o700)
        self.module(HANDLER)
        self.stray: list[bytes] = []
        self.config = NodeConfig(state=state, cache=state / "cache", preload_torch=False, stop_grace_s=1.0)
        self.zygotes = Zygotes(
            self.config,
            on_stray_log=lambda name, data: self.stray.append(data),
            environ={"PATH": os.environ["PATH"], "AWS_SECRET_ACCESS_KEY": "the operator's"},
        )

    def module(self, source: str) -> None:
        (self.code / "h.py").write_text(textwrap.dedent(source))

    def load(self, **environment: str) -> wire.Load:
        names = {"PATH": os.environ["PATH"], "LAMBDA_TASK_ROOT": str(self.code), "HOME": "/tmp", **environment}
        return wire.Load("f", "h.handler", str(self.code), [], names, [], "on-demand", True, False)

    async def parked(self, zygote_id: str = "z1", *, uid: int = -1) -> FunctionZygote:
        """Return a function zygote that has imported the handler."""
        zygote = await self.zygotes.function_zygote(zygote_id, lean=True, uid=uid, gid=uid)
        await zygote.load(self.load())
        await zygote.bind(wire.Bind([]))
        return zygote

    async def hot(self, zygote: FunctionZygote, worker_id: str = "w1") -> Worker:
        """Return a worker that is ready."""
        worker = await zygote.fork(worker_id)
        await worker.start(start(restored=True))
        return worker

    def records(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.state / "run" / "processes"))


def start(*, restored: bool) -> wire.Start:
    """Return an ordinary Start without a memory limit."""
    return wire.Start("i1", {}, restored, 0, 128, "$LATEST", "/aws/lambda/f", "stream", 1)


def invoke(event: str = "{}", invocation_id: str = "r1") -> wire.Invoke:
    """Return an ordinary Invoke."""
    return wire.Invoke(invocation_id, [event.encode()], 2**42, "arn:aws:lambda:f", "", b"", b"", 1)


@pytest.fixture
def frames() -> tuple[Callable[..., wire.Start], Callable[..., wire.Invoke]]:
    """The builders of Start and Invoke."""
    return start, invoke


@pytest.fixture
async def node(tmp_path: Path) -> AsyncIterator[Node]:
    """Zygotes that are started; closed at the end, when nothing may be left."""
    made = Node(tmp_path / "state")
    await made.zygotes.start()
    yield made
    await made.zygotes.close()
    await asyncio.sleep(0)
    assert [] == made.records()


@pytest.fixture
def until() -> Callable[[Callable[[], bool]], Awaitable[None]]:
    """Wait for a condition that another process brings about; the test's timeout bounds it."""

    async def wait(condition: Callable[[], bool]) -> None:
        while not condition():  # noqa: ASYNC110 - nothing in this process is told of it
            await asyncio.sleep(0.01)

    return wait


@pytest.fixture
def alive() -> Callable[[int], bool]:
    """Tell whether a process runs: exists and is no zombie."""

    def tell(pid: int) -> bool:
        try:
            return b") Z " not in Path(f"/proc/{pid}/stat").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            return False

    return tell
