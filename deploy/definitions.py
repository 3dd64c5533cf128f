"""The definition of a translated function: what is the function's own, in the form in which the node accepts it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from . import layers
from .intrinsics import text
from .places import place_of
from .resources import Resources
from .supported import SERVERLESS_FUNCTION
from .template import KeyPath, Template, read_json_file

_COPIED = tuple(  # from the Lambda function as it is
    "Handler Runtime Timeout MemorySize Description Environment EphemeralStorage Role ReservedConcurrentExecutions "
    "SnapStart Architectures AcceleratorConfig RecursiveLoop".split()
)
# CloudFormation takes "30" for 30, which is what a Ref to a parameter gives.
_NUMBERS = frozenset(
    "Timeout MemorySize Size ReservedConcurrentExecutions Concurrency MaxBatchSize MaxWaitMilliseconds "
    "IdleTimeoutSeconds ParkTimeoutSeconds InitTimeoutSeconds HoldTimeoutSeconds MaxHeldRequests MaxInstances "
    "MaxParkedAgeSeconds ColdWeight WarmCalls VramMiB ActiveThreadPercentage AcceleratorMemorySize "
    "ProvisionedConcurrentExecutions MinExecutionEnvironments MaxExecutionEnvironments MaximumRetryAttempts "
    "MaximumEventAgeInSeconds MaxAge FunctionWeight PerExecutionEnvironmentMaxConcurrency "
    "ExecutionEnvironmentMemoryGiBPerVCpu VisibilityTimeout DelaySeconds MessageRetentionPeriod "
    "ReceiveMessageWaitTimeSeconds MaximumMessageSize maxReceiveCount BatchSize MaximumBatchingWindowInSeconds "
    "MaximumConcurrency".split()
)
_FLAGS = frozenset(
    "AsyncUrl InvokedViaFunctionUrl AllowCredentials Ipv6AllowedForDualStack FifoQueue ContentBasedDeduplication "
    "Enabled".split()
)
_SETTINGS = {  # CloudFormation's name -> that of the Lambda API, under which it is stored
    "LoggingConfig": "LoggingConfig",
    "VpcConfig": "VpcConfig",
    "DeadLetterConfig": "DeadLetterConfig",
    "KmsKeyArn": "KMSKeyArn",
    "TracingConfig": "TracingConfig",
    "FileSystemConfigs": "FileSystemConfigs",
    "CapacityProviderConfig": "CapacityProviderConfig",
}
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
            definition[name] = value if name == "Environment" else typed(value, name)
    if tags := tags_of(template, resources, logical_id, path):
        definition["Tags"] = tags
    settings = {
        stored: typed(value, name)
        for name, stored in _SETTINGS.items()
        if (value := resources.intrinsics.evaluate(given.get(name), (*path, name))) is not None
    }
    if settings:
        definition["Settings"] = settings
    scaling = _scaling(template, resources, logical_id)
    if scaling is not None:
        definition["FunctionScalingConfig"] = scaling
    if attached := layers.of_function(template, resources, logical_id):
        definition["Layers"] = attached
    glowplug = _glowplug(template, resources, logical_id)
    if glowplug:
        definition["Glowplug"] = glowplug
    return definition


def tags_of(template: Template, resources: Resources, logical_id: str, path: KeyPath) -> dict[str, Any]:
    """Return the tags of a resource, whose properties are written at ``path``, as a mapping; CloudFormation has a list
    of them."""
    given = resources.intrinsics.evaluate(resources.properties(logical_id).get("Tags"), (*path, "Tags"))
    tags = {}
    for tag in given if isinstance(given, list) else () if given is None else (None,):
        if not isinstance(tag, Mapping) or tag.keys() != {"Key", "Value"}:
            raise template.error((*path, "Tags"), "must be a list of mappings with Key and Value")
        tags[str(tag["Key"])] = text(tag["Value"])
    return tags


def _scaling(template: Template, resources: Resources, logical_id: str) -> Any:
    """Return the bounds of a function's instances, from the template as written: the translator takes them with a
    CapacityProviderConfig only."""
    merged: Any = None
    for base in (("Globals", "Function"), ("Resources", logical_id, "Properties")):
        path: KeyPath = (*base, "FunctionScalingConfig")
        if base[0] == "Globals" and template.get(("Resources", logical_id, "Type")) != SERVERLESS_FUNCTION:
            continue
        value = resources.intrinsics.evaluate(template.get(path), path)
        both = isinstance(merged, Mapping) and isinstance(value, Mapping)
        merged = _merged(merged, value) if both else merged if value is None else value
    return typed(merged, "FunctionScalingConfig")


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
    merged = typed(_merged(shared, own), "Glowplug")
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


def typed(value: Any, name: str) -> Any:
    """Return ``value`` with the text of every number and every flag in it read as what it says."""
    if isinstance(value, Mapping):
        return {key: typed(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, name) for item in value]
    if name in _NUMBERS and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    if name in _FLAGS and value in ("true", "false"):
        return value == "true"
    return value
