"""The control plane: what can be asked of a node. ``NodeControl`` and ``StackControl`` are the node's own.

The admin HTTP API is a thin JSON form of ``ControlPlane`` and ``StackPlane``; the command line talks to a node through
it alone.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from glowplug.snapshot.assignments import Measured

from .catalog import Stack
from .invocation import Tier
from .management.stacks import FunctionChange
from .routing.enginefigures import EngineRow
from .routing.records import StartRecord
from .stacks import OnEvent, StackRequest


@dataclass(frozen=True, slots=True)
class Health:
    """A node's account of itself.

    ``base_zygotes`` counts those that are ready to fork; ``runtimes`` are the Pythons here, as ``Runtime`` calls them.
    """

    status: str
    version: str
    uptime_s: float
    functions: int
    base_zygotes: int
    state: str
    architecture: str
    runtimes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GivenUpListing:
    """An engine that is not used any more. ``kind`` is restore, check, crash, mismatch or cold."""

    engine: str
    kind: str
    reason: str


@dataclass(frozen=True, slots=True)
class EngineListing:
    """One model's engine: which serves, and whether a better one is on its way (``fraction`` is 0 to 1).

    ``measurements`` has what the last bake found out about each candidate; ``figures`` are live, a row per engine that
    has answered a call since the node started.
    """

    model: str
    engine: str
    state: str
    phase: str
    fraction: float
    reason: str
    measurements: tuple[Measured, ...] = ()
    given_up: tuple[GivenUpListing, ...] = ()
    figures: tuple[EngineRow, ...] = ()

    def describe(self) -> str:
        """Return ``aot_inductor``, ``eager, baking 40 %``, ``eager, unavailable`` or ``eager, not aot_inductor!``: one
        that was given up."""
        lost = f", not {', '.join(one.engine for one in self.given_up)}!" if self.given_up else ""
        if self.state == "baking":
            return f"{self.engine}, baking {self.fraction * 100:.0f} %{lost}"
        return f"{self.engine}{lost}" if self.state in ("ready", "none") else f"{self.engine}, {self.state}{lost}"


@dataclass(frozen=True, slots=True)
class FunctionListing:
    """One function as ``glowplug ls`` shows it. Memory in MB, ``timeout_s`` in seconds.

    ``engine`` is ``engines`` in words, empty without a model; ``unparkable_reason`` says why it has no parked tier,
    ``last_error`` why its last failed start failed. ``last_start_ms`` is None before the first start. ``routes`` are
    those of APIs that lead to it, as method and URL, whose path may have variables
    (``GET http://127.0.0.1:9000/_apis/main-web/items/{id}``). ``events`` are asynchronous
    ones that are not over; ``event_retries`` and ``dead_letters`` are counted since the node started.
    """

    name: str
    stack: str
    tier: Tier
    instances: int
    busy: int
    starting: int
    draining: int
    held: int
    engine: str
    engines: tuple[EngineListing, ...]
    url_ids: tuple[str, ...]
    urls: tuple[str, ...]
    routes: tuple[str, ...]
    unparkable_reason: str
    last_error: str
    last_start_ms: float | None
    revision: str
    version: str
    last_modified: str
    memory_mb: int
    timeout_s: float
    events: int = 0
    oldest_event_s: float = 0.0
    event_retries: int = 0
    dead_letters: int = 0


@dataclass(frozen=True, slots=True)
class Adoption:
    """A model with the weights of a snapshot that was imported. ``used``: it is this snapshot that serves it, or that
    was measured to be slower than eager; until ``state`` is ``ready``, ``failed`` or ``none`` that is not known."""

    function: str
    model: str
    used: bool
    engine: str
    state: str
    reason: str


@dataclass(frozen=True, slots=True)
class ImportResult:
    """A snapshot that came in: its ``key``, the id of the key that signed it, whether an equal one was there before,
    and the models that have its weights."""

    key: str
    signer: str
    reused: bool
    models: tuple[Adoption, ...]


@dataclass(frozen=True, slots=True)
class StackListing:
    """A stack. ``drift`` names, by logical id, what was changed since it was put (``management.drift``)."""

    stack: Stack
    drift: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class StackResult:
    """What ``put_stack`` did.

    ``notes`` are what was asked for and is otherwise on this node, one sentence each. ``versions`` says which number
    the version of a function or a layer has, by its logical id.
    """

    changes: tuple[FunctionChange, ...]
    notes: tuple[str, ...] = ()
    versions: Mapping[str, str] = field(default_factory=dict)


class ControlPlane(Protocol):
    """What can be asked of a node. All of it raises ``GlowplugError``."""

    async def health(self) -> Health:
        """Return the node's account of itself."""

    async def functions(self) -> list[FunctionListing]:
        """Return every function, by name."""

    async def starts(self) -> list[StartRecord]:
        """Return the latest starts, newest first."""

    async def start(self, request_id: str) -> StartRecord:
        """Return the start that a request waited for. Raises ``ResourceNotFound``."""

    async def explain(self, request_id: str) -> str:
        """Return in words what a request waited for. Raises ``FunctionNotFound`` when it is not known."""

    async def warm(self, name: str) -> Tier:
        """Start an instance where there is none; returns the tier reached."""

    async def cool(self, name: str, to: Tier) -> Tier:
        """Sink a function and return its tier then; at ``remote`` its weights are gone from this machine.

        Raises ``Conflict`` when it cannot be at that tier, ``InvalidParameter`` where there is nothing to drop.
        """

    def engines(self, name: str) -> tuple[EngineListing, ...]:
        """Return the engines of the function's models. Raises ``FunctionNotFound``, ``InvalidParameter`` else."""

    async def bake(self, name: str, *, wait: bool, engine: str, on_event: OnEvent) -> tuple[EngineListing, ...]:
        """Make engines for the function's models; with ``wait`` return when that is over.

        ``engine`` is the label of one to serve with, if it passes; empty: the best for what the template asks.
        """

    async def export_snapshot(self, name: str, model: str | None) -> AsyncGenerator[bytes, None]:
        """Return the file of a model's snapshot but for its signature; ``model`` of None is the only one.

        Raises ``InvalidParameter``, ``ResourceNotFound``, or ``Conflict`` while there is no snapshot.
        """

    async def import_snapshot(self, body: AsyncIterator[bytes], *, wait: bool) -> ImportResult:
        """Take a snapshot file in and let the functions use it that have its model; with ``wait`` return when it is
        known which do. Raises ``InvalidParameter``, ``Forbidden``, ``Conflict`` or ``StateError``."""

    async def logs(self, name: str, *, request_id: str | None, last: int | None) -> str:
        """Return a function's log: all that is kept, one request's, or the ``last`` lines."""


class StackPlane(Protocol):
    """What a deploy asks of a node. ``StackControl`` is the node's own. All of it raises ``GlowplugError``."""

    async def has_code(self, digest: str) -> bool:
        """Return whether the zip with this SHA-256 (hex) is here."""

    def get_code(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a zip that is here."""

    async def put_code(self, digest: str, parts: AsyncIterator[bytes]) -> int:
        """Store a zip and return its bytes. Raises ``InvalidParameter``, ``RequestTooLarge`` or ``StateError``."""

    async def stacks(self) -> list[Stack]:
        """Return every stack, by name."""

    async def stack(self, name: str) -> StackListing:
        """Return one stack. Raises ``ResourceNotFound``."""

    async def delete_stack(self, name: str) -> list[FunctionChange]:
        """Take a stack out with all that belongs to it. Raises ``ResourceNotFound`` or ``Conflict``."""

    async def put_stack(self, request: StackRequest, on_event: OnEvent) -> StackResult:
        """Make the stack exactly what is asked, or change nothing."""
