"""The control plane of the node itself: registry, code, router, engines, ledger and logs behind one Protocol."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from pathlib import Path

from glowplug import __version__
from glowplug.cache.errors import CacheError
from glowplug.snapshot.candidates import PRECISIONS, Candidate

from .catalog import LATEST, Stack, iso_time, lambda_time
from .clock import Clock
from .codestore import CodeStore
from .control import (
    Adoption,
    EngineListing,
    FunctionListing,
    Health,
    ImportResult,
    StackListing,
    StackResult,
)
from .deployments import Deployments
from .errors import Conflict, DefinitionError, InvalidParameter, LayersRefused, ResourceNotFound, StateError
from .events.mapping.sources import refuse_short
from .interpreters import OWN
from .invocation import Tier
from .listings import engine_listing, function_listing, routes_of
from .management import layers
from .management.drift import drift
from .management.site import Site
from .management.stacks import FunctionChange, WantedStack, destroy, put
from .neighbours import (
    Baking,
    Engines,
    EngineState,
    LiveFigures,
    LogReader,
    MappingQueues,
    Placement,
    SnapshotFiles,
)
from .receiving import receive
from .registry import Registry
from .routing.ledger import Ledger
from .routing.records import StartRecord
from .routing.words import describe_engine
from .spec import ARCHITECTURE, ENGINES, FunctionSpec
from .stackqueues import StackQueues
from .stacks import OnEvent, Sources, StackRequest, mappings_of, notes, pinned, validated
from .wanted import WantedFunction
from .wantedqueues import WantedMapping, WantedQueue


class NodeControl:
    """The node's implementation of ``ControlPlane``.

    ``endpoint`` returns the control listener's URL, known once it is bound; ``base_zygotes`` how many are ready;
    ``queues`` are those of stacks, ``mapped`` all that event source mappings may name;
    ``device_refusal`` says why a function's device is none of this node's; ``arn_prefix`` ends in ``:function:``;
    ``pythons`` are the runtimes that are installed besides the node's own; ``depths`` returns how many events of each
    function are not over, and the age of the oldest.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        deployments: Deployments,
        code: CodeStore,
        placement: Placement,
        engines: Engines,
        figures: LiveFigures,
        files: SnapshotFiles,
        sources: Sources,
        ledger: Ledger,
        logs: LogReader,
        state: Path,
        clock: Clock,
        endpoint: Callable[[], str],
        base_zygotes: Callable[[], int],
        device_refusal: Callable[[FunctionSpec], str],
        arn_prefix: str,
        queues: StackQueues,
        mapped: MappingQueues,
        pythons: Collection[str] = (),
        depths: Callable[[], Awaitable[Mapping[str, tuple[int, float]]]] | None = None,
    ) -> None:
        self._registry = registry
        self._deployments = deployments
        self._code = code
        self._placement = placement
        self._engines = engines
        self._figures = figures
        self._files = files
        self._sources = sources
        self._ledger = ledger
        self._logs = logs
        self._state = state
        self._clock = clock
        self._endpoint = endpoint
        self._base_zygotes = base_zygotes
        self._device_refusal = device_refusal
        self._pythons = pythons
        self._queues = queues
        self._depths = depths
        self._arn_prefix = arn_prefix
        self._mapped = mapped
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
        depths = {} if self._depths is None else await self._depths()
        return [
            function_listing(
                function,
                states.get(function.name),
                self._engines_of(function.spec),
                endpoint,
                routes.get(function.name, ()),
                depths.get(function.name, (0, 0.0)),
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

    # --- deploying ----------------------------------------------------------------------------------------------------

    async def has_code(self, digest: str) -> bool:
        """Return whether the zip with this SHA-256 (hex) is here."""
        return self._code.has(digest)

    def get_code(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a zip that is here. Raises ``InvalidParameter``, ``StateError``."""
        return self._code.read(digest)

    async def put_code(self, digest: str, parts: AsyncIterator[bytes]) -> int:
        """Store a zip and return its bytes. Raises ``InvalidParameter``, ``RequestTooLarge`` or ``StateError``."""
        return await receive(self._code, digest, parts)

    async def stacks(self) -> list[Stack]:
        """Return every stack, by name."""
        return [stack for _, stack in sorted(self._registry.catalog.stacks.items())]

    async def stack(self, name: str) -> StackListing:
        """Return one stack. Raises ``ResourceNotFound``."""
        catalog = self._registry.catalog
        stack = catalog.stacks.get(name)
        if stack is None:
            raise ResourceNotFound(f"Stack not found: {name}")
        known = {key: catalog.functions.get(value) for key, value in stack.names.functions.items()}
        functions = {key: one for key, one in known.items() if one is not None and one.stack == name}
        return StackListing(stack, functions, await asyncio.to_thread(drift, catalog, stack, self._site()))

    async def put_stack(self, request: StackRequest, on_event: OnEvent) -> StackResult:
        """Make the stack exactly what is asked, or change nothing.

        Checking and resolving sources come first and may be cancelled; from the commit on it is carried out even when
        the client goes away. Raises ``DefinitionError``, ``NotSupported``, ``Conflict`` or ``StateError``.
        """
        wanted = validated(request, self._code, self._device_refusal)
        queues, mappings = self._queues.wanted(request.name, request.definitions.queues), mappings_of(request)
        await self._check_sources(wanted, queues, mappings)
        deployed = {function.name: function.spec for function in self._registry.functions()}
        wanted = await pinned(wanted, deployed, self._sources, refresh=request.refresh, on_event=on_event)
        digests = {one.spec.code_digest for one in wanted.values()}
        digests |= {str(layer["CodeSha256"]) for layer in request.definitions.layers.values()}
        stack = WantedStack(
            name=request.name,
            template_digest=request.template_digest,
            functions=wanted,
            definitions=request.definitions,
            sizes={digest: self._code.size(digest) for digest in digests},
            exports=request.exports,
            imports=request.imports,
        )
        site, about = self._site(), f"apply stack {request.name}"

        async def apply() -> list[FunctionChange]:
            before = self._registry.catalog.stacks.get(request.name)
            async with self._queues.made(request.name, queues):
                changes = await self._deployments.change(lambda catalog: put(catalog, stack, site), about=about)
            await self._queues.remove(request.name, before, self._registry.catalog.stacks.get(request.name))
            return changes

        try:
            changes = await self._deployments.see_through(apply(), about)
        except LayersRefused as error:
            logical_id = next(key for key, one in wanted.items() if one.spec.name == error.function)
            raise DefinitionError(f"{logical_id}.Layers", str(error)) from error
        names = {one.spec.name for one in wanted.values()}
        listed = tuple([item for item in await self.functions() if item.name in names])
        functions = [self._registry.catalog.functions[name] for name in names]
        versions = {logical_id: number for one in functions for logical_id, number in one.publications.items()}
        versions |= layers.of_stack(self._registry.catalog, request.name)
        return StackResult(tuple(changes), listed, notes(request, self._pythons), versions)

    async def delete_stack(self, name: str) -> list[FunctionChange]:
        """Take a stack out with all that belongs to it.

        Raises ``ResourceNotFound``, or ``Conflict`` where another stack imports what it exports.
        """
        if name not in self._registry.catalog.stacks:
            raise ResourceNotFound(f"Stack not found: {name}")

        async def undo() -> list[FunctionChange]:
            before, about = self._registry.catalog.stacks.get(name), f"destroy stack {name}"
            changes = await self._deployments.change(lambda catalog: destroy(catalog, name), about=about)
            await self._queues.remove(name, before, None)
            return changes

        return await self._deployments.see_through(undo(), f"destroy stack {name}")

    async def _check_sources(
        self,
        functions: Mapping[str, WantedFunction],
        queues: Mapping[str, WantedQueue],
        mappings: Mapping[str, WantedMapping],
    ) -> None:
        """Look whether each mapping can have its queue's messages. Raises ``DefinitionError`` where it cannot, and
        ``QueueUnreachable``."""
        own = {self._queues.arn(queue.name): queue.settings.visibility_s for queue in queues.values()}
        timeouts = {one.spec.name: one.spec.timeout_s for one in functions.values()}
        for logical_id, mapping in mappings.items():
            name = mapping.function.partition(":")[0]
            timeout_s = timeouts.get(name)
            if timeout_s is None:
                known = self._registry.catalog.functions.get(name)
                timeout_s = 0.0 if known is None else known.spec.timeout_s
            try:
                if mapping.source in own:
                    refuse_short(own[mapping.source], timeout_s)
                else:
                    await self._mapped.check(mapping.source, timeout_s)
            except InvalidParameter as error:
                raise DefinitionError(f"{logical_id}.EventSourceArn", str(error)) from error

    def _site(self) -> Site:
        now_s = self._clock.time()
        layers = self._arn_prefix.removesuffix("function:") + "layer:"
        return Site(self._arn_prefix, layers, lambda_time(now_s), iso_time(now_s), now_s)

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
