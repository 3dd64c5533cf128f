"""From the queue to handlers and back: what runs, what is tried again, what is written down, what survives."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from eventrig import EventRig, bad, good, small

from glowplug.runtime.catalog import Alias
from glowplug.runtime.errors import (
    Conflict,
    FunctionNotFound,
    HoldTimeout,
    InvalidParameter,
    LoadFailed,
    RequestTooLarge,
    StateError,
    Throttled,
)
from glowplug.runtime.events.accepting import NewEvent
from glowplug.runtime.events.ending import OUTBOX, Endings
from glowplug.runtime.events.outbox import Outbox, Parcel
from glowplug.runtime.events.retrying import Delays
from glowplug.runtime.events.stored import key_of, queue_of, stored
from glowplug.runtime.queue.model import QueueSettings, Record
from glowplug.runtime.queue.steps import Extend, GetRecord, PutRecord, Send
from glowplug.runtime.queue.store import QueueStore

ARN = "arn:aws:sqs:us-east-1:000000000000:"
FUNCTION = "arn:aws:lambda:us-east-1:000000000000:function:"
FULL = Throttled("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded", retry_after_s=1)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[EventRig]:
    async with EventRig(tmp_path, "f", "g") as made:
        yield made


# --- accepting --------------------------------------------------------------------------------------------------------


async def test_what_was_accepted_is_on_disk(rig: EventRig) -> None:
    rig.handlers.held = True
    request_id = await rig.send(payload=b'{"a":1}', source="test")
    other = await QueueStore.open(rig.path / "queue.db", rig.clock)
    (message,) = await other.peek(queue_of("f"))
    assert (request_id.replace("-", ""), b'{"a":1}') == (message.id.hex(), message.body)
    await other.close()


async def test_what_cannot_run_is_not_accepted(rig: EventRig) -> None:
    with pytest.raises(FunctionNotFound, match="function:nobody:\\$LATEST"):
        await rig.send("nobody")
    with pytest.raises(FunctionNotFound, match="function:f:live"):
        await rig.send(qualifier="live")
    with pytest.raises(RequestTooLarge):
        await rig.send(payload=b"x" * (2**20 + 1))
    with pytest.raises(InvalidParameter, match="not a UUID"):
        await rig.send(request_id="r-1")
    assert [] == rig.handlers.seen


async def test_a_full_queue_refuses_and_never_accepts_falsely(tmp_path: Path) -> None:
    async with EventRig(tmp_path, limits=small(async_queue_events=2)) as rig:
        rig.handlers.room = 0
        rig.handlers.held = True
        kept = [await rig.send() for _ in range(2)]
        with pytest.raises(Throttled, match="2 events of f wait already"):
            await rig.send()
        rig.handlers.room, rig.handlers.held = 10, False
        rig.handlers.let_go()
        await rig.pass_s(1, 0.1)
        assert ["succeeded"] * 2 == [await rig.state(one) for one in kept]
        assert 2 == len(rig.handlers.seen)


async def test_steps_that_come_along_are_carried_out_with_the_event_or_not_at_all(rig: EventRig) -> None:
    progress = Record(b"p" * 16, "schedules", 1, 0)
    await rig.intake.accept(NewEvent("f", "", b"{}"), PutRecord(progress))
    assert [progress] == await rig.store.apply(GetRecord(progress.id))
    before = len(rig.handlers.seen)
    with pytest.raises(Exception, match="Queue not found: nowhere"):
        await rig.intake.accept(NewEvent("f", "", b"{}"), Send("nowhere", b""))
    await rig.quiet()
    assert 1 == len(rig.handlers.seen) >= before


async def test_an_idempotency_key_is_of_its_function_and_caller(rig: EventRig) -> None:
    first = await rig.send(idempotency_key="k")
    assert first == await rig.send(idempotency_key="k")
    with pytest.raises(InvalidParameter, match="another payload"):
        await rig.send(payload=b"[]", idempotency_key="k")
    others = {await rig.send("g", idempotency_key="k"), await rig.send(idempotency_key="k", caller="bob")}
    await rig.quiet()
    assert 3 == len({first, *others}) == len(rig.handlers.seen)


async def test_a_closed_disk_refuses(rig: EventRig) -> None:
    await rig.dispatcher.close()
    await rig.store.close()
    with pytest.raises(StateError):
        await rig.send()
    await rig.start()


# --- attempts ---------------------------------------------------------------------------------------------------------


async def test_failures_are_tried_again_under_the_same_id_after_one_and_two_delays(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: bad(f"no {attempt}")
    request_id = await rig.send()
    await rig.quiet()
    assert (1, "retrying") == (len(rig.handlers.seen), await rig.state(request_id))
    await rig.pass_s(9)
    assert 1 == len(rig.handlers.seen)
    await rig.pass_s(2)
    assert 2 == len(rig.handlers.seen)
    await rig.pass_s(18)
    assert 2 == len(rig.handlers.seen)
    await rig.pass_s(4)
    found = await rig.shown(request_id)
    assert ("failed", 3, "RetriesExhausted", "no 3") == (
        found["state"], found["attempts"], found["condition"], found["error"]["errorMessage"]
    )  # fmt: skip
    assert {request_id} == {one.request_id for one in rig.handlers.seen}
    assert (1, 2) == (rig.book.of("f").dropped, rig.book.of("f").retries)


async def test_throttles_and_faults_of_the_node_back_off_and_use_no_attempt_up(rig: EventRig) -> None:
    refusals = [FULL, HoldTimeout("none was ready"), FULL]
    rig.handlers.script = lambda invocation, attempt: refusals[attempt - 1] if attempt <= 3 else good()
    request_id = await rig.send()
    await rig.pass_s(12)
    found = await rig.shown(request_id)
    assert (4, "succeeded", 1) == (len(rig.handlers.seen), found["state"], found["attempts"])
    assert 3 == rig.book.of("f").requeues


async def test_a_start_that_fails_is_the_functions_error(rig: EventRig) -> None:
    rig.configure(MaximumRetryAttempts=0)
    rig.handlers.script = lambda invocation, attempt: LoadFailed("ImportError", "no module", [])
    request_id = await rig.send()
    await rig.quiet()
    found = await rig.shown(request_id)
    assert ("failed", "ImportError") == (found["state"], found["error"]["errorType"])


async def test_an_event_that_would_grow_too_old_ends_before_its_next_attempt(rig: EventRig) -> None:
    rig.configure(MaximumEventAgeInSeconds=60)
    rig.handlers.script = lambda invocation, attempt: bad()
    await rig.send("g", max_age_s=5, retries=7)
    request_id = await rig.send(max_age_s=5, retries=7)
    await rig.quiet()
    found = await rig.shown(request_id)
    assert ("EventAgeExceeded", 1) == (found["condition"], found["attempts"])


async def test_no_reserved_concurrency_ends_events_at_once(rig: EventRig) -> None:
    rig.change(reserved=0)
    ids = [await rig.send() for _ in range(5)]
    await rig.quiet()
    assert {"ZeroReservedConcurrency"} == {(await rig.shown(one))["condition"] for one in ids}
    assert [] == rig.handlers.seen


async def test_no_reserved_concurrency_sends_the_record_of_no_attempt_and_the_event(rig: EventRig) -> None:
    for name in ("failed", "dead"):
        await rig.store.create(name, QueueSettings())
    version = rig.deployed.catalog.functions["f"].latest
    settings = {"DeadLetterConfig": {"TargetArn": f"{ARN}dead"}}
    rig.change(reserved=0, latest=replace(version, settings=settings))
    rig.configure(DestinationConfig={"OnFailure": {"Destination": f"{ARN}failed"}})
    request_id = await rig.send(payload=b'{"a":1}')
    await rig.quiet()
    (told,), (letter,) = await rig.store.peek("failed"), await rig.store.peek("dead")
    record = json.loads(told.body)
    assert ["version", "timestamp", "requestContext", "requestPayload"] == list(record)
    assert {
        "requestId": request_id, "functionArn": f"{FUNCTION}f:$LATEST", "condition": "ZeroReservedConcurrency",
        "approximateInvokeCount": 0,
    } == record["requestContext"]  # fmt: skip
    assert (b'{"a":1}', ["Number", "429"]) == (letter.body, letter.attributes["m"]["ErrorCode"])
    assert [] == rig.handlers.seen


async def test_an_alias_is_resolved_at_each_attempt_and_the_arn_keeps_it(rig: EventRig) -> None:
    function = rig.deployed.catalog.functions["f"]
    spec = replace(function.latest.spec, version="1")
    rig.change(
        versions={1: replace(function.latest, spec=spec), 2: replace(function.latest, spec=replace(spec, version="2"))},
        aliases={"live": Alias("live", "1", "r")},
    )
    rig.configure(qualifier="live", MaximumRetryAttempts=1)
    rig.handlers.script = lambda invocation, attempt: bad()
    request_id = await rig.send(qualifier="live")
    await rig.quiet()
    rig.change(aliases={"live": Alias("live", "2", "r")})
    await rig.pass_s(11)
    assert ["1", "2"] == [one.version for one in rig.handlers.seen]
    assert {"arn:aws:lambda:us-east-1:000000000000:function:f:live"} == {one.function_arn for one in rig.handlers.seen}
    assert ("failed", 2) == ((await rig.shown(request_id))["state"], (await rig.shown(request_id))["attempts"])


async def test_events_go_on_when_the_version_that_the_last_one_ran_on_is_deleted(rig: EventRig) -> None:
    function = rig.deployed.catalog.functions["f"]
    one, two = (replace(function.latest, spec=replace(function.latest.spec, version=number)) for number in "12")
    rig.change(versions={1: one, 2: two}, aliases={"live": Alias("live", "1", "r")})
    await rig.send(qualifier="live")
    await rig.quiet()
    rig.change(versions={2: two}, aliases={"live": Alias("live", "2", "r")})
    await rig.send(qualifier="live")
    await rig.pass_s(5)
    assert ["1", "2"] == [one.version for one in rig.handlers.seen]


async def test_no_more_is_received_than_instances_can_take(rig: EventRig) -> None:
    rig.handlers.room, rig.handlers.held = 3, True
    for _ in range(10):
        await rig.send()
    await rig.pass_s(3, 0.1)
    counts = await rig.store.counts(queue_of("f"))
    assert (3, 3) == (rig.handlers.most, counts.in_flight)
    rig.handlers.held = False
    rig.handlers.let_go()
    await rig.pass_s(1, 0.1)
    assert 10 == len(rig.handlers.seen)


async def test_short_handlers_keep_few_lanes_and_long_ones_get_more(rig: EventRig) -> None:
    for _ in range(50):
        await rig.send("g")
    await rig.pass_s(1, 0.1)
    assert 50 == len(rig.handlers.seen)
    assert 2 >= rig.handlers.most
    rig.handlers.held = True
    for _ in range(50):
        await rig.send("f")
    await rig.pass_s(4, 0.05)
    assert 50 == rig.handlers.most


async def test_of_several_that_are_delayed_none_is_forgotten(rig: EventRig) -> None:
    """A receive that finds one sets no alarm for those that follow; only an empty one does."""
    await rig.intake.open("f")
    events = [rig.intake.step(NewEvent("f", "", b"{}")) for _ in range(3)]
    await rig.store.apply(*(replace(one, delay_s=delay_s) for delay_s, one in enumerate(events, start=1)))
    await rig.pass_s(5)
    assert {one.id for one in events} == {key_of(one.request_id) for one in rig.handlers.seen}


async def test_an_event_whose_attributes_are_damaged_runs_without_them(rig: EventRig) -> None:
    await rig.intake.open("f")
    damaged = {"n": "2", "p": [], "x": "1", "q": 7, "c": "{}", "l": 1, "r": b"", "s": "kept"}
    await rig.store.apply(replace(rig.intake.step(NewEvent("f", "", b"1")), attributes=damaged))
    await rig.send(payload=b"2")
    await rig.restart()
    await rig.quiet()
    assert {b"1", b"2"} == {one.payload for one in rig.handlers.seen}
    assert {"", "kept"} == {one.get("source", "") for one in await rig.results.listing(["f"], "succeeded", 10)}


async def test_a_record_whose_attributes_are_damaged_is_shown_without_them(rig: EventRig) -> None:
    rig.change(reserved=0)
    request_id = await rig.send()
    await rig.quiet()
    found = await rig.results.find(request_id)
    assert found.record is not None
    await rig.store.apply(PutRecord(replace(found.record, attributes={})))
    shown = await rig.shown(request_id)
    assert ("failed", "Unknown", "Glowplug.Unknown") == (
        shown["state"], shown["condition"], shown["error"]["errorType"]
    )  # fmt: skip


async def test_an_event_whose_end_cannot_be_written_is_put_back_and_holds_nobody_up(
    rig: EventRig, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending, failures = Endings.of, [ValueError("a fault of ours")]

    def failing(self: Endings, *given: Any, **more: Any) -> Any:
        if failures:
            raise failures.pop()
        return ending(self, *given, **more)

    monkeypatch.setattr(Endings, "of", failing)
    ids = [await rig.send() for _ in range(3)]
    await rig.quiet()
    assert ["queued", "succeeded", "succeeded"] == sorted([await rig.state(one) for one in ids])
    await rig.pass_s(31)
    assert ["succeeded"] * 3 == [await rig.state(one) for one in ids]


# --- ages -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("by_s", [-86_400, 7 * 3_600], ids=["back", "forward"])
async def test_no_event_is_too_old_because_the_clock_was_set(rig: EventRig, by_s: int) -> None:
    rig.handlers.script = lambda invocation, attempt: bad() if attempt == 1 else good()
    retrying = await rig.send()
    await rig.pass_s(5)
    rig.handlers.held = True
    running = await rig.send()
    await rig.quiet()
    rig.clock.set_s(by_s)
    rig.handlers.held = False
    rig.handlers.let_go()
    await rig.pass_s(12)
    for request_id in (retrying, running):
        shown = await rig.shown(request_id)
        assert ("succeeded", 2) == (shown["state"], shown["attempts"])


async def test_an_event_of_a_function_that_sleeps_too_long_ends_by_its_age(rig: EventRig) -> None:
    """Its attempt waits for an instance for longer than it may grow old; what has begun by then still runs."""
    rig.configure(MaximumEventAgeInSeconds=60)
    rig.handlers.held = True
    rig.handlers.script = lambda invocation, attempt: HoldTimeout("none was ready") if not woken else good()
    woken = False
    asleep = await rig.send()
    await rig.pass_s(90, 10)
    rig.handlers.let_go()
    await rig.quiet()
    shown = await rig.shown(asleep)
    assert ("EventAgeExceeded", 0) == (shown["condition"], shown["attempts"])
    woken = True
    begun = await rig.send()
    await rig.pass_s(90, 10)
    rig.handlers.let_go()
    await rig.quiet()
    assert "succeeded" == await rig.state(begun)


# --- leases -----------------------------------------------------------------------------------------------------------


async def test_leases_are_extended_while_an_attempt_lasts(rig: EventRig) -> None:
    rig.handlers.held = True
    request_id = await rig.send()
    await rig.quiet()
    await rig.pass_s(3_000, 20)
    assert (1, "running") == (len(rig.handlers.seen), await rig.state(request_id))
    rig.handlers.let_go()
    await rig.quiet()
    assert ("succeeded", 1) == (await rig.state(request_id), len(rig.handlers.seen))


async def test_an_event_that_is_received_again_while_it_runs_is_not_run_again(rig: EventRig) -> None:
    """A stall of the node: its lease ran out before it was extended. The answer is settled under the new lease."""
    rig.handlers.held = True
    request_id = await rig.send()
    await rig.quiet()
    feed = rig.dispatcher.feed("f")
    assert feed is not None
    (attempt,) = feed.attempts.held.values()
    before = attempt.lease
    await rig.store.apply(Extend(before, 0))
    feed._rung()
    await rig.quiet()
    assert before.token < attempt.lease.token
    rig.handlers.let_go()
    await rig.quiet()
    assert ("succeeded", 1) == (await rig.state(request_id), len(rig.handlers.seen))


# --- what is sent on --------------------------------------------------------------------------------------------------


async def test_the_end_and_what_is_sent_of_it_are_one(rig: EventRig) -> None:
    await rig.store.create("good", QueueSettings())
    rig.configure(DestinationConfig={"OnSuccess": {"Destination": f"{ARN}good"}})
    request_id = await rig.send()
    await rig.quiet()
    (message,) = await rig.store.peek("good")
    assert request_id.encode() in message.body
    assert 0 == (await rig.store.counts(queue_of("f"))).total


async def test_an_event_that_another_ones_end_brought_is_counted_as_received(rig: EventRig) -> None:
    await rig.intake.open("g")
    rig.configure(DestinationConfig={"OnSuccess": {"Destination": f"{FUNCTION}g"}})
    await rig.send()
    await rig.quiet()
    assert ["f", "g"] == [one.function for one in rig.handlers.seen]
    assert (1, 1) == (rig.book.of("f").received, rig.book.of("g").received)


async def test_a_destination_that_nothing_delivers_to_is_named_and_counted(rig: EventRig) -> None:
    rig.configure(DestinationConfig={"OnSuccess": {"Destination": f"{ARN}nowhere"}})
    request_id = await rig.send()
    await rig.quiet()
    assert [f"{ARN}nowhere"] == (await rig.shown(request_id))["undelivered"]
    assert 1 == rig.book.of("f").delivery_failures


async def test_a_full_destination_takes_the_record_later(rig: EventRig) -> None:
    await rig.store.create("small", QueueSettings(capacity=0))
    rig.configure(DestinationConfig={"OnSuccess": {"Destination": f"{ARN}small"}})
    request_id = await rig.send()
    await rig.quiet()
    assert "succeeded" == await rig.state(request_id)
    (parcel,) = await rig.store.peek(OUTBOX)
    assert ("queue", "small") == (parcel.attributes["w"], parcel.attributes["t"])


# --- loops ------------------------------------------------------------------------------------------------------------


def ring(rig: EventRig, *names: str, side: str = "OnSuccess") -> None:
    """Make each function the destination of the one before it, and the first that of the last."""
    for name, following in zip(names, (*names[1:], names[0]), strict=True):
        rig.configure(name, DestinationConfig={side: {"Destination": f"{FUNCTION}{following}"}})


@pytest.mark.parametrize("names", [("f",), ("f", "g")], ids=["itself", "two"])
async def test_a_loop_of_destinations_ends_after_sixteen_passes(rig: EventRig, names: tuple[str, ...]) -> None:
    for name in names:
        await rig.intake.open(name)
    ring(rig, *names)
    await rig.store.create("dead", QueueSettings())
    version = rig.deployed.catalog.functions["f"].latest
    rig.change("f", latest=replace(version, settings={"DeadLetterConfig": {"TargetArn": f"{ARN}dead"}}))
    await rig.send("f")
    await rig.quiet()
    assert dict.fromkeys(names, 16) == Counter(one.function for one in rig.handlers.seen)
    (stopped,) = await rig.results.listing(list(names), "failed", 10)
    assert ("f", "RecursiveLoop", 0) == (stopped["function"], stopped["condition"], stopped["attempts"])
    shown = await rig.shown(stopped["requestId"])
    assert "The function ran 16 times in a loop of destinations." == shown["error"]["errorMessage"]
    (letter,) = await rig.store.peek("dead")
    assert ["Number", "400"] == letter.attributes["m"]["ErrorCode"]
    assert (1, 1) == (rig.book.of("f").recursive, rig.book.of("f").dropped)
    assert 0 == sum([(await rig.store.counts(queue_of(name))).total for name in names])


async def test_a_loop_of_failures_does_not_go_on_without_running_anything(rig: EventRig) -> None:
    for name in ("f", "g"):
        await rig.intake.open(name)
        rig.configure(name, MaximumRetryAttempts=0)
    rig.handlers.script = lambda invocation, attempt: bad()
    for name, following in (("f", "g"), ("g", "f")):
        destination = {"OnFailure": {"Destination": f"{FUNCTION}{following}"}}
        rig.configure(name, MaximumRetryAttempts=0, DestinationConfig=destination)
    await rig.send("f")
    await rig.quiet()
    assert {"f": 16, "g": 16} == Counter(one.function for one in rig.handlers.seen)
    failed = await rig.results.listing(["f", "g"], "failed", 100)
    assert [[f"{FUNCTION}g"]] == [one["undelivered"] for one in failed if one["condition"] == "RecursiveLoop"]
    assert 33 == len(failed)


async def test_a_function_whose_loops_are_allowed_goes_on(rig: EventRig) -> None:
    await rig.intake.open("f")
    ring(rig, "f")
    rig.handlers.script = lambda invocation, attempt: good() if len(rig.handlers.seen) < 40 else bad()
    function = rig.deployed.catalog.functions["f"].with_document("recursion/", {"RecursiveLoop": "Allow"})
    rig.deployed.catalog = rig.deployed.catalog.with_function(function)
    await rig.send("f")
    await rig.quiet()
    assert (40, 0) == (len(rig.handlers.seen), rig.book.of("f").recursive)


class NoCarrier:
    async def carry(self, parcel: Parcel) -> None:
        raise AssertionError("nothing goes to another host")


async def test_an_event_that_came_by_way_of_the_outbox_is_of_the_same_chain(rig: EventRig) -> None:
    """The queue of a function that never had an event is not there when its first one is sent."""
    ring(rig, "f", "g")
    rig.handlers.script = lambda invocation, attempt: None if invocation.function == "g" else good()
    outbox = Outbox(rig.store, NoCarrier(), rig.intake, rig.book, rig.clock, delays=Delays(), age_s=100)
    await rig.send("f")
    await rig.quiet()
    assert 1 == (await rig.store.counts(OUTBOX)).total
    await outbox.start()
    await rig.quiet()
    (message,) = await rig.store.peek(queue_of("g"))
    assert {"f": 1} == stored(message).lineage
    await outbox.close()


async def test_a_long_chain_of_different_functions_is_no_loop(tmp_path: Path) -> None:
    names = [f"f{number}" for number in range(20)]
    async with EventRig(tmp_path, *names) as rig:
        for name in names:
            await rig.intake.open(name)
        ring(rig, *names)
        rig.handlers.script = lambda invocation, attempt: bad() if len(rig.handlers.seen) == 20 else good()
        await rig.send("f0")
        await rig.quiet()
        assert names == [one.function for one in rig.handlers.seen]


# --- cancelling -------------------------------------------------------------------------------------------------------


async def test_cancelling_ends_what_waits_what_runs_and_what_will_be_tried_again(rig: EventRig) -> None:
    rig.handlers.room = 1
    rig.handlers.script = lambda invocation, attempt: bad() if invocation.function == "g" else None
    running, waiting, failing = await rig.send(), await rig.send(), await rig.send("g")
    await rig.quiet()
    assert ["running", "queued"] == [await rig.state(one) for one in (running, waiting)]
    for request_id in (waiting, failing, running):
        await rig.results.cancel(request_id)
        assert "cancelled" == await rig.state(request_id)
        with pytest.raises(Conflict):
            await rig.results.cancel(request_id)
    seen = len(rig.handlers.seen)
    await rig.pass_s(30)
    assert seen == len(rig.handlers.seen)


async def test_cancelling_kills_what_runs_and_nothing_else(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: None
    running, going_on = await rig.send(), await rig.send()
    await rig.quiet()
    await rig.results.cancel(running)
    await rig.quiet()
    assert [running] == rig.handlers.killed
    assert ["cancelled", "running"] == [await rig.state(one) for one in (running, going_on)]
    assert (1, 1) == (rig.book.of("f").cancelled, (await rig.shown(running))["attempts"])


async def test_a_cancel_whose_process_does_not_end_says_so(rig: EventRig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as one that waits for a disk or a driver; it is not over, and ends as cancelled when it can."""
    rig.handlers.script = lambda invocation, attempt: None
    request_id = await rig.send()
    await rig.quiet()
    monkeypatch.setattr(rig.handlers, "kill", lambda request_id: True)
    cancelling = asyncio.create_task(rig.results.cancel(request_id))
    await rig.pass_s(40)
    with pytest.raises(Conflict, match="is being cancelled, and has not ended yet"):
        await cancelling
    assert "running" == await rig.state(request_id)
    rig.handlers.let_go()
    await rig.quiet()
    assert "cancelled" == await rig.state(request_id)


