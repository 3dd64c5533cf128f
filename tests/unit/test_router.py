"""The request path: who gets an instance, who waits, who is refused; and what happens when something dies."""

from __future__ import annotations

import asyncio
import math
from collections import Counter

import pytest

from glowplug.runtime import errors
from glowplug.runtime.process import wire
from glowplug.runtime.routing.allotment import Quota
from glowplug.runtime.routing.instance import State
from glowplug.runtime.testing import MODEL, Rig, Script, a_spec, gated, settle

# --- reuse, start, hold -----------------------------------------------------------------------------------------------


async def test_a_hot_function_costs_no_start_and_no_task() -> None:
    """The second request finds the instance of the first."""
    rig = Rig(a_spec())
    await rig.call()
    before = asyncio.all_tasks()
    outcome = await rig.router.invoke(rig.invocation())
    assert ("hot", [("handler")]) == (outcome.tier, [name for name, _ in outcome.phases])
    assert (1, 1) == (len(rig.zygotes.workers), len(rig.ledger.recent()))
    assert asyncio.all_tasks() == before


async def test_an_unknown_function_is_named_with_its_qualifier() -> None:
    """As AWS words it on invoke."""
    rig = Rig()
    arn = "arn:aws:lambda:us-east-1:000000000000:function:nope"
    with pytest.raises(errors.FunctionNotFound, match=rf"^Function not found: {arn}:\$LATEST$"):
        await rig.router.invoke(rig.invocation("nope"))


async def test_held_requests_are_served_oldest_first_by_whichever_instance_gets_free() -> None:
    """Not by the start that each of them caused."""
    rig, gate = gated(a_spec(max_instances=1))
    calls = await rig.calls(4)
    for _ in range(4):
        await gate.let_go()
    assert ["r1", "r2", "r3", "r4"] == gate.seen
    assert ["stored", "stored", "stored", "stored"] == [(await call).tier for call in calls]
    assert (1, 1) == (len(rig.zygotes.workers), gate.most)


async def test_a_request_that_waits_for_a_busy_instance_found_the_function_hot() -> None:
    """Its phases say that it was held, not that anything started."""
    rig, gate = gated(a_spec(max_instances=1))
    await rig.calls(1)
    waiting = rig.call()
    await rig.clock.advance(0.5)
    await gate.let_go(2)
    await gate.let_go()
    outcome = await waiting
    assert ("hot", ["hold", "handler"]) == (outcome.tier, [name for name, _ in outcome.phases])
    assert 500 == round(outcome.phases[0][1])
    assert "every instance was busy and the request waited 500.0 ms for one" in rig.ledger.explain("r2")


async def test_a_hundred_requests_on_a_parked_model_start_at_most_as_many_as_cores() -> None:
    """No thundering herd."""
    rig, gate = gated(a_spec("embed", models=(MODEL,)), cores=2)
    await rig.router.cool("embed", "parked")
    calls = await rig.calls(100, "embed")
    for _ in range(100):
        await gate.let_go(2)
    assert {None} == {(await call).function_error for call in calls}
    assert 2 == Counter(record.way for record in rig.ledger.recent())["fork"]
    assert 2 == gate.most


async def test_a_hundred_one_second_sleepers_run_at_once_while_starts_queue_for_the_cores() -> None:
    """10 ms per fork, two at a time: all of them run after half a second, and are done 1.5 s after they came."""
    rig = Rig(a_spec(timeout_s=30), cores=2)
    script = rig.script()
    script.fork_s = 0.01
    forking = Counter[str]()

    async def handler(_: wire.Invoke) -> bytes:
        await rig.clock.sleep(1.0)
        return b"{}"

    script.handler = handler
    await rig.router.cool("f", "parked")
    zygote = rig.zygotes.zygotes[0]
    real = zygote.fork

    async def fork(worker_id: str, *, uid: int, gid: int) -> object:
        forking["now"] += 1
        forking["most"] = max(forking["most"], forking["now"])
        try:
            return await real(worker_id, uid=uid, gid=gid)
        finally:
            forking["now"] -= 1

    zygote.fork = fork  # type: ignore[method-assign,assignment]
    calls = await rig.calls(100)
    await rig.clock.advance(0.6)
    assert (100, 2) == (rig.router.describe()[0].busy, forking["most"])
    await rig.clock.advance(1.0)
    assert all(call.done() for call in calls)


async def test_a_start_that_is_no_longer_wanted_when_its_turn_comes_is_dropped() -> None:
    """The requests that asked for it were served by others meanwhile."""
    rig, gate = gated(a_spec(), cores=1)
    rig.script().fork_s = 1.0
    await rig.router.cool("f", "parked")
    calls = await rig.calls(5)
    status = rig.router.describe()[0]
    assert (5, 5) == (status.starting, status.instances)  # also those that only wait
    await rig.clock.advance(1.0)  # the first is there, and serves them all before the second is
    for _ in range(5):
        await gate.let_go()
    await rig.clock.advance(10)
    assert all(call.done() for call in calls)
    assert 2 == len(rig.zygotes.workers)


