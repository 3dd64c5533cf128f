"""Real zygotes and workers: forks, steps, deaths of every kind, and nothing left behind."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import sys
import time
import typing
from collections.abc import Awaitable, Callable

import pytest

from glowplug.runtime.errors import LoadFailed, StartError
from glowplug.runtime.process import base, wire
from glowplug.runtime.process.death import WorkerDied
from glowplug.runtime.process.zygotes import ZygoteStatistics

if typing.TYPE_CHECKING:
    from conftest import Node

    Frames = tuple[Callable[..., wire.Start], Callable[..., wire.Invoke]]
    Until = Callable[[Callable[[], bool]], Awaitable[None]]
    Alive = Callable[[int], bool]

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives functions users of their own")


async def test_a_worker_forked_from_a_function_zygote_answers_and_stops(node: Node, frames: Frames) -> None:
    start, invoke = frames
    zygote = await node.parked()
    assert b"imported\n" == zygote.take_log()
    assert zygote.loaded is not None
    assert ("", True) == (zygote.loaded.obstacle, zygote.bound is not None)
    worker = await zygote.fork("w1")
    await worker.start(start(restored=True))
    outcome = await worker.invoke(invoke('{"a": 1}'))
    answer = json.loads(outcome.results[0])
    assert ({"a": 1}, worker.pid) == (answer["event"], answer["pid"])
    assert b"doing None\n" == worker.take_log()
    assert ZygoteStatistics(bases=1, function_zygotes=1, workers=1, restarts=0) == node.zygotes.statistics()
    assert sorted((zygote.pid, worker.pid)) == [pid for pid in node.records() if pid in (zygote.pid, worker.pid)]
    assert wire.ExitCode.OK == (await worker.stop(1.0)).code
    await zygote.retire()
    assert ZygoteStatistics(bases=1, function_zygotes=0, workers=0, restarts=0) == node.zygotes.statistics()
    assert [] == node.stray


async def test_parking_off_imports_in_a_worker_forked_from_the_base(node: Node, frames: Frames) -> None:
    start, invoke = frames
    worker = await node.zygotes.worker("w1", lean=True)
    await worker.load(node.load())
    await worker.bind(wire.Bind([]))
    await worker.start(start(restored=False))
    assert b"imported\n" == worker.take_log()
    assert not (await worker.invoke(invoke())).failed


async def test_a_payload_over_the_inline_limit_passes_both_ways(node: Node, frames: Frames) -> None:
    _, invoke = frames
    worker = await node.hot(await node.parked())
    text = "x" * 1_000_000
    outcome = await worker.invoke(invoke(json.dumps({"text": text})))
    assert text == json.loads(outcome.results[0])["event"]["text"]


@pytest.mark.parametrize(("do", "described"), [("exit", "exit status 3"), ("die", "signal: killed")])
async def test_a_worker_that_ends_takes_only_its_own_invocation(
    node: Node, frames: Frames, do: str, described: str
) -> None:
    _, invoke = frames
    zygote = await node.parked()
    other = await node.hot(zygote, "other")
    worker = await node.hot(zygote, "w1")
    with pytest.raises(WorkerDied) as caught:
        await worker.invoke(invoke(json.dumps({"do": do})))
    assert (described, "", True) == (caught.value.exit.describe(), caught.value.killed_for, caught.value.sent)
    assert f"doing {do}\n".encode() in worker.take_log()
    assert caught.value.exit.max_rss_kib > 0
    assert not (await other.invoke(invoke())).failed


async def test_a_killed_worker_takes_what_it_started_along(
    node: Node, frames: Frames, until: Until, alive: Alive
) -> None:
    _, invoke = frames
    worker = await node.hot(await node.parked())
    grandchild = int((await worker.invoke(invoke('{"do": "spawn"}'))).results[0])
    hanging = asyncio.create_task(worker.invoke(invoke('{"do": "hang"}', "r2")))
    await until(lambda: b"doing hang" in worker.take_log())
    worker.kill("timeout")
    with pytest.raises(WorkerDied) as caught:
        await hanging
    assert ("timeout", "signal: killed") == (caught.value.killed_for, caught.value.exit.describe())
    await until(lambda: not alive(grandchild))


async def test_an_import_that_raises_is_told_with_lambdas_error_type(node: Node) -> None:
    node.module("import no_such_module")
    zygote = await node.zygotes.function_zygote("z1", lean=True)
    with pytest.raises(LoadFailed) as caught:
        await zygote.load(node.load())
    assert "Runtime.ImportModuleError" == caught.value.reported_type
    assert wire.ExitCode.LOAD_FAILED == (await zygote.exited).code


async def test_twenty_forks_at_once(node: Node, frames: Frames) -> None:
    _, invoke = frames
    zygote = await node.parked()
    workers = await asyncio.gather(*(node.hot(zygote, f"w{number}") for number in range(20)))
    outcomes = await asyncio.gather(*(worker.invoke(invoke()) for worker in workers))
    assert {worker.pid for worker in workers} == {json.loads(outcome.results[0])["pid"] for outcome in outcomes}
    await asyncio.gather(*(worker.stop(1.0) for worker in workers))


async def test_workers_outlive_their_function_zygote_and_their_end_is_still_known(node: Node, frames: Frames) -> None:
    _, invoke = frames
    zygote = await node.parked()
    worker = await node.hot(zygote)
    os.kill(zygote.pid, signal.SIGKILL)
    assert "signal: killed" == (await zygote.exited).describe()
    assert not (await worker.invoke(invoke())).failed
    worker.kill("test")
    await worker.exited
    with pytest.raises(WorkerDied):
        await zygote.fork("w2")


async def test_a_dead_base_zygote_is_rebuilt_and_requests_wait_for_it(node: Node, frames: Frames) -> None:
    _, invoke = frames
    zygote = await node.parked()
    worker = await node.hot(zygote)
    base_pid = next(pid for pid in node.records() if pid not in (zygote.pid, worker.pid))
    os.kill(base_pid, signal.SIGKILL)
    other = await node.parked("z2")
    assert not (await (await node.hot(other, "w2")).invoke(invoke())).failed
    assert not (await worker.invoke(invoke())).failed  # forked from the dead one's child: it serves on
    assert 1 == node.zygotes.statistics().restarts
    os.kill(zygote.pid, signal.SIGTERM)  # nothing: whether it ends is the node's decision
    await zygote.retire(0.05)
    assert worker.killed_for == "z1 retires"
    assert (await zygote.exited).code == wire.ExitCode.OK  # reaped by the node, which it was handed to


async def test_a_function_zygote_that_hangs_in_its_import_is_retired_at_once(node: Node) -> None:
    node.module("import time; print('hanging', flush=True); time.sleep(600)")
    zygote = await node.zygotes.function_zygote("z1", lean=True)
    loading = asyncio.create_task(zygote.load(node.load()))
    await asyncio.sleep(0)
    began_s = time.monotonic()
    await zygote.retire(120.0)
    assert time.monotonic() - began_s < 60.0
    with pytest.raises(WorkerDied, match="retired in the middle of a step"):
        await loading


async def test_a_retired_zygote_forks_no_more(node: Node) -> None:
    zygote = await node.parked()
    await zygote.retire()
    with pytest.raises(WorkerDied):
        await zygote.fork("w1")


@as_root
async def test_each_function_runs_under_its_own_user(node: Node, frames: Frames) -> None:
    start, invoke = frames
    assert node.zygotes.users
    zygote = await node.parked(uid=200_123)
    worker = await zygote.fork("w1", uid=200_123, gid=200_123)
    await worker.start(start(restored=True))
    assert 200_123 == json.loads((await worker.invoke(invoke())).results[0])["uid"]


@pytest.mark.parametrize("uid", [-1, pytest.param(200_124, marks=as_root)])
async def test_an_executed_worker_gets_the_functions_environment_and_nothing_of_the_nodes(
    node: Node, frames: Frames, uid: int
) -> None:
    start, invoke = frames
    leaked = os.open(os.devnull, os.O_RDONLY)
    os.set_inheritable(leaked, True)
    worker = await node.zygotes.execute("e1", environment={"OMP_NUM_THREADS": "3"}, uid=uid, gid=uid)
    os.close(leaked)
    assert (False, True) == (worker.forked, b"the operator's" not in open_environment(worker.pid))
    assert b"OMP_NUM_THREADS=3" in open_environment(worker.pid)
    await worker.load(node.load(OMP_NUM_THREADS="3"))
    await worker.bind(wire.Bind([]))
    await worker.start(start(restored=False))
    answer = json.loads((await worker.invoke(invoke())).results[0])
    assert (worker.pid, max(uid, 0) or os.getuid()) == (answer["pid"], answer["uid"])
    shown = json.loads((await worker.invoke(invoke('{"do": "descriptors"}', "r2"))).results[0])
    assert ["/dev/null", "pipe", "pipe", "socket", "socket"] == shown
    with pytest.raises(WorkerDied, match="exit status 3"):
        await worker.invoke(invoke('{"do": "exit"}', "r3"))


@as_root
async def test_what_an_executed_worker_loads_by_its_environment_never_runs_as_root(node: Node) -> None:
    (node.code / "sitecustomize.py").write_text("import os; print('loaded as', os.getuid(), flush=True)")
    worker = await node.zygotes.execute("e1", environment={"PYTHONPATH": str(node.code)}, uid=200_125, gid=200_125)
    assert b"loaded as 200125\n" == worker.take_log()


async def test_an_executed_worker_that_cannot_start_says_why(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(WorkerDied, match="exit status 1"):
        await node.zygotes.execute("e1", environment={"PYTHONHOME": "/nowhere"})
    assert "init_fs_encoding" in caplog.text


async def test_closing_ends_everything_within_the_grace(node: Node, frames: Frames, until: Until, alive: Alive) -> None:
    _, invoke = frames
    zygote = await node.parked()
    hanging = await node.hot(zygote, "hanging")
    idle = await node.hot(zygote, "idle")
    alone = await node.zygotes.execute("e1", environment={})
    task = asyncio.create_task(hanging.invoke(invoke('{"do": "hang"}')))
    await until(lambda: b"doing hang" in hanging.take_log())
    pids = node.records()
    began_s = time.monotonic()
    await node.zygotes.close()
    assert time.monotonic() - began_s < 60.0  # the handler would hang for ten minutes
    assert [] == [pid for pid in pids if alive(pid)]
    assert ("did not stop in time", "", "") == (hanging.killed_for, idle.killed_for, alone.killed_for)
    with pytest.raises(WorkerDied):
        await task
    with pytest.raises(StartError, match="the node is stopping"):
        await node.zygotes.function_zygote("z2", lean=True)


async def test_a_base_zygote_that_cannot_start_is_tried_again_later_and_later(
    node: Node, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    caplog.set_level(logging.ERROR)
    monkeypatch.setattr(base, "FIRST_DELAY_S", 0.01)
    broken = base.BaseZygote(
        "nonsense",
        environment={"PATH": os.environ["PATH"], "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        expose=[],
        roster=node.zygotes._roster,
        on_output=lambda name, data: node.stray.append(data),
    )
    broken.start()
    await until(lambda: broken.restarts >= 2)
    await broken.close(1.0)
    assert "base zygote nonsense ended (base-nonsense: exit status 2); the next is started in 0.0 s" in caplog.text
    assert b"invalid choice: 'nonsense'" in b"".join(node.stray)


def open_environment(pid: int) -> bytes:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read()
