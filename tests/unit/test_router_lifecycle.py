"""What happens around requests: deaths, deploys, warming and cooling, the end of the node."""

from __future__ import annotations

import asyncio
import json
import math

import pytest

from glowplug.runtime import errors
from glowplug.runtime.invocation import Tier
from glowplug.runtime.process import wire
from glowplug.runtime.routing.records import StartRecord
from glowplug.runtime.testing import MODEL, Rig, Script, a_spec, gated, settle

# --- deaths -----------------------------------------------------------------------------------------------------------


def last_engine(rig: Rig) -> str:
    """Return the engine of the function's last start."""
    last = rig.router.describe()[0].last_start
    return "" if last is None else last.engine


async def test_a_worker_that_dies_takes_only_its_own_invocation() -> None:
    """The others go on, the next is served by a new worker."""
    rig, gate = gated(a_spec())
    calls = await rig.calls(3)
    rig.zygotes.workers[1].die(3 << 8)
    await settle()
    failed = [call for call in calls if call.done()]
    assert 1 == len(failed)
    assert "Runtime.ExitError" == json.loads(failed[0].result().payload)["errorType"]
    await gate.let_go(2)
    assert all(call.done() for call in calls)


async def test_an_idle_instance_that_dies_is_not_chosen() -> None:
    """It leaves the pool when its death is reported."""
    rig = Rig(a_spec())
    await rig.call()
    rig.zygotes.workers[0].die(9)
    await settle()
    assert ("parked", 0) == (rig.router.describe()[0].tier, rig.router.describe()[0].instances)
    assert "parked" == (await rig.call()).tier


async def test_crash_loops_back_off_but_a_few_crashes_do_not() -> None:
    """Five deaths in a row are forgiven; then the pause grows. One outcome resets it."""
    rig = Rig(a_spec())

    async def handler(invoke: wire.Invoke) -> bytes:
        if invoke.events[0] == b'"crash"':
            next(worker for worker in rig.zygotes.workers if worker.busy).die(1 << 8)
            await asyncio.Event().wait()
        return b"{}"

    rig.script().handler = handler
    for _ in range(6):
        assert "Unhandled" == (await rig.call(payload=b'"crash"')).function_error
    paused = rig.call()
    await settle()
    assert not paused.done()
    await rig.clock.advance(0.11)
    assert (await paused).function_error is None
    await rig.call(payload=b'"crash"')
    assert (await rig.call()).function_error is None


async def test_a_zygote_that_dies_is_rebuilt_by_the_next_start_and_instances_go_on() -> None:
    """The function falls to stored as soon as its instances are gone."""
    rig, gate = gated(a_spec())
    first = (await rig.calls(1))[0]
    rig.zygotes.zygotes[0].die(9)
    await settle()
    second = (await rig.calls(1))[0]
    assert 2 == len(rig.zygotes.zygotes)
    await gate.let_go(2)
    assert ((await first).function_error, (await second).function_error) == (None, None)


async def test_a_failed_start_fails_all_who_waited_unless_somebody_can_still_serve_them() -> None:
    """With a live instance, they wait for that."""
    rig, gate = gated(a_spec(timeout_s=60))
    running = (await rig.calls(1))[0]
    rig.script().start_error = errors.LoadFailed("Runtime.AfterRestoreError", "hook", [])
    waiting = (await rig.calls(2))[0]
    assert not waiting.done()
    await gate.let_go()
    await running
    assert "r2" == gate.seen[-1]
    await gate.let_go()
    await gate.let_go()
    assert (await waiting).function_error is None


async def test_a_fault_of_the_runtime_in_a_start_is_an_internal_error() -> None:
    """Not a hang, and not a function error."""
    rig = Rig(a_spec())

    async def zygote(*_: object, **__: object) -> object:
        raise OSError(24, "too many open files")

    rig.zygotes.function_zygote = zygote  # type: ignore[assignment]
    with pytest.raises(errors.InternalError, match="f could not be started: OSError"):
        await rig.call()


