"""Workers that hold a context, as real processes, with a stand-in for the driver: adopted by a function, or refused."""

from __future__ import annotations

import asyncio
import json
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from glowplug.runtime.clock import SystemClock
from glowplug.runtime.errors import RestoreFailed
from glowplug.runtime.process import wire
from glowplug.runtime.process.contextpool import ContextPool, Pacing
from glowplug.runtime.process.death import WorkerDied
from glowplug.runtime.process.workers import Worker

if TYPE_CHECKING:
    from conftest import Node

    Frames = tuple[Callable[..., wire.Start], Callable[..., wire.Invoke]]
    Until = Callable[[Callable[[], bool]], Awaitable[None]]

MAKERS = Path(__file__).parent
USER = 200_126 if os.getuid() == 0 else -1


async def a_context(node: Node, maker: str, worker_id: str = "c1", **environment: str) -> Worker:
    names = {"PYTHONPATH": f"{MAKERS}:{os.environ.get('PYTHONPATH', '')}", **environment}
    options = ["--context-maker", f"makers:{maker}", "--context-preload", "lean"]  # a driver's lies need no torch
    return await node.zygotes.context(worker_id, device="cuda:0", environment=names, options=options)


def statuses(pid: int) -> list[str]:
    return [(task / "status").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]


async def test_the_pool_hands_over_a_process_that_becomes_the_functions(
    node: Node, frames: Frames, until: Until
) -> None:
    """A device that is busy at first; then a context, the function's user, its code, its answer, and a refill."""
    start, invoke = frames
    busy = node.code / "busy"  # where a process that may become a function's can see it
    busy.touch()
    pool = ContextPool(
        lambda name: a_context(node, "busy", name, CONTEXT_BUSY=str(busy)),
        Pacing(floor=1, budget_mib=600, pause_s=0.01),
        SystemClock(),
    )
    pool.want(True)
    await until(lambda: "another process has it in exclusive mode" in pool.refusal)
    assert pool.take() is None
    busy.unlink()
    await until(lambda: pool.idle == 1)
    worker = pool.take()
    assert worker is not None
    hello = await worker.hello()
    assert ("cuda:0", True, True) == (hello.device, hello.context_ms >= 50.0, "json" in hello.preloaded)
    assert isinstance(await worker.adopt(wire.Adopt(USER, USER)), wire.Adopted)
    assert "" == (await worker.load(replace(node.load(GIVEN="it"), parked=False))).obstacle
    await worker.bind(wire.Bind([]))
    await worker.start(start(restored=False))
    answer = json.loads((await worker.invoke(invoke())).results[0])
    assert (worker.pid, max(USER, 0) or os.getuid()) == (answer["pid"], answer["uid"])
    environment = json.loads((await worker.invoke(invoke('{"do": "environment"}', "r2"))).results[0])
    assert ("it", False) == (environment["GIVEN"], "CONTEXT_BUSY" in environment)
    texts = statuses(worker.pid)
    threads = {tuple(re.findall(r"^(?:Uid|NoNewPrivs):.*", text, re.MULTILINE)) for text in texts}
    assert len(texts) >= 3
    assert 1 == len(threads), "every thread, the driver's too, has the function's user and no way back"
    assert "NoNewPrivs:\t1" == threads.pop()[1]
    await until(lambda: pool.idle == 1)
    await pool.close()


@pytest.mark.parametrize(
    ("maker", "message"),
    [
        ("full", "Glowplug.ContextRefused: cuda:0: the device has no memory left for a context"),
        ("missing", "Glowplug.RuntimeError: Found no NVIDIA driver on your system."),
    ],
)
async def test_a_context_that_cannot_be_made_says_why(node: Node, until: Until, maker: str, message: str) -> None:
    with pytest.raises(RestoreFailed, match=message):
        await a_context(node, maker)
    await until(lambda: node.zygotes.statistics().workers == 0)


async def test_a_driver_that_takes_the_process_along_is_a_death(node: Node) -> None:
    with pytest.raises(WorkerDied, match="signal: aborted"):
        await a_context(node, "crash")


async def test_one_that_nobody_took_ends_with_the_node(node: Node) -> None:
    worker = await a_context(node, "good")
    await asyncio.wait_for(node.zygotes.close(), 20)
    assert (0, "") == ((await worker.exited).code, worker.killed_for)


async def test_only_adoption_comes_first(node: Node) -> None:
    """Until it is a function's, it runs as the node's user: it must not read anybody's code."""
    worker = await a_context(node, "good")
    with pytest.raises(WorkerDied, match=f"exit status {wire.ExitCode.PROTOCOL_ERROR}"):
        await worker.load(node.load())
