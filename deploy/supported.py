"""Which parts of a SAM template mean something here: built, noted (accepted without effect, said once) or not yet.

Checked on the template as written, where every key has its line. What is not yet built is refused by name: a template
that deploys does what it says. Some of what is noted is *stored*: the Lambda API shows it.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.wantedqueues import QUEUE_NUMBERS

from .keys import only
from .supported_events import API_PROPERTIES, GLOBALS, MAPPING_NOTED, MAPPING_PROPERTIES, check_api, check_events
from .supported_triggers import NOTED_TYPES, PROPERTIES, REQUIRED
from .template import KeyPath, Template

SERVERLESS_FUNCTION = "AWS::Serverless::Function"
LAMBDA_FUNCTION = "AWS::Lambda::Function"
LAMBDA_ALIAS = "AWS::Lambda::Alias"
LAMBDA_EVENT_INVOKE = "AWS::Lambda::EventInvokeConfig"
LAMBDA_PERMISSION = "AWS::Lambda::Permission"
LAMBDA_URL = "AWS::Lambda::Url"
SERVERLESS_LAYER = "AWS::Serverless::LayerVersion"
LAMBDA_LAYER = "AWS::Lambda::LayerVersion"
LAMBDA_VERSION = "AWS::Lambda::Version"
LAMBDA_MAPPING = "AWS::Lambda::EventSourceMapping"
QUEUE = "AWS::SQS::Queue"
_TRANSFORMS = ("AWS::Serverless-2016-10-31", "AWS::LanguageExtensions")

# Resources that only matter to AWS's access control and log retention. Roles are also what the translator generates.
_NOTED_TYPES = (
    frozenset(
        "AWS::IAM::ManagedPolicy AWS::IAM::Policy AWS::IAM::Role AWS::IAM::RolePolicy "
        "AWS::Lambda::LayerVersionPermission AWS::Logs::LogGroup AWS::SQS::QueuePolicy".split()
    )
    | NOTED_TYPES
)
_SECTIONS = frozenset(
    "AWSTemplateFormatVersion Transform Description Metadata Globals Parameters Mappings Conditions Resources "
    "Outputs".split()
)
_SECTIONS_NOT_YET = frozenset({"Rules", "Hooks"})
_ATTRIBUTES = frozenset(
    "Type Properties Metadata Condition DependsOn DeletionPolicy UpdateReplacePolicy IgnoreGlobals".split()
)
_ATTRIBUTES_NOT_YET = frozenset({"Connectors", "CreationPolicy", "UpdatePolicy"})
_URL_KEYS = frozenset({"AuthType", "InvokeMode", "Cors"})

_GLOBALS = {"Function": SERVERLESS_FUNCTION, "LayerVersion": SERVERLESS_LAYER, **GLOBALS}
_EVENT_INVOKE_KEYS = frozenset({"MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig"})

# Property -> what it means, per resource type. Both types of functions share what has one name in both.
_BUILT = frozenset(
    "FunctionName Handler Runtime MemorySize Timeout Description Environment EphemeralStorage Layers Role "
    "LoggingConfig Tags ReservedConcurrentExecutions SnapStart Architectures PackageType "
    "FunctionScalingConfig RecursiveLoop".split()
)
_STORED = frozenset(  # noted, and shown by the Lambda API: no VPC, no key, no file system
    "CapacityProviderConfig FileSystemConfigs KmsKeyArn Tracing TracingConfig VpcConfig".split()
)
_NOTED = frozenset(
    "CapacityProviderConfig CodeSigningConfigArn DurableConfig FileSystemConfigs KmsKeyArn PublishToLatestPublished "
    "RuntimeManagementConfig TenancyConfig VpcConfig".split()
)
_NOT_YET = frozenset({"ImageConfig"})
_LAYER = frozenset("LayerName Description CompatibleRuntimes CompatibleArchitectures LicenseInfo".split())
QUEUE_PROPERTIES = frozenset(
    {*QUEUE_NUMBERS, "QueueName", "FifoQueue", "ContentBasedDeduplication", "RedrivePolicy", "Tags"}
)
_PROPERTIES: dict[str, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {
    SERVERLESS_FUNCTION: (
        _BUILT | frozenset(
            "CodeUri InlineCode FunctionUrlConfig Events AutoPublishAlias AutoPublishAliasAllProperties "
            "AutoPublishCodeSha256 DeadLetterQueue EventInvokeConfig ProvisionedConcurrencyConfig "
            "VersionDescription".split()
        ),
        _NOTED | frozenset(
            "AssumeRolePolicyDocument PermissionsBoundary Policies PropagateTags RolePath "
            "SourceKMSKeyArn Tracing VersionDeletionPolicy".split()
        ),
        _NOT_YET | {"DeploymentPreference", "ImageUri"},
    ),
    LAMBDA_FUNCTION: (
        _BUILT | {"AcceleratorConfig", "Code", "DeadLetterConfig"},
        _NOTED | {"TracingConfig"},
        _NOT_YET,
    ),
    LAMBDA_VERSION: (
        frozenset("FunctionName Description CodeSha256 ProvisionedConcurrencyConfig".split()),
        frozenset({"RuntimePolicy"}),
        frozenset({"FunctionScalingConfig"}),
    ),
    LAMBDA_ALIAS: (
        frozenset(
            "Name FunctionName FunctionVersion Description RoutingConfig ProvisionedConcurrencyConfig".split()
        ),
        frozenset(),
        frozenset(),
    ),
    LAMBDA_URL: (_URL_KEYS | {"TargetFunctionArn", "Qualifier"}, frozenset(), frozenset()),
    LAMBDA_PERMISSION: (
        frozenset(
            "FunctionName Action Principal EventSourceToken FunctionUrlAuthType InvokedViaFunctionUrl PrincipalOrgID "
            "SourceAccount SourceArn".split()
        ),
        frozenset(),
        frozenset(),
    ),
    LAMBDA_EVENT_INVOKE: (_EVENT_INVOKE_KEYS | {"FunctionName", "Qualifier"}, frozenset(), frozenset()),
    LAMBDA_MAPPING: (
        frozenset({*MAPPING_PROPERTIES, "EventSourceArn", "FunctionName", "Tags"}),
        MAPPING_NOTED,
        frozenset(
            "AmazonManagedKafkaEventSourceConfig BisectBatchOnFunctionError DestinationConfig "
            "DocumentDBEventSourceConfig LoggingConfig MaximumRecordAgeInSeconds MaximumRetryAttempts "
            "ParallelizationFactor Queues SelfManagedEventSource SelfManagedKafkaEventSourceConfig "
            "SourceAccessConfigurations StartingPosition StartingPositionTimestamp Topics "
            "TumblingWindowInSeconds".split()
        ),
    ),
    QUEUE: (
        QUEUE_PROPERTIES,
        frozenset(
            "DeduplicationScope FifoThroughputLimit KmsDataKeyReusePeriodSeconds KmsMasterKeyId RedriveAllowPolicy "
            "SqsManagedSseEnabled".split()
        ),
        frozenset(),
    ),
    **API_PROPERTIES,
    **PROPERTIES,
    SERVERLESS_LAYER: (_LAYER | {"ContentUri"}, frozenset({"PublishLambdaVersion", "RetentionPolicy"}), frozenset()),
    LAMBDA_LAYER: (_LAYER | {"Content"}, frozenset(), frozenset()),
}  # fmt: skip
_REQUIRED: Mapping[str, tuple[str, ...]] = {
    LAMBDA_VERSION: ("FunctionName",),
    LAMBDA_ALIAS: ("FunctionName", "Name", "FunctionVersion"),
    LAMBDA_URL: ("TargetFunctionArn", "AuthType"),
    LAMBDA_PERMISSION: ("FunctionName", "Action", "Principal"),
    LAMBDA_EVENT_INVOKE: ("FunctionName", "Qualifier"),
    LAMBDA_MAPPING: ("FunctionName", "EventSourceArn"),
    **REQUIRED,
}


def check(template: Template) -> tuple[str, ...]:
    """Return the notes on what is accepted without effect. Raises ``TemplateError`` at what is not supported."""
    document = template.document
    only(template, (), document, _SECTIONS, _SECTIONS_NOT_YET)
    for section in ("Metadata", "Globals", "Parameters", "Mappings", "Conditions", "Outputs"):
        if document.get(section) is not None and not isinstance(document[section], Mapping):
            raise template.error((section,), "must be a mapping")
    transforms = document.get("Transform") or []
    for transform in transforms if isinstance(transforms, list) else [transforms]:
        if transform not in _TRANSFORMS:
            raise template.error(("Transform",), f"{transform!r} is not supported; use {_TRANSFORMS[0]}")
    resources = document.get("Resources")
    if not isinstance(resources, Mapping) or not resources:
        raise template.error(("Resources",), "must be a mapping with at least one function")
    noted: list[tuple[str, str]] = []
    only(template, ("Globals",), document.get("Globals") or {}, _GLOBALS.keys(), ())
    for section, kind in _GLOBALS.items():
        if section in (document.get("Globals") or {}):
            noted += _properties(template, ("Globals", section), kind)
    for logical_id, resource in resources.items():
        noted += _resource(template, ("Resources", logical_id), resource)
    return tuple(_gathered(noted))


def for_translator(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a resource type less those without effect, which need not even be well-formed.

    FunctionScalingConfig is left out too: the translator takes it with a CapacityProviderConfig only.
    """
    gone = (_PROPERTIES[kind][1] - _STORED) | {"FunctionScalingConfig"}
    return {name: value for name, value in properties.items() if name not in gone}


