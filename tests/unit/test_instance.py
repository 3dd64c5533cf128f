"""An instance: its state machine, and what its caller gets for every way that an invocation can end."""

from __future__ import annotations

import asyncio
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.config import Limits
from glowplug.runtime.invocation import Invocation
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.routing.instance import IllegalTransition, Instance, State
from glowplug.runtime.routing.ports import InvocationLog
from glowplug.runtime.routing.records import StartRecord
from glowplug.runtime.testing import FakeLog, FakeMemory, FakeWatch, FakeWorker, ManualClock, Script, a_spec, settle

RECORD = StartRecord("s1", "f", "$LATEST", "rev", None, "request", "parked", "fork", 0.0, 1.0, ())
INVOCATION = Invocation("r1", "f", "$LATEST", "arn", b'{"a":1}', 0.0, log_tail=True)

ALLOWED: dict[str, dict[State, State]] = {
    "ready": {State.STARTING: State.READY},
    "reserve": {State.READY: State.BUSY},
    "release": {State.BUSY: State.READY},
    "drain": {State.READY: State.DRAINING, State.BUSY: State.DRAINING},
    "stopped": {State.STARTING: State.STOPPED, State.DRAINING: State.STOPPED},
    "failed": {state: State.FAILED for state in State if state not in (State.STOPPED, State.FAILED)},
}


LIMITS = Limits(sync_response_bytes=1000)


def an_instance(
    script: Script | None = None, *, limits: Limits = LIMITS, memory: FakeMemory | None = None
) -> tuple[Instance, ManualClock, FakeLog]:
    clock, log = ManualClock(), FakeLog()
    spec, watch = a_spec(timeout_s=3), FakeWatch()
    instance = Instance(
        "i" * 32, spec, clock=clock, log=log, memory=memory or FakeMemory(), limits=limits, engines=watch
    )
    if script is not None:
        instance.ready(FakeWorker("w1", script, clock), RECORD, init_ms=250.0)
        instance.reserve()
    return instance, clock, log


def do(instance: Instance, step: str) -> None:
    match step:
        case "ready":
            instance.ready(None, RECORD)  # type: ignore[arg-type]
        case "drain" | "failed":
            getattr(instance, step)("why")
        case _:
            getattr(instance, step)()


@given(st.lists(st.sampled_from(sorted(ALLOWED)), max_size=12))
def test_every_transition_is_allowed_or_raises_with_both_states(steps: list[str]) -> None:
    """The machine agrees with the table; a refused step changes nothing."""
    instance, _, _ = an_instance()
    expected = State.STARTING
    for step in steps:
        target = ALLOWED[step].get(expected)
        if target is None:
            with pytest.raises(IllegalTransition, match=f"it is {expected.value}"):
                do(instance, step)
        else:
            do(instance, step)
            expected = target
        assert expected is instance.state


def test_a_reserved_instance_cannot_be_reserved_again() -> None:
    """Choosing is owning: the second request must not get it."""
    instance, _, _ = an_instance()
    do(instance, "ready")
    instance.reserve()
    with pytest.raises(IllegalTransition, match="cannot become busy: it is busy"):
        instance.reserve()


def test_repr_tells_the_truth() -> None:
    """State, use and reason are visible."""
    instance, _, _ = an_instance()
    assert "<Instance f iiiiiiii starting, served=0>" == repr(instance)
    instance.failed("it broke")
    assert "<Instance f iiiiiiii failed, served=0, it broke>" == repr(instance)


async def test_an_answer_becomes_an_outcome_and_one_log_entry() -> None:
    """Payload untouched, phases complete, Init Duration only in the first REPORT."""
    instance, _, log = an_instance(Script())
    outcome = await instance.invoke(INVOCATION, threads=2, tier="parked", waited=(("hold", 1.0),))
    assert (b'{"a":1}', None, "$LATEST", "parked") == (
        outcome.payload,
        outcome.function_error,
        outcome.executed_version,
        outcome.tier,
    )
    assert ["hold", "handler"] == [name for name, _ in outcome.phases]
    assert outcome.log_tail.startswith(b"START RequestId: r1")
    await instance.invoke(INVOCATION, threads=2, tier="hot")
    first, second = (lines for _, lines in log.entries)
    assert isinstance(first, InvocationLog)
    assert isinstance(second, InvocationLog)
    assert [250.0, None] == [first.init_ms, second.init_ms]


