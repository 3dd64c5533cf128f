"""The control plane of the node itself: registry, router, engines, ledger and logs behind one Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from glowplug import __version__
from glowplug.cache.errors import CacheError
from glowplug.snapshot.candidates import PRECISIONS, Candidate

from .catalog import LATEST
from .clock import Clock
from .control import (
    Adoption,
    EngineListing,
    FunctionListing,
    Health,
    ImportResult,
)
from .errors import Conflict, InvalidParameter, ResourceNotFound, StateError
from .events.figures import NO_EVENTS, Backlog
from .interpreters import OWN
from .invocation import Tier
from .listings import engine_listing, function_listing, routes_of
from .neighbours import (
    Baking,
    Engines,
    EngineState,
    LiveFigures,
    LogReader,
    Placement,
    SnapshotFiles,
)
from .registry import Registry
from .routing.ledger import Ledger
from .routing.records import StartRecord
from .routing.words import describe_engine
from .spec import ARCHITECTURE, ENGINES, FunctionSpec
from .stacks import OnEvent


class NodeControl:
    """The node's implementation of ``ControlPlane``.

    ``endpoint`` returns the control listener's URL, known once it is bound; ``base_zygotes`` how many are ready;
    ``pythons`` are the runtimes that are installed besides the node's own; ``backlogs`` tells how each
    function is doing with its events.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        placement: Placement,
        engines: Engines,
        figures: LiveFigures,
        files: SnapshotFiles,
        ledger: Ledger,
        logs: LogReader,
        state: Path,
        clock: Clock,
        endpoint: Callable[[], str],
        base_zygotes: Callable[[], int],
        pythons: Collection[str] = (),
        backlogs: Callable[[], Awaitable[Mapping[str, Backlog]]] | None = None,
    ) -> None:
        self._registry = registry
        self._placement = placement
        self._engines = engines
        self._figures = figures
        self._files = files
        self._ledger = ledger
        self._logs = logs
        self._state = state
        self._clock = clock
        self._endpoint = endpoint
        self._base_zygotes = base_zygotes
        self._pythons = pythons
        self._backlogs = backlogs
        self._started_s = clock.monotonic()

    def __repr__(self) -> str:
        return f"<NodeControl {self._registry!r}>"

    # --- questions ----------------------------------------------------------------------------------------------------

    async def health(self) -> Health:
        """Return the node's account of itself."""
        ready = self._base_zygotes()
        return Health(
            status="ok" if ready else "starting",
            version=__version__,
            uptime_s=round(self._clock.monotonic() - self._started_s, 3),
            functions=len(self._registry.functions()),
            base_zygotes=ready,
            state=str(self._state),
            architecture=ARCHITECTURE,
            runtimes=tuple(sorted({OWN, *self._pythons})),
        )

    async def functions(self) -> list[FunctionListing]:
        """Return every function, by name."""
        states = {state.name: state for state in self._placement.describe() if state.version == LATEST}
        endpoint = self._endpoint()
        routes = routes_of(self._registry.catalog, endpoint)
        backlogs = {} if self._backlogs is None else await self._backlogs()
        return [
            function_listing(
                function,
                states.get(function.name),
                self._engines_of(function.spec),
                endpoint,
                routes.get(function.name, ()),
                backlogs.get(function.name, NO_EVENTS),
            )
            for function in self._registry.functions()
        ]

    async def starts(self) -> list[StartRecord]:
        """Return the latest starts, newest first."""
        return self._ledger.recent()

    async def start(self, request_id: str) -> StartRecord:
        """Return the start that a request waited for. Raises ``ResourceNotFound``."""
        record = self._ledger.find(request_id)
        if record is None:
            raise ResourceNotFound(
                f"No start is recorded for request {request_id}: it found a ready instance, or is old"
            )
        return record

    async def explain(self, request_id: str) -> str:
        """Return in words what a request waited for. Raises ``FunctionNotFound`` when it is not known."""
        return self._ledger.explain(request_id, self._live)

    def _live(self, start: StartRecord) -> str:
        spec = next(
            (function.spec for function in self._registry.functions() if function.spec.name == start.function), None
        )
        models = () if spec is None or spec.revision != start.revision else spec.models
        return " ".join(
            describe_engine(row) for model in models for row in self._figures.rows(start.revision, model.name)
        )

    async def logs(self, name: str, *, request_id: str | None, last: int | None) -> str:
        """Return a function's log: all that is kept, one request's, or the ``last`` lines."""
        self._registry.get(name)
        return await self._logs.read(name, request_id=request_id, last=last)

    # --- orders -------------------------------------------------------------------------------------------------------

    async def warm(self, name: str) -> Tier:
        """Start an instance where there is none; returns the tier reached. Raises ``StartError``."""
        self._registry.get(name)
        return await self._placement.warm(name)

    async def cool(self, name: str, to: Tier) -> Tier:
        """Sink a function and return its tier then.

        Raises ``Conflict`` when it cannot be at that tier, ``InvalidParameter`` where there is nothing to drop,
        ``StateError`` when the store cannot be written.
        """
        self._registry.get(name)
        try:
            return await self._placement.cool(name, to)
        except CacheError as error:
            raise StateError(f"{name}: its weights were not dropped: {error}") from error

    def engines(self, name: str) -> tuple[EngineListing, ...]:
        """Return the engines of the function's models. Raises ``FunctionNotFound``, ``InvalidParameter`` else."""
        return self._engines_of(self._with_models(name))

    async def bake(self, name: str, *, wait: bool, engine: str, on_event: OnEvent) -> tuple[EngineListing, ...]:
        """Make engines for the function's models: with ``wait`` those that are missing, and return when that is over;
        else, or where ``engine`` names one to serve with, all of them again. Raises ``InvalidParameter`` when it has no
        model, or for an engine that there is not."""
        spec = self._with_models(name)
        if engine:
            _refuse_unknown(engine)
        if engine or not wait:
            self._engines.bake_again(spec, label=engine)
        if not wait:
            return self._engines_of(spec)

        def tell(model: str, progress: Baking) -> None:
            about = {"event": "progress", "step": "bake", "function": name, "model": model}
            on_event({**about, "phase": progress.phase, "fraction": progress.fraction})

        return self._listed(spec, await self._engines.bake(spec, tell))

    def _with_models(self, name: str) -> FunctionSpec:
        spec = self._registry.get(name).spec
        if not spec.models:
            raise InvalidParameter(f"{name} has no model: there is nothing to bake")
        return spec

    async def export_snapshot(self, name: str, model: str | None) -> AsyncGenerator[bytes, None]:
        """Return the file of a model's snapshot but for its signature; ``model`` of None is the only one.

        Raises ``InvalidParameter``, ``ResourceNotFound``, or ``Conflict`` while there is no snapshot.
        """
        states = {state.model_name: state for state in self._engines.status(self._registry.get(name).spec)}
        if not states:
            raise InvalidParameter(f"{name} has no model: there is nothing to export")
        if model is None and len(states) > 1:
            raise InvalidParameter(f"{name} has the models {', '.join(sorted(states))}: say which, one file holds one")
        chosen = next(iter(states)) if model is None else model
        if chosen not in states:
            raise ResourceNotFound(f"{name} has no model {chosen!r}; it has {', '.join(sorted(states))}")
        state = states[chosen]
        if not state.key:
            raise Conflict(f"{name} has no snapshot to export: {state.reason or 'eager was asked for'}")
        return await self._files.leaving(state.key)

    async def import_snapshot(self, body: AsyncIterator[bytes], *, wait: bool) -> ImportResult:
        """Take a snapshot file in and let the functions use it that have its model; with ``wait`` return when it is
        known which do. Raises ``InvalidParameter``, ``Forbidden``, ``Conflict`` or ``StateError``."""
        received = await self._files.entering(body)
        specs = [function.spec for function in self._registry.functions()]
        fitting = [(spec, model) for spec in specs for model in spec.models if model.source_digest == received.source]
        looks = [self._engines.adopt(spec, model, received.key) for spec, model in fitting]
        for look in looks:
            if wait and look is not None:
                await asyncio.shield(look)
        adoptions = tuple(self._adoption(spec, model.name, received.key) for spec, model in fitting)
        return ImportResult(received.key, received.signer, received.reused, adoptions)

    # --- listings -----------------------------------------------------------------------------------------------------

    def _engines_of(self, spec: FunctionSpec) -> tuple[EngineListing, ...]:
        return self._listed(spec, self._engines.status(spec))

    def _listed(self, spec: FunctionSpec, statuses: Sequence[EngineState]) -> tuple[EngineListing, ...]:
        return tuple(
            engine_listing(status, self._figures.rows(spec.revision, status.model_name)) for status in statuses
        )

    def _adoption(self, spec: FunctionSpec, model: str, key: str) -> Adoption:
        state = next(state for state in self._engines.status(spec) if state.model_name == model)
        return Adoption(spec.name, model, state.key == key, state.engine, state.state, state.reason)


def _refuse_unknown(label: str) -> None:
    candidate = Candidate.parse(label)
    if candidate.engine not in ENGINES[1:] or candidate.precision not in PRECISIONS:
        raise InvalidParameter(f"engine: {label!r} is not one such as {', '.join(ENGINES[1:])} or aot_inductor-bf16")
