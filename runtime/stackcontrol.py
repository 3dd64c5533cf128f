"""What a deploy asks of the node: code is taken in, stacks are put, listed and taken out."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping

from .catalog import Stack, iso_time, lambda_time
from .clock import Clock
from .codestore import CodeStore
from .control import StackListing, StackResult
from .deployments import Deployments
from .errors import DefinitionError, InvalidParameter, LayersRefused, ResourceNotFound
from .events.mapping.sources import refuse_short
from .management import layers
from .management.drift import drift
from .management.site import Site
from .management.stacks import FunctionChange, WantedStack, destroy, put
from .neighbours import MappingQueues
from .receiving import receive
from .registry import Registry
from .spec import FunctionSpec
from .stackqueues import StackQueues
from .stacks import OnEvent, Sources, StackRequest, mappings_of, notes, pinned, validated
from .wanted import WantedFunction
from .wantedqueues import WantedMapping, WantedQueue


class StackControl:
    """The node's implementation of ``StackPlane``.

    ``queues`` are those of stacks, ``mapped`` all that event source mappings may name; ``device_refusal`` says why a
    function's device is none of this node's; ``arn_prefix`` ends in ``:function:``; ``pythons`` are the runtimes that
    are installed besides the node's own.
    """

    def __init__(
        self,
        *,
        registry: Registry,
        deployments: Deployments,
        code: CodeStore,
        sources: Sources,
        queues: StackQueues,
        mapped: MappingQueues,
        clock: Clock,
        device_refusal: Callable[[FunctionSpec], str],
        arn_prefix: str,
        pythons: Collection[str] = (),
    ) -> None:
        self._registry = registry
        self._deployments = deployments
        self._code = code
        self._sources = sources
        self._queues = queues
        self._mapped = mapped
        self._clock = clock
        self._device_refusal = device_refusal
        self._arn_prefix = arn_prefix
        self._pythons = pythons

    def __repr__(self) -> str:
        return f"<StackControl {self._registry!r}>"

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
        changed = await asyncio.to_thread(drift, catalog, stack, self._site())
        return StackListing(stack, changed | self._queues.drift(stack))

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
        functions = [self._registry.catalog.functions[name] for name in names]
        versions = {logical_id: number for one in functions for logical_id, number in one.publications.items()}
        versions |= layers.of_stack(self._registry.catalog, request.name)
        return StackResult(tuple(changes), notes(request, self._pythons), versions)

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
