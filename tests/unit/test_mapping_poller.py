"""A mapping at work, with a queue and a function in memory and a clock moved by hand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime.catalog import Catalog, Version
from glowplug.runtime.errors import FunctionNotFound, GlowplugError, QueueNotFound, QueueUnreachable, Throttled
from glowplug.runtime.events.mapping.figures import MappingFigures
from glowplug.runtime.events.mapping.functions import Functions
from glowplug.runtime.events.mapping.pollers import Pollers
from glowplug.runtime.events.mapping.settings import KIND
from glowplug.runtime.events.mapping.sources import Source
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.mappingmetrics import MappingMetrics
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import FakeQueue, ManualClock, a_spec, settle

FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:work"
Handler = Callable[[list[dict[str, Any]]], Awaitable[Any]]


class Failure(Exception):
    """What a handler raises to fail."""


class Stage:
    """A queue, a function, and the pollers of a node."""

    def __init__(
        self, *, visibility_s: int = 30, fifo: bool = False, event_bytes: int = 100_000, prompt: bool = True
    ) -> None:
        self.clock = ManualClock()
        self.queue = FakeQueue(self.clock, visibility_s=visibility_s, fifo=fifo)
        self.batches: list[list[str]] = []
        self.invocations: list[Invocation] = []
        self.running = self.most_running = 0
        self.room = 100
        self.spec: FunctionSpec = replace(a_spec("work"), timeout_s=3.0)
        self.refusal: GlowplugError | None = None
        self.handler: Handler = self.answer_nothing
        self.catalog = Catalog()
        functions = Functions(
            target=self._target,
            room=lambda name, version: self.room - self.running,
            invoke=self._invoke,
            new_request_id=lambda: f"r-{len(self.invocations)}",
            new_trace_id=lambda: "Root=1",
            event_bytes=event_bytes,
        )
        self.pollers = Pollers(
            functions, lambda arn: Source(self.queue, 10, 20.0, receivers=1, prompt=prompt), self.clock
        )

    def map(self, uuid: str = "u", **more: Any) -> None:
        document = {
            "UUID": uuid, "EventSourceArn": self.queue.arn, "FunctionArn": FUNCTION, "State": "Enabled", "BatchSize": 10,
        }  # fmt: skip
        self.catalog = self.catalog.with_document(f"{KIND}/{uuid}", document | more)
        self.pollers.follow(self.catalog)

    def unmap(self, uuid: str = "u") -> None:
        self.catalog = self.catalog.with_document(f"{KIND}/{uuid}", None)
        self.pollers.follow(self.catalog)

    async def answer_nothing(self, records: list[dict[str, Any]]) -> Any:
        return None

    def _target(self, name: str, qualifier: str) -> Version:
        if self.refusal is not None:
            raise self.refusal
        return Version(self.spec, "rev", "now")

    async def _invoke(self, invocation: Invocation) -> Outcome:
        records = json.loads(invocation.payload)["Records"]
        self.invocations.append(invocation)
        self.batches.append([one["body"] for one in records])
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            answer, error = await self.handler(records), None
        except Failure:
            answer, error = {"errorType": "Failure"}, "Unhandled"
        finally:
            self.running -= 1
        return Outcome(invocation.request_id, json.dumps(answer).encode(), "$LATEST", "hot", error)

    def slow(self, seconds: float) -> Handler:
        async def handler(records: list[dict[str, Any]]) -> Any:
            await self.clock.sleep(seconds)

        return handler


@asynccontextmanager
async def staged(**given: Any) -> AsyncIterator[Stage]:
    stage = Stage(**given)
    try:
        yield stage
    finally:
        await stage.pollers.close()


async def test_messages_become_one_event_and_are_deleted() -> None:
    async with staged() as stage:
        stage.map()
        stage.queue.put("a", "b")
        await settle()
        assert ([["a", "b"]], [], ["a", "b"]) == (stage.batches, stage.queue.left, stage.queue.deleted)
        (invocation,) = stage.invocations
        (first, _) = json.loads(invocation.payload)["Records"]
        assert ("work", FUNCTION, "Root=1") == (invocation.function, invocation.function_arn, invocation.trace_id)
        assert {
            "messageId": "id-1", "receiptHandle": "1/1", "body": "a",
            "attributes": {"ApproximateReceiveCount": "1", "SentTimestamp": "0", "SenderId": "me"},
            "messageAttributes": {}, "md5OfBody": "md5", "eventSource": "aws:sqs", "eventSourceARN": stage.queue.arn,
            "awsRegion": "us-east-1",
        } == first  # fmt: skip


async def test_an_idle_mapping_asks_once_in_twenty_seconds() -> None:
    async with staged() as stage:
        stage.map()
        await stage.clock.advance(100)
        assert 6 == len(stage.queue.asked)


async def test_what_fails_is_left_until_its_lease_ends_and_never_given_back_early() -> None:
    async with staged() as stage:

        async def fail(records: list[dict[str, Any]]) -> Any:
            raise Failure

        stage.handler = fail
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(29)
        assert (1, ["a"], []) == (len(stage.batches), stage.queue.left, stage.queue.visible)
        await stage.clock.advance(2.5)
        assert 2 == len(stage.batches)
        assert "extend" not in stage.queue.calls
        assert "PROBLEM: Function call failed" == stage.pollers.status("u").last_result


async def test_a_failing_function_is_called_less_and_less_often() -> None:
    async with staged(visibility_s=3) as stage:

        async def fail(records: list[dict[str, Any]]) -> Any:
            raise Failure

        stage.handler = fail
        stage.map(BatchSize=1)
        stage.queue.put(*(str(number) for number in range(50)))
        await stage.clock.advance(1)
        early = len(stage.batches)
        await stage.clock.advance(29)
        assert early <= 3
        assert len(stage.batches) <= 9  # without pauses it would be thousands
        assert 1 == stage.most_running


async def test_reported_items_are_left_and_the_others_deleted() -> None:
    async with staged() as stage:

        async def second_fails(records: list[dict[str, Any]]) -> Any:
            return {"batchItemFailures": [{"itemIdentifier": records[1]["messageId"]}]}

        stage.handler = second_fails
        stage.map(FunctionResponseTypes=["ReportBatchItemFailures"])
        stage.queue.put("a", "b", "c")
        await settle()
        assert (["a", "c"], ["b"]) == (stage.queue.deleted, stage.queue.left)


async def test_an_answer_that_reports_is_ignored_where_the_mapping_does_not_ask() -> None:
    async with staged() as stage:

        async def reports(records: list[dict[str, Any]]) -> Any:
            return {"batchItemFailures": [{"itemIdentifier": records[0]["messageId"]}]}

        stage.handler = reports
        stage.map()
        stage.queue.put("a")
        await settle()
        assert [] == stage.queue.left


async def test_an_answer_that_reports_nonsense_fails_the_batch() -> None:
    async with staged() as stage:

        async def reports(records: list[dict[str, Any]]) -> Any:
            return {"batchItemFailures": [{"itemIdentifier": "nobody"}]}

        stage.handler = reports
        stage.map(FunctionResponseTypes=["ReportBatchItemFailures"])
        stage.queue.put("a", "b")
        await settle()
        assert ["a", "b"] == stage.queue.left


async def test_what_no_filter_keeps_is_deleted_and_not_run() -> None:
    async with staged() as stage:
        stage.map(FilterCriteria={"Filters": [{"Pattern": '{"body": {"kind": ["a"]}}'}]})
        stage.queue.put('{"kind": "a"}', '{"kind": "b"}', "text")
        await settle()
        assert ([['{"kind": "a"}']], []) == (stage.batches, stage.queue.left)


async def test_messages_are_counted_as_lambda_counts_them() -> None:
    async with staged(visibility_s=1000) as stage:

        async def odd_ones_fail(records: list[dict[str, Any]]) -> Any:
            odd = [one["messageId"] for one in records if int(json.loads(one["body"])["n"]) % 2]
            return {"batchItemFailures": [{"itemIdentifier": one} for one in odd]}

        stage.handler = odd_ones_fail
        filters = {"Filters": [{"Pattern": '{"body": {"n": [{"numeric": ["<", 5]}]}}'}]}
        stage.map(FilterCriteria=filters, FunctionResponseTypes=["ReportBatchItemFailures"])
        stage.queue.put(*(json.dumps({"n": n}) for n in range(8)))
        await settle()
        (poller,) = stage.pollers.polled
        assert MappingFigures(polled=8, filtered_out=3, invoked=5, failed=2, deleted=3) == poller.figures
        seen = {
            sample.name: sample.value
            for family in MappingMetrics(stage.pollers).collect()
            for sample in family.samples
            if sample.labels == {"function_name": "work", "event_source_mapping_uuid": "u"}
        }
        assert (8, 3, 2, 1) == tuple(seen[name] for name in (
            "PolledEventCount_total", "DeletedEventCount_total", "FailedInvokeEventCount_total",
            "glowplug_mapping_receives",
        ))  # fmt: skip


async def test_a_function_that_fails_was_invoked_and_one_that_is_throttled_was_not() -> None:
    async with staged(visibility_s=3) as stage:

        async def fails(records: list[dict[str, Any]]) -> Any:
            raise Failure

        stage.handler = fails
        stage.map()
        stage.queue.put("a")
        await settle()
        (poller,) = stage.pollers.polled
        assert (1, 1) == (poller.figures.invoked, poller.figures.failed)

        async def is_throttled(records: list[dict[str, Any]]) -> Any:
            raise Throttled("no", reason="ReservedFunctionConcurrentInvocationLimitExceeded", retry_after_s=1.0)

        stage.handler = is_throttled
        await stage.clock.advance(10)
        assert 1 == poller.figures.invoked < poller.figures.failed


async def test_a_filter_that_changes_while_a_receive_waits_counts_for_what_comes() -> None:
    async with staged() as stage:
        stage.map(FilterCriteria={"Filters": [{"Pattern": '{"body": {"kind": ["a"]}}'}]})
        await settle()
        stage.map(FilterCriteria={"Filters": [{"Pattern": '{"body": {"kind": ["b"]}}'}]})
        stage.queue.put('{"kind": "b"}')
        await settle()
        assert [['{"kind": "b"}']] == stage.batches


async def test_a_window_gathers_messages_and_hides_them_for_as_long_as_the_batch_may_take() -> None:
    async with staged(visibility_s=10) as stage:
        stage.map(MaximumBatchingWindowInSeconds=20, BatchSize=100)
        await stage.clock.advance(3)
        stage.queue.put("a")
        await stage.clock.advance(12)
        stage.queue.put("b")
        await stage.clock.advance(7.5)
        assert [] == stage.batches
        assert {53} == {visibility_s for _, visibility_s in stage.queue.asked}  # 20 + 3 + 30
        await stage.clock.advance(1)
        assert [["a", "b"]] == stage.batches


@pytest.mark.parametrize("prompt", [True, False], ids=["here", "another host"])
async def test_a_window_ends_for_one_message_as_for_many_and_keeps_it_hidden(prompt: bool) -> None:
    """Also one that is longer than a receive waits, and than the queue hides messages."""
    async with staged(prompt=prompt) as stage:
        stage.map(MaximumBatchingWindowInSeconds=300)
        stage.queue.put("a")
        for _ in range(298):
            await stage.clock.advance(1)
            assert ([], []) == (stage.batches, stage.queue.visible)
        await stage.clock.advance(3)
        assert ([["a"]], ["a"], []) == (stage.batches, stage.queue.deleted, stage.queue.left)


async def test_a_window_whose_messages_no_filter_keeps_runs_nothing_and_the_next_begins_anew() -> None:
    async with staged() as stage:
        stage.map(
            MaximumBatchingWindowInSeconds=10, FilterCriteria={"Filters": [{"Pattern": '{"body": {"kind": ["a"]}}'}]}
        )
        stage.queue.put("text", "[]")
        await stage.clock.advance(11)
        assert ([], []) == (stage.batches, stage.queue.left)
        stage.queue.put('{"kind": "a"}')
        await stage.clock.advance(9)
        assert [] == stage.batches
        await stage.clock.advance(2)
        assert [['{"kind": "a"}']] == stage.batches


async def test_a_full_batch_does_not_wait_for_the_end_of_its_window() -> None:
    async with staged() as stage:
        stage.map(MaximumBatchingWindowInSeconds=20, BatchSize=25)
        stage.queue.put(*(str(number) for number in range(30)))
        await settle()
        assert [25] == [len(batch) for batch in stage.batches]
        await stage.clock.advance(21)
        assert [25, 5] == [len(batch) for batch in stage.batches]


async def test_an_event_is_never_longer_than_it_may_be() -> None:
    async with staged(event_bytes=2_000) as stage:
        stage.map()
        stage.queue.put(*("x" * 500 for _ in range(6)))
        await settle()
        assert 6 == sum(len(batch) for batch in stage.batches)
        assert len(stage.batches) > 1
        assert all(len(one.payload) <= 2_000 for one in stage.invocations)


async def test_a_message_that_no_event_can_hold_fails_by_itself() -> None:
    async with staged(event_bytes=2_000) as stage:
        stage.map()
        stage.queue.put("a", "x" * 3_000, "b")
        await settle()
        assert ["x" * 3_000] == stage.queue.left
        assert ["a", "b"] == [body for batch in stage.batches for body in batch]


async def test_messages_stay_hidden_while_a_slow_function_runs() -> None:
    async with staged(visibility_s=6) as stage:
        stage.handler = stage.slow(60)
        stage.map()
        stage.queue.put("a")
        for _ in range(59):
            await stage.clock.advance(1)
            assert [] == stage.queue.visible
        await stage.clock.advance(2)
        assert (1, []) == (len(stage.batches), stage.queue.left)


async def test_nothing_is_received_that_the_function_has_no_room_for() -> None:
    async with staged() as stage:
        stage.handler, stage.room = stage.slow(5), 2
        stage.map(BatchSize=1)
        stage.queue.put("a", "b", "c", "d")
        await stage.clock.advance(4)
        assert (2, ["c", "d"]) == (stage.running, stage.queue.visible)
        assert {"a": 1, "b": 1, "c": 0, "d": 0} == stage.queue.receives
        await stage.clock.advance(7)
        assert 2 == stage.most_running
        assert [] == stage.queue.left


async def test_no_more_batches_run_than_maximum_concurrency_says() -> None:
    async with staged() as stage:
        stage.handler = stage.slow(5)
        stage.map(BatchSize=1, ScalingConfig={"MaximumConcurrency": 3})
        stage.queue.put(*(str(number) for number in range(9)))
        await stage.clock.advance(16)
        assert (3, []) == (stage.most_running, stage.queue.left)


async def test_a_busy_mapping_gets_more_and_more_batches_at_once() -> None:
    async with staged() as stage:
        stage.handler = stage.slow(1)
        stage.map(BatchSize=1)
        stage.queue.put(*(str(number) for number in range(200)))
        await stage.clock.advance(0.5)
        assert 5 == stage.running
        await stage.clock.advance(5)
        assert stage.most_running > 15


async def test_a_function_without_room_at_all_burns_no_receives() -> None:
    async with staged() as stage:
        stage.room = 0
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(100)
        assert ({"a": 0}, []) == (stage.queue.receives, stage.batches)
        stage.room = 1
        await stage.clock.advance(1)
        assert [["a"]] == stage.batches


async def test_a_throttled_batch_is_tried_again_while_its_lease_lasts_and_then_left() -> None:
    async with staged(visibility_s=10) as stage:

        async def throttled(records: list[dict[str, Any]]) -> Any:
            raise Throttled("Rate Exceeded.", reason="", retry_after_s=1)

        stage.handler = throttled
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(9.9)
        assert (1, True) == (stage.queue.receives["a"], len(stage.batches) > 2)
        assert "extend" not in stage.queue.calls
        stage.handler = stage.answer_nothing
        await stage.clock.advance(20)
        assert [] == stage.queue.left


async def test_a_disabled_mapping_stops_receiving_and_finishes_what_it_has() -> None:
    async with staged() as stage:
        stage.handler = stage.slow(5)
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(1)
        stage.map(State="Disabled")
        await settle()
        stage.queue.put("b")
        await stage.clock.advance(1)
        assert stage.pollers.status("u").draining
        await stage.clock.advance(10)
        assert (["a"], ["b"], False) == (stage.queue.deleted, stage.queue.left, stage.pollers.status("u").draining)
        stage.map()
        await stage.clock.advance(6)
        assert [] == stage.queue.left


async def test_a_mapping_deleted_within_its_window_runs_what_it_has_gathered() -> None:
    async with staged() as stage:
        stage.map(MaximumBatchingWindowInSeconds=20)
        stage.queue.put("a")
        await stage.clock.advance(1)
        stage.unmap()
        await stage.clock.advance(1)
        assert ([["a"]], []) == (stage.batches, stage.queue.left)


async def test_an_update_is_followed_by_the_next_batch() -> None:
    async with staged() as stage:
        stage.map(BatchSize=1)
        await settle()
        stage.map(BatchSize=10)
        stage.queue.put("a")
        await settle()
        stage.queue.put("b", "c", "d")
        await settle()
        assert [["a"], ["b", "c", "d"]] == stage.batches


async def test_a_queue_that_is_gone_is_told_of_and_asked_for_again() -> None:
    async with staged() as stage:
        stage.queue.failure = QueueNotFound("jobs")
        stage.map()
        await stage.clock.advance(60)
        assert "Queue not found: jobs" == stage.pollers.status("u").problem
        assert stage.queue.calls.count("visibility_s") < 20
        stage.queue.failure = None
        stage.queue.put("a")
        await stage.clock.advance(11)
        assert ([["a"]], "") == (stage.batches, stage.pollers.status("u").problem)


async def test_a_function_that_is_gone_leaves_the_messages_alone() -> None:
    async with staged() as stage:
        stage.refusal = FunctionNotFound("Function not found: work")
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(10)
        assert ({"a": 0}, "Function not found: work") == (stage.queue.receives, stage.pollers.status("u").problem)


async def test_deletion_race_a_server_that_is_away_for_a_moment_does_not_cost_a_second_run() -> None:
    async with staged() as stage:

        async def away(records: list[dict[str, Any]]) -> Any:
            stage.queue.failure = QueueUnreachable("away")

        stage.handler = away
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(0.1)
        assert ["a"] == stage.queue.left
        stage.queue.failure = None
        await stage.clock.advance(5)
        assert ([["a"]], []) == (stage.batches, stage.queue.left)


async def test_a_server_that_starts_again_does_not_cost_a_second_run() -> None:
    """Nor one that takes no deletions for longer than the lease, while it renews that."""
    for gone in (True, False):
        async with staged(visibility_s=25) as stage:
            delete = stage.queue.delete

            async def away(records: list[dict[str, Any]], stage: Stage = stage, gone: bool = gone) -> Any:
                if gone:
                    stage.queue.failure = QueueUnreachable("away")
                else:
                    stage.queue.delete = unwilling  # type: ignore[method-assign]

            async def unwilling(handles: Any) -> list[str]:
                raise QueueUnreachable("RequestThrottled")

            stage.handler = away
            stage.map()
            stage.queue.put("a")
            await stage.clock.advance(20 if gone else 50)
            assert ["a"] == stage.queue.left
            stage.queue.failure, stage.queue.delete = None, delete  # type: ignore[method-assign]
            await stage.clock.advance(6)
            assert ([["a"]], []) == (stage.batches, stage.queue.left)


async def test_a_queue_that_takes_no_deletions_at_all_does_not_hold_a_batch_for_ever() -> None:
    async with staged() as stage:
        delete = stage.queue.delete

        async def unwilling(handles: Any) -> list[str]:
            raise QueueUnreachable("AccessDenied")

        stage.queue.delete = unwilling  # type: ignore[method-assign]
        stage.map()
        stage.queue.put("a")
        await stage.clock.advance(120)
        assert len(stage.batches) > 1
        stage.queue.delete = delete  # type: ignore[method-assign]
        await stage.clock.advance(10)


async def test_messages_that_were_long_on_their_way_stay_hidden_while_they_are_processed() -> None:
    """The lease began when the other host gave them, which nobody here knows."""
    async with staged(prompt=False) as stage:
        stage.queue.late_s = 18
        stage.handler = stage.slow(60)
        stage.map()
        stage.queue.put("a")
        for _ in range(70):
            await stage.clock.advance(1)
            assert [] == stage.queue.visible
        await stage.clock.advance(10)
        assert (1, []) == (len(stage.batches), stage.queue.left)


async def test_the_end_of_a_node_does_not_wait_for_a_queue_that_is_away() -> None:
    stage = Stage()

    async def away(records: list[dict[str, Any]]) -> Any:
        stage.queue.failure = QueueUnreachable("away")

    stage.handler = away
    stage.map()
    stage.queue.put("a")
    await stage.clock.advance(1)
    closing = asyncio.create_task(stage.pollers.close())
    await stage.clock.advance(4)
    assert not closing.done()
    await stage.clock.advance(1)
    assert closing.done()
    assert ["a"] == stage.queue.left


async def test_abandon_race_what_was_processed_is_deleted_even_when_the_node_ends() -> None:
    stage = Stage()
    deleting = asyncio.Event()
    delete = stage.queue.delete

    async def slow_delete(handles: Any) -> list[str]:
        deleting.set()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await delete(handles)

    stage.queue.delete = slow_delete  # type: ignore[method-assign]
    stage.map()
    stage.queue.put("a")
    await deleting.wait()
    await stage.pollers.close()
    assert [] == stage.queue.left


async def test_what_is_under_way_at_the_end_of_a_node_comes_again() -> None:
    stage = Stage()
    stage.handler = stage.slow(100)
    stage.map()
    stage.queue.put("a")
    await settle()
    await stage.pollers.close()
    assert ["a"] == stage.queue.left


# --- FIFO ---------------------------------------------------------------------------------------------------------------


async def test_of_a_fifo_queue_what_follows_a_failed_message_in_its_group_fails_too() -> None:
    async with staged(fifo=True) as stage:

        async def second_fails(records: list[dict[str, Any]]) -> Any:
            bad = [one["messageId"] for one in records if one["body"] == "g2" and stage.clock.monotonic() < 1010]
            return {"batchItemFailures": [{"itemIdentifier": one} for one in bad]}

        stage.handler = second_fails
        stage.map(FunctionResponseTypes=["ReportBatchItemFailures"])
        stage.queue.put("g1", "g2", group="g")
        stage.queue.put("h1", group="h")
        stage.queue.put("g3", group="g")
        await settle()
        assert (["g1", "h1"], ["g2", "g3"]) == (stage.queue.deleted, stage.queue.left)
        await stage.clock.advance(32)
        assert ["g1", "h1", "g2", "g3"] == stage.queue.deleted


async def test_fifo_race_the_next_of_a_group_waits_for_the_end_of_the_batch_before() -> None:
    """The queue gives out a group's next message as soon as the last is deleted, before the batch's task has ended."""
    async with staged(fifo=True) as stage:
        stage.handler = stage.slow(1)
        stage.map(BatchSize=1)
        stage.queue.put("g1", "g2", "g3", group="g")
        await stage.clock.advance(4)
        assert ([["g1"], ["g2"], ["g3"]], 1, []) == (stage.batches, stage.most_running, stage.queue.left)


@settings(max_examples=60, deadline=None)
@given(
    messages=st.lists(st.tuples(st.sampled_from("ghi"), st.booleans()), max_size=25),
    size=st.integers(1, 10),
    takes=st.sampled_from([0.0, 0.5, 7.0]),
    report=st.booleans(),
)
def test_each_group_is_processed_in_its_order_whatever_fails(
    messages: list[tuple[str, bool]], size: int, takes: float, report: bool
) -> None:
    async def run() -> None:
        async with staged(fifo=True, visibility_s=5) as stage:
            processed: list[str] = []
            failing = {f"{group}{number}" for number, (group, fails) in enumerate(messages) if fails}

            async def handler(records: list[dict[str, Any]]) -> Any:
                groups = {one["attributes"]["MessageGroupId"] for one in records}
                assert not groups & in_flight
                in_flight.update(groups)
                await stage.clock.sleep(takes)
                in_flight.difference_update(groups)
                bad = [one for one in records if one["body"] in failing]
                failing.difference_update(one["body"] for one in bad)  # each fails once
                if bad and not report:
                    raise Failure
                broken: set[str] = set()
                for one in records:
                    group = one["attributes"]["MessageGroupId"]
                    broken |= {group} if one in bad else set()
                    if group not in broken:
                        processed.append(one["body"])
                return {"batchItemFailures": [{"itemIdentifier": one["messageId"]} for one in bad]}

            in_flight: set[str] = set()
            stage.handler = handler
            stage.map(BatchSize=size, FunctionResponseTypes=["ReportBatchItemFailures"] if report else [])
            for number, (group, _) in enumerate(messages):
                stage.queue.put(f"{group}{number}", group=group)
            left = stage.queue.left
            for _ in range(30):
                await stage.clock.advance(50)  # once more than it takes: nothing may come after the end
                if not left:
                    break
                left = stage.queue.left
            assert [] == stage.queue.left
            for group in "ghi":
                wanted = [f"{group}{number}" for number, (one, _) in enumerate(messages) if one == group]
                assert wanted == [body for body in processed if body[0] == group]
                assert wanted == [body for body in stage.queue.deleted if body[0] == group]

    asyncio.run(run())


@pytest.mark.parametrize(
    "given", [{"BatchSize": 1}, {"BatchSize": 10}, {"BatchSize": 100, "MaximumBatchingWindowInSeconds": 1}]
)
async def test_many_messages_are_processed_once_each(given: dict[str, Any]) -> None:
    async with staged() as stage:
        stage.map(**given)
        stage.queue.put(*(str(number) for number in range(300)))
        for _ in range(60):
            await stage.clock.advance(0.5)
        assert sorted(str(number) for number in range(300)) == sorted(one for batch in stage.batches for one in batch)
        assert [] == stage.queue.left
