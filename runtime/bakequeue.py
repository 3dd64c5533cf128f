"""Bakes that wait, run and are over: one at a time, in the order they were asked for.

Each bake takes all the cores it is given, so two at once would only make both late. A bake that is over stays known
(its error is what listings show) until its revision is dropped.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from .bakereport import BakeProgress
from .spec import FunctionSpec, ModelSpec

Watcher = Callable[[str, BakeProgress], None]
"""Called with (model name, progress)."""


@dataclass(slots=True, eq=False)
class Bake:
    """One bake of one model of a revision. ``done`` resolves when it is over, also when it was dropped; ``error`` is
    empty unless it failed. ``label`` names the engine that an operator wants to serve with; empty: the best."""

    spec: FunctionSpec
    model: ModelSpec
    done: asyncio.Future[None]
    progress: BakeProgress = field(default=BakeProgress("import", 0.0))
    error: str = ""
    label: str = ""
    watchers: list[Watcher] = field(default_factory=list)

    @property
    def place(self) -> tuple[str, str]:
        """What identifies it: (revision, model name)."""
        return self.spec.revision, self.model.name

    def tell(self, progress: BakeProgress) -> None:
        """Take a progress report and pass it on."""
        self.progress = progress
        for watcher in self.watchers:
            watcher(self.model.name, progress)


class BakeQueue:
    """Runs ``perform`` for each bake. ``perform`` keeps failures to itself (in ``Bake.error``) and may be cancelled."""

    def __init__(self, perform: Callable[[Bake], Awaitable[None]]) -> None:
        self._perform = perform
        self._known: dict[tuple[str, str], Bake] = {}
        self._waiting: deque[Bake] = deque()
        self._running: Bake | None = None
        self._child: asyncio.Future[None] | None = None
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        running = self._running.spec.name if self._running else "nothing"
        return f"BakeQueue(running={running}, waiting={len(self._waiting)}, known={len(self._known)})"

    def find(self, revision: str, model_name: str) -> Bake | None:
        """Return the last bake of a model that was not forgotten."""
        return self._known.get((revision, model_name))

    def runs(self, bake: Bake) -> bool:
        """Return whether ``bake`` is the one under way."""
        return bake is self._running

    def add(self, spec: FunctionSpec, model: ModelSpec, label: str = "") -> Bake:
        """Queue a bake; needs a running event loop."""
        bake = Bake(spec, model, asyncio.get_running_loop().create_future(), label=label)
        self._known[bake.place] = bake
        self._waiting.append(bake)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._work(), name="bakes")
        return bake

    def forget(self, revision: str, model_name: str) -> None:
        """Forget a bake that is over; nothing happens to one that is not."""
        bake = self._known.get((revision, model_name))
        if bake is not None and bake.done.done():
            del self._known[bake.place]

    def drop(self, revision: str) -> None:
        """Forget all bakes of a revision; one that runs is cancelled, those that wait never run."""
        for bake in [bake for bake in self._known.values() if bake.spec.revision == revision]:
            del self._known[bake.place]
            if bake in self._waiting:
                self._waiting.remove(bake)
                bake.done.set_result(None)
            elif bake is self._running and self._child is not None:
                self._child.cancel()

    async def close(self) -> None:
        """Cancel the bake that runs and wait for its end; those that wait never run."""
        waiting, self._waiting = list(self._waiting), deque()
        for bake in waiting:
            bake.done.set_result(None)
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _work(self) -> None:
        while self._waiting:
            bake = self._running = self._waiting.popleft()
            self._child = asyncio.ensure_future(self._perform(bake))
            try:
                # wait() does not raise what the bake raises: a bake that is cancelled does not end the queue
                await asyncio.wait([self._child])
            finally:
                self._child.cancel()
                await asyncio.wait([self._child])
                self._running = self._child = None
                bake.done.set_result(None)
