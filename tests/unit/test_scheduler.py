"""The scheduler on a manual clock: what it fires and remembers, through stops, kills, full queues and set clocks."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.errors import FunctionNotFound, StateError, Throttled
from glowplug.runtime.events.accepting import Accepted, NewEvent
from glowplug.runtime.events.delivery import Delivery
from glowplug.runtime.events.envelopes import Home
from glowplug.runtime.events.scheduler import Scheduler
from glowplug.runtime.events.triggers import RULE, SCHEDULE, Trigger, made, trigger_of
from glowplug.runtime.queue.model import QueueSettings
from glowplug.runtime.queue.steps import PutRecord, ScanRecords, Step
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing.clock import ManualClock, settle

HOME = Home("000000000000", "us-east-1")
BEGIN = "2026-01-01T00:00:00+00:00"  # where a manual clock begins
TWO: list[dict[str, Any]] = [
    {"Id": "one", "FunctionName": "work", "RetryPolicy": {"MaximumEventAgeInSeconds": 60}},
    {"Id": "two", "FunctionName": "busy"},
]
FULL = Throttled("the queue is full", reason="", retry_after_s=1)


def definition(expression: str = "rate(10 minutes)", kind: str = RULE, **more: Any) -> dict[str, Any]:
    targets = more.pop("Targets", [{"Id": "one", "FunctionName": "work"}])
    return {"Type": kind, "Name": "tick", "ScheduleExpression": expression, "Targets": targets,
            "CreationDate": BEGIN, **more}  # fmt: skip


@dataclass
class Accepting:
    """An acceptor that keeps what it accepts in the unit of the steps, as the real one does. ``refusals`` is by
    function, ``refusal`` what it raises for all."""

    store: QueueStore
    events: list[NewEvent] = field(default_factory=list)
    refusal: Exception | None = None
    refusals: dict[str, Exception] = field(default_factory=dict)

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        if refusal := self.refusal or self.refusals.get(event.function):
            raise refusal
        if also:
            await self.store.apply(*also)
        self.events.append(event)
        return Accepted(f"request-{len(self.events) - 1}")

    def times(self) -> list[str]:
        return [json.loads(event.payload)["time"][11:] for event in self.events]


class Bench:
    """A queue's file, a clock, and schedulers over them one after the other."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = ManualClock()
        self.triggers: dict[str, Trigger] = {}
        self.accepting: Accepting
        self.scheduler: Scheduler

    def deploy(self, name: str = "main/Tick", **more: Any) -> None:
        self.triggers[name] = trigger_of(name, definition(**more))

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Scheduler]:
        async with await QueueStore.open(self.path, self.clock) as store:
            self.accepting = Accepting(store, self.accepting.events if hasattr(self, "accepting") else [])
            delivery = Delivery(self.accepting, store, HOME)
            self.scheduler = Scheduler(lambda: self.triggers.values(), delivery, store, HOME, self.clock)
            await self.scheduler.start()
            await self.quiet()
            yield self.scheduler
            await self.scheduler.close()

    async def quiet(self) -> None:
        """Let everything happen that happens without time passing; the file has a thread of its own."""
        still = 0
        while still < 3:  # in the turn in which a transaction ends, nobody who waits for it has asked for more yet
            await settle()
            still = 0 if self.accepting.store._commits.busy else still + 1

    async def advance(self, **time: float) -> None:
        """Let time pass, in steps, so that what waits for the file goes on meanwhile."""
        left_s = timedelta(**time).total_seconds()
        while left_s > 0:
            step_s = min(left_s, 120.0)
            await self.clock.advance(step_s)
            await self.quiet()
            left_s -= step_s

    def sleep(self, **time: float) -> None:
        """Let time pass while nothing runs."""
        self.clock._now_s += timedelta(**time).total_seconds()

    @property
    def listed(self) -> Any:
        (one,) = self.scheduler.listing()
        return one


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "queue.db")


