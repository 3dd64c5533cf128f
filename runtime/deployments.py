"""Carrying out what the catalog says: the router serves it, engines are made for it, code that nothing names goes.

``change`` is the one way to change what is deployed. The registry puts the decision on disk first; then the difference
between the two catalogs is told to the router, version by version, so that no operation has side effects of its own.
A version that is not ``Active`` yet is made so in the background: at once where nothing has to be made for it, with
SnapStart when its snapshot has been made and checked.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from .catalog import LATEST, Catalog, Function, Provisioned, Version, lambda_time
from .codestore import CodeStore
from .errors import GlowplugError, InvalidParameter, LayersRefused, StateError
from .neighbours import Engines, Placement
from .registry import Decide, Registry
from .routing.allotment import Quota
from .routing.status import FunctionStatus
from .spec import FunctionSpec

log = logging.getLogger(__name__)
T = TypeVar("T")


class Deployments:
    """Changes what is deployed. ``on_removed`` hears the name of each function that was deleted, ``on_changed`` every
    spec that is deployed after a change of any, ``followers`` each catalog, as soon as the router serves it."""

    def __init__(
        self,
        *,
        registry: Registry,
        code: CodeStore,
        placement: Placement,
        engines: Engines,
        on_removed: Callable[[str], None],
        on_changed: Callable[[Sequence[FunctionSpec]], Awaitable[None]],
        followers: Sequence[Callable[[Catalog], None]] = (),
    ) -> None:
        self._registry = registry
        self._code = code
        self._placement = placement
        self._engines = engines
        self._on_removed = on_removed
        self._on_changed = on_changed
        self._followers = followers
        self._turn = asyncio.Lock()
        self._under_way: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return f"<Deployments {self._registry!r} under_way={len(self._under_way)}>"

    @property
    def catalog(self) -> Catalog:
        """What is deployed now."""
        return self._registry.catalog

    def specs(self) -> list[FunctionSpec]:
        """Return every spec that is deployed, of all versions."""
        return list(_specs(self.catalog))

    async def resume(self) -> None:
        """Put into place what the registry knows: once, at start. Layers that are gone from the store, as only somebody
        else can have done it, are told of by the starts that miss them."""
        for digests in self.catalog.layer_lists():
            try:
                await self._code.prepare_opt(digests)
            except GlowplugError as error:
                log.warning("layers were not prepared: %s", error)
        self._carry_out(Catalog(), self.catalog)

    async def close(self) -> None:
        """Return when no change is being put into place any more; activations are given up, the next start repeats
        them."""
        for task in self._under_way:
            if task.get_name().startswith("activate"):
                task.cancel()
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def change(self, decide: Decide[T], *, about: str = "change") -> T:
        """Make the catalog what ``decide`` says, carry the difference out, and return what it says to return.

        From the commit on it is carried out even when the caller is cancelled. Raises what ``decide`` raises, and
        ``StateError``; nothing has changed then.
        """
        return await self.see_through(self._change(decide), about)

    async def see_through(self, work: Coroutine[Any, Any, T], about: str) -> T:
        """Return what ``work`` returns. It goes on when the caller is cancelled, and ``close`` waits for it."""
        task: asyncio.Task[T] = self._spawn(work, about)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_report)
            raise

    async def _change(self, decide: Decide[T]) -> T:
        async with self._turn:
            before = self.catalog
            after, result = await asyncio.to_thread(decide, before)  # nobody else changes it: this is its turn
            await self._prepare(before, after)
            await self._registry.change(lambda _: (after, None))
            self._carry_out(before, after)
            if after is not before:
                await self._tidy(before, after)
            return result

    async def _prepare(self, before: Catalog, after: Catalog) -> None:
        """Lay the layers of new specs together. Raises ``LayersRefused`` where they are too large, ``StateError``."""
        for spec in _new_specs(before, after):
            try:
                await self._code.prepare_opt([layer.digest for layer in spec.layers], code=spec.code_digest)
            except InvalidParameter as error:
                raise LayersRefused(spec.name, str(error)) from error

    async def _tidy(self, before: Catalog, after: Catalog) -> None:
        gone = _digests(before, after) - _digests(after, before) or before.layer_lists() - after.layer_lists()
        if gone or before.layers is not after.layers or before.stacks is not after.stacks:
            try:
                await self._code.prune(after.code_digests(), after.layer_lists())
            except StateError as error:  # the change is done; the next one tries again
                log.warning("unused code was not deleted: %s", error)
        await self._on_changed(self.specs())

    def _carry_out(self, before: Catalog, after: Catalog) -> None:
        for name in before.functions.keys() - after.functions.keys():
            self._placement.remove(name)
            for version in before.functions[name].all_versions():
                self._engines.drop(version.spec.revision)
            self._on_removed(name)
        for name, function in after.functions.items():
            old = before.functions.get(name)
            if old is not function:
                self._place(old, function)
        for follow in self._followers:
            follow(after)

    def _place(self, old: Function | None, new: Function) -> None:
        quota = quota_of(new)
        if quota != (Quota() if old is None else quota_of(old)):
            self._placement.allot(new.name, quota)
        had = {} if old is None else {version.number: version for version in old.all_versions()}
        for version in new.all_versions():
            before = had.pop(version.number, None)
            if before is None:
                self._placement.place(version.spec)
            elif before.spec.revision != version.spec.revision:
                self._placement.replace(version.spec)
                self._engines.drop(before.spec.revision)
            if before is None or before.spec.revision != version.spec.revision:
                self._engines.request_bake(version.spec)
            if not version.settled and (before is None or before.revision_id != version.revision_id):
                self._spawn(self._activate(version), f"activate {new.name}:{version.number}")
        for gone in had.values():
            self._placement.remove(new.name, gone.number)
            self._engines.drop(gone.spec.revision)

    async def _activate(self, version: Version) -> None:
        spec, failure = version.spec, ""
        try:
            if spec.snap_start and spec.version != LATEST and version.state == "Pending":
                if spec.models:
                    await self._engines.bake(spec)
                await self._placement.prepare(spec.name, spec.version)
        except GlowplugError as error:
            failure = f"{type(error).__name__}: {error}"
            log.warning("%s version %s is not active: %s", spec.name, spec.version, failure)
        try:
            await self.change(lambda catalog: (activated(catalog, version, failure, self._stamp()), None))
        except StateError as error:  # it stays Pending on disk and in memory; the next start tries again
            log.warning("%s version %s: its state was not written: %s", spec.name, spec.version, error)

    def allocation(self, name: str, qualifier: str) -> Allocation | None:
        """Return how far the instances are that are provisioned for a version or an alias; None where none are."""
        function = self.catalog.functions.get(name)
        provisioned = None if function is None else function.provisioned.get(qualifier)
        if function is None or provisioned is None:
            return None
        versions = function.versions_of(qualifier)
        states = [one for one in self._placement.describe() if one.name == name and one.version in versions]
        return allocation_of(provisioned, states)

    def _stamp(self) -> Stamp:
        return Stamp(str(uuid.uuid4()), lambda_time(self._registry.now()))

    def _spawn(self, work: Any, name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(work, name=name)
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)
        return task


@dataclass(frozen=True, slots=True)
class Stamp:
    """A new RevisionId and the time of a change, in Lambda's form."""

    revision_id: str
    modified: str


