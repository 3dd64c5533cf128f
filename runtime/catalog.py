"""What is deployed, as one immutable value: functions with their versions, aliases and URLs, layers, stacks.

A ``Catalog`` is never changed, only replaced: whoever wants a change writes a pure decision from one catalog to the
next, ``Registry.change`` puts the difference on disk in one transaction, and ``deployments`` carries it out. So what
an operation of the API means can be read, and tested, without a file or a process.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import Any, Literal

from .contents import Contents, Definition
from .spec import FunctionSpec

LATEST = "$LATEST"
State = Literal["Pending", "Active", "Failed"]
Update = Literal["", "InProgress", "Successful", "Failed"]

_NOTHING: Mapping[str, Any] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Version:
    """A function at one version: ``$LATEST``, which changes, or a published one, which does not.

    ``modified`` is in Lambda's form (``lambda_time``), ``revision_id`` is Lambda's RevisionId, new with every change.
    ``state`` and ``update`` are Lambda's State and LastUpdateStatus, each with a reason and its code; ``update`` is
    empty until the function has been active. ``latest_description`` is that of ``$LATEST`` when a version was
    published: its own may be another. ``optimized`` is SnapStart's OptimizationStatus. ``settings`` holds
    configuration that is accepted and stored, under Lambda's own names and in its shapes (``VpcConfig``, …).
    """

    spec: FunctionSpec
    revision_id: str
    modified: str
    code_size: int = 0
    state: State = "Active"
    state_reason: str = ""
    state_reason_code: str = ""
    update: Update = "Successful"
    update_reason: str = ""
    update_reason_code: str = ""
    optimized: bool = False
    latest_description: str = ""
    settings: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)

    @property
    def number(self) -> str:
        """``$LATEST`` or the number."""
        return self.spec.version

    @property
    def settled(self) -> bool:
        """Whether nothing of it is under way."""
        return self.state != "Pending" and self.update != "InProgress"


@dataclass(frozen=True, slots=True)
class Alias:
    """A name for a version. ``weights`` maps one other version to its share of the requests; empty: none has any."""

    name: str
    version: str
    revision_id: str
    description: str = ""
    weights: Mapping[str, float] = field(default_factory=lambda: _NOTHING)

    def draw(self, chance: Callable[[], float]) -> str:
        """Return the version that one request goes to; ``chance`` returns a number from 0 up to 1."""
        for version, share in self.weights.items():
            if chance() < share:
                return version
        return self.version


@dataclass(frozen=True, slots=True)
class Url:
    """A function URL, of ``$LATEST`` or of an alias. ``cors`` is Lambda's Cors. Times are ISO 8601."""

    url_id: str
    function: str
    qualifier: str = LATEST
    auth_type: str = "NONE"
    invoke_mode: str = "BUFFERED"
    cors: Mapping[str, Any] = field(default_factory=lambda: _NOTHING)
    created: str = ""
    modified: str = ""


@dataclass(frozen=True, slots=True)
class Provisioned:
    """Instances that are kept for a version or an alias. ``status`` is Lambda's: IN_PROGRESS, READY or FAILED."""

    requested: int
    modified: str
    status: str = "IN_PROGRESS"
    status_reason: str = ""


@dataclass(frozen=True, slots=True)
class Function:
    """A deployed function with all that belongs to it.

    ``slot`` is a small integer of its own: the function's unprivileged user is ``uid_base + slot``. A name keeps its
    slot for ever, and no other name ever gets it: files that a deleted function left in /tmp stay out of reach.
    ``stack`` is empty for a function that was made by the Lambda API. ``versions`` has the published ones by number;
    ``provisioned`` is by version or alias, ``urls`` by qualifier. ``documents`` holds what is only stored and looked
    up, in Lambda's output shapes, by kind and qualifier: ``policy/live``, ``event-invoke/$LATEST``, ``recursion/``.
    ``publications`` says which version a template's logical id became.
    """

    name: str
    slot: int
    latest: Version
    stack: str = ""
    logical_id: str = ""
    versions: Mapping[int, Version] = field(default_factory=dict)
    next_version: int = 1
    aliases: Mapping[str, Alias] = field(default_factory=dict)
    reserved: int | None = None
    provisioned: Mapping[str, Provisioned] = field(default_factory=dict)
    urls: Mapping[str, Url] = field(default_factory=dict)
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    publications: Mapping[str, str] = field(default_factory=dict)

    @property
    def spec(self) -> FunctionSpec:
        """The spec of ``$LATEST``."""
        return self.latest.spec

    def all_versions(self) -> tuple[Version, ...]:
        """Return ``$LATEST`` and then the published ones, oldest first."""
        return (self.latest, *(self.versions[number] for number in sorted(self.versions)))

    def version(self, number: str) -> Version | None:
        """Return the version that is called ``$LATEST`` or that number, or None."""
        if number == LATEST:
            return self.latest
        return self.versions.get(int(number)) if number.isascii() and number.isdigit() else None

    def qualified(self, qualifier: str, chance: Callable[[], float] = random.random) -> Version | None:
        """Return the version that a request for ``qualifier`` runs on, drawn where an alias has weights; or None."""
        alias = self.aliases.get(qualifier)
        return self.version(qualifier if alias is None else alias.draw(chance))

    def versions_of(self, qualifier: str) -> tuple[str, ...]:
        """Return the numbers of all versions that requests for ``qualifier`` may run on."""
        alias = self.aliases.get(qualifier)
        if alias is None:
            return () if self.version(qualifier) is None else (qualifier,)
        return (alias.version, *alias.weights)

    def with_version(self, version: Version) -> Function:
        """Return this function with ``version`` in place of the one of its number."""
        if version.number == LATEST:
            return replace(self, latest=version)
        return replace(self, versions={**self.versions, int(version.number): version})

    def with_document(self, key: str, value: Mapping[str, Any] | None) -> Function:
        """Return this function with one document set, or taken out where ``value`` is None."""
        kept = {known: given for known, given in self.documents.items() if known != key}
        return replace(self, documents=kept if value is None else {**kept, key: value})


