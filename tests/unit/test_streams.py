"""Streamed invocations, from the edge's ``open`` to an instance with a fake worker: outcomes, cuts, clients that go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field

import pytest

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import FunctionNotFound, GlowplugError
from glowplug.runtime.http.messages import StreamCut
from glowplug.runtime.http.prelude import CONTENT_TYPE
from glowplug.runtime.http.streamed_url import streamed
from glowplug.runtime.http.streaming import Streams
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.process import wire
from glowplug.runtime.responsestream import Origin
from glowplug.runtime.routing.instance import Instance, State
from glowplug.runtime.routing.ports import InvocationLog
from glowplug.runtime.routing.records import StartRecord
from glowplug.runtime.routing.tasks import OwnedTasks
from glowplug.runtime.testing import FakeLog, FakeMemory, FakeWatch, FakeWorker, ManualClock, Script, a_spec, settle

RECORD = StartRecord("s1", "f", "$LATEST", "rev", None, "request", "parked", "fork", 0.0, 1.0, ())
INVOCATION = Invocation("r1", "f", "$LATEST", "arn", b"{}", 0.0, log_tail=True)


@dataclass
class Rig:
    """An instance whose worker follows ``script``, and the edge's side of it."""

    script: Script
    limits: Limits = field(default_factory=lambda: Limits(sync_response_bytes=1000, stream_response_bytes=10))

    def __post_init__(self) -> None:
        self.clock, self.log, self.tasks = ManualClock(), FakeLog(), OwnedTasks()
        self.worker = FakeWorker("w1", self.script, self.clock)
        self.instance = Instance(
            "i" * 32, a_spec(timeout_s=60), clock=self.clock, log=self.log, memory=FakeMemory(), limits=self.limits,
            engines=FakeWatch(), cancel_grace_s=5.0,
        )  # fmt: skip
        self.instance.ready(self.worker, RECORD)
        self.instance.reserve()
        self.streams = Streams(self.invoke, self.tasks, clock=self.clock, limits=self.limits)

    async def invoke(self, invocation: Invocation) -> Outcome:
        return await self.instance.invoke(invocation, threads=1, tier="hot", waited=(("hold", 1.0),))

    @property
    def logged(self) -> InvocationLog:
        (lines,) = (lines for _, lines in self.log.entries)
        assert isinstance(lines, InvocationLog)
        return lines


def chunks(*items: bytes | Exception | asyncio.Event) -> Script:
    """A handler that yields bytes, raises exceptions, and waits for events."""

    async def stream(_: wire.Invoke) -> AsyncIterator[bytes]:
        for item in items:
            if isinstance(item, asyncio.Event):
                await item.wait()
            elif isinstance(item, Exception):
                raise item
            else:
                yield item

    return Script(streaming=stream)


async def everything(live: AsyncIterator[bytes]) -> tuple[bytes, bool]:
    """Return what came, and whether it was cut."""
    got = b""
    try:
        async for data in live:
            got += data
    except StreamCut:
        return got, True
    return got, False


async def test_the_first_chunk_opens_the_answer_and_the_last_one_ends_the_invocation() -> None:
    more = asyncio.Event()
    rig = Rig(chunks(b"ab", more, b"cd"))
    live = await rig.streams.open(INVOCATION)
    assert (await live.part(), live.outcome, rig.log.entries) == (b"ab", None, [])
    await rig.clock.advance(2.5)
    more.set()
    assert await everything(live) == (b"cd", False)
    assert live.outcome is not None
    assert (live.outcome.payload, live.outcome.duration_ms, live.outcome.function_error) == (b"", 2500.0, None)
    assert (rig.logged.duration_ms, rig.logged.produced_bytes, rig.logged.failed) == (2500.0, 4, False)
    assert live.phases == (("hold", 1.0), ("first-chunk", 0.0))


async def test_an_answer_that_is_no_stream_has_no_parts_and_an_outcome() -> None:
    rig = Rig(Script())
    live = await rig.streams.open(INVOCATION)
    assert live.outcome is not None
    assert (live.streamed, live.outcome.payload, await live.part()) == (False, b"{}", None)


async def test_an_error_after_a_chunk_cuts_the_stream() -> None:
    rig = Rig(chunks(b"ab", ValueError("late")))
    live = await rig.streams.open(INVOCATION)
    assert await everything(live) == (b"ab", True)
    assert live.outcome is not None
    assert json.loads(live.outcome.payload)["errorType"] == "ValueError"
    assert rig.instance.state is State.BUSY  # its lease gives it back: it is as good as before