def _resource(template: Template, path: KeyPath, resource: Any) -> list[tuple[str, str]]:
    """Check one resource; return (what, where) of what has no effect."""
    if not isinstance(resource, Mapping):
        raise template.error(path, "must be a mapping with a Type")
    kind = resource.get("Type")
    if not isinstance(kind, str):
        raise template.error((*path, "Type"), f"must be one of {', '.join(sorted(_PROPERTIES))}")
    if not isinstance(resource.get("Properties") or {}, Mapping):
        raise template.error((*path, "Properties"), "must be a mapping")
    if kind in _NOTED_TYPES:
        return [(kind, str(path[-1]))]
    if kind not in _PROPERTIES:
        near = difflib.get_close_matches(kind, [*_PROPERTIES, *_NOTED_TYPES], 1, cutoff=0.93)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise template.error((*path, "Type"), f"{kind} is not supported yet{hint}")
    if kind.startswith("AWS::Serverless::") and "Transform" not in template.document:
        raise template.error((*path, "Type"), f"{kind} needs `Transform: {_TRANSFORMS[0]}` at the top of the template")
    only(template, path, resource, _ATTRIBUTES, _ATTRIBUTES_NOT_YET)
    metadata = resource.get("Metadata") or {}
    if not isinstance(metadata, Mapping):
        raise template.error((*path, "Metadata"), "must be a mapping")
    for name in metadata:
        if name != "Glowplug" and str(name).lower() == "glowplug":
            raise template.error((*path, "Metadata", name), "unknown key; did you mean Glowplug?")
    if "Glowplug" in metadata and kind not in (SERVERLESS_FUNCTION, LAMBDA_FUNCTION):
        raise template.error((*path, "Metadata", "Glowplug"), "belongs to a function")
    noted = _properties(template, (*path, "Properties"), kind)
    for name in _REQUIRED.get(kind, ()):
        if name not in (resource.get("Properties") or {}):
            raise template.error((*path, "Properties"), f"{name} is missing")
    if kind in (SERVERLESS_LAYER, LAMBDA_LAYER):
        return noted  # how it is built means something there
    return noted + [
        (f"Metadata.{name}", str(path[-1])) for name in ("BuildMethod", "BuildProperties") if name in metadata
    ]