# --- deploying --------------------------------------------------------------------------------------------------------


async def test_a_new_revision_is_chosen_at_once_and_the_old_one_drains() -> None:
    """What runs finishes, what is idle stops, the old zygote goes last."""
    rig, gate = gated(a_spec())
    old_call = (await rig.calls(1))[0]
    rig.router.replace(a_spec(description="new"))
    new_call = (await rig.calls(1))[0]
    old_zygote, new_zygote = rig.zygotes.zygotes
    assert (False, 1) == (old_zygote.retired, rig.router.describe()[0].draining)
    await gate.let_go(2)
    assert (None, None) == ((await old_call).function_error, (await new_call).function_error)
    assert (True, False) == (old_zygote.retired, new_zygote.retired)
    assert [False, True] == [worker.alive for worker in rig.zygotes.workers]


async def test_requests_held_by_an_old_revision_move_to_the_new_one() -> None:
    """Their unfinished start is discarded; they are not."""
    rig = Rig(a_spec())
    rig.script().import_s = math.inf
    call = (await rig.calls(1))[0]
    rig.script().import_s = 0.0
    rig.router.replace(a_spec(description="new"))
    assert b"{}" == (await call).payload
    assert ["ready", "discarded"] == [record.outcome for record in rig.ledger.recent()]
    await settle()
    assert [False, True] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_placing_the_same_revision_again_changes_nothing() -> None:
    """A deploy without changes keeps everything warm."""
    rig = Rig(a_spec())
    await rig.call()
    rig.router.place(a_spec())
    assert "hot" == (await rig.call()).tier


async def test_a_removed_function_is_not_found_and_leaves_nothing() -> None:
    """Held requests are told, instances and zygote go."""
    rig, gate = gated(a_spec(max_instances=1))
    running, held = await rig.calls(2)
    rig.router.remove("f")
    with pytest.raises(errors.FunctionNotFound):
        await held
    await gate.let_go()
    assert (await running).function_error is None
    assert (True, []) == (rig.zygotes.zygotes[0].retired, rig.router.describe())
    assert "<Router [] " in repr(rig.router)


async def test_a_finished_bake_switches_after_the_new_zygote_is_checked() -> None:
    """Hot stays hot: one instance on the new engine is ready before the old ones drain."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.call()
    rig.models.engine = "aot_inductor"
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await settle()
    old, new = rig.zygotes.zygotes
    assert ("hot", 1, "aot_inductor") == (
        rig.router.describe()[0].tier,
        rig.router.describe()[0].instances,
        last_engine(rig),
    )
    assert (True, False) == (old.retired, new.retired)
    assert "hot" == (await rig.call()).tier
    assert ["bake", "bake", "request"] == [record.cause for record in rig.ledger.recent()]


async def test_two_bakes_that_end_at_once_leave_one_zygote() -> None:
    """Each switch retires exactly what it replaced."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.router.cool("f", "parked")
    for _ in range(2):
        rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await settle()
    assert [False, False, True] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_bake_that_ends_while_the_zygote_is_being_built_is_not_lost() -> None:
    """What is being built was planned with eager; the switch comes right after it."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.script().import_s = 1.0
    call = rig.call()
    await rig.clock.advance(0.5)
    rig.models.engine = "aot_inductor"
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await rig.clock.advance(5)
    assert (None, "aot_inductor") == ((await call).function_error, last_engine(rig))
    assert [False, True] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_a_finished_bake_replaces_instances_of_functions_that_cannot_be_parked() -> None:
    """The new one is ready before the old one drains."""
    rig = Rig(a_spec(models=(MODEL,), parking=False))
    await rig.call()
    rig.models.engine = "aot_inductor"
    rig.router.rebind(a_spec(models=(MODEL,), parking=False).revision)
    await settle()
    assert [False, True] == [worker.alive for worker in rig.zygotes.alone]
    assert "aot_inductor" == last_engine(rig)


async def test_a_bake_that_cannot_be_bound_leaves_the_old_zygote_serving() -> None:
    """The function is never worse off for a better engine."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.router.cool("f", "parked")
    rig.models.engine = "aot_inductor"
    rig.script().bind_errors = {engine: errors.RestoreFailed("broken") for engine in ("aot_inductor", "eager")}
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await settle()
    assert [True, False, False] == [zygote.alive for zygote in rig.zygotes.zygotes]
    rig.script().bind_errors = {}
    assert "parked" == (await rig.call()).tier


