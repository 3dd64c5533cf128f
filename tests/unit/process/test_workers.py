"""``Worker`` with its child's ends driven by hand: steps, invocations, and every way to die."""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import os
import signal
import typing

import pytest

from glowplug.runtime.errors import CheckFailed, LoadFailed, RestoreFailed, WorkerExited
from glowplug.runtime.process import child, wire
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.responsestream import Origin, ResponseStream

if typing.TYPE_CHECKING:
    from conftest import Peer

LOAD = wire.Load("f", "h.handler", "/code", [], {}, [], "on-demand", True, False)
START = wire.Start("i1", {}, True, 0, 128, "$LATEST", "group", "stream", 1)
READY = wire.Ready(0.5, 1000)
EXITED_3 = Exit(3 << 8, 2048)


def invoke(invocation_id: str) -> wire.Invoke:
    return wire.Invoke(invocation_id, [b"{}"], 0, "arn", "", b"", b"", 1)


def outcome(invocation_id: str, result: bytes = b"{}") -> wire.Outcome:
    return wire.Outcome(invocation_id, [result], False, "", 0.5)


CHECKING = wire.Outcome("r1", [b"{}"], False, "", 0.5, [["", "a", 1, 1.0, -1.0, 0]], True)
VERIFIED = wire.Verified("r1", [["", "a", "right", 0.0, ""]])


async def failure_of(task: asyncio.Task[object]) -> WorkerDied:
    with pytest.raises(WorkerDied) as caught:
        await task
    return caught.value


async def test_each_step_returns_its_answer(peer: Peer) -> None:
    worker = peer.worker
    for step, request, answer in (
        (worker.load, LOAD, wire.Loaded(1.0, "", [])),
        (worker.bind, wire.Bind([]), wire.Bound(1.0, {}, 0, "")),
        (worker.check, wire.Check(1), wire.Checked(1.0, 0.0, True, [])),
        (worker.start, START, READY),
    ):
        task = asyncio.create_task(step(request))
        assert request == await peer.receive(peer.control)
        peer.send(peer.control, answer)
        assert answer == await task


async def test_a_failed_step_raises_what_the_process_reported(peer: Peer) -> None:
    failed = wire.Failed("", "ValueError", "boom", ['  File "h.py", line 1\n'])
    for step, request, kind, message in (
        (peer.worker.load, LOAD, LoadFailed, "boom"),
        (peer.worker.bind, wire.Bind([]), RestoreFailed, "ValueError: boom"),
        (peer.worker.check, wire.Check(1), CheckFailed, "ValueError: boom"),
        (peer.worker.start, START, LoadFailed, "boom"),
    ):
        task = asyncio.create_task(step(request))
        await peer.receive(peer.control)
        peer.send(peer.control, failed)
        with pytest.raises(kind) as caught:
            await task
        assert (message, "ValueError", failed.stack_trace) == (
            str(caught.value),
            caught.value.reported_type,
            caught.value.stack_trace,
        )


async def test_invocations_in_flight_are_told_apart_by_their_ids(peer: Peer) -> None:
    tasks = {name: asyncio.create_task(peer.worker.invoke(invoke(name))) for name in ("r1", "r2")}
    assert ["r1", "r2"] == [(await peer.receive(peer.data)).invocation_id for _ in tasks]
    assert peer.worker.busy
    for name in ("r2", "r1"):
        peer.send(peer.data, outcome(name, name.encode()))
        assert [name.encode()] == (await tasks[name]).results
    assert not peer.worker.busy


async def test_death_fails_everything_that_waits_and_tells_how(peer: Peer) -> None:
    waiting = [asyncio.create_task(peer.worker.invoke(invoke("r1"))), asyncio.create_task(peer.worker.start(START))]
    await peer.receive(peer.data)
    peer.worker.died(EXITED_3)
    for error in [await failure_of(task) for task in waiting]:
        assert (EXITED_3, "w1: exit status 3", True) == (error.exit, str(error), error.sent)
        assert isinstance(error, WorkerExited)
    assert EXITED_3 == await peer.worker.exited
    assert f"Worker(w1, pid={peer.process.pid}, exit status 3)" == repr(peer.worker)


async def test_a_dead_worker_takes_nothing_on_and_says_that_nothing_was_sent(peer: Peer) -> None:
    peer.worker.died(EXITED_3)
    for call in (peer.worker.invoke(invoke("r1")), peer.worker.load(LOAD)):
        assert not (await failure_of(asyncio.create_task(call))).sent


async def test_an_invocation_that_could_not_be_sent_says_so(peer: Peer) -> None:
    peer.data.close()
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await asyncio.sleep(0)
    peer.worker.died(EXITED_3)
    assert not (await failure_of(task)).sent


