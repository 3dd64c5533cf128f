"""Drift: what somebody has changed through the API since a stack was put.

It is what putting the same stack again would change back, so it knows of everything that a stack can say of its
functions, layers and mappings, and of nothing that a template leaves alone. Names are those of the Lambda API and of a
template. Queues are not in the catalog: ``StackQueues.drift`` tells of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from glowplug.runtime.catalog import Catalog, Function, Stack
from glowplug.runtime.contents import Contents
from glowplug.runtime.errors import DefinitionError, GlowplugError
from glowplug.runtime.events.mapping.settings import KIND
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.wanted import WantedFunction, wanted_of
from glowplug.runtime.wantedqueues import mapping_id_of, mapping_of

from .mappings import of_stack
from .site import Site
from .stacks import WantedStack, layer_version, put

DELETED = "deleted"
"""Stands for the fields of what is not there any more."""

_NAMES = {
    "handler": "Handler", "runtime": "Runtime", "code_digest": "Code", "description": "Description", "role": "Role",
    "timeout_s": "Timeout", "memory_mb": "MemorySize", "ephemeral_mb": "EphemeralStorage",
    "log_format": "LoggingConfig", "log_level": "LoggingConfig", "system_log_level": "LoggingConfig",
    "environment": "Environment", "layers": "Layers", "snap_start": "SnapStart", "gpu": "AcceleratorConfig",
}  # fmt: skip
_DOCUMENTS = {
    "event-invoke": "EventInvokeConfig",
    "scaling": "FunctionScalingConfig",
    "recursion": "RecursiveLoop",
    "policy": "Permissions",
    "policy-revision": "Permissions",
}


_LAYERS = {
    "digest": "Code", "description": "Description", "runtimes": "CompatibleRuntimes",
    "architectures": "CompatibleArchitectures", "license": "LicenseInfo",
}  # fmt: skip
_MAPPINGS = {"FunctionArn": "FunctionName", "State": "Enabled"}


def drift(catalog: Catalog, stack: Stack, site: Site) -> dict[str, tuple[str, ...]]:
    """Return the names of what differs from what the stack last put, by logical id; without those that do not."""
    found = _of_layers(catalog, stack) | _of_mappings(catalog, stack, site)
    wanted: dict[str, WantedFunction] = {}
    for logical_id, definition in stack.definitions.functions.items():
        try:
            asked = wanted_of(definition)
        except DefinitionError:  # put by a release that took it
            continue
        held = catalog.functions.get(asked.spec.name)
        if held is None or held.stack != stack.name:
            found[logical_id] = (DELETED,)
        else:
            wanted[logical_id] = replace(asked, spec=_pinned(asked.spec, held.spec))
    asked_for = Contents(functions=stack.definitions.functions, layers=stack.definitions.layers)
    again = WantedStack(
        name=stack.name,
        template_digest=stack.template_digest,
        functions=wanted,
        definitions=asked_for,
        sizes=_sizes(catalog, stack),
        exports=stack.exports,
        imports=tuple(stack.imports),
    )
    try:
        after, _ = put(catalog, again, site)
    except DefinitionError as error:  # what it names is gone: a version under an alias, a version of a layer
        logical_id, _, field = error.field.partition(".")
        return found | {logical_id: (field or DELETED,)}
    except GlowplugError:  # what other stacks share with it has changed: nobody touched its functions
        return found
    for logical_id, one in wanted.items():
        name = one.spec.name
        if differing := _differing(catalog.functions[name], after.functions[name]):
            found[logical_id] = differing
    return found


def _of_layers(catalog: Catalog, stack: Stack) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for logical_id, definition in stack.definitions.layers.items():
        layer = catalog.layers.get(str(definition["LayerName"]))
        if layer is None or layer.stack != stack.name or not layer.versions:
            found[logical_id] = (DELETED,)
            continue
        newest, asked = layer.versions[max(layer.versions)], layer_version(definition)
        names = tuple(name for field, name in _LAYERS.items() if getattr(newest, field) != getattr(asked, field))
        if names:
            found[logical_id] = names
    return found


def _of_mappings(catalog: Catalog, stack: Stack, site: Site) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for logical_id, definition in stack.definitions.mappings.items():
        uuid = mapping_id_of(stack.name, logical_id)
        held = catalog.documents.get(f"{KIND}/{uuid}")
        if held is None:
            found[logical_id] = (DELETED,)
            continue
        try:
            asked = of_stack(stack.name, uuid, mapping_of(definition), site)
        except DefinitionError:  # put by a release that took it
            continue
        names = (name for name in _changed(held, asked) if name != "LastModified")
        if differing := tuple(_MAPPINGS.get(name, name) for name in names):
            found[logical_id] = differing
    return found


def _pinned(asked: FunctionSpec, held: FunctionSpec) -> FunctionSpec:
    """Return what was asked for with the files that its models are pinned to."""
    files = {(model.name, model.source): model.files for model in held.models}
    return asked.resolved({model.name: files.get((model.name, model.source), ()) for model in asked.models})


def _sizes(catalog: Catalog, stack: Stack) -> dict[str, int]:
    """Return the sizes of the zips of the stack's layers, also of those that only its functions know still."""
    layers = (layer for layer in catalog.layers.values() if layer.stack == stack.name)
    functions = (function for function in catalog.functions.values() if function.stack == stack.name)
    return {
        **{layer.digest: layer.size for function in functions for layer in function.spec.layers},
        **{version.digest: version.size for layer in layers for version in layer.versions.values()},
    }


def _differing(held: Function, again: Function) -> tuple[str, ...]:
    """Return the names of what differs between a function as it is and as its stack would make it."""
    names: list[str] = []
    for one in fields(FunctionSpec):
        before, after = getattr(held.spec, one.name), getattr(again.spec, one.name)
        if before != after:
            if one.name == "environment":
                names += (f"Environment.Variables.{name}" for name in _changed(before, after))
            else:
                names.append(_NAMES.get(one.name, "Glowplug"))
    # Of the environment they only hold that the API was given one.
    names += (name for name in _changed(held.latest.settings, again.latest.settings) if name != "Environment")
    names += (f"Tags.{name}" for name in _changed(held.tags, again.tags))
    if held.reserved != again.reserved:
        names.append("ReservedConcurrentExecutions")
    for key in _changed(held.documents, again.documents):
        kind, _, qualifier = key.partition("/")
        names.append(f"{_DOCUMENTS.get(kind, kind)}.{qualifier}".rstrip("."))
    if held.versions != again.versions:
        names.append("Versions")
    for label, before, after in (
        ("Aliases", held.aliases, again.aliases),
        ("ProvisionedConcurrencyConfig", held.provisioned, again.provisioned),
        ("FunctionUrlConfig", held.urls, again.urls),
    ):
        names += (f"{label}.{name}" for name in _changed(before, after))
    return tuple(dict.fromkeys(names))


def _changed(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterable[str]:
    return sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name))