@pytest.mark.parametrize(
    ("limit_bytes", "tail"),
    [
        (1000, "START €uro\nREPORT r1\n"),
        (10, "REPORT r1\n"),
        (18, " €uro\nREPORT r1\n"),
        (17, "€uro\nREPORT r1\n"),
        (16, "uro\nREPORT r1\n"),
        (15, "uro\nREPORT r1\n"),
    ],
)
async def test_the_log_tail_is_the_last_bytes_from_a_whole_character_on(limit_bytes: int, tail: str) -> None:
    """LogType Tail: 4096 bytes by default; half a character would not decode."""
    instance, _, log = an_instance(Script(), limits=Limits(log_tail_bytes=limit_bytes))
    log.invocation = lambda lines: "START €uro\nREPORT r1\n".encode()  # type: ignore[method-assign]
    outcome = await instance.invoke(INVOCATION, threads=1, tier="hot")
    assert tail == outcome.log_tail.decode()
    assert len(outcome.log_tail) <= limit_bytes


@pytest.mark.parametrize(("peak_bytes", "reported_mb"), [(0, 1), (1, 1), (1 << 20, 1), ((45 << 20) - 1, 45)])
async def test_max_memory_used_is_rounded_up_and_never_nothing(peak_bytes: int, reported_mb: int) -> None:
    """REPORT's number is in whole MB; a process always uses some."""
    instance, _, log = an_instance(Script(), memory=FakeMemory(peak=peak_bytes))
    await instance.invoke(INVOCATION, threads=1, tier="hot")
    lines = log.entries[0][1]
    assert isinstance(lines, InvocationLog)
    assert reported_mb == lines.max_memory_mb


async def test_a_handler_that_raises_is_unhandled_and_keeps_its_instance() -> None:
    """A function error does not reset the environment."""

    async def handler(_: wire.Invoke) -> bytes:
        raise ValueError("boom")

    instance, _, _ = an_instance(Script(handler=handler))
    outcome = await instance.invoke(INVOCATION, threads=1, tier="hot")
    assert "Unhandled" == outcome.function_error
    assert "ValueError" == json.loads(outcome.payload)["errorType"]
    assert State.BUSY is instance.state


async def test_timeout_kills_the_worker_and_says_what_lambda_says() -> None:
    """The deadline counts from the invocation's start at the instance."""

    async def handler(_: wire.Invoke) -> bytes:
        await asyncio.Event().wait()
        return b""

    instance, clock, log = an_instance(Script(handler=handler))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await clock.advance(2.999)
    assert not call.done()
    await clock.advance(0.001)
    outcome = await call
    assert {
        "errorType": "Sandbox.Timedout",
        "errorMessage": "RequestId: r1 Error: Task timed out after 3.00 seconds",
    } == json.loads(outcome.payload)
    assert State.FAILED is instance.state
    lines = log.entries[0][1]
    assert isinstance(lines, InvocationLog)
    assert ("timeout", 3000) == (lines.status, round(lines.duration_ms))


async def test_answer_that_crosses_the_kill_is_a_timeout() -> None:
    """The race: the outcome is on its way when the deadline rings."""
    release = asyncio.Event()

    async def handler(_: wire.Invoke) -> bytes:
        await release.wait()
        return b"{}"

    instance, clock, _ = an_instance(Script(handler=handler))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await settle()
    clock.call_later(3.0, release.set)  # rings right after the deadline, before the death is reported
    assert instance.worker is not None
    instance.worker.kill = lambda reason: None  # type: ignore[method-assign]
    await clock.advance(3.0)
    outcome = await call
    assert "Sandbox.Timedout" == json.loads(outcome.payload)["errorType"]
    assert State.FAILED is instance.state


async def test_a_cancelled_invocation_is_killed_and_its_log_says_so() -> None:
    """As a timeout is, with words of its own; the caller of ``invoke`` gets an outcome when the process is gone."""
    instance, clock, log = an_instance(Script(handler=_for_ever))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await clock.advance(1.0)
    assert "r1" == instance.running
    instance.cancel()
    assert not call.done()
    outcome = await call
    assert {
        "errorType": "Glowplug.Cancelled",
        "errorMessage": "RequestId: r1 Error: Task was cancelled, and its process killed",
    } == json.loads(outcome.payload)
    assert (State.FAILED, "killed: its invocation was cancelled", "") == (
        instance.state,
        instance.why,
        instance.running,
    )
    assert isinstance(instance.worker, FakeWorker)
    assert "cancelled" == instance.worker.killed_for
    lines = log.entries[0][1]
    assert isinstance(lines, InvocationLog)
    assert ("error", "Glowplug.Cancelled", "Task was cancelled, and its process killed") == (
        lines.status,
        lines.error_type,
        lines.notice,
    )