@dataclass(frozen=True, slots=True)
class LayerVersion:
    """One version of a layer. ``digest`` is the SHA-256 (hex) of its zip, ``size`` its bytes."""

    version: int
    digest: str
    size: int
    created: str
    description: str = ""
    runtimes: tuple[str, ...] = ()
    architectures: tuple[str, ...] = ()
    license: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with the versions that have not been deleted; numbers are never given out twice."""

    name: str
    next_version: int = 1
    versions: Mapping[int, LayerVersion] = field(default_factory=dict)
    stack: str = ""


@dataclass(frozen=True, slots=True)
class Stack:
    """A template as deployed.

    ``template_digest`` is what the client said of its template. ``names`` are what its parts are called here: names of
    functions, layers, queues and triggers, ids of APIs, UUIDs of mappings. ``definitions`` are what was asked for
    (``StackRequest``); those of queues and mappings are missing where a release put them that kept none. ``exports`` is
    text by name, ``imports`` says of which stack each name is.
    """

    name: str
    template_digest: str
    modified: str = ""
    names: Contents[str] = field(default_factory=Contents)
    definitions: Contents[Definition] = field(default_factory=Contents)
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Catalog:
    """Everything that is deployed. ``slots`` outlive their functions; ``urls`` follows from ``functions``.

    ``documents`` holds what belongs to no function: ``event-source-mapping/<uuid>``, ``api/<api-id>``,
    ``trigger/<stack>/<logical id>``, ….
    """

    functions: Mapping[str, Function] = field(default_factory=dict)
    stacks: Mapping[str, Stack] = field(default_factory=dict)
    layers: Mapping[str, Layer] = field(default_factory=dict)
    documents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    slots: Mapping[str, int] = field(default_factory=dict)
    urls: Mapping[str, Url] = field(default_factory=dict)

    def get(self, name: str) -> Function | None:
        """Return one function, or None."""
        return self.functions.get(name)

    def slot_for(self, name: str) -> int:
        """Return the slot of a function, or the one that a new function of that name gets."""
        known = self.slots.get(name)
        return known if known is not None else 1 + max(self.slots.values(), default=-1)

    def with_function(self, function: Function) -> Catalog:
        """Return the catalog with ``function`` in place of the one of its name."""
        return self.with_functions((function,))

    def with_functions(self, functions: tuple[Function, ...]) -> Catalog:
        """Return the catalog with each of ``functions`` in place of the one of its name: one copy for all of them."""
        chosen, slots, urls = dict(self.functions), dict(self.slots), dict(self.urls)
        for function in functions:
            before = chosen.get(function.name)
            chosen[function.name] = function
            slots[function.name] = function.slot
            for url in () if before is None else before.urls.values():
                urls.pop(url.url_id, None)
            urls.update({url.url_id: url for url in function.urls.values()})
        return replace(self, functions=chosen, slots=slots, urls=urls)

    def without_function(self, name: str) -> Catalog:
        """Return the catalog without a function and its URLs. Its slot stays taken."""
        function = self.functions[name]
        gone = {url.url_id for url in function.urls.values()}
        return replace(
            self,
            functions={known: value for known, value in self.functions.items() if known != name},
            urls={url_id: url for url_id, url in self.urls.items() if url_id not in gone},
        )

    def with_document(self, key: str, value: Mapping[str, Any] | None) -> Catalog:
        """Return the catalog with one document set, or taken out where ``value`` is None."""
        kept = {known: given for known, given in self.documents.items() if known != key}
        return replace(self, documents=kept if value is None else {**kept, key: value})

    def with_layer(self, layer: Layer) -> Catalog:
        """Return the catalog with ``layer`` in place of the one of its name."""
        return replace(self, layers={**self.layers, layer.name: layer})

    def with_stack(self, stack: Stack) -> Catalog:
        """Return the catalog with ``stack`` in place of the one of its name."""
        return replace(self, stacks={**self.stacks, stack.name: stack})

    def without_stack(self, name: str) -> Catalog:
        """Return the catalog without the record of a stack; its functions are taken out one by one."""
        return replace(self, stacks={known: value for known, value in self.stacks.items() if known != name})

    def code_digests(self) -> frozenset[str]:
        """Return the digests of all code and layers that something names; everything else may be pruned."""
        code = {
            digest
            for function in self.functions.values()
            for version in function.all_versions()
            for digest in (version.spec.code_digest, *(layer.digest for layer in version.spec.layers))
        }
        return frozenset(code | {one.digest for layer in self.layers.values() for one in layer.versions.values()})

    def layer_lists(self) -> frozenset[tuple[str, ...]]:
        """Return the digests of the layers of each version that has any, in their order."""
        return frozenset(
            tuple(layer.digest for layer in version.spec.layers)
            for function in self.functions.values()
            for version in function.all_versions()
            if version.spec.layers
        )


def lambda_time(unix_s: float) -> str:
    """Return Unix seconds in the form of Lambda's ``LastModified``: ``2025-11-24T23:11:20.123+0000``."""
    moment = datetime.fromtimestamp(unix_s, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03d}+0000"


def iso_time(unix_s: float) -> str:
    """Return Unix seconds in the form of a function URL's times: ``2025-11-24T23:11:20.123456Z``."""
    return f"{datetime.fromtimestamp(unix_s, UTC):%Y-%m-%dT%H:%M:%S.%fZ}"
