"""Putting a stack: what a template asks for, made of the catalog in one step, so that all of it is there or nothing.

Only what a template says, or has said before, is touched: an alias that somebody made through the API stays where no
template has ever named it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from glowplug.runtime.catalog import (
    LATEST,
    Alias,
    Catalog,
    Function,
    Layer,
    LayerVersion,
    Provisioned,
    Stack,
    Url,
    Version,
)
from glowplug.runtime.errors import Conflict, DefinitionError
from glowplug.runtime.spec import FunctionSpec, LayerSpec, url_id_of
from glowplug.runtime.wanted import WantedFunction, WantedUrl

from .exports import refuse_missing, shared
from .publishing import publish

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class WantedStack:
    """A stack to be. ``functions`` by logical id, their models pinned; ``layers`` and ``apis`` are JSON as it was sent.

    ``sizes`` has the bytes of each zip that is named, by digest; ``definitions`` is what the stack's record keeps.
    ``exports`` and ``imports`` are what it shares with other stacks.
    """

    name: str
    template_digest: str
    functions: Mapping[str, WantedFunction]
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    apis: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    definitions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionChange:
    """What putting a stack did to one function."""

    function: str
    change: Literal["created", "updated", "unchanged", "deleted"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where and when: the beginnings of ARNs, the time in Lambda's form, in ISO 8601 and in Unix seconds, and new
    random ids."""

    function_arn: str
    layer_arn: str
    now: str
    iso: str
    unix_s: float = 0.0
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())


def put(catalog: Catalog, stack: WantedStack, site: Site) -> tuple[Catalog, list[FunctionChange]]:
    """Make ``stack.name`` exactly ``stack``; one without functions deletes what it had.

    Raises ``Conflict`` when a function or an export belongs to somebody else, ``DefinitionError`` when a name or a
    URL's id is taken, naming the logical id and who has it.
    """
    _refuse_names(catalog, stack)
    exports, imports = shared(catalog, stack.name, stack.exports, stack.imports)
    before = catalog.stacks.get(stack.name)
    changes: list[FunctionChange] = []
    kept = {wanted.spec.name for wanted in stack.functions.values()}
    for name, function in sorted(catalog.functions.items()):
        if function.stack == stack.name and name not in kept:
            catalog = catalog.without_function(name)
            changes.append(FunctionChange(name, "deleted"))
    catalog, layers = _layers(catalog, stack, before, site)
    made = []
    slot = catalog.slot_for("")
    for logical_id, wanted in stack.functions.items():
        old = catalog.functions.get(wanted.spec.name)
        if old is None and wanted.spec.name not in catalog.slots:
            slot, own = slot + 1, slot
        else:
            own = catalog.slots[wanted.spec.name]
        was = _NOTHING if before is None else before.definitions.get(logical_id, _NOTHING)
        new = _Making(catalog, site, layers, stack.sizes, was).function(own, stack.name, logical_id, wanted, old)
        if old is None:
            changes.append(FunctionChange(new.name, "created"))
        else:
            changes.append(FunctionChange(new.name, "unchanged" if new == old else "updated"))
        if new != old:
            made.append(new)
    catalog = catalog.with_functions(tuple(made))
    _refuse_urls(catalog, stack)
    catalog, apis = _apis(catalog, stack, before)
    record = Stack(
        name=stack.name,
        template_digest=stack.template_digest,
        modified=site.now,
        functions={logical_id: wanted.spec.name for logical_id, wanted in stack.functions.items()},
        layers=layers.names,
        apis=apis,
        definitions=stack.definitions,
        exports=exports,
        imports=imports,
    )
    return catalog.with_stack(record), changes


def destroy(catalog: Catalog, name: str) -> tuple[Catalog, list[FunctionChange]]:
    """Take a stack out with its functions, APIs and layers. Raises ``Conflict`` where others import what it exports."""
    refuse_missing(catalog, name, {})
    changes = []
    for function in sorted(catalog.functions):
        if catalog.functions[function].stack == name:
            catalog = catalog.without_function(function)
            changes.append(FunctionChange(function, "deleted"))
    record = catalog.stacks[name]
    for api in record.apis.values():
        catalog = catalog.with_document(f"api/{api}", None)
    kept = {known: layer for known, layer in catalog.layers.items() if layer.stack != name}
    return replace(catalog, layers=kept).without_stack(name), changes


@dataclass(frozen=True, slots=True)
class _Layers:
    """The layers of the stack: their names and the versions that they are at, by logical id."""

    names: Mapping[str, str]
    versions: Mapping[str, LayerSpec]