async def test_stored_functions_build_one_zygote_however_many_requests_come() -> None:
    """One start until there is a zygote; the rest fork from it."""
    rig, gate = gated(a_spec(), cores=4)
    await rig.calls(8)
    assert (1, 8) == (len(rig.zygotes.zygotes), len(rig.zygotes.workers))
    await gate.let_go(8)


async def test_a_chain_of_three_functions_does_not_deadlock_on_one_core() -> None:
    """A request that runs holds no start slot."""
    rig = Rig(a_spec("a"), a_spec("b"), a_spec("c"), cores=1)

    def calling(name: str) -> Script:
        async def handler(_: wire.Invoke) -> bytes:
            return (await rig.router.invoke(rig.invocation(name))).payload

        return Script(handler=handler)

    rig.zygotes.scripts |= {"a": calling("b"), "b": calling("c")}
    assert b"{}" == (await asyncio.wait_for(rig.call("a"), 5)).payload


async def test_a_hanging_start_gives_its_turn_to_the_next_function() -> None:
    """One function whose import hangs does not keep all others cold."""
    rig = Rig(a_spec("bad"), a_spec("good"), cores=1)
    rig.script("bad").import_s = math.inf
    await rig.calls(1, "bad")
    good = rig.call("good")
    await rig.clock.advance(4.9)
    assert not good.done()
    await rig.clock.advance(0.2)
    assert good.done()
    rig.router.remove("bad")


async def test_threads_are_an_even_share_of_the_cores_among_busy_models() -> None:
    """max(1, cores // busy model instances), granted with each invocation; never waited for."""
    rig, gate = gated(a_spec(models=(MODEL,)), cores=4)
    for _ in range(4):
        await rig.calls(1)
    granted = [invoke.threads for worker in rig.zygotes.workers for invoke in worker.invokes]
    assert [4, 2, 1, 1] == granted
    await gate.let_go(4)


async def test_memory_admits_only_what_fits() -> None:
    """A second instance of 1024 MB does not fit into 1 GB beyond the floor; the first always does."""
    rig, gate = gated(a_spec(memory_mb=1024))
    rig.memory.available = 1024**3
    calls = await rig.calls(3)
    assert 1 == len(rig.zygotes.workers)
    for _ in range(3):
        await gate.let_go()
    assert all(call.done() for call in calls)


# --- refuse -----------------------------------------------------------------------------------------------------------


async def test_reserved_zero_is_throttled() -> None:
    """With AWS's reason."""
    rig = Rig(a_spec())
    rig.router.allot("f", Quota(reserved=0))
    with pytest.raises(errors.Throttled) as caught:
        await rig.call()
    assert "ReservedFunctionConcurrentInvocationLimitExceeded" == caught.value.reason


async def test_beyond_max_held_requests_is_throttled_with_an_estimate() -> None:
    """Retry-After: what the held ones will take, from what requests took before."""
    rig, gate = gated(a_spec(max_instances=1, max_held=2, timeout_s=60))
    first = rig.call()
    await rig.clock.advance(10)
    await gate.let_go()
    await first
    calls = await rig.calls(3)
    with pytest.raises(errors.Throttled, match=r"Rate Exceeded\.") as caught:
        await rig.call()
    assert ("ConcurrentInvocationLimitExceeded", 3.0) == (caught.value.reason, round(caught.value.retry_after_s, 6))
    for _ in range(3):
        await gate.let_go()
    assert all(call.done() for call in calls)


async def test_hold_timeout_is_the_functions_or_the_callers() -> None:
    """504, and the request is gone from the queue."""
    rig, gate = gated(a_spec(max_instances=1, hold_timeout_s=1, timeout_s=60))
    await rig.calls(1)
    patient, hasty = rig.call(hold_s=5.0), rig.call(hold_s=0.5)
    usual = rig.call()
    await rig.clock.advance(0.5)
    with pytest.raises(errors.HoldTimeout, match=r"no instance was ready within 0\.5 seconds"):
        await hasty
    await rig.clock.advance(0.5)
    with pytest.raises(errors.HoldTimeout, match="within 1 seconds"):
        await usual
    assert 1 == rig.router.describe()[0].held
    await gate.let_go()
    await gate.let_go()
    assert (await patient).function_error is None


# --- races ------------------------------------------------------------------------------------------------------------