# --- tiers ------------------------------------------------------------------------------------------------------------


async def test_warm_lifts_to_hot_and_waits_for_it() -> None:
    """From stored; on a hot function it does nothing."""
    rig = Rig(a_spec())
    assert "hot" == await rig.router.warm("f")
    assert "hot" == await rig.router.warm("f")
    assert ("hot", 1, "warm") == ((await rig.call()).tier, len(rig.zygotes.workers), rig.ledger.recent()[0].cause)


async def test_warm_raises_what_the_start_raises() -> None:
    """The operator sees the import error."""
    rig = Rig(a_spec())
    rig.script().load_error = errors.LoadFailed("ImportError", "no module named x", [])
    with pytest.raises(errors.LoadFailed, match="no module named x"):
        await rig.router.warm("f")


async def test_cool_waits_for_what_runs() -> None:
    """Nothing is interrupted."""
    rig, gate = gated(a_spec())
    running = (await rig.calls(1))[0]
    cooling = asyncio.create_task(rig.router.cool("f", "stored"))
    await settle()
    assert not cooling.done()
    await gate.let_go()
    assert ("stored", None) == (await cooling, (await running).function_error)
    assert rig.zygotes.zygotes[0].retired


async def test_cool_to_stored_during_a_rebuild_is_not_undone_by_it() -> None:
    """The zygote that is being built goes as well."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.call()
    rig.script().import_s = 1.0
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await settle()
    cooling = asyncio.create_task(rig.router.cool("f", "stored"))
    await rig.clock.advance(5)
    assert ("stored", "stored") == (await cooling, rig.router.describe()[0].tier)
    assert [False, False] == [zygote.alive for zygote in rig.zygotes.zygotes]


@pytest.mark.parametrize("tier", ["stored", "parked"])
@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.0, 1.5])
async def test_cool_just_as_a_bake_moves_a_function_is_not_undone_by_the_move(tier: Tier, after_s: float) -> None:
    """Neither the zygote with the new engine nor the instance on it that replaces the old one comes back to life."""
    rig = Rig(a_spec(models=(MODEL,)))
    await rig.call()
    rig.script().import_s = 1.0
    rig.script().start_s = 1.0
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await rig.clock.advance(after_s)
    cooling = asyncio.create_task(rig.router.cool("f", tier))
    await settle()
    await rig.clock.advance(20)
    assert (tier, tier) == (await cooling, rig.router.describe()[0].tier)
    await rig.clock.advance(20)
    assert tier == rig.router.describe()[0].tier


async def test_a_bake_that_ends_while_a_function_sinks_brings_nothing_back() -> None:
    rig, gate = gated(a_spec(models=(MODEL,)))
    running = (await rig.calls(1))[0]
    cooling = asyncio.create_task(rig.router.cool("f", "stored"))
    await settle()
    rig.router.rebind(a_spec(models=(MODEL,)).revision)
    await gate.let_go()
    await rig.clock.advance(20)
    assert ("stored", "stored") == (await cooling, rig.router.describe()[0].tier)
    assert (await running).function_error is None


async def test_request_that_lifts_a_function_while_it_cools_keeps_its_worker() -> None:
    """A zygote that retires takes its workers with it: it must not, under a lease."""
    rig, gate = gated(a_spec())
    first = (await rig.calls(1))[0]
    cooling = asyncio.create_task(rig.router.cool("f", "stored"))
    await settle()
    second = (await rig.calls(1))[0]
    gate.running[0].set_result(None)
    await settle()
    assert ("hot", True) == (await cooling, first.done())
    await gate.let_go()
    assert (await second).function_error is None


async def test_deploy_while_a_zygote_is_being_built_leaves_no_zygote() -> None:
    """Built for a revision that is gone by then."""
    rig = Rig(a_spec())
    rig.script().import_s = 1.0
    cooling = asyncio.create_task(rig.router.cool("f", "parked"))
    await rig.clock.advance(0.5)
    rig.router.replace(a_spec(description="new"))
    await rig.clock.advance(1)
    await cooling
    assert [False] == [zygote.alive for zygote in rig.zygotes.zygotes]


async def test_a_start_that_waited_for_a_zygote_somebody_else_built_says_so() -> None:
    """It forked; it did not build, and what it knows of the engine is the zygote's."""
    rig = Rig(a_spec(models=(MODEL,)))
    rig.script().import_s = 1.0
    cooling = asyncio.create_task(rig.router.cool("f", "parked"))
    await rig.clock.advance(0.5)
    call = rig.call()
    await rig.clock.advance(5)
    await cooling
    assert "stored" == (await call).tier
    record = rig.ledger.recent(1)[0]
    assert ("fork", "eager", ["wait", "fork", "start"]) == (
        record.way,
        record.engine,
        [phase.name for phase in record.phases],
    )