async def test_a_rate_fires_at_its_times_with_the_event_of_a_rule(bench: Bench) -> None:
    bench.deploy()
    async with bench.running():
        assert ("ENABLED", "2026-01-01T00:10:00+00:00", "") == (
            bench.listed.state, bench.listed.next, bench.listed.last,
        )  # fmt: skip
        await bench.advance(minutes=21)
        assert ["00:10:00Z", "00:20:00Z"] == bench.accepting.times()
        event = json.loads(bench.accepting.events[0].payload)
        assert ("aws.events", "Scheduled Event", {}) == (event["source"], event["detail-type"], event["detail"])
        assert ["arn:aws:events:us-east-1:000000000000:rule/tick"] == event["resources"]
        assert ("work", "$LATEST", "rule:tick") == (
            bench.accepting.events[0].function, bench.accepting.events[0].qualifier, bench.accepting.events[0].source,
        )  # fmt: skip
        assert (2, 0, ("request-1",), "2026-01-01T00:20:00+00:00") == (
            bench.listed.fired, bench.listed.missed, bench.listed.requests, bench.listed.last,
        )  # fmt: skip


async def test_after_a_stop_only_the_latest_run_is_made_up_for(bench: Bench) -> None:
    bench.deploy()
    async with bench.running():
        await bench.advance(minutes=11)
    bench.sleep(minutes=44)
    async with bench.running():
        assert ["00:10:00Z", "00:50:00Z"] == bench.accepting.times()
        assert (2, 3, True) == (bench.listed.fired, bench.listed.missed, bench.listed.late)


async def test_a_kill_between_two_targets_fires_once_for_each(bench: Bench) -> None:
    """The first was accepted, then the node died; the second gets its event, the first no second one."""
    bench.deploy(Targets=TWO)
    async with bench.running():
        bench.accepting.refusals["busy"] = RuntimeError("killed")
        await bench.advance(minutes=10.5)
        assert ["work"] == [event.function for event in bench.accepting.events]
    async with bench.running():
        assert ["work", "busy"] == [event.function for event in bench.accepting.events]
        assert (1, 0, "") == (bench.listed.fired, bench.listed.failed, bench.listed.error)