async def test_a_worker_that_dies_in_the_middle_cuts_the_stream() -> None:
    rig = Rig(chunks(b"ab", asyncio.Event()))
    live = await rig.streams.open(INVOCATION)
    rig.worker.die(9)
    assert await everything(live) == (b"ab", True)
    assert live.outcome is not None
    assert json.loads(live.outcome.payload)["errorMessage"] == (
        "RequestId: r1 Error: Runtime exited with error: signal: killed"
    )
    assert rig.instance.state is State.FAILED


async def test_the_timeout_counts_to_the_last_chunk() -> None:
    rig = Rig(chunks(b"ab", asyncio.Event()))
    live = await rig.streams.open(INVOCATION)
    await rig.clock.advance(60)
    assert await everything(live) == (b"ab", True)
    assert live.outcome is not None
    assert json.loads(live.outcome.payload)["errorType"] == "Sandbox.Timedout"
    assert rig.logged.status == "timeout"


async def test_what_is_over_the_limit_is_an_error_behind_what_is_not() -> None:
    rig = Rig(chunks(b"12345678", b"90ab", b"never sent"))
    live = await rig.streams.open(INVOCATION)
    assert await everything(live) == (b"1234567890", True)
    assert live.outcome is not None
    assert json.loads(live.outcome.payload) == {
        "errorMessage": "Response payload size exceeded maximum allowed payload size (10 bytes).",
        "errorType": "Function.ResponseSizeTooLarge",
    }
    assert (rig.worker.cancelled, rig.worker.killed_for) == (["r1"], "")


async def test_a_client_that_goes_ends_the_handler_and_the_invocation_is_accounted_for() -> None:
    """Not the task: the instance has an outcome, a REPORT, and may be chosen again."""
    more = asyncio.Event()
    rig = Rig(chunks(b"ab", more, b"cd", AssertionError()))
    live = await rig.streams.open(INVOCATION)
    await live.aclose()
    assert rig.worker.cancelled == ["r1"]
    more.set()
    await rig.tasks.ended()
    assert (rig.logged.failed, rig.instance.state, rig.worker.killed_for) == (False, State.BUSY, "")
    assert rig.worker.alive


async def test_a_handler_that_does_not_end_is_killed_after_the_grace() -> None:
    rig = Rig(chunks(b"ab", asyncio.Event()))
    live = await rig.streams.open(INVOCATION)
    await live.aclose()
    await rig.clock.advance(4.9)
    assert rig.worker.alive
    await rig.clock.advance(0.2)
    assert (rig.worker.alive, rig.instance.state) == (False, State.FAILED)
    assert rig.logged.status == "error"


async def test_a_handler_that_has_not_begun_to_stream_may_finish_what_it_does() -> None:
    """It may not be a generator at all: who knows what it has begun."""
    done = asyncio.Event()

    async def handler(_: wire.Invoke) -> bytes:
        await done.wait()
        return b"1"

    rig = Rig(Script(handler=handler))
    opening = asyncio.create_task(rig.streams.open(INVOCATION))
    await settle()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await rig.clock.advance(50)
    assert rig.worker.alive
    done.set()
    await rig.tasks.ended()
    assert (rig.instance.state, rig.logged.failed) == (State.BUSY, False)


async def test_an_answer_that_crosses_the_kill_does_not_save_the_instance() -> None:
    """Else the next request would be given to a process that is about to die."""
    more = asyncio.Event()
    rig = Rig(chunks(b"ab", more))
    live = await rig.streams.open(INVOCATION)
    await live.aclose()
    kill, rig.worker.kill = rig.worker.kill, lambda reason: more.set()  # type: ignore[method-assign]
    await rig.clock.advance(5)
    assert rig.instance.state is State.FAILED
    kill("the test is over")


async def test_a_client_that_goes_while_its_request_is_held_is_not_held_on_for() -> None:
    held = asyncio.Event()

    async def invoke(invocation: Invocation) -> Outcome:
        try:
            await asyncio.Event().wait()
        finally:
            held.set()
        raise AssertionError

    tasks = OwnedTasks()
    opening = asyncio.create_task(Streams(invoke, tasks, clock=ManualClock(), limits=Limits()).open(INVOCATION))
    await settle()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await settle()
    assert (held.is_set(), len(tasks), tasks.faults) == (True, 0, 0)


