"""What a start needs besides a process: the models' files and a plan for each engine, on their way from the start.

As soon as the files are there, which is at once unless they must be fetched, they are read ahead into the page cache,
while the process is forked and imports.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from glowplug.runtime.process import wire
from glowplug.snapshot.errors import SnapshotError

from .home import Home
from .ledger import Recording
from .policy import Remedy, remedy
from .ports import Cache, EnginePlan, Pages, Snapshots, Weights


class Materials:
    """Files and engine plans of one start; fetching and looking up begin with the ``with`` block and end with it.
    Reading ahead belongs to the recording, which ends it with a start that fails.

    ``engines`` names the engines that a process has been asked to bind, by model: what a failure from then on may be
    the fault of. ``epoch`` is the home's as the plans were made.
    """

    def __init__(self, home: Home, recording: Recording, *, cache: Cache, pages: Pages, snapshots: Snapshots) -> None:
        self.engines: dict[str, str] = {}
        self.epoch = home.epoch
        self._home = home
        self._tried: set[tuple[str, str]] = set()
        self._spec = home.spec
        self._recording = recording
        self._cache = cache
        self._pages = pages
        self._snapshots = snapshots
        self._files: asyncio.Future[Weights] | None = None
        self._plans: asyncio.Future[list[EnginePlan]] | None = None

    def __enter__(self) -> Self:
        if self._spec.models:
            self._files = asyncio.ensure_future(self._gather())
            self._plans = asyncio.ensure_future(self._plan())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        for begun in (self._files, self._plans):
            if begun is not None and not begun.cancel() and not begun.cancelled():
                begun.exception()  # a start that failed before it asked must not leave an exception nobody saw

    @property
    def wants_bake(self) -> bool:
        """Whether a model that asks for more than eager runs on it. Only after ``bind``."""
        if self._plans is None or not self._plans.done():
            return False
        asked = {model.name: model.engine for model in self._spec.models}
        return any(plan.engine == "eager" and asked.get(plan.model_name) != "eager" for plan in self._plans.result())

    async def files(self) -> Mapping[str, Mapping[str, str]]:
        """Return model name -> file name -> absolute path. Raises ``CacheError``."""
        return {} if self._files is None else (await self._files).paths

    async def bind(self) -> wire.Bind:
        """Return the order to bind. Raises ``SnapshotError`` when eager cannot help."""
        plans = await self._planned()
        self.engines = {plan.model_name: plan.engine for plan in plans if plan.engine != "eager"}
        return wire.Bind(
            plans=[
                {
                    "name": plan.model_name,
                    "engine": plan.engine,
                    "snapshot": plan.snapshot_dir,
                    "manifest": plan.manifest_bytes,
                }
                for plan in plans
            ]
        )

    async def reason(self) -> str:
        """Return why not better engines, for the ledger."""
        return "; ".join(dict.fromkeys(plan.reason for plan in await self._planned() if plan.reason))

    async def fall_back(self, reason: str) -> None:
        """Plan anew without the engines that have failed in this start: none is tried twice, whatever a plan says. That
        ends with eager for every model."""
        self._tried |= set(self.engines.items())
        self.engines = {}
        plans = [
            plan
            if (plan.model_name, plan.engine) not in self._tried
            else EnginePlan.eager(plan.model_name, f"given up: {reason}")
            for plan in await self._plan()
        ]
        self._plans = asyncio.get_running_loop().create_future()
        self._plans.set_result(plans)

    async def _gather(self) -> Weights:
        weights = await self._cache.files(self._spec)
        self._home.keep(weights)  # in the same step: a start that is cancelled now leaves no hold that nobody knows of
        if weights.fetch is not None:
            self._recording.tier, self._recording.fetch = "remote", weights.fetch
        self._recording.reading = self._pages.begin(self._spec, weights)
        return weights

    async def _planned(self) -> list[EnginePlan]:
        return [] if self._plans is None else await self._plans

    async def _plan(self) -> list[EnginePlan]:
        try:
            return await self._snapshots.plan(self._spec)
        except SnapshotError as error:
            if remedy(error) is not Remedy.EAGER:
                raise
            reason = f"{type(error).__name__}: {error}"
            return [EnginePlan.eager(model.name, reason) for model in self._spec.models]