async def test_request_cancelled_after_it_was_assigned_an_instance_passes_it_on_httpcore_1110() -> None:
    """Assigned, reserved, not woken yet, cancelled: the instance goes to the next, and nobody else saw it as free."""
    rig, gate = gated(a_spec(max_instances=1))
    first, second, third = await rig.calls(3)
    gate.running[0].set_result(None)
    for _ in range(20):  # until the moment of the hand-over, and not a turn longer
        if rig.router.describe()[0].held == 2:
            await asyncio.sleep(0)
    assert State.BUSY is next(rig.router.instances()).state
    second.cancel()
    await settle()
    assert second.cancelled()
    assert ["r1", "r3"] == gate.seen
    await gate.let_go()
    assert (first.done(), third.done()) == (True, True)
    assert (0, 0) == (rig.router.describe()[0].busy, rig.router.describe()[0].held)


async def test_request_cancelled_in_the_step_in_which_an_instance_gets_free_is_skipped() -> None:
    """The cancellation came first but has not been noticed: the instance must not be handed to a dead request."""
    rig, gate = gated(a_spec(max_instances=1))
    _, second, third = await rig.calls(3)
    gate.running[0].set_result(None)
    second.cancel()
    await settle()
    assert ["r1", "r3"] == gate.seen
    await gate.let_go()
    assert third.done()


async def test_cancelled_waiters_leave_the_queue() -> None:
    """Nothing of them is left, and their starts are dropped or serve others."""
    rig, gate = gated(a_spec(max_instances=1))
    calls = await rig.calls(5)
    for call in calls[1:]:
        call.cancel()
    await settle()
    assert 0 == rig.router.describe()[0].held
    await gate.let_go()
    assert 1 == rig.router.describe()[0].instances


async def test_caller_that_goes_away_does_not_hand_its_running_worker_to_the_next() -> None:
    """The handler finishes what it began, up to its deadline; the next request gets another instance."""
    rig, gate = gated(a_spec(max_instances=1, timeout_s=3))
    gone = (await rig.calls(1))[0]
    gone.cancel()
    await settle()
    following = (await rig.calls(1))[0]
    old, new = rig.zygotes.workers
    assert (["r1"], ["r2"]) == tuple([invoke.invocation_id for invoke in worker.invokes] for worker in (old, new))
    assert old.alive
    await gate.let_go(2)
    assert (False, True, True) == (old.alive, new.alive, following.done())


async def test_a_cancelled_request_frees_its_instance_and_the_next_gets_a_fresh_one() -> None:
    """Long before its Timeout; who is held waits until the process is gone, and no longer. The ledger says why."""
    rig, gate = gated(a_spec(max_instances=1, timeout_s=900))
    running, held = await rig.calls(2)
    assert rig.router.cancel("r1")
    assert not held.done()
    await settle()
    assert "Unhandled" == (await running).function_error
    (old, new) = rig.zygotes.workers
    assert ("cancelled", True) == (old.killed_for, new.alive)
    assert ["r1", "r2"] == gate.seen
    assert "(killed: its invocation was cancelled)" in rig.ledger.explain("r1")
    await gate.let_go(2)
    assert (await held).function_error is None
    assert 0 == rig.router.describe()[0].busy


async def test_cancelled_requests_do_not_make_starts_back_off() -> None:
    """What the node killed did not crash, however often."""
    rig, gate = gated(a_spec(max_instances=1))
    for number in range(1, 10):
        await rig.calls(1)
        assert rig.router.cancel(f"r{number}")
        await settle()
    following = (await rig.calls(1))[0]
    await gate.let_go(10)
    assert following.done()


async def test_a_held_request_runs_nowhere_and_no_instance_is_killed_for_it() -> None:
    """Neither while it is held nor in the moment in which it has its instance and has not begun."""
    rig, gate = gated(a_spec(max_instances=1))
    _, second, third = await rig.calls(3)
    assert not rig.router.cancel("r2")
    gate.running[0].set_result(None)
    for _ in range(20):
        if rig.router.describe()[0].held == 2:
            await asyncio.sleep(0)
    assert not rig.router.cancel("r2")
    second.cancel()
    await settle()
    assert ["r1", "r3"] == gate.seen
    await gate.let_go()
    assert third.done()
    assert [""] == [worker.killed_for for worker in rig.zygotes.workers]


async def test_a_cancel_that_comes_after_the_answer_spares_who_has_the_instance_now() -> None:
    """The race the other way round: the same process serves the next request already."""
    rig, gate = gated(a_spec(max_instances=1))
    _, second = await rig.calls(2)
    await gate.let_go()
    assert ["r1", "r2"] == gate.seen
    assert not rig.router.cancel("r1")
    await gate.let_go()
    assert (True, [""]) == (second.done(), [worker.killed_for for worker in rig.zygotes.workers])


async def test_worker_that_died_before_the_request_reached_it_costs_nobody_an_error() -> None:
    """``sent`` is false: it is safe to ask another."""
    rig = Rig(a_spec())
    await rig.call()
    rig.zygotes.workers[0].die(9)  # and the router has not been told yet
    assert "hot" == rig.router.describe()[0].tier
    outcome = await rig.router.invoke(rig.invocation())
    assert (None, b"{}", 2) == (outcome.function_error, outcome.payload, len(rig.zygotes.workers))