async def test_an_answer_that_crosses_a_cancel_does_not_save_the_instance() -> None:
    """The race: the answer is there, and its caller has not been told yet. The kill is on its way to the process."""
    release = asyncio.Event()

    async def handler(_: wire.Invoke) -> bytes:
        await release.wait()
        return b"{}"

    instance, _, _ = an_instance(Script(handler=handler))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await settle()
    assert instance.worker is not None
    instance.worker.kill = lambda reason: release.set()  # type: ignore[method-assign]
    instance.cancel()
    assert "Glowplug.Cancelled" == json.loads((await call).payload)["errorType"]
    assert State.FAILED is instance.state


async def test_what_is_cancelled_before_it_reached_the_process_goes_to_no_other() -> None:
    """A death of what was never sent raises ``WorkerDied``, for another try; of this there must be none."""
    instance, _, _ = an_instance(Script())
    assert isinstance(instance.worker, FakeWorker)
    worker, death = instance.worker, WorkerDied("w1", Exit(9), killed_for="cancelled", sent=False)

    async def invoke(message: wire.Invoke, stream: object = None) -> wire.Outcome:
        instance.cancel()
        raise death

    worker.invoke = invoke  # type: ignore[method-assign]
    outcome = await instance.invoke(INVOCATION, threads=1, tier="hot")
    assert "Glowplug.Cancelled" == json.loads(outcome.payload)["errorType"]


@pytest.mark.parametrize(
    ("status", "error_type", "message"),
    [
        (127 << 8, "Runtime.ExitError", "Runtime exited with error: exit status 127"),
        (0, "Runtime.ExitError", "Runtime exited without providing a reason"),
        (9, "Runtime.ExitError", "Runtime exited with error: signal: killed"),
        (11, "Runtime.ExitError", "Runtime exited with error: signal: segmentation fault"),
        (wire.ExitCode.OUT_OF_MEMORY << 8, "Runtime.OutOfMemory", "Runtime exited with error: signal: killed"),
    ],
)
async def test_a_worker_that_dies_is_an_error_in_lambdas_words(status: int, error_type: str, message: str) -> None:
    """Exit code, clean exit, signal and out of memory (spec 1.6)."""
    instance, _, _ = an_instance(Script(handler=_for_ever))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await settle()
    assert isinstance(instance.worker, FakeWorker)
    instance.worker.die(status)
    outcome = await call
    assert {"errorType": error_type, "errorMessage": f"RequestId: r1 Error: {message}"} == json.loads(outcome.payload)
    assert "Unhandled" == outcome.function_error


async def test_a_worker_killed_for_memory_is_out_of_memory() -> None:
    """The sampler's kill is not an exit error."""
    instance, _, _ = an_instance(Script(handler=_for_ever))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await settle()
    assert instance.worker is not None
    instance.worker.kill("memory")
    assert "Runtime.OutOfMemory" == json.loads((await call).payload)["errorType"]


async def test_a_response_over_the_limit_is_refused_and_the_instance_stays() -> None:
    """6 MiB and 100 bytes by default; the message names the limit."""

    async def handler(_: wire.Invoke) -> bytes:
        return b'"' + b"x" * 1000 + b'"'

    instance, _, _ = an_instance(Script(handler=handler))
    outcome = await instance.invoke(INVOCATION, threads=1, tier="hot")
    assert (
        b'{"errorMessage":"Response payload size exceeded maximum allowed payload size (1000 bytes).",'
        b'"errorType":"Function.ResponseSizeTooLarge"}'
    ) == outcome.payload
    assert State.BUSY is instance.state


async def test_a_worker_that_answers_two_results_for_one_event_loses_its_life() -> None:
    """A worker is not trusted."""
    instance, _, _ = an_instance(Script())
    worker = instance.worker
    assert isinstance(worker, FakeWorker)

    async def invoke(message: wire.Invoke, stream: object = None) -> wire.Outcome:
        return wire.Outcome(message.invocation_id, [], False, "", 0.0)

    worker.invoke = invoke  # type: ignore[method-assign]
    outcome = await instance.invoke(INVOCATION, threads=1, tier="hot")
    assert "Runtime.ExitError" == json.loads(outcome.payload)["errorType"]
    assert (State.FAILED, "protocol error: one event, not one result") == (instance.state, worker.killed_for)


async def test_cancelled_invocation_never_leaves_a_busy_worker_to_the_next_request() -> None:
    """The handler goes on although its caller is gone: the instance drains, and may finish until its deadline."""
    instance, clock, _ = an_instance(Script(handler=_for_ever))
    call = asyncio.create_task(instance.invoke(INVOCATION, threads=1, tier="hot"))
    await settle()
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    assert State.DRAINING is instance.state
    assert clock.monotonic() + 3.0 == instance.leave_by_s
    assert instance.worker is not None
    instance.worker.kill("end of test")


async def _for_ever(_: wire.Invoke) -> bytes:
    await asyncio.Event().wait()
    return b""
