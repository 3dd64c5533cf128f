"""Functions sink on idle timers and under memory pressure, and never under somebody's lease."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from glowplug.runtime import errors
from glowplug.runtime.process import wire
from glowplug.runtime.routing.scaler import sink
from glowplug.runtime.routing.sink import INTERVAL_S, Memory
from glowplug.runtime.testing import MODEL, ManualClock, Rig, a_spec, settle

SPEC = a_spec(idle_timeout_s=60, park_timeout_s=3600, max_parked_age_s=10_000)


async def test_hot_parked_stored_on_idle_timers() -> None:
    """One tier at a time; a request lifts it straight to hot."""
    rig = Rig(SPEC)
    await rig.call()
    await rig.tick(59.5)
    assert "hot" == rig.router.describe()[0].tier
    await rig.tick(0.5)
    assert "parked" == rig.router.describe()[0].tier
    await rig.tick(3599.5)
    assert "parked" == rig.router.describe()[0].tier
    await rig.tick(0.5)
    assert ("stored", True) == (rig.router.describe()[0].tier, rig.zygotes.zygotes[0].retired)
    assert "stored" == (await rig.call()).tier
    assert "hot" == rig.router.describe()[0].tier


async def test_each_request_starts_the_idle_timer_again() -> None:
    """It counts from the end of the last one."""
    rig = Rig(SPEC)
    await rig.call()
    await rig.tick(59)
    await rig.call()
    await rig.tick(59)
    assert "hot" == rig.router.describe()[0].tier


async def test_surplus_instances_stop_while_one_is_kept_warm_by_traffic() -> None:
    """The last used is used first, so the others get idle."""
    rig = Rig(SPEC)
    release = asyncio.Event()

    async def handler(_: wire.Invoke) -> bytes:
        await release.wait()
        return b"{}"

    rig.script().handler = handler
    calls = await rig.calls(3)
    release.set()
    await asyncio.gather(*calls)
    for _ in range(3):
        await rig.tick(30)
        await rig.call()
    assert 1 == rig.router.describe()[0].instances


async def test_scale_down_never_takes_an_instance_that_holds_a_lease() -> None:
    """However long it runs, and however short memory is."""
    rig = Rig(a_spec(idle_timeout_s=0, park_timeout_s=0, timeout_s=900))
    release = asyncio.Event()

    async def handler(_: wire.Invoke) -> bytes:
        await release.wait()
        return b'"finished"'

    rig.script().handler = handler
    call = (await rig.calls(1))[0]
    rig.short_of_memory = True
    for _ in range(5):
        await rig.tick(100)
    assert ("hot", True) == (rig.router.describe()[0].tier, rig.zygotes.zygotes[0].alive)
    release.set()
    assert b'"finished"' == (await call).payload


async def test_request_that_takes_the_instance_between_decision_and_deed_wins() -> None:
    """The action names an instance that is leased by now."""
    rig = Rig(a_spec(idle_timeout_s=0))
    await rig.call()
    actions = sink(rig.router.states(), pressure=False)
    assert ["stop"] == [action.kind for action in actions]
    async with rig.router.lease(rig.invocation()) as instance:
        for action in actions:
            rig.router.perform(action)
        assert "busy" == instance.state.value
    assert "ready" == instance.state.value


async def test_functions_that_cannot_be_forked_sink_from_hot_to_stored() -> None:
    """They have no parked tier."""
    rig = Rig(a_spec(parking=False, idle_timeout_s=60))
    await rig.call()
    await rig.tick(60)
    assert "stored" == rig.router.describe()[0].tier


async def test_an_old_zygote_serves_until_the_new_one_is_checked() -> None:
    """MaxParkedAgeSeconds: in the background; a request in between is forked from the old one."""
    rig = Rig(a_spec(models=(MODEL,), max_parked_age_s=100, park_timeout_s=10_000))
    await rig.router.cool("f", "parked")
    rig.script().import_s = 5.0
    await rig.tick(100)
    call = await rig.call()
    assert ("parked", 2) == (call.tier, len(rig.zygotes.zygotes))
    await rig.tick(5)
    old, new = rig.zygotes.zygotes
    assert (True, True) == (old.alive, new.alive)  # its instance still lives on the old one
    await rig.router.cool("f", "parked")
    await settle()
    assert (False, True) == (old.alive, new.alive)
    assert "parked" == (await rig.call()).tier
    assert 1 == len([worker for worker in new.workers if worker.invokes])


async def test_a_rebuild_that_fails_is_not_tried_again_at_once() -> None:
    """The old zygote goes on; the next attempt comes a minute later."""
    rig = Rig(a_spec(max_parked_age_s=100, park_timeout_s=10_000))
    await rig.router.cool("f", "parked")
    rig.script().load_error = errors.LoadFailed("ImportError", "gone", [])
    await rig.tick(100)
    await rig.tick(1)
    assert (2, True) == (len(rig.zygotes.zygotes), rig.zygotes.zygotes[0].alive)
    await rig.tick(60)
    assert 3 == len(rig.zygotes.zygotes)


async def test_memory_pressure_sinks_the_coldest_function_first() -> None:
    """One step per look, whatever the timers say."""
    rig = Rig(a_spec("cold"), a_spec("warm"))
    await rig.call("cold")
    await rig.clock.advance(10)
    await rig.call("warm")
    rig.short_of_memory = True
    tiers = []
    for _ in range(4):
        await rig.tick(0.5)
        tiers.append(tuple(status.tier for status in rig.router.describe()))
    assert [("parked", "hot"), ("stored", "hot"), ("stored", "parked"), ("stored", "stored")] == tiers


async def test_run_looks_every_interval_and_flushes_the_ledger(tmp_path: Path) -> None:
    """A fault ends the task, so that its owner notices."""
    rig = Rig(SPEC)
    looked = 0

    def states() -> list[object]:
        nonlocal looked
        looked += 1
        if looked == 3:
            raise RuntimeError("fault")
        return []

    rig.router.states = states  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(rig.sink.run())
    await rig.clock.advance(2 * INTERVAL_S)
    assert (2, False) == (looked, task.done())
    await rig.clock.advance(INTERVAL_S)
    with pytest.raises(RuntimeError, match="fault"):
        await task


def test_memory_reads_what_the_kernel_says(tmp_path: Path) -> None:
    """MemAvailable in bytes; short below a twentieth of MemTotal."""
    path, clock = tmp_path / "meminfo", ManualClock()
    path.write_text("MemTotal:  1000 kB\nMemFree: 1 kB\nMemAvailable: 50 kB\n")
    memory = Memory(clock, path)
    assert (50 * 1024, False) == (memory.available_bytes(), memory.short())
    path.write_text("MemTotal:  1000 kB\nMemAvailable: 49 kB\n")
    assert not memory.short()  # the figure is still fresh
    clock._now_s += 1
    assert memory.short()
