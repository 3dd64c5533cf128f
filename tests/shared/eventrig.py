"""The dispatcher with a real queue on a manual clock, in front of handlers that answer when a test says so."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glowplug.runtime.config import Limits, NodeConfig
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.events.accepting import NewEvent
from glowplug.runtime.events.attempts import Neighbours
from glowplug.runtime.events.dispatcher import Dispatcher
from glowplug.runtime.events.ending import OUTBOX, Endings
from glowplug.runtime.events.figures import Book
from glowplug.runtime.events.intake import Intake
from glowplug.runtime.events.pressure import Pressure
from glowplug.runtime.events.results import Results
from glowplug.runtime.events.retrying import Delays
from glowplug.runtime.events.settling import Settler
from glowplug.runtime.events.watching import Watchers
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.queue.model import QueueSettings
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing import ManualClock, a_spec, settle
from glowplug.runtime.testing.deployed import Deployed, a_function

Answer = Outcome | GlowplugError | None
"""What a handler does: it answers, the router refuses, or it goes on until it is cancelled."""


def good(payload: bytes = b'"done"') -> Outcome:
    return Outcome("", payload, "$LATEST", "hot", phases=(("handler", 1.0),))


def bad(message: str = "boom") -> Outcome:
    body = f'{{"errorMessage":"{message}","errorType":"E"}}'.encode()
    return Outcome("", body, "$LATEST", "hot", "Unhandled", phases=(("handler", 1.0),))


@dataclass
class Handlers:
    """What stands for the router. ``script`` decides what the n-th attempt of a request does; ``seen`` are the attempts
    in order, ``most`` how many ran at once; with ``held`` each waits for ``let_go``. Those ``waiting`` wait for an
    instance instead, so that there is none to ``kill``; ``killed`` are those whose was."""

    script: Callable[[Invocation, int], Answer] = lambda invocation, attempt: good()
    seen: list[Invocation] = field(default_factory=list)
    running: int = 0
    most: int = 0
    held: bool = False
    room: int = 100
    gates: list[asyncio.Future[None]] = field(default_factory=list)
    waiting: bool = False
    killed: list[str] = field(default_factory=list)
    _at: dict[str, asyncio.Future[None]] = field(default_factory=dict)

    async def invoke(self, invocation: Invocation) -> Outcome:
        self.seen.append(invocation)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            answer = self.script(invocation, sum(one.request_id == invocation.request_id for one in self.seen))
            if self.held or answer is None:
                gate: asyncio.Future[None] = asyncio.get_running_loop().create_future()
                self.gates.append(gate)
                self._at[invocation.request_id] = gate
                await gate
        finally:
            self.running -= 1
            self._at.pop(invocation.request_id, None)
        if invocation.request_id in self.killed:
            return bad("killed")
        if isinstance(answer, GlowplugError):
            raise answer
        return good() if answer is None else answer

    def kill(self, request_id: str) -> bool:
        if self.waiting or request_id not in self._at:
            return False
        self.killed.append(request_id)
        self._at[request_id].get_loop().call_soon(self._end, request_id)
        return True

    def _end(self, request_id: str) -> None:
        if (gate := self._at.get(request_id)) is not None and not gate.done():
            gate.set_result(None)

    def let_go(self) -> None:
        for gate in self.gates:
            if not gate.done():
                gate.set_result(None)
        self.gates.clear()

    def free(self) -> int:
        return max(0, self.room - self.running)


class EventRig:
    """One node's asynchronous side. ``killed`` and ``restart`` are what a SIGKILL and the next start do to it."""

    def __init__(self, path: Path, *names: str, clock: ManualClock | None = None, **config: Any) -> None:
        self.clock = clock or ManualClock()
        self.path = path
        self.deployed = Deployed(*(a_function(a_spec(name)) for name in names or ("f",)))
        self.config = NodeConfig(state=path, cache=path, **{"async_retry_s": 10.0, **config})
        self.handlers = Handlers()
        self.book = Book()
        self.worked_s = 0.0

    async def start(self) -> EventRig:
        self.store = await QueueStore.open(self.path / "queue.db", self.clock)
        await self.store.create(OUTBOX, QueueSettings(), replace=True)
        self.settler, watchers = Settler(self.store, self.clock), Watchers()
        pressure = Pressure(self.clock, lambda: self.worked_s)
        self.intake = Intake(
            self.store,
            self.deployed,
            self.config,
            self.clock,
            self.book,
            pressure,
            opened=lambda name: self.dispatcher.opened(name),
        )
        endings = Endings(self.store, self.config, self.clock, keep=self.intake.step)
        delays = Delays(self.config.async_retry_s, self.config.async_requeue_s, self.config.async_requeue_limit_s)
        neighbours = Neighbours(
            store=self.store,
            deployed=self.deployed,
            invoke=lambda invocation: self.handlers.invoke(invocation),
            room=self.room,
            cancel=lambda request_id: self.handlers.kill(request_id),
            settler=self.settler,
            endings=endings,
            watchers=watchers,
            clock=self.clock,
            delays=delays,
            pressure=pressure,
            arn_prefix=self.config.arn_prefix,
            lanes=2,
        )
        self.dispatcher = Dispatcher(neighbours, self.settler, self.book)
        self.results = Results(
            self.store, self.dispatcher, watchers, self.book, self.clock, endings=endings, start=lambda name: {}
        )
        await self.dispatcher.resume()
        return self

    async def __aenter__(self) -> EventRig:
        return await self.start()

    async def __aexit__(self, *_: object) -> None:
        self.handlers.held = False
        self.handlers.let_go()
        await self.dispatcher.close()
        await self.store.close()

    async def kill(self) -> None:
        """Let everything end where it is, without a word to the queue."""
        store, self.dispatcher._stopped = self.store, True
        for feed in self.dispatcher._feeds.values():
            feed._stopped = feed.attempts.stopped = True
        store._commits.closing = True  # whatever is asked for from now on is refused
        for task in self.dispatcher._tasks():
            task.cancel()
        if self.dispatcher._beat is not None:
            self.dispatcher._beat.cancel()
        await settle()
        if self.settler._task is not None:
            self.settler._task.cancel()
        await settle()
        self.settler._waiting.clear()
        await store.close()

    def room(self, name: str, version: str) -> int:
        """Return what the router would: 0 for a version that is not deployed."""
        function = self.deployed.catalog.functions.get(name)
        return 0 if function is None or function.version(version) is None else self.handlers.free()

    async def restart(self) -> None:
        await self.kill()
        await self.start()

    async def quiet(self) -> None:
        """Let everything happen that can happen without time passing, the disk's thread included."""
        still = 0
        while still < 3:
            await settle()
            busy = self.store._commits.busy or self.settler._task is not None
            still = 0 if busy else still + 1

    async def pass_s(self, seconds: float, step_s: float = 1.0) -> None:
        """Let time pass in steps, with everything that happens after each."""
        while seconds > 0:
            await self.clock.advance(min(step_s, seconds))
            await self.quiet()
            seconds -= step_s

    async def send(self, name: str = "f", payload: bytes = b"{}", **given: Any) -> str:
        return (await self.intake.accept(NewEvent(name, given.pop("qualifier", ""), payload, **given))).request_id

    async def state(self, request_id: str) -> str:
        return str(self.results.show(await self.results.find(request_id))["state"])

    async def shown(self, request_id: str) -> dict[str, Any]:
        return self.results.show(await self.results.find(request_id))

    def configure(self, name: str = "f", qualifier: str = "$LATEST", **document: Any) -> None:
        """Set the EventInvokeConfig of a function."""
        catalog = self.deployed.catalog
        function = catalog.functions[name].with_document(f"event-invoke/{qualifier}", document)
        self.deployed.catalog = catalog.with_function(function)

    def change(self, name: str = "f", **fields: Any) -> None:
        """Change a function."""
        catalog = self.deployed.catalog
        self.deployed.catalog = catalog.with_function(replace(catalog.functions[name], **fields))
        self.dispatcher.changed()


def small(**limits: int) -> Limits:
    return Limits(**limits)
