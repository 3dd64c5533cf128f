"""What ``NodeControl`` needs of the router, the engines and the logs, as Protocols: its tests run without processes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Protocol

from glowplug.snapshot.assignments import GivenUp, Measured

from .invocation import Tier
from .porting import ReceivedFile
from .routing.allotment import Quota
from .routing.enginefigures import EngineRow
from .routing.status import FunctionStatus
from .spec import FunctionSpec, ModelSpec


class Placement(Protocol):
    """Who runs what. ``Router`` is one."""

    def place(self, spec: FunctionSpec, /) -> None:
        """Serve a new function."""

    def replace(self, spec: FunctionSpec, /) -> None:
        """Serve a new revision of a function; the old one drains."""

    def remove(self, name: str, version: str | None = None, /) -> None:
        """Serve a function, or one version of it, no longer."""

    def allot(self, name: str, quota: Quota, /) -> None:
        """Say how many instances the versions of a function may have and keep."""

    async def prepare(self, name: str, version: str, /) -> None:
        """Make and check what instances of a version are forked from. Raises ``GlowplugError``."""

    async def warm(self, name: str, /) -> Tier:
        """Start an instance where there is none."""

    async def cool(self, name: str, to: Tier, /) -> Tier:
        """Sink a function. Raises ``Conflict``."""

    def describe(self) -> Sequence[FunctionStatus]:
        """Return the state of every function."""


class MappingQueues(Protocol):
    """The queues that event source mappings may name. ``events.mapping.sources.Sources`` is one."""

    async def check(self, arn: str, timeout_s: float, /) -> None:
        """Raise ``InvalidParameter`` unless a function of that timeout can have the queue's messages."""


class Baking(Protocol):
    """How far a bake is."""

    @property
    def phase(self) -> str:
        """What it does now."""

    @property
    def fraction(self) -> float:
        """0 to 1."""


class EngineState(Protocol):
    """The engine of one model."""

    @property
    def model_name(self) -> str:
        """The model."""

    @property
    def state(self) -> str:
        """``none``, ``queued``, ``baking``, ``ready``, ``failed`` or ``unavailable``."""

    @property
    def engine(self) -> str:
        """The engine that serves."""

    @property
    def reason(self) -> str:
        """Why not a better one."""

    @property
    def given_up(self) -> Sequence[GivenUp]:
        """The engines that were given up."""

    @property
    def phase(self) -> str:
        """What the bake does now."""

    @property
    def fraction(self) -> float:
        """0 to 1."""

    @property
    def measurements(self) -> tuple[Measured, ...]:
        """What the last bake found out about each candidate."""

    @property
    def key(self) -> str:
        """The snapshot that the verdict is of; empty where there is none."""


class LiveFigures(Protocol):
    """How engines do while they serve. ``runtime.enginewatch.EngineWatch`` is one."""

    def rows(self, revision: str, model: str, /) -> tuple[EngineRow, ...]:
        """Return a row for each engine of a model that has answered a call."""


class Engines(Protocol):
    """Makes engines. ``runtime.snapshots.Snapshots`` is one."""

    def request_bake(self, spec: FunctionSpec, /) -> None:
        """Ask for a bake in the background of what has no verdict."""

    def bake_again(self, spec: FunctionSpec, /, *, label: str = "") -> None:
        """Ask for a bake in the background of every model, whatever came of the last one; ``label`` names an engine to
        serve with, if it passes."""

    async def bake(
        self, spec: FunctionSpec, on_progress: Callable[[str, Baking], None] | None = None, /
    ) -> Sequence[EngineState]:
        """Bake what is not settled; returns when that is over."""

    def status(self, spec: FunctionSpec, /) -> Sequence[EngineState]:
        """Return the state of each model's engine."""

    def adopt(self, spec: FunctionSpec, model: ModelSpec, key: str, /) -> asyncio.Future[None] | None:
        """See whether a published snapshot is the one of ``model``; returns what resolves when that is known."""

    def drop(self, revision: str, /) -> None:
        """Forget the bakes of a revision that was replaced or deleted."""


class SnapshotFiles(Protocol):
    """Gives and takes snapshots as files. ``runtime.porting.Porting`` is one."""

    async def leaving(self, key: str, /) -> AsyncGenerator[bytes, None]:
        """Return a snapshot's file without its signature."""

    async def entering(self, body: AsyncIterator[bytes], /) -> ReceivedFile:
        """Check and publish a file."""


class LogReader(Protocol):
    """Reads functions' logs."""

    async def read(self, function: str, *, request_id: str | None = None, last: int | None = None) -> str:
        """Return all that is kept, one request's lines, or the ``last`` lines."""