def activated(catalog: Catalog, version: Version, failure: str, stamp: Stamp) -> Catalog:
    """Return the catalog with what was under way for ``version`` at its end; as it is where that changed meanwhile.

    RevisionId is new, LastModified is not (recorded).
    """
    function = catalog.functions.get(version.spec.name)
    current = None if function is None else function.version(version.number)
    if function is None or current is None or current.spec.revision != version.spec.revision or current.settled:
        return catalog
    if failure:
        code = "FunctionError"
        done = replace(
            current, state="Failed", state_reason=failure, state_reason_code=code, update="Failed",
            update_reason=failure, update_reason_code=code,
        )  # fmt: skip
    else:
        done = replace(
            current, state="Active", state_reason="", state_reason_code="", update="Successful", update_reason="",
            update_reason_code="", optimized=version.spec.snap_start and version.number != LATEST,
        )  # fmt: skip
    return catalog.with_function(function.with_version(replace(done, revision_id=stamp.revision_id)))


@dataclass(frozen=True, slots=True)
class Allocation:
    """Provisioned concurrency as it is: Lambda's Requested, Allocated and Available, and its status."""

    requested: int
    allocated: int
    available: int
    status: str
    reason: str
    modified: str


def allocation_of(provisioned: Provisioned, states: Sequence[FunctionStatus]) -> Allocation:
    """Return how far ``provisioned`` is, from the state of each version that it is for."""
    requested = provisioned.requested
    ready = min((one.instances - one.starting - one.draining for one in states), default=0)
    idle = min((one.instances - one.starting - one.draining - one.busy for one in states), default=0)
    failed = any(one.last_error and not one.instances for one in states)
    status = "READY" if ready >= requested else "FAILED" if failed else "IN_PROGRESS"
    return Allocation(
        requested=requested,
        allocated=max(0, min(ready, requested)),
        available=max(0, min(idle, requested)),
        status=status,
        reason="FUNCTION_ERROR_INIT_FAILURE" if failed else "",
        modified=provisioned.modified,
    )


def quota_of(function: Function) -> Quota:
    """Return how many instances the versions of a function may have and keep. What an alias has goes to the version
    that it points to; an alias with weights keeps as many of each."""
    provisioned: dict[str, int] = {}
    for qualifier, one in function.provisioned.items():
        for number in function.versions_of(qualifier):
            provisioned[number] = max(provisioned.get(number, 0), one.requested)
    bounds: dict[str, tuple[int | None, int | None]] = {}
    for key, document in function.documents.items():
        kind, _, qualifier = key.partition("/")
        if kind == "scaling":
            pair = (document.get("MinExecutionEnvironments"), document.get("MaxExecutionEnvironments"))
            bounds |= dict.fromkeys(function.versions_of(qualifier), pair)
    return Quota(function.reserved, provisioned, bounds)


def _specs(catalog: Catalog) -> Iterator[FunctionSpec]:
    for function in catalog.functions.values():
        for version in function.all_versions():
            yield version.spec


def _new_specs(before: Catalog, after: Catalog) -> Iterator[FunctionSpec]:
    """Yield the specs with layers of ``after`` whose layers or code ``before`` has otherwise, or not at all."""
    for name, function in after.functions.items():
        old = before.functions.get(name)
        if old is function:
            continue
        known = set() if old is None else {(one.spec.layers, one.spec.code_digest) for one in old.all_versions()}
        for version in function.all_versions():
            if version.spec.layers and (version.spec.layers, version.spec.code_digest) not in known:
                yield version.spec


def _digests(catalog: Catalog, other: Catalog) -> set[str]:
    """Return the code that is named by the functions which ``other`` has otherwise, or not at all."""
    return {
        digest
        for name, function in catalog.functions.items()
        if other.functions.get(name) is not function
        for version in function.all_versions()
        for digest in (version.spec.code_digest, *(layer.digest for layer in version.spec.layers))
    }


def _report(task: asyncio.Task[Any]) -> None:
    """Log what went wrong with a change that nobody waits for any more."""
    if not task.cancelled() and (error := task.exception()) is not None:
        log.warning("%s: %s", task.get_name(), error)
