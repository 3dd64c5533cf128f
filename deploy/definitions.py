"""The definition of a translated function: what is the function's own, in the form in which the node accepts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import layers
from .places import place_of
from .resources import Resources
from .template import KeyPath, Template, read_json_file

_COPIED = tuple(  # from the Lambda function as it is
    "Handler Runtime Timeout MemorySize Description Environment EphemeralStorage Role ReservedConcurrentExecutions "
    "SnapStart Architectures AcceleratorConfig".split()
)
# CloudFormation takes "30" for 30, which is what a Ref to a parameter gives.
_NUMBERS = frozenset(
    "Timeout MemorySize Size ReservedConcurrentExecutions Concurrency MaxBatchSize MaxWaitMilliseconds "
    "IdleTimeoutSeconds ParkTimeoutSeconds InitTimeoutSeconds HoldTimeoutSeconds MaxHeldRequests MaxInstances "
    "MaxParkedAgeSeconds ColdWeight WarmCalls VramMiB ActiveThreadPercentage AcceleratorMemorySize".split()
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")


def definition_of(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    """Return the definition of one translated AWS::Lambda::Function."""
    given: Mapping[str, Any] = resources.properties(logical_id)
    path: KeyPath = ("Resources", logical_id, "Properties")
    definition: dict[str, Any] = {
        "FunctionName": resources.ref(logical_id),
        "CodeSha256": given["Code"]["S3Key"],
    }
    for name in _COPIED:
        value = resources.intrinsics.evaluate(given.get(name), (*path, name))
        if value is not None:
            definition[name] = value if name == "Environment" else _numbers(value, name)
    if attached := layers.of_function(template, resources, logical_id):
        definition["Layers"] = attached
    glowplug = _glowplug(template, resources, logical_id)
    if glowplug:
        definition["Glowplug"] = glowplug
    return definition


def _glowplug(template: Template, resources: Resources, logical_id: str) -> Any:
    """Return a function's Glowplug metadata over the template's, with the warm-up event read in."""
    path: KeyPath = ("Resources", logical_id, "Metadata", "Glowplug")
    own = resources.intrinsics.evaluate(template.get(path), path)
    shared_path: KeyPath = ("Metadata", "Glowplug")
    shared = resources.intrinsics.evaluate(template.get(shared_path), shared_path)
    for value, where in ((own, path), (shared, shared_path)):
        if value is not None and not isinstance(value, Mapping):
            raise template.error(where, f"must be a mapping, not {value!r}")
    shared, own = dict(shared or {}), dict(own or {})
    if "Model" not in own and isinstance(shared.get("Model"), Mapping) and "Source" not in shared["Model"]:
        del shared["Model"]  # defaults of models (an engine): nothing to a function that has none
    merged = _numbers(_merged(shared, own), "Glowplug")
    if isinstance(merged.get("Warmup"), Mapping) and "Event" in merged["Warmup"]:
        where = place_of(template, logical_id, "Glowplug.Warmup.Event")
        merged["Warmup"]["Event"] = read_json_file(template, where, merged["Warmup"]["Event"])
    return merged


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as SAM merges Globals: mappings merge, anything else is overridden."""
    out = dict(defaults)
    for key, value in own.items():
        both = isinstance(out.get(key), Mapping) and isinstance(value, Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _numbers(value: Any, name: str) -> Any:
    """Return ``value`` with the text of every number-valued setting in it read as a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item, key) for key, item in value.items()}
    if name in _NUMBERS and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value