def failing(error: Exception) -> Callable[[Invocation], Awaitable[Outcome]]:
    async def invoke(_: Invocation) -> Outcome:
        raise error

    return invoke


async def test_what_ends_an_invocation_without_an_outcome_is_raised_to_who_opens_it() -> None:
    tasks = OwnedTasks()
    for error, kind, faults in (
        (FunctionNotFound("f"), FunctionNotFound, 0),
        (RuntimeError("a fault of the runtime"), GlowplugError, 1),
    ):
        with pytest.raises(kind):
            await Streams(failing(error), tasks, clock=ManualClock(), limits=Limits()).open(INVOCATION)
        await settle()
        assert tasks.faults == faults


async def test_a_worker_that_streams_and_answers_as_well_is_killed() -> None:
    rig = Rig(Script())

    async def invoke(message: wire.Invoke, stream: object = None) -> wire.Outcome:
        assert rig.streams is not None
        stream.feed(b"ab", "t")  # type: ignore[attr-defined]
        return wire.Outcome(message.invocation_id, [b"1"], False, "", 0.0)

    rig.worker.invoke = invoke  # type: ignore[method-assign]
    live = await rig.streams.open(INVOCATION)
    assert await everything(live) == (b"ab", True)
    assert (rig.worker.killed_for, rig.instance.state) == (
        "protocol error: one event, not one result",
        State.FAILED,
    )


async def test_the_pace_holds_back_what_comes_after_the_burst() -> None:
    limits = Limits(stream_bytes_per_second=2, stream_burst_bytes=4)
    rig = Rig(chunks(b"abcd", b"ef"), limits)
    live = await rig.streams.open(INVOCATION)
    reading = asyncio.create_task(everything(live))
    await rig.clock.advance(0.9)
    assert not reading.done()
    await rig.clock.advance(0.1)
    assert await reading == (b"abcdef", False)


class Preluded:
    """A stream whose chunks are a whole HTTP response."""

    def __init__(self, *parts: bytes, error: Exception | None = None) -> None:
        self.parts, self.error, self.stopped = parts, error, 0

    async def invoke(self, invocation: Invocation) -> Outcome:
        stream = invocation.stream
        assert stream is not None

        def stop() -> None:
            self.stopped += 1

        stream.attach(Origin("hot", (), 0.0), grant=lambda size_bytes: None, stop=stop)
        for part in self.parts:
            stream.feed(part, CONTENT_TYPE)
            await asyncio.sleep(0)
        if self.error is None and self.parts[-1] == b"endless":
            await asyncio.Event().wait()
        error = None if self.error is None else "Unhandled"
        return Outcome("r1", b"", "$LATEST", "hot", function_error=error)

    async def reply(self) -> tuple[int, bytes, bool]:
        tasks = OwnedTasks()
        reply = await streamed(Streams(self.invoke, tasks, clock=ManualClock(), limits=Limits()), INVOCATION)
        body, cut = (reply.body, False) if reply.stream is None else await everything(aiter(reply.stream))
        await tasks.close()
        return reply.status, body, cut


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (Preluded(b'{"statusCode":2', b"01}" + b"\0" * 5, b"\0\0\0bo", b"dy"), (201, b"body", False)),
        (Preluded(b'{"statusCode":201}' + b"\0" * 8), (201, b"", False)),
        (Preluded(b'{"statusCode":201}' + b"\0" * 8 + b"bo", error=ValueError()), (201, b"bo", True)),
        (Preluded(b'{"statusCode":201}' + b"\0" * 7), (502, b"Internal Server Error", False)),
        (Preluded(b'{"statusCode":2', error=ValueError()), (502, b"Internal Server Error", False)),
        (Preluded(b"nonsense" + b"\0" * 8, b"endless"), (502, b"Internal Server Error", False)),
        (Preluded(b"x" * 20_000, b"endless"), (502, b"Internal Server Error", False)),
    ],
    ids=["cut anywhere", "empty body", "late error", "no end", "error inside", "no JSON", "too long"],
)
async def test_a_prelude_becomes_the_head_of_the_response(source: Preluded, expected: tuple[int, bytes, bool]) -> None:
    """A handler whose prelude is refused is ended: nobody will read what it has to say."""
    assert await source.reply() == expected
    assert source.stopped == (source.parts[-1] == b"endless")
