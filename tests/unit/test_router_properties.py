"""Whatever happens in whatever order, the router's books stay true and nobody is forgotten."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.invocation import Outcome, Tier
from glowplug.runtime.process import wire
from glowplug.runtime.routing.instance import State
from glowplug.runtime.testing import MODEL, Rig, a_spec, settle

STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "call",
                "call",
                "call",
                "finish",
                "finish",
                "cancel",
                "kill worker",
                "kill zygote",
                "deploy",
                "cool",
                "bake",
                "time",
            ]
        ),
        st.integers(0, 7),
    ),
    max_size=25,
)


class World:
    """One function under attack."""

    def __init__(self, *, parking: bool, models: bool) -> None:
        self.fields: dict[str, Any] = {
            "parking": parking,
            "models": (MODEL,) if models else (),
            "timeout_s": 900,
            "max_held": 6,
        }
        self.rig = Rig(a_spec(**self.fields))
        self.rig.script().handler = self.handler
        self.rig.script().fork_s = 0.01
        self.running: list[asyncio.Future[None]] = []
        self.calls: list[asyncio.Task[Outcome]] = []
        self.others: list[asyncio.Task[object]] = []

    async def handler(self, _: wire.Invoke) -> bytes:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append(future)
        await future
        return b"{}"

    async def step(self, what: str, which: int) -> None:
        rig = self.rig
        unfinished = [future for future in self.running if not future.done()]
        match what:
            case "call":
                self.calls.append(rig.call())
            case "finish" if unfinished:
                unfinished[which % len(unfinished)].set_result(None)
            case "cancel" if self.calls:
                self.calls[which % len(self.calls)].cancel()
            case "kill worker" if rig.zygotes.workers:
                rig.zygotes.workers[which % len(rig.zygotes.workers)].die(9)
            case "kill zygote" if rig.zygotes.zygotes:
                rig.zygotes.zygotes[which % len(rig.zygotes.zygotes)].die(9)
            case "deploy":
                rig.router.replace(a_spec(**self.fields, description=f"{which % 3}"))
            case "cool":
                to: Tier = "parked" if which % 2 else "stored"
                self.others.append(asyncio.create_task(rig.router.cool("f", to)))
            case "bake":
                rig.router.rebind(rig.router.describe()[0].revision)
            case "time":
                await rig.tick(which * 20.0)
        for _ in range(which % 4):  # sometimes the next step comes before this one has been noticed
            await asyncio.sleep(0)

    def check(self) -> None:
        status = self.rig.router.describe()[0]
        pool = self.rig.router._current["f", "$LATEST"]
        states = Counter(instance.state for instance in pool.instances)
        assert (states[State.READY], states[State.STARTING]) == (len(pool.ready), pool.starting)
        assert states[State.BUSY] <= pool.busy <= states[State.BUSY] + states[State.DRAINING]
        assert all(one.state is State.READY for one in pool.ready)
        assert not (pool.ready and pool.held), "an idle instance beside a held request"
        assert 0 <= status.held <= 6

    async def end(self) -> None:
        for _ in range(60):
            for future in self.running:
                if not future.done():
                    future.set_result(None)
            await self.rig.clock.advance(1.0)
        assert all(call.done() for call in self.calls), f"forgotten: {self.rig.router!r}"
        for call in self.calls:
            if not call.cancelled() and call.exception() is not None:
                assert isinstance(call.exception(), GlowplugError)
        assert 0 == self.rig.router._occupancy.busy_models
        closing = asyncio.create_task(self.rig.router.close())
        await self.rig.clock.advance(30)
        await closing
        await asyncio.gather(*self.others, return_exceptions=True)
        left = [process for process in [*self.rig.zygotes.workers, *self.rig.zygotes.zygotes] if process.alive]
        assert [] == left
        assert "<Router [] " in repr(self.rig.router)


@settings(max_examples=60, deadline=None)
@given(STEPS, st.booleans(), st.booleans())
def test_nobody_is_forgotten_and_no_process_is_left(steps: list[tuple[str, int]], parking: bool, models: bool) -> None:
    """Calls, cancellations, deaths, deploys and cooling in any order, with any of them noticed late."""

    async def run() -> None:
        world = World(parking=parking, models=models)
        for what, which in steps:
            await world.step(what, which)
        await settle()
        world.check()
        await world.end()

    asyncio.run(run())