async def test_an_invocation_cut_off_while_it_is_sent_fails_with_the_death(peer: Peer) -> None:
    large = wire.Invoke("r1", [b"x" * 200_000] * 10, 0, "arn", "", b"", b"", 1)
    task = asyncio.create_task(peer.worker.invoke(large))
    await asyncio.sleep(0)
    peer.worker.died(EXITED_3)
    assert not (await failure_of(task)).sent
    gc.collect()  # a future whose exception nobody took would complain here


async def test_output_is_there_when_the_outcome_is_and_after_death(peer: Peer) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    os.write(peer.output, b"from the call\n")
    peer.send(peer.data, outcome("r1"))
    await task
    assert peer.worker.take_log() == b"from the call\n"
    os.write(peer.output, b"last words\n")
    peer.worker.died(EXITED_3)
    assert peer.worker.take_log() == b"last words\n"


@pytest.mark.parametrize("late", [[outcome("r1")], [CHECKING, VERIFIED]], ids=["outcome", "checked outcome"])
async def test_what_comes_late_of_a_cancelled_invocation_is_no_offence(
    peer: Peer, late: list[wire.Outcome | wire.Verified]
) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    again = asyncio.create_task(peer.worker.invoke(invoke("r2")))
    await peer.receive(peer.data)
    for message in (*late, outcome("r2")):
        peer.send(peer.data, message)
    assert outcome("r2") == await again
    assert peer.worker.killed_for == ""


@pytest.mark.parametrize("late", [True, False])
async def test_a_check_that_an_outcome_announces_keeps_the_worker_busy(peer: Peer, *, late: bool) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    peer.send(peer.data, CHECKING)
    if not late:
        peer.send(peer.data, VERIFIED)  # both may be read at once
    assert CHECKING == await task
    asking = asyncio.create_task(peer.worker.verified("r1"))
    if late:
        await asyncio.sleep(0)
        assert (True, False) == (peer.worker.busy, asking.done())
        peer.send(peer.data, VERIFIED)
    assert VERIFIED == await asking
    assert not peer.worker.busy


async def test_a_death_during_a_check_is_told_to_who_asks_and_to_nobody_else(peer: Peer) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    peer.send(peer.data, CHECKING)
    await task
    peer.worker.died(EXITED_3)
    with pytest.raises(WorkerDied):
        await peer.worker.verified("r1")


@pytest.mark.parametrize(
    ("channel", "message"),
    [
        ("data", outcome("never asked")),
        ("data", wire.Chunk("r1", b"of no stream")),
        ("data", wire.Outcome("r1", ["text"], False, "", 0.5)),  # type: ignore[list-item]
        ("data", wire.Outcome("r1", [b"{}"], False, "", 0.5, [["", "a", 1, 1.0, float("nan"), 0]])),
        ("data", wire.Outcome("r1", [b"{}"], False, "", 0.5, [["", "a", 1, 1.0]])),
        ("data", wire.Verified("r1", [])),
        ("data", READY),
        ("control", READY),
        ("control", wire.Spawned("w2", 1, 0.5)),
    ],
    ids=[
        "unasked outcome",
        "unasked chunk",
        "result of text",
        "time that is none",
        "part of a row",
        "unasked check",
        "wrong channel",
        "unasked step",
        "fork",
    ],
)
async def test_a_worker_that_breaks_the_protocol_is_killed(peer: Peer, channel: str, message: wire.Message) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    peer.send(getattr(peer, channel), message)
    status = await asyncio.to_thread(peer.status)
    assert signal.SIGKILL == status
    peer.worker.died(Exit(status))
    error = await failure_of(task)
    assert (True, "signal: killed") == (error.killed_for.startswith("protocol error: "), error.exit.describe())


def streamed(invocation_id: str, stream: ResponseStream, peer: Peer) -> asyncio.Task[wire.Outcome]:
    message = dataclasses.replace(invoke(invocation_id), window_bytes=stream.window_bytes)
    worker = peer.worker
    stream.attach(
        Origin("hot", (), 0.0),
        grant=lambda size_bytes: worker.grant(invocation_id, size_bytes),
        stop=lambda: worker.cancel(invocation_id),
    )
    return asyncio.create_task(worker.invoke(message, stream))


ENDED = {name: wire.Outcome(name, [], False, "", 0.5) for name in ("r1", "r2")}


