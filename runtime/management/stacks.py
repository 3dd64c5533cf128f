"""Putting a stack: what a template asks for, made of the catalog in one step, so that all of it is there or nothing.

Only what a template says, or has said before, is touched: an alias that somebody made through the API stays where no
template has ever named it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from glowplug.runtime.apis import api_id_of
from glowplug.runtime.catalog import Catalog, Layer, LayerVersion, Stack
from glowplug.runtime.contents import Contents, Definition
from glowplug.runtime.errors import Conflict, DefinitionError
from glowplug.runtime.events import triggers
from glowplug.runtime.spec import LayerSpec
from glowplug.runtime.wanted import WantedFunction

from .exports import refuse_missing, shared
from .making import Making, StackLayers
from .mappings import put_mappings, without_mappings
from .site import Site

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class WantedStack:
    """A stack to be. ``functions`` are those of ``definitions``, read, their models pinned.

    ``sizes`` has the bytes of each zip that is named, by digest. ``exports`` and ``imports`` are what it shares with
    other stacks. Of queues only the names are the catalog's.
    """

    name: str
    template_digest: str
    functions: Mapping[str, WantedFunction]
    definitions: Contents[Definition] = field(default_factory=Contents)
    sizes: Mapping[str, int] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class FunctionChange:
    """What putting a stack did to one function."""

    function: str
    change: Literal["created", "updated", "unchanged", "deleted"]


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
    had = _had(before)
    slot = catalog.slot_for("")
    for logical_id, wanted in stack.functions.items():
        old = catalog.functions.get(wanted.spec.name)
        if old is None and wanted.spec.name not in catalog.slots:
            slot, own = slot + 1, slot
        else:
            own = catalog.slots[wanted.spec.name]
        was = had.get(wanted.spec.name, _NOTHING)
        new = Making(catalog, site, layers, stack.sizes, was).function(own, stack.name, logical_id, wanted, old)
        if old is None:
            changes.append(FunctionChange(new.name, "created"))
        else:
            changes.append(FunctionChange(new.name, "unchanged" if new == old else "updated"))
        if new != old:
            made.append(new)
    catalog = catalog.with_functions(tuple(made))
    _refuse_urls(catalog, stack)
    catalog, apis = _apis(catalog, stack, before)
    catalog, mappings = put_mappings(catalog, stack.name, stack.definitions.mappings, before, site)
    catalog = _triggers(catalog, stack, before, site)
    names = Contents(
        functions={logical_id: wanted.spec.name for logical_id, wanted in stack.functions.items()},
        layers=layers.names,
        apis=apis,
        queues={logical_id: str(given["QueueName"]) for logical_id, given in stack.definitions.queues.items()},
        mappings=mappings,
        triggers={logical_id: str(given["Name"]) for logical_id, given in stack.definitions.triggers.items()},
    )
    record = Stack(stack.name, stack.template_digest, site.now, names, stack.definitions, exports, imports)
    return catalog.with_stack(record), changes


def destroy(catalog: Catalog, name: str) -> tuple[Catalog, list[FunctionChange]]:
    """Take a stack out with all that it has. Raises ``Conflict`` where others import what it exports."""
    refuse_missing(catalog, name, {})
    changes = []
    for function in sorted(catalog.functions):
        if catalog.functions[function].stack == name:
            catalog = catalog.without_function(function)
            changes.append(FunctionChange(function, "deleted"))
    record = catalog.stacks[name]
    for api in record.names.apis.values():
        catalog = catalog.with_document(f"api/{api}", None)
    catalog = without_mappings(catalog, record.names.mappings.values())
    for logical_id in record.names.triggers:
        catalog = catalog.with_document(_trigger_key(name, logical_id), None)
    kept = {known: layer for known, layer in catalog.layers.items() if layer.stack != name}
    return replace(catalog, layers=kept).without_stack(name), changes


def _had(before: Stack | None) -> dict[str, Definition]:
    """Return what was asked for of a stack's functions when it was last put, by their names."""
    if before is None:
        return {}
    known = before.definitions.functions
    return {name: known.get(logical_id, _NOTHING) for logical_id, name in before.names.functions.items()}


def _layers(catalog: Catalog, stack: WantedStack, before: Stack | None, site: Site) -> tuple[Catalog, StackLayers]:
    """Publish the layers that are new or have changed; a stack's earlier versions stay, as functions may name them."""
    names: dict[str, str] = {}
    versions: dict[str, LayerSpec] = {}
    for logical_id, given in stack.definitions.layers.items():
        name, digest = str(given["LayerName"]), str(given["CodeSha256"])
        layer = catalog.layers.get(name) or Layer(name, stack=stack.name)
        if layer.stack != stack.name:
            raise Conflict(f"{logical_id}: layer {name} belongs to {layer.stack or 'nobody: it was made by the API'}")
        newest = layer.versions[max(layer.versions)] if layer.versions else None
        made = replace(
            layer_version(given), version=layer.next_version, size=stack.sizes.get(digest, 0), created=site.now
        )
        if newest is None or replace(made, version=newest.version, created=newest.created) != newest:
            layer = replace(layer, next_version=made.version + 1, versions={**layer.versions, made.version: made})
            catalog, newest = catalog.with_layer(layer), made
        names[logical_id] = name
        versions[logical_id] = LayerSpec(f"{site.layer_arn}{name}:{newest.version}", digest, newest.size)
    gone = set() if before is None else set(before.names.layers.values()) - set(names.values())
    kept = {name: layer for name, layer in catalog.layers.items() if name not in gone}
    return replace(catalog, layers=kept) if gone else catalog, StackLayers(names, versions)


def layer_version(given: Definition) -> LayerVersion:
    """Return a version of a layer as it was asked for: without its number, its size and its time."""
    return LayerVersion(
        version=0,
        digest=str(given["CodeSha256"]),
        size=0,
        created="",
        description=str(given.get("Description", "")),
        runtimes=tuple(given.get("CompatibleRuntimes") or ()),
        architectures=tuple(given.get("CompatibleArchitectures") or ()),
        license=str(given.get("LicenseInfo", "")),
    )


def _apis(catalog: Catalog, stack: WantedStack, before: Stack | None) -> tuple[Catalog, dict[str, str]]:
    ids = {logical_id: api_id_of(stack.name, logical_id) for logical_id in stack.definitions.apis}
    for api in set() if before is None else set(before.names.apis.values()) - set(ids.values()):
        catalog = catalog.with_document(f"api/{api}", None)
    for logical_id, given in stack.definitions.apis.items():
        key = f"api/{ids[logical_id]}"
        known = catalog.documents.get(key)
        if known is not None and known.get("Stack") != stack.name:
            raise DefinitionError(f"{logical_id}", f"the API id {ids[logical_id]!r} is taken by {known.get('Stack')}")
        value = {**given, "Stack": stack.name}
        if known != value:
            catalog = catalog.with_document(key, value)
    return catalog, ids


def _triggers(catalog: Catalog, stack: WantedStack, before: Stack | None, site: Site) -> Catalog:
    wanted = stack.definitions.triggers
    for logical_id in set() if before is None else before.names.triggers.keys() - wanted.keys():
        catalog = catalog.with_document(_trigger_key(stack.name, logical_id), None)
    for logical_id, given in wanted.items():
        key = _trigger_key(stack.name, logical_id)
        known = catalog.documents.get(key)
        value = triggers.made(given, known, stack.name, site.iso)
        if known != value:
            catalog = catalog.with_document(key, value)
    return catalog


def _trigger_key(stack: str, logical_id: str) -> str:
    return f"{triggers.PREFIX}{stack}/{logical_id}"


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