@dataclass(frozen=True, slots=True)
class _Making:
    """Makes one function of what a template asks for. ``was`` is the definition that the stack had of it before."""

    catalog: Catalog
    site: Site
    layers: _Layers
    sizes: Mapping[str, int]
    was: Mapping[str, Any]

    def function(
        self, slot: int, stack: str, logical_id: str, wanted: WantedFunction, old: Function | None
    ) -> Function:
        spec = replace(wanted.spec, layers=tuple(self._layer(logical_id, *layer) for layer in wanted.layers))
        latest = self._latest(spec, wanted, old)
        made = Function(spec.name, slot, latest) if old is None else replace(old, latest=latest)
        made = replace(
            made,
            stack=stack,
            logical_id=logical_id,
            tags=dict(wanted.tags),
            reserved=wanted.reserved,
            documents=self._documents(wanted, made),
        )
        made = self._aliased(logical_id, wanted, self._published(wanted, made))
        return replace(made, urls=self._urls(wanted, made))

    def _latest(self, spec: FunctionSpec, wanted: WantedFunction, old: Function | None) -> Version:
        if old is not None and old.spec == spec and dict(old.latest.settings) == dict(wanted.settings):
            return old.latest
        size = self.sizes.get(spec.code_digest, 0 if old is None else old.latest.code_size)
        return Version(spec, self.site.new_id(), self.site.now, code_size=size, settings=dict(wanted.settings))

    def _layer(self, logical_id: str, given: str, by_id: bool) -> LayerSpec:
        if by_id:
            if given not in self.layers.versions:
                raise DefinitionError(f"{logical_id}.Layers", f"{given} is no layer of this template")
            return self.layers.versions[given]
        arn, _, number = given.rpartition(":")
        layer = self.catalog.layers.get(arn.removeprefix(self.site.layer_arn))
        version = layer.versions.get(int(number)) if layer is not None and number.isdigit() else None
        if version is None:
            raise DefinitionError(f"{logical_id}.Layers", f"Layer version {given} does not exist.")
        return LayerSpec(given, version.digest, version.size)

    def _documents(self, wanted: WantedFunction, made: Function) -> dict[str, Mapping[str, Any]]:
        ours = {f"event-invoke/{qualifier}" for qualifier in self.was.get("EventInvokeConfigs") or ()}
        if self.was.get("FunctionScalingConfig"):
            ours.add(f"scaling/{LATEST}")
        documents = {key: value for key, value in made.documents.items() if key not in ours}
        for qualifier, config in wanted.event_invoke.items():
            documents[f"event-invoke/{qualifier}"] = dict(config)
        if wanted.scaling is not None:
            named = zip(("MinExecutionEnvironments", "MaxExecutionEnvironments"), wanted.scaling, strict=True)
            documents[f"scaling/{LATEST}"] = {name: value for name, value in named if value is not None}
        return documents

    def _published(self, wanted: WantedFunction, made: Function) -> Function:
        publications = {one: number for one, number in made.publications.items() if made.version(number) is not None}
        provisioned = dict(made.provisioned)
        for name, version in wanted.versions.items():
            number = publications.get(name)
            if number is None:
                made, published = publish(
                    made, description=version.description, revision_id=self.site.new_id(), now=self.site.now
                )
                number = publications[name] = published.number
            self._provision(provisioned, number, version.provisioned)
        return replace(made, publications=publications, provisioned=provisioned)

    def _aliased(self, logical_id: str, wanted: WantedFunction, made: Function) -> Function:
        gone = (self.was.get("Aliases") or {}).keys() - wanted.aliases.keys()
        aliases = {name: alias for name, alias in made.aliases.items() if name not in gone}
        provisioned = {name: one for name, one in made.provisioned.items() if name not in gone}
        for name, alias in wanted.aliases.items():
            number = made.publications[alias.version] if alias.by_id else alias.version
            for version in (number, *alias.weights):
                if made.version(version) is None:
                    raise DefinitionError(f"{logical_id}.Aliases.{name}", f"there is no version {version}")
            known = aliases.get(name)
            new = Alias(name, number, "", alias.description, dict(alias.weights))
            if known is None or replace(known, revision_id="") != new:
                aliases[name] = replace(new, revision_id=self.site.new_id())
            self._provision(provisioned, name, alias.provisioned)
        return replace(made, aliases=aliases, provisioned=provisioned)

    def _provision(self, provisioned: dict[str, Provisioned], qualifier: str, requested: int | None) -> None:
        known = provisioned.get(qualifier)
        if requested is None:
            provisioned.pop(qualifier, None)
        elif known is None or known.requested != requested:
            provisioned[qualifier] = Provisioned(requested, self.site.now)

    def _urls(self, wanted: WantedFunction, made: Function) -> dict[str, Url]:
        gone = (self.was.get("Urls") or {}).keys() - wanted.urls.keys()
        urls = {
            qualifier: url
            for qualifier, url in made.urls.items()
            if qualifier not in gone and (qualifier == LATEST or qualifier in made.aliases)
        }
        for qualifier, url in wanted.urls.items():
            if qualifier != LATEST and qualifier not in made.aliases:
                raise DefinitionError(f"{made.logical_id}.Urls.{qualifier}", "is no alias of this function")
            urls[qualifier] = self._url(made, qualifier, url)
        return urls

    def _url(self, made: Function, qualifier: str, wanted: WantedUrl) -> Url:
        known = made.urls.get(qualifier)
        new = Url(
            url_id=url_id_of(made.name, "" if qualifier == LATEST else qualifier) if known is None else known.url_id,
            function=made.name,
            qualifier=qualifier,
            auth_type=wanted.auth_type,
            invoke_mode=wanted.invoke_mode,
            cors=dict(wanted.cors),
            created=self.site.iso if known is None else known.created,
            modified=self.site.iso if known is None else known.modified,
        )
        return new if new == known else replace(new, modified=self.site.iso)