def _properties(template: Template, path: KeyPath, kind: str) -> list[tuple[str, str]]:
    built, noted, not_yet = _PROPERTIES[kind]
    properties = template.get(path) or {}
    if kind == LAMBDA_MAPPING:
        _source(template, (*path, "EventSourceArn"), properties.get("EventSourceArn"))
    only(template, path, properties, built | noted, not_yet)
    url = properties.get("FunctionUrlConfig")
    if url is not None:
        only(template, (*path, "FunctionUrlConfig"), url, _URL_KEYS, ())
        shared = template.get(("Globals", "Function", "FunctionUrlConfig"))
        inherited = isinstance(shared, Mapping) and "AuthType" in shared
        if "AuthType" not in url and path[0] == "Resources" and not inherited:
            raise template.error((*path, "FunctionUrlConfig"), "AuthType is missing (NONE or AWS_IAM)")
    _event_invoke(template, (*path, "EventInvokeConfig"), properties.get("EventInvokeConfig"))
    if properties.get("PackageType", "Zip") != "Zip":
        raise template.error((*path, "PackageType"), f"{properties['PackageType']!r} is not supported yet; use Zip")
    noted_events = []
    if kind in API_PROPERTIES:
        check_api(template, path, kind, properties)
    elif "Events" in properties:
        noted_events = check_events(template, (*path, "Events"), properties["Events"])
    return noted_events + [
        (name, str(path[1] if path[0] == "Resources" else "Globals")) for name in properties if name in noted
    ]


def _source(template: Template, path: KeyPath, source: Any) -> None:
    """Refuse a source that is no queue by its name, before the properties that only such a source has."""
    parts = source.split(":") if isinstance(source, str) else []
    if len(parts) > 5 and parts[2] != "sqs":
        raise template.error(path, f"event sources of {parts[2]} are not supported; sqs is")


def _event_invoke(template: Template, path: KeyPath, config: Any) -> None:
    """Refuse destinations for which the translator would make a queue or a topic."""
    if config is None or _is_intrinsic(config):
        return
    only(template, path, config, _EVENT_INVOKE_KEYS, ())
    destinations = config.get("DestinationConfig")
    for side, destination in destinations.items() if isinstance(destinations, Mapping) else ():
        given = destination if isinstance(destination, Mapping) else {}
        if given.get("Type") in ("SQS", "SNS") and "Destination" not in given:
            made = f"an {given['Type']} resource that is made for it is not supported yet"
            raise template.error((*path, "DestinationConfig", side), f"Destination is missing: {made}")


def _is_intrinsic(value: Any) -> bool:
    return isinstance(value, Mapping) and any(key == "Ref" or str(key).startswith("Fn::") for key in value)


def _gathered(noted: list[tuple[str, str]]) -> list[str]:
    """One sentence per thing that has no effect, naming everything that asks for it."""
    places: dict[str, list[str]] = {}
    for what, where in noted:
        places.setdefault(what, []).append(where)
    return [f"{what} has no effect here ({', '.join(where)})" for what, where in places.items()]