async def test_a_target_whose_event_ran_is_not_told_of_as_lost_when_another_target_gets_its_own_too_late_for_it(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    """The second target's queue is full for longer than the first takes events, and meanwhile the first gets another
    input: it has run, and is not looked at again."""
    bench.deploy(Targets=TWO)
    async with bench.running():
        bench.accepting.refusals["busy"] = FULL
        await bench.advance(minutes=12)
        bench.deploy(Targets=[{**TWO[0], "Input": '"another"'}, TWO[1]])
        bench.scheduler.changed()
        await bench.advance(minutes=2)
        del bench.accepting.refusals["busy"]
        await bench.advance(minutes=2)
        assert ["work", "busy"] == [event.function for event in bench.accepting.events]
        assert (1, 0, "", ("request-0", "request-1")) == (
            bench.listed.fired, bench.listed.failed, bench.listed.error, bench.listed.requests,
        )  # fmt: skip
    assert "is lost" not in caplog.text


async def test_a_target_that_is_gone_is_given_up_once_while_another_is_tried_again(bench: Bench) -> None:
    arn = "arn:aws:sqs:us-east-1:000000000000:dead"
    bench.deploy(Targets=[{**TWO[0], "DeadLetterConfig": {"Arn": arn}}, TWO[1]])
    async with bench.running():
        await bench.accepting.store.create("dead", QueueSettings())
        bench.accepting.refusals |= {"work": FunctionNotFound("Function not found: work"), "busy": FULL}
        await bench.advance(minutes=12)
        bench.accepting.refusals.clear()  # the first is there again: its event is a dead letter already
        await bench.advance(minutes=2)
        assert ["busy"] == [event.function for event in bench.accepting.events]
        assert (1, 1, 1) == (
            bench.listed.fired,
            bench.listed.failed,
            (await bench.accepting.store.counts("dead")).total,
        )
        assert "FunctionNotFound: Function not found: work" == bench.listed.error


async def test_a_kill_after_the_unit_does_not_fire_again(bench: Bench) -> None:
    bench.deploy()
    async with bench.running():
        await bench.advance(minutes=10.5)
    bench.accepting.events.clear()
    async with bench.running():
        await bench.advance(minutes=5)
        assert [] == bench.accepting.events


async def test_a_schedule_whose_record_is_damaged_goes_on(bench: Bench) -> None:
    bench.deploy()
    async with bench.running():
        await bench.advance(minutes=10)
        (record,) = await bench.accepting.store.records(ScanRecords("schedule"))
        await bench.accepting.store.apply(PutRecord(replace(record, attributes={})))
    async with bench.running():
        await bench.advance(minutes=20)
    assert ["00:20:00Z", "00:30:00Z"] == bench.accepting.times()[-2:]


@pytest.mark.parametrize("refusal", [FULL, StateError("full disk")])
async def test_what_cannot_be_accepted_now_is_tried_again(bench: Bench, refusal: Exception) -> None:
    bench.deploy()
    async with bench.running():
        bench.accepting.refusal = refusal
        await bench.advance(minutes=12)
        assert ([], 0) == (bench.accepting.events, bench.listed.fired)
        bench.accepting.refusal = None
        await bench.advance(minutes=2)
        assert (["00:10:00Z"], 1, 0) == (bench.accepting.times(), bench.listed.fired, bench.listed.missed)


async def test_an_event_for_a_function_that_is_gone_goes_to_the_dead_letter_queue(bench: Bench) -> None:
    arn = "arn:aws:sqs:us-east-1:000000000000:dead"
    bench.deploy(Targets=[{"FunctionName": "work", "DeadLetterConfig": {"Arn": arn}}])
    async with bench.running():
        await bench.accepting.store.create("dead", QueueSettings())
        bench.accepting.refusal = FunctionNotFound("Function not found: work")
        await bench.advance(minutes=11)
        (letter,) = await bench.accepting.store.peek("dead")
        assert "Scheduled Event" == json.loads(letter.body)["detail-type"]
        assert ["String", "RESOURCE_NOT_FOUND"] == letter.attributes["m"]["ERROR_CODE"]
        assert (1, 1, "FunctionNotFound: Function not found: work") == (
            bench.listed.fired, bench.listed.failed, bench.listed.error,
        )  # fmt: skip
        await bench.advance(minutes=8)
        assert 1 == (await bench.accepting.store.counts("dead")).total


async def test_a_clock_that_is_set_forward_is_noticed(bench: Bench) -> None:
    bench.deploy("main/Once", expression="at(2026-03-01T00:00:00)", kind=SCHEDULE)
    async with bench.running():
        await bench.advance(seconds=30)
        bench.clock._unix_offset_s += timedelta(days=59).total_seconds()
        await bench.advance(seconds=11)
        assert ["00:00:00Z"] == bench.accepting.times()
        assert "DONE" == bench.listed.state


async def test_a_clock_that_is_set_back_fires_nothing_twice_and_is_reported(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.deploy()
    async with bench.running():
        await bench.advance(minutes=11)
        bench.clock._unix_offset_s -= timedelta(hours=1).total_seconds()
        await bench.advance(minutes=1)
        assert "WAITING" == bench.listed.state
        await bench.advance(minutes=58)
        assert ["00:10:00Z"] == bench.accepting.times()
        await bench.advance(minutes=11)
        assert ["00:10:00Z", "00:20:00Z"] == bench.accepting.times()
        assert "ENABLED" == bench.listed.state
    assert ["main/Tick: waits, because the clock was set back to before its last run"] == [
        record.getMessage() for record in caplog.records if record.name.endswith(".scheduler")
    ]


async def test_a_schedule_that_is_over_and_wants_to_be_deleted_is_listed_no_more(bench: Bench) -> None:
    bench.deploy(
        expression="at(2026-01-01T00:05:00)", kind=SCHEDULE, ActionAfterCompletion="DELETE",
        Targets=[{"FunctionName": "work", "Qualifier": "live", "Input": '{"at": "<aws.scheduler.scheduled-time>"}'}],
    )  # fmt: skip
    async with bench.running() as scheduler:
        await bench.advance(minutes=6)
        (event,) = bench.accepting.events
        assert (b'{"at": "2026-01-01T00:05:00Z"}', "live") == (event.payload, event.qualifier)
        assert [] == scheduler.listing()


async def test_a_disabled_schedule_does_not_run_and_enabling_makes_up_for_nothing(bench: Bench) -> None:
    given = definition(State="DISABLED")
    del given["CreationDate"]
    document = made(given, None, "main", BEGIN)
    bench.triggers["main/Tick"] = trigger_of("main/Tick", document)
    async with bench.running() as scheduler:
        await bench.advance(minutes=25)
        assert ("DISABLED", []) == (bench.listed.state, bench.accepting.events)
        enabled = made(given | {"State": "ENABLED"}, document, "main", "2026-01-01T00:25:00+00:00")
        bench.triggers["main/Tick"] = trigger_of("main/Tick", enabled)
        scheduler.changed()
        await bench.advance(minutes=9)
        assert [] == bench.accepting.events
        await bench.advance(minutes=2)
        assert ["00:35:00Z"] == bench.accepting.times()


async def test_a_schedule_that_is_taken_away_is_forgotten(bench: Bench) -> None:
    bench.deploy()
    async with bench.running() as scheduler:
        await bench.advance(minutes=11)
        del bench.triggers["main/Tick"]
        scheduler.changed()
        await bench.advance(minutes=30)
        assert (1, []) == (len(bench.accepting.events), scheduler.listing())
    bench.deploy(CreationDate="2026-01-01T00:41:00+00:00")
    async with bench.running():
        assert (0, "") == (bench.listed.fired, bench.listed.last)


async def test_one_schedule_that_fails_does_not_hold_up_another(bench: Bench) -> None:
    bench.deploy("main/Bad", Targets=[{"FunctionName": "bad"}])
    bench.deploy("main/Good", Targets=[{"FunctionName": "good"}])
    async with bench.running():
        bench.accepting.refusals["bad"] = FULL
        await bench.advance(minutes=21)
        assert ["00:10:00Z", "00:20:00Z"] == bench.accepting.times()


async def test_targets_get_what_their_input_says_and_only_while_they_take_it(bench: Bench) -> None:
    bench.deploy(Targets=[
        {"Id": "short", "FunctionName": "work", "RetryPolicy": {"MaximumEventAgeInSeconds": 60}},
        {"Id": "long", "FunctionName": "work", "InputPath": "$.source"},
    ])  # fmt: skip
    async with bench.running():
        await bench.advance(minutes=5)
    bench.sleep(minutes=13)
    async with bench.running():
        assert [b'"aws.events"'] == [event.payload for event in bench.accepting.events]
        assert (1, 1) == (bench.listed.fired, bench.listed.failed)
        assert "It is older than the 60 s" in bench.listed.error


async def test_moments_are_utc_whatever_the_zone(bench: Bench) -> None:
    bench.deploy(expression="cron(30 9 * * ? *)", kind=SCHEDULE, ScheduleExpressionTimezone="Asia/Kolkata")
    async with bench.running():
        assert ("2026-01-01T04:00:00+00:00", "Asia/Kolkata") == (bench.listed.next, bench.listed.zone)
        assert datetime.fromisoformat(bench.listed.next).tzinfo == UTC