def _layers(catalog: Catalog, stack: WantedStack, before: Stack | None, site: Site) -> tuple[Catalog, _Layers]:
    """Publish the layers that are new or have changed; a stack's earlier versions stay, as functions may name them."""
    names: dict[str, str] = {}
    versions: dict[str, LayerSpec] = {}
    for logical_id, given in stack.layers.items():
        name, digest = str(given["LayerName"]), str(given["CodeSha256"])
        layer = catalog.layers.get(name) or Layer(name, stack=stack.name)
        if layer.stack != stack.name:
            raise Conflict(f"{logical_id}: layer {name} belongs to {layer.stack or 'nobody: it was made by the API'}")
        newest = layer.versions[max(layer.versions)] if layer.versions else None
        made = LayerVersion(
            version=layer.next_version,
            digest=digest,
            size=stack.sizes.get(digest, 0),
            created=site.now,
            description=str(given.get("Description", "")),
            runtimes=tuple(given.get("CompatibleRuntimes") or ()),
            architectures=tuple(given.get("CompatibleArchitectures") or ()),
            license=str(given.get("LicenseInfo", "")),
        )
        if newest is None or replace(made, version=newest.version, created=newest.created) != newest:
            layer = replace(layer, next_version=made.version + 1, versions={**layer.versions, made.version: made})
            catalog, newest = catalog.with_layer(layer), made
        names[logical_id] = name
        versions[logical_id] = LayerSpec(f"{site.layer_arn}{name}:{newest.version}", digest, newest.size)
    gone = set() if before is None else set(before.layers.values()) - set(names.values())
    kept = {name: layer for name, layer in catalog.layers.items() if name not in gone}
    return replace(catalog, layers=kept) if gone else catalog, _Layers(names, versions)


def _apis(catalog: Catalog, stack: WantedStack, before: Stack | None) -> tuple[Catalog, dict[str, str]]:
    ids = {logical_id: url_id_of(f"{stack.name}-{logical_id}") for logical_id in stack.apis}
    for api in set() if before is None else set(before.apis.values()) - set(ids.values()):
        catalog = catalog.with_document(f"api/{api}", None)
    for logical_id, given in stack.apis.items():
        key = f"api/{ids[logical_id]}"
        known = catalog.documents.get(key)
        if known is not None and known.get("Stack") != stack.name:
            raise DefinitionError(f"{logical_id}", f"the API id {ids[logical_id]!r} is taken by {known.get('Stack')}")
        value = {**given, "Stack": stack.name}
        if known != value:
            catalog = catalog.with_document(key, value)
    return catalog, ids


def _refuse_names(catalog: Catalog, stack: WantedStack) -> None:
    names: dict[str, str] = {}
    for logical_id, wanted in stack.functions.items():
        name = wanted.spec.name
        if name in names:
            raise DefinitionError(f"{logical_id}.FunctionName", f"{name!r} is {names[name]}'s name already")
        names[name] = logical_id
        known = catalog.functions.get(name)
        if known is not None and known.stack != stack.name:
            owner = f"the stack {known.stack}" if known.stack else "no stack: it was made by the Lambda API"
            raise Conflict(f"{logical_id}: function {name} belongs to {owner}")


def _refuse_urls(catalog: Catalog, stack: WantedStack) -> None:
    """Refuse an id that two URLs have: the catalog's index has only one of them then."""
    ours = {wanted.spec.name: logical_id for logical_id, wanted in stack.functions.items()}
    others = [function for name, function in catalog.functions.items() if name not in ours]
    taken = {url.url_id: url.function for function in others for url in function.urls.values()}
    for name, logical_id in ours.items():
        for url in catalog.functions[name].urls.values():
            if (owner := taken.setdefault(url.url_id, name)) != name:
                raise DefinitionError(f"{logical_id}.Urls", f"URL id {url.url_id!r} is taken by the function {owner}")
