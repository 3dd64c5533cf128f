"""Batch jobs on the node: results in the order of the lines, and giving way to whoever else has events."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import Any

import pytest

from glowplug.runtime.errors import FunctionNotFound, RequestTooLarge, Throttled
from glowplug.runtime.events.accepting import Accepted, NewEvent
from glowplug.runtime.events.jobs import Jobs, Piece
from glowplug.runtime.events.records import SUCCEEDED
from glowplug.runtime.queue.model import Counts, Record
from glowplug.runtime.queue.steps import Step
from glowplug.runtime.testing.clock import ManualClock, settle


@dataclass
class Found:
    record: Record
    value: Any


@dataclass
class Node:
    """A function whose events end when the test says so. ``others`` of its events wait, not of jobs."""

    out: dict[str, asyncio.Future[Any]] = field(default_factory=dict)
    events: list[NewEvent] = field(default_factory=list)
    known: dict[str, str] = field(default_factory=dict)
    others: int = 0
    room: int = 100
    refusals: list[Exception] = field(default_factory=list)
    clock: ManualClock = field(default_factory=ManualClock)

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        if self.refusals:
            raise self.refusals.pop(0)
        if event.idempotency_key in self.known:
            return Accepted(self.known[event.idempotency_key], duplicate=True)
        request_id = str(uuid.uuid4())
        self.known[event.idempotency_key] = request_id
        self.events.append(event)
        self.out[request_id] = asyncio.get_running_loop().create_future()
        return Accepted(request_id)

    async def wait(self, request_id: str, seconds: float) -> Found:
        value = await asyncio.shield(self.out[request_id])
        state = SUCCEEDED if "result" in value else SUCCEEDED + 1
        return Found(Record(bytes(16), "q", state, 0), value)

    def show(self, found: Found, *, result: bool = True) -> Any:
        return found.value

    async def counts(self, queue: str) -> Counts:
        return Counts(self.others, 0, 0, 0.0)

    def jobs(self) -> Jobs:
        return Jobs(self, self, self, lambda function, version: self.room, self.clock)  # type: ignore[arg-type]

    def payloads(self) -> list[Any]:
        return [json.loads(event.payload) for event in self.events]

    async def end(self, number: int, **value: Any) -> None:
        self.out[self.known[self.events[number].idempotency_key]].set_result(value or {"result": number})
        await settle()


def piece(*lines: bytes, concurrency: int = 2, first: int = 0) -> Piece:
    return Piece("job", "work", "", first, lines, concurrency, retries=0)


class Reading:
    """Collects what a piece yields."""

    def __init__(self, jobs: Jobs, wanted: Piece) -> None:
        self.lines: list[Any] = []
        self.task = asyncio.create_task(self._read(jobs, wanted))

    async def _read(self, jobs: Jobs, wanted: Piece) -> None:
        async for line in jobs.run(wanted):
            self.lines.append(line)


async def test_results_come_in_the_order_of_the_lines_and_no_more_are_out_than_may_be() -> None:
    node = Node()
    reading = Reading(node.jobs(), piece(b"0", b"1", b"2", first=10))
    await settle()
    assert [0, 1] == node.payloads()
    await node.end(1)
    assert ([0, 1, 2], []) == (node.payloads(), reading.lines)
    await node.end(0, error={"errorType": "E"})
    assert [{"index": 10, "error": {"errorType": "E"}}, {"index": 11, "output": 1}] == reading.lines
    await node.end(2)
    await reading.task
    assert {"index": 12, "output": 2} == reading.lines[-1]
    assert [("job/10", "map", 0), ("job/11", "map", 0), ("job/12", "map", 0)] == [
        (event.idempotency_key, event.caller, event.retries) for event in node.events
    ]


async def test_a_job_waits_while_other_events_of_the_function_wait() -> None:
    node = Node(others=1)
    reading = Reading(node.jobs(), piece(b"0"))
    await node.clock.advance(5)
    assert [] == node.events
    node.others = 0
    await node.clock.advance(0.2)
    assert [0] == node.payloads()
    await node.end(0)
    await reading.task


async def test_a_job_takes_no_second_instance_where_none_is_free_but_always_one() -> None:
    node = Node(room=0)
    reading = Reading(node.jobs(), piece(b"0", b"1"))
    await node.clock.advance(5)
    assert [0] == node.payloads()
    await node.end(0)
    await node.clock.advance(0.2)
    assert [0, 1] == node.payloads()
    await node.end(1)
    await reading.task


async def test_pieces_of_one_job_share_its_concurrency() -> None:
    node, readings = Node(), []
    jobs = node.jobs()
    for first in (0, 10):
        readings.append(Reading(jobs, piece(b"0", b"1", first=first)))
    await node.clock.advance(1)
    assert 2 == len(node.events)
    for number in range(4):
        await node.end(number)
        await node.clock.advance(0.2)
    await asyncio.gather(*(one.task for one in readings))
    assert 4 == len(node.events)


async def test_lines_that_are_no_input_are_errors_and_run_nothing() -> None:
    node = Node()
    reading = Reading(node.jobs(), piece(b"", b"nope", b"\xff", b"NaN", b"7"))
    await settle()
    await node.end(0)
    await reading.task
    assert ["Glowplug.InvalidInput"] * 4 == [line["error"]["errorType"] for line in reading.lines[:4]]
    assert ({"index": 4, "output": 0}, 1) == (reading.lines[4], len(node.events))


async def test_a_full_queue_is_waited_for_and_a_line_that_is_too_large_is_an_error() -> None:
    node = Node(refusals=[RequestTooLarge("too large"), Throttled("full", reason="", retry_after_s=1)])
    reading = Reading(node.jobs(), piece(b"0", b"1", concurrency=1))
    await settle()
    assert [] == node.events
    await node.clock.advance(1.1)
    await node.end(0)
    await reading.task
    assert [{"errorType": "RequestTooLarge", "errorMessage": "too large"}] == [
        line["error"] for line in reading.lines if "error" in line
    ]


async def test_a_piece_that_is_sent_again_runs_nothing_again() -> None:
    node = Node()
    jobs = node.jobs()
    first = Reading(jobs, piece(b"0", b"1"))
    await settle()
    first.task.cancel()
    await asyncio.wait([first.task])
    again = Reading(jobs, piece(b"0", b"1"))
    await settle()
    await node.end(0)
    await node.end(1)
    await again.task
    assert ([{"index": 0, "output": 0}, {"index": 1, "output": 1}], 2) == (again.lines, len(node.events))


async def test_a_function_that_is_not_there_ends_the_piece() -> None:
    node = Node(refusals=[FunctionNotFound("Function not found: work")])
    with pytest.raises(FunctionNotFound):
        await Reading(node.jobs(), piece(b"0")).task
