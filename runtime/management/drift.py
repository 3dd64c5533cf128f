"""Drift: what somebody has changed through the API since a stack was put.

It is what putting the same stack again would change back, so it knows of everything that a stack can say of its
functions, and of nothing that a template leaves alone. Names are those of the Lambda API and of a template.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

from glowplug.runtime.catalog import Catalog, Function, LayerVersion, Stack
from glowplug.runtime.errors import DefinitionError, GlowplugError
from glowplug.runtime.events.triggers import PREFIX
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.wanted import WantedFunction, wanted_of

from .site import Site
from .stacks import WantedStack, put

DELETED = "deleted"
"""Stands for the fields of a function that is not there any more."""

_NAMES = {
    "handler": "Handler", "runtime": "Runtime", "code_digest": "Code", "description": "Description", "role": "Role",
    "timeout_s": "Timeout", "memory_mb": "MemorySize", "ephemeral_mb": "EphemeralStorage",
    "log_format": "LoggingConfig", "log_level": "LoggingConfig", "system_log_level": "LoggingConfig",
    "environment": "Environment", "layers": "Layers", "snap_start": "SnapStart", "gpu": "AcceleratorConfig",
}  # fmt: skip
_DOCUMENTS = {
    "event-invoke": "EventInvokeConfig",
    "scaling": "FunctionScalingConfig",
    "policy": "Permissions",
    "policy-revision": "Permissions",
}


def drift(catalog: Catalog, stack: Stack, site: Site) -> dict[str, tuple[str, ...]]:
    """Return the names of what differs from what the stack last put, by logical id; without those that do not."""
    found: dict[str, tuple[str, ...]] = {}
    wanted: dict[str, WantedFunction] = {}
    for logical_id, definition in stack.definitions.items():
        try:
            asked = wanted_of(definition)
        except DefinitionError:  # put by a release that took it
            continue
        held = catalog.functions.get(asked.spec.name)
        if held is None or held.stack != stack.name:
            found[logical_id] = (DELETED,)
        else:
            wanted[logical_id] = replace(asked, spec=_pinned(asked.spec, held.spec))
    newest = _newest(catalog, stack)
    again = WantedStack(
        name=stack.name,
        template_digest=stack.template_digest,
        functions=wanted,
        layers={key: _layer(stack.layers[key], version) for key, version in newest.items()},
        apis={logical_id: catalog.documents.get(f"api/{api}", {}) for logical_id, api in stack.apis.items()},
        triggers={
            key: catalog.documents.get(f"{PREFIX}{stack.name}/{key}", {"Name": one})
            for key, one in stack.triggers.items()
        },
        sizes={version.digest: version.size for version in newest.values()},
        definitions=stack.definitions,
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


def _pinned(asked: FunctionSpec, held: FunctionSpec) -> FunctionSpec:
    """Return what was asked for with the files that its models are pinned to."""
    files = {(model.name, model.source): model.files for model in held.models}
    return asked.resolved({model.name: files.get((model.name, model.source), ()) for model in asked.models})


def _newest(catalog: Catalog, stack: Stack) -> dict[str, LayerVersion]:
    """Return the newest version of each of the stack's layers that is still there, by logical id."""
    layers = {logical_id: catalog.layers.get(name) for logical_id, name in stack.layers.items()}
    return {
        logical_id: layer.versions[max(layer.versions)]
        for logical_id, layer in layers.items()
        if layer is not None and layer.versions
    }


def _layer(name: str, version: LayerVersion) -> dict[str, Any]:
    """Return a layer as it would have to be asked for to stay at ``version``."""
    return {
        "LayerName": name,
        "CodeSha256": version.digest,
        "Description": version.description,
        "CompatibleRuntimes": list(version.runtimes),
        "CompatibleArchitectures": list(version.architectures),
        "LicenseInfo": version.license,
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