async def test_cancelling_what_waits_for_an_instance_kills_none(rig: EventRig) -> None:
    rig.handlers.waiting = True
    rig.handlers.script = lambda invocation, attempt: None
    request_id = await rig.send()
    await rig.quiet()
    await rig.results.cancel(request_id)
    await rig.quiet()
    assert ([], 0) == (rig.handlers.killed, rig.handlers.running)
    assert "cancelled" == await rig.state(request_id)


async def test_an_answer_and_a_cancel_in_the_same_moment_end_the_event_once(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: None
    request_id = await rig.send()
    await rig.quiet()
    feed, key = rig.dispatcher.feed("f"), key_of(request_id)
    assert feed is not None
    assert key is not None
    rig.handlers.let_go()  # the answer is there, and nobody has seen it yet
    assert feed.attempts.cancel(key)
    await rig.quiet()
    assert "cancelled" == await rig.state(request_id)
    figures = rig.book.of("f")
    assert (1, 0, 0) == (figures.cancelled, figures.succeeded, figures.retries)
    with pytest.raises(Conflict):
        await rig.results.cancel(request_id)


async def test_a_listing_finds_what_runs_and_what_is_tried_again_behind_a_backlog(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: bad() if invocation.payload == b'"bad"' else None
    failing = await rig.send(payload=b'"bad"')
    await rig.quiet()
    rig.handlers.room = 1
    ids = [await rig.send() for _ in range(20)]
    await rig.quiet()

    async def listed(state: str) -> set[str]:
        return {one["requestId"] for one in await rig.results.listing(["f", "g"], state, 5)}

    (running,) = await listed("running")
    assert running in ids
    assert {failing} == await listed("retrying")
    assert 5 == len(await listed("queued"))
    assert set() == await listed("succeeded")
    with pytest.raises(InvalidParameter, match="is not one of"):
        await listed("lost")


# --- functions that go, nodes that end --------------------------------------------------------------------------------


async def test_events_of_a_deleted_function_wait_for_it_to_come_back(rig: EventRig) -> None:
    rig.handlers.room, rig.handlers.held = 0, True
    ids = [await rig.send() for _ in range(3)]
    catalog = rig.deployed.catalog
    rig.deployed.catalog = catalog.without_function("f")
    rig.dispatcher.changed()
    rig.handlers.let_go()
    rig.handlers.room, rig.handlers.held = 10, False
    await rig.pass_s(120, 10)
    left = [one for one in ids if await rig.state(one) == "queued"]
    rig.deployed.catalog = catalog
    rig.dispatcher.changed()
    await rig.pass_s(40, 5)
    assert left
    assert ["succeeded"] * 3 == [await rig.state(one) for one in ids]


async def test_events_of_a_deleted_function_end_when_they_are_too_old(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: FULL
    request_id = await rig.send(max_age_s=100)
    await rig.quiet()
    rig.deployed.catalog = rig.deployed.catalog.without_function("f")
    rig.dispatcher.changed()
    await rig.pass_s(180, 10)
    assert "EventAgeExceeded" == (await rig.shown(request_id))["condition"]
    await rig.pass_s(60, 10)
    assert queue_of("f") not in {queue.name for queue in rig.store.queues}


@pytest.mark.parametrize("full", [False, True], ids=["an event comes", "the disk is full"])
async def test_queue_race_an_event_that_comes_while_its_function_s_queue_is_taken_away_is_not_lost(
    rig: EventRig, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    await rig.send()
    await rig.quiet()
    count, remove = rig.store.counts, rig.store.remove

    async def counts(name: str) -> Any:
        found = await count(name)
        if not full:
            await rig.store.apply(rig.intake.step(NewEvent("f", "", b'"late"')))  # another one's end brings it
        monkeypatch.setattr(rig.store, "counts", count)
        return found

    async def refused(name: str, **given: Any) -> bool:
        monkeypatch.setattr(rig.store, "remove", remove)
        raise StateError("the disk is full")

    monkeypatch.setattr(rig.store, "counts", counts)
    if full:
        monkeypatch.setattr(rig.store, "remove", refused)
    catalog = rig.deployed.catalog
    rig.deployed.catalog = catalog.without_function("f")
    rig.dispatcher.changed()
    rig.dispatcher._feeds["f"]._rung()
    await rig.pass_s(31, 1)
    assert rig.store.counts == count
    rig.deployed.catalog = catalog
    rig.dispatcher.changed()
    if full:
        await rig.send(payload=b'"late"')
    await rig.quiet()
    assert [b"{}", b'"late"'] == [one.payload for one in rig.handlers.seen]


async def test_a_node_that_was_killed_runs_again_what_it_had_begun_and_not_what_had_ended(rig: EventRig) -> None:
    rig.handlers.script = lambda invocation, attempt: bad() if invocation.payload == b'"bad"' else good()
    done, failed = await rig.send(), await rig.send(payload=b'"bad"')
    await rig.quiet()
    rig.handlers.held = True
    cut = await rig.send()
    await rig.quiet()
    assert "running" == await rig.state(cut)
    await rig.restart()
    rig.handlers.held = False
    await rig.quiet()
    assert ["succeeded", "succeeded", "retrying"] == [await rig.state(one) for one in (done, cut, failed)]
    assert [1, 2, 1] == [sum(one.request_id == each for one in rig.handlers.seen) for each in (done, cut, failed)]


async def test_stopping_gives_back_what_has_not_begun_and_lets_the_rest_end(rig: EventRig) -> None:
    rig.handlers.held = True
    ids = [await rig.send() for _ in range(5)]
    await rig.quiet()
    begun = {one.request_id for one in rig.handlers.seen}
    rig.dispatcher.stop()
    rig.handlers.let_go()
    await rig.dispatcher.drained()
    await rig.quiet()
    assert begun == {one for one in ids if await rig.state(one) == "succeeded"}
    await rig.dispatcher.close()
    counts = await rig.store.counts(queue_of("f"))
    assert (5 - len(begun), 0) == (counts.visible, counts.in_flight)