async def test_two_streams_of_one_worker_at_a_time_are_kept_apart(peer: Peer) -> None:
    """Interleaved on the channel, each in order in its own stream, with its own window."""
    one, two = ResponseStream(1000, 4), ResponseStream(1000, 4)
    tasks = [streamed("r1", one, peer), streamed("r2", two, peer)]
    assert [4, 4] == [(await peer.receive(peer.data)).window_bytes for _ in tasks]
    for name, data in (("r1", b"ab"), ("r2", b"xy"), ("r1", b"cd"), ("r2", b"z")):
        peer.send(peer.data, wire.Chunk(name, data, "t/" + name))
    peer.send(peer.data, ENDED["r2"])
    assert ENDED["r2"] == await tasks[1]
    assert [b"abcd", b"xyz"] == [await one.next(), await two.next()]
    assert ["t/r1", "t/r2"] == [one.content_type, two.content_type]
    waiting = asyncio.create_task(one.next())
    assert wire.Credit("r1", 4) == await peer.receive(peer.data)
    peer.send(peer.data, wire.Chunk("r1", b"e"))
    assert b"e" == await waiting
    peer.send(peer.data, ENDED["r1"])
    assert ENDED["r1"] == await tasks[0]


async def test_a_stream_beyond_its_window_costs_the_worker_its_life(peer: Peer) -> None:
    task = streamed("r1", ResponseStream(1000, 4), peer)
    await peer.receive(peer.data)
    peer.send(peer.data, wire.Chunk("r1", b"abcde"))
    assert signal.SIGKILL == await asyncio.to_thread(peer.status)
    peer.worker.died(Exit(int(signal.SIGKILL)))
    assert "protocol error: chunk of 5 bytes, 4 were asked for" == (await failure_of(task)).killed_for


async def test_a_chunk_after_the_outcome_costs_the_worker_its_life(peer: Peer) -> None:
    task = streamed("r1", ResponseStream(1000, 4), peer)
    await peer.receive(peer.data)
    peer.send(peer.data, ENDED["r1"])
    await task
    peer.send(peer.data, wire.Chunk("r1", b"a"))
    assert signal.SIGKILL == await asyncio.to_thread(peer.status)


async def test_a_cancelled_call_ends_its_stream_and_what_is_on_its_way_is_no_offence(peer: Peer) -> None:
    """The node stops: the worker must not wait for credit that nobody gives."""
    task = streamed("r1", ResponseStream(1000, 4), peer)
    await peer.receive(peer.data)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert wire.Cancel("r1") == await peer.receive(peer.data)
    again = asyncio.create_task(peer.worker.invoke(invoke("r2")))
    await peer.receive(peer.data)
    for message in (wire.Chunk("r1", b"ab"), ENDED["r1"], outcome("r2")):
        peer.send(peer.data, message)
    assert outcome("r2") == await again
    assert peer.worker.killed_for == ""


async def test_the_first_reason_to_kill_is_kept(peer: Peer) -> None:
    peer.worker.kill("memory")
    peer.worker.kill("something else")
    assert ("memory", signal.SIGKILL) == (peer.worker.killed_for, await asyncio.to_thread(peer.status))


async def test_end_of_file_is_a_hint_and_the_report_of_the_death_is_believed(peer: Peer) -> None:
    task = asyncio.create_task(peer.worker.invoke(invoke("r1")))
    await peer.receive(peer.data)
    peer.control.close()
    peer.data.close()
    await asyncio.sleep(0.01)
    assert (False, "") == (task.done(), peer.worker.killed_for)
    peer.worker.died(EXITED_3)
    assert EXITED_3 == (await failure_of(task)).exit


async def test_a_worker_that_closes_its_channel_and_stays_is_killed(
    peer: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(child, "HINT_S", 0.02)
    peer.data.close()
    ended = await peer.worker.exited  # the test is the parent here, so the pidfd tells
    assert ("signal: killed", "closed its channel without exiting") == (ended.describe(), peer.worker.killed_for)
    peer.process.returncode = -9


async def test_a_worker_whose_zygote_died_reports_itself_by_its_pidfd(peer: Peer) -> None:
    peer.worker.zygote_died()
    peer.process.terminate()
    assert "signal: terminated" == (await peer.worker.exited).describe()
    peer.process.returncode = -15


async def test_stop_asks_then_waits_then_kills(peer: Peer) -> None:
    task = asyncio.create_task(peer.worker.stop(0.02))
    assert wire.Stop(0.02) == await peer.receive(peer.control)
    status = await asyncio.to_thread(peer.status)
    peer.worker.died(Exit(status))
    assert ("signal: killed", "did not stop in time") == ((await task).describe(), peer.worker.killed_for)


async def test_stop_returns_how_a_dead_worker_ended(peer: Peer) -> None:
    peer.worker.died(EXITED_3)
    assert EXITED_3 == await peer.worker.stop(1.0)


async def test_a_step_while_another_is_under_way_is_a_mistake_of_the_caller(peer: Peer) -> None:
    task = asyncio.create_task(peer.worker.load(LOAD))
    await asyncio.sleep(0)
    with pytest.raises(RuntimeError, match="Start was asked for while another step is under way"):
        await peer.worker.start(START)
    peer.worker.died(EXITED_3)
    await failure_of(task)
