"""Engines while they serve: what is checked after an answer, what is given up, and what serves then."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from glowplug.runtime import errors
from glowplug.runtime.process import wire
from glowplug.runtime.routing.records import StartRecord
from glowplug.runtime.testing import MODEL, FakeWorker, Rig, a_spec, settle

RIGHT = [["", "fast", "right", 1e-7, ""]]
SPEC = a_spec(models=(MODEL,), max_instances=1)


def latest(rig: Rig) -> StartRecord:
    return rig.ledger.recent(1)[0]


def serving(rig: Rig) -> list[FakeWorker]:
    """Return the live workers that have become instances, the oldest first."""
    return [worker for worker in rig.zygotes.workers if worker.starts and worker.alive]


# --- starts that go down the ladder -----------------------------------------------------------------------------------


async def test_the_next_best_engine_serves_and_eager_only_in_the_end() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["second", "third"]
    rig.script().bind_errors["fast"] = errors.RestoreFailed("EngineError: no such file")
    rig.script().check_errors["second"] = errors.CheckFailed("off by 0.3")
    assert b"{}" == (await rig.call()).payload
    assert ("third", "ready") == (latest(rig).engine, latest(rig).outcome)
    assert ["restore", "check"] == rig.models.kinds
    assert (
        "fast was given up: RestoreFailed: EngineError: no such file",
        "second was given up: CheckFailed: off by 0.3",
    ) == latest(rig).notes
    assert "; ".join(latest(rig).notes) == latest(rig).engine_reason
    assert [] == rig.models.bakes, "a good engine serves: nobody asks for another"


async def test_an_engine_that_is_planned_again_in_spite_of_its_failure_is_not_tried_twice() -> None:
    """A disk that cannot be written forgets who was given up."""
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["fast", "fast", "fast"]
    rig.script().bind_errors["fast"] = errors.RestoreFailed("EngineError: no such file")
    assert b"{}" == (await rig.call()).payload
    assert ("eager", ["restore"]) == (latest(rig).engine, rig.models.kinds)


async def test_a_start_whose_last_engine_fails_fails_with_its_error() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["second"]
    for engine in ("fast", "second", "eager"):
        rig.script().check_errors[engine] = errors.CheckFailed(f"{engine} is not finite")
    assert b"eager is not finite" in (await rig.call()).payload
    assert not any(zygote.alive for zygote in rig.zygotes.zygotes)


async def test_an_engine_that_cannot_be_opened_after_a_fork_gives_way_in_the_same_start() -> None:
    """It could when its zygote was built: a session needs memory that is not there any more."""
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["second"]
    await rig.router.cool("f", "parked")
    error = errors.LoadFailed("Glowplug.EngineError", "no session", [])
    error.reported_type = "Glowplug.EngineError"
    rig.script().start_errors["fast"] = error
    assert b"{}" == (await rig.call()).payload
    assert (["restore"], "second", "park and fork") == (rig.models.kinds, latest(rig).engine, latest(rig).way)
    await settle()
    assert [False, True] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_a_hook_that_fails_after_a_fork_costs_no_engine_its_place() -> None:
    rig = Rig(SPEC, engine="fast")
    await rig.router.cool("f", "parked")
    rig.script().start_error = errors.LoadFailed("Runtime.AfterRestoreError", "boom", [])
    assert b"boom" in (await rig.call()).payload
    assert ([], "fast") == (rig.models.kinds, rig.models.engine)


# --- what the node hears ----------------------------------------------------------------------------------------------


async def test_calls_of_models_are_heard_with_the_start_of_their_instance() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.script().calls = [["", "", 2, 8.0, 20.0, 0]]
    await rig.call()
    assert [("called", ["park and fork", "", "fast", 2, 8.0, 20.0, 0])] == rig.watch.heard


async def test_an_answer_leaves_before_its_check_and_its_instance_comes_back_after_it() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.script().verified, rig.script().verify_s = RIGHT, 2.0
    assert b"{}" == (await rig.call()).payload, "nobody waits for the check"
    second = rig.call()
    await rig.clock.advance(1.9)
    assert (False, 1) == (second.done(), rig.router.describe()[0].held)
    await rig.clock.advance(0.2)
    assert b"{}" == (await second).payload
    assert [("verified", RIGHT[0])] == rig.watch.heard
    assert 1 == len(serving(rig))


async def test_race_a_process_that_dies_of_a_check_costs_nobody_an_answer() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.script().verified, rig.script().verify_s = RIGHT, 2.0
    await rig.call()
    held = rig.call()
    await settle()
    serving(rig)[0].die(9)
    await settle()
    assert b"{}" == (await held).payload
    assert ([], 1) == (rig.watch.heard, len(serving(rig)))


async def test_a_check_that_hangs_ends_with_the_time_of_an_invocation() -> None:
    rig = Rig(a_spec(models=(MODEL,), timeout_s=5.0), engine="fast")
    rig.script().verified, rig.script().verify_s = RIGHT, math.inf
    await rig.call()
    (worker,) = serving(rig)
    await rig.clock.advance(4.9)
    assert worker.alive
    await rig.clock.advance(0.2)
    assert ("a check of its answer took too long", 0) == (worker.killed_for, rig.router.describe()[0].busy)


async def test_race_a_function_that_is_deleted_during_a_check_leaves_nothing() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.script().verified, rig.script().verify_s = RIGHT, 2.0
    await rig.call()
    rig.router.remove("f")
    await rig.clock.advance(2.1)
    await settle()
    assert ([], []) == (serving(rig), rig.router.describe())
    assert not any(zygote.alive for zygote in rig.zygotes.zygotes)


async def test_an_answer_that_breaks_the_protocol_is_not_waited_for_any_further() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.script().verified, rig.script().verify_s = RIGHT, 2.0
    invoke = FakeWorker.invoke

    async def twice(self: FakeWorker, message: wire.Invoke, stream: None = None) -> wire.Outcome:
        answer = await invoke(self, message)
        return replace(answer, results=answer.results * 2)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeWorker, "invoke", twice)
        assert b"Runtime exited" in (await rig.call()).payload
    await settle()
    assert ([], 0, 0) == (serving(rig), rig.router.describe()[0].busy, rig.router._launches._tasks.faults)


# --- moving to the next -----------------------------------------------------------------------------------------------


def give_up(rig: Rig, *, at_once: bool) -> None:
    rig.models.give_up(SPEC, "", rig.models.engine, "seen", "mismatch" if at_once else "cold")
    rig.router.given_up(SPEC.revision, "it was given up", at_once=at_once)


async def test_a_slow_engine_serves_until_the_next_is_ready() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["second"]
    await rig.call()
    rig.script().import_s = 1.0
    give_up(rig, at_once=False)
    await rig.clock.advance(0.5)
    assert b"{}" == (await rig.call()).payload
    await rig.clock.advance(1.0)
    assert [["second"]] == [list(worker.engines.values()) for worker in serving(rig)]
    assert ("distrust", "second", "fast was given up: seen") == (
        *(latest(rig).cause, latest(rig).engine),
        latest(rig).engine_reason,
    )


async def test_a_wrong_engine_answers_nobody_any_more() -> None:
    rig = Rig(SPEC, engine="fast")
    rig.models.ladder = ["second"]
    await rig.call()
    old = rig.zygotes.zygotes[0]
    give_up(rig, at_once=True)
    rig.script().import_s = 1.0
    call = rig.call()
    await settle()
    assert (False, [], False) == (call.done(), serving(rig), old.alive)
    await rig.clock.advance(1.0)
    await call
    assert [["second"]] == [list(worker.engines.values()) for worker in serving(rig)]
    assert [1] == [len(worker.invokes) for worker in serving(rig)]


async def test_a_function_without_requests_is_warm_again_after_its_engine_was_wrong() -> None:
    rig = Rig(SPEC, engine="fast")
    await rig.call()
    give_up(rig, at_once=True)
    await settle()
    assert (["eager"], "distrust") == ([*serving(rig)[0].engines.values()], latest(rig).cause)


@pytest.mark.parametrize("parking", [True, False])
async def test_race_an_engine_that_turns_out_wrong_while_a_start_has_it_serves_nobody(*, parking: bool) -> None:
    """The start was planned before."""
    spec = a_spec(models=(MODEL,), parking=parking)
    rig = Rig(spec, engine="fast")
    rig.script().import_s = 1.0
    call = rig.call()
    await rig.clock.advance(0.5)
    rig.models.give_up(spec, "", "fast", "seen", "mismatch")
    rig.router.given_up(spec.revision, "it was given up", at_once=True)
    await rig.clock.advance(3.0)
    assert b"{}" == (await call).payload
    invoked = [worker for worker in rig.zygotes.workers if worker.invokes]
    assert [["eager"]] == [list(worker.engines.values()) for worker in invoked]
    assert {"eager"} == {engine for worker in serving(rig) for engine in worker.engines.values()}


async def test_race_a_fork_of_a_zygote_whose_engine_turns_out_wrong_meanwhile_serves_nobody() -> None:
    rig = Rig(SPEC, engine="fast")
    await rig.router.cool("f", "parked")
    rig.script().fork_s = 1.0
    call = rig.call()
    await rig.clock.advance(0.5)
    give_up(rig, at_once=True)
    rig.script().fork_s = 0.0
    await rig.clock.advance(1.0)
    assert b"{}" == (await call).payload
    (worker,) = [worker for worker in rig.zygotes.workers if worker.invokes]
    assert ["eager"] == list(worker.engines.values())
    await settle()
    assert [False, True] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_race_a_deploy_in_the_same_moment_wins() -> None:
    rig = Rig(SPEC, engine="fast")
    await rig.call()
    rig.router.place(a_spec(models=(MODEL,), description="new"))
    give_up(rig, at_once=True)
    rig.router.given_up("a revision that is gone", "it was given up", at_once=True)
    await settle()
    assert b"{}" == (await rig.call()).payload
    assert 1 == len(serving(rig))


async def test_the_check_of_a_warm_up_event_is_nobodys() -> None:
    """A canary serves nobody: what it says of its calls is not counted."""
    rig = Rig(a_spec(models=(MODEL,), warmup_event="{}"), engine="fast")
    rig.script().calls = [["", "", 1, 0.0, 20.0, 0]]
    rig.script().verified = RIGHT
    await rig.call()
    await settle()
    assert 1 == sum(kind == "called" for kind, _ in rig.watch.heard)
    assert 1 == sum(kind == "verified" for kind, _ in rig.watch.heard)