async def test_cool_refuses_what_cannot_be() -> None:
    """409 with the reason; a function without a model has nothing that could be remote."""
    rig = Rig(a_spec(), a_spec("off", parking=False), a_spec("exec", environment={"LD_PRELOAD": "x"}))
    with pytest.raises(errors.Conflict, match="off cannot be parked: Parking is off"):
        await rig.router.cool("off", "parked")
    with pytest.raises(errors.Conflict, match="exec cannot be parked: Environment sets LD_PRELOAD"):
        await rig.router.cool("exec", "parked")
    rig.script().obstacle = "2 threads run"
    with pytest.raises(errors.Conflict, match="f cannot be parked: 2 threads run"):
        await rig.router.cool("f", "parked")
    with pytest.raises(errors.InvalidParameter, match="f has no model: there is nothing to drop"):
        await rig.router.cool("f", "remote")
    with pytest.raises(errors.InvalidParameter, match="use warm"):
        await rig.router.cool("f", "hot")
    with pytest.raises(errors.FunctionNotFound):
        await rig.router.cool("nope", "parked")
    assert "stored" == await rig.router.cool("off", "stored")


# --- end --------------------------------------------------------------------------------------------------------------


async def test_close_drains_kills_what_is_late_and_leaves_no_process() -> None:
    """``drain_s`` seconds for what runs; held requests end at once."""
    rig, gate = gated(a_spec(max_instances=1, timeout_s=900), a_spec("idle"))
    rig.script("idle").handler = Script().handler
    running, held = await rig.calls(2)
    await rig.call("idle")
    closing = asyncio.create_task(rig.router.close())
    await settle()
    with pytest.raises(errors.InternalError, match="the node is stopping"):
        await held
    await rig.clock.advance(9.9)
    assert not closing.done()
    await rig.clock.advance(0.2)
    await closing
    assert "Unhandled" == (await running).function_error
    assert not any(process.alive for process in [*rig.zygotes.workers, *rig.zygotes.zygotes])
    assert 1 == len(gate.running)


async def test_describe_is_truthful() -> None:
    """One row per function, by name."""
    rig, gate = gated(a_spec("b", max_instances=1), a_spec("a"))
    await rig.calls(2, "b")
    first, second = rig.router.describe()
    assert ("a", "stored", 0, None) == (first.name, first.tier, first.instances, first.last_start)
    assert ("b", "hot", 1, 1, 1) == (second.name, second.tier, second.instances, second.busy, second.held)
    assert isinstance(second.last_start, StartRecord)
    await gate.let_go()
    await gate.let_go()
