"""A router with everything around it in memory: for tests of what routes, and of what calls it."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.devices import device_of
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.process import wire
from glowplug.runtime.routing.attempts import Suppliers
from glowplug.runtime.routing.coldstart import Starter
from glowplug.runtime.routing.environment import Site
from glowplug.runtime.routing.ledger import Ledger
from glowplug.runtime.routing.router import Router
from glowplug.runtime.routing.sink import Sink
from glowplug.runtime.spec import FunctionSpec, ModelSpec

from .clock import ManualClock, settle
from .neighbours import FakeLogs, FakeMemory, FakeModels, FakePages, FakeWatch
from .processes import FakeZygotes, Script

MODEL = ModelSpec(name="", source="package://x/y")


def a_spec(name: str = "f", **fields: Any) -> FunctionSpec:
    """Return a function spec with only what a test cares about spelled out."""
    given: dict[str, Any] = {"handler": "f.handler", "runtime": "python3.11", "code_digest": "0" * 64, **fields}
    return FunctionSpec(name=name, **given)


class Rig:
    """A router on a manual clock. ``script(name)`` is how a function's processes behave.

    ``starter`` makes another starter than that of a node without a GPU, from the rig and its suppliers; functions then
    run where they would on a node that has one.
    """

    def __init__(
        self,
        *specs: FunctionSpec,
        cores: int = 2,
        engine: str = "eager",
        code: Path = Path("/code"),
        starter: Callable[[Rig, Suppliers], Starter] | None = None,
    ) -> None:
        self.clock = ManualClock()
        self.zygotes = FakeZygotes(self.clock)
        self.models = FakeModels(engine, code, clock=self.clock)
        self.pages = FakePages()
        self.logs = FakeLogs()
        self.memory = FakeMemory()
        self.watch = FakeWatch()
        self.short_of_memory = False
        self.ledger = Ledger(None, clock=self.clock)
        self.config = NodeConfig(state=Path("/state"), cache=Path("/cache"), cores=cores)
        site = Site(
            endpoint="http://127.0.0.1:9000",
            cores=cores,
            secret=b"test",
            device_of=partial(device_of, present=starter is not None, auto="cpu"),
        )
        suppliers = Suppliers(
            site=site,
            zygotes=self.zygotes,
            cache=self.models,
            pages=self.pages,
            snapshots=self.models,
            code=self.models,
            logs=self.logs,
            clock=self.clock,
        )
        self.starter = Starter(suppliers) if starter is None else starter(self, suppliers)
        self.router = Router(
            config=self.config,
            starter=self.starter,
            cache=self.models,
            ledger=self.ledger,
            logs=self.logs,
            memory=self.memory,
            clock=self.clock,
            available_bytes=self.memory.available_bytes,
            engines=self.watch,
        )
        self.sink = Sink(self.router, self.ledger, self.clock, pressure=lambda: self.short_of_memory)
        self._numbers = itertools.count(1)
        for spec in specs:
            self.router.place(spec)

    def script(self, name: str = "f") -> Script:
        """Return how the processes of a function behave, to be changed before they are made."""
        return self.zygotes.script(name)

    def invocation(self, name: str = "f", payload: bytes = b"{}", **fields: Any) -> Invocation:
        """Return an invocation with an id of its own: r1, r2, …"""
        given: dict[str, Any] = {
            "request_id": f"r{next(self._numbers)}",
            "version": "$LATEST",
            "function_arn": f"arn:aws:lambda:us-east-1:000000000000:function:{name}",
            "arrived_s": self.clock.monotonic(),
            **fields,
        }
        return Invocation(function=name, payload=payload, **given)

    def call(self, name: str = "f", payload: bytes = b"{}", **fields: Any) -> asyncio.Task[Outcome]:
        """Begin an invocation."""
        return asyncio.create_task(self.router.invoke(self.invocation(name, payload, **fields)))

    async def calls(self, count: int, name: str = "f", **fields: Any) -> list[asyncio.Task[Outcome]]:
        """Begin several invocations at once, and let happen what can."""
        tasks = [self.call(name, **fields) for _ in range(count)]
        await settle()
        return tasks

    async def tick(self, seconds: float) -> None:
        """Move the clock, with a tick of the sink at the end."""
        await self.clock.advance(seconds)
        await self.sink.tick()
        await settle()


class Gate:
    """A handler that answers when it is let go, oldest first. ``seen`` are the requests in order, ``most`` how many of
    them ran at once."""

    def __init__(self) -> None:
        self.running: list[asyncio.Future[None]] = []
        self.seen: list[str] = []
        self.most = 0

    async def __call__(self, invoke: wire.Invoke) -> bytes:
        """Wait to be let go."""
        self.seen.append(invoke.invocation_id)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.running.append(future)
        self.most = max(self.most, sum(not one.done() for one in self.running))
        await future
        return b'"done"'

    async def let_go(self, count: int = 1) -> None:
        """Let the ``count`` oldest answer, and happen what follows."""
        for future in [one for one in self.running if not one.done()][:count]:
            future.set_result(None)
        await settle()


def gated(*specs: FunctionSpec, cores: int = 2) -> tuple[Rig, Gate]:
    """Return a rig whose functions all run behind one gate."""
    rig, gate = Rig(*specs, cores=cores), Gate()
    for spec in specs:
        rig.script(spec.name).handler = gate
    return rig, gate
