"""Which parts of a SAM template mean something here: built, noted (accepted without effect, said once) or not yet.

Checked on the template as written, where every key has its line. What is not yet built is refused by name: a template
that deploys does what it says.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from .template import KeyPath, Template

SERVERLESS_FUNCTION = "AWS::Serverless::Function"
LAMBDA_FUNCTION = "AWS::Lambda::Function"
LAMBDA_URL = "AWS::Lambda::Url"
SERVERLESS_LAYER = "AWS::Serverless::LayerVersion"
LAMBDA_LAYER = "AWS::Lambda::LayerVersion"
_TRANSFORMS = ("AWS::Serverless-2016-10-31", "AWS::LanguageExtensions")

# Resources that only matter to AWS's access control and log retention. Roles are also what the translator generates.
_NOTED_TYPES = frozenset(
    "AWS::IAM::ManagedPolicy AWS::IAM::Policy AWS::IAM::Role AWS::IAM::RolePolicy AWS::Lambda::LayerVersionPermission "
    "AWS::Lambda::Permission AWS::Logs::LogGroup".split()
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

_GLOBALS = {"Function": SERVERLESS_FUNCTION, "LayerVersion": SERVERLESS_LAYER}

# Property -> what it means, per resource type. Both types share what has one name in both.
_BUILT = frozenset(
    "FunctionName Handler Runtime MemorySize Timeout Description Environment EphemeralStorage Layers "
    "Role ReservedConcurrentExecutions SnapStart Architectures PackageType".split()
)
_NOTED = frozenset(
    "CodeSigningConfigArn DurableConfig FileSystemConfigs KmsKeyArn RecursiveLoop RuntimeManagementConfig Tags "
    "TenancyConfig VpcConfig".split()
)
_NOT_YET = frozenset("CapacityProviderConfig FunctionScalingConfig ImageConfig LoggingConfig".split())
_LAYER = frozenset("LayerName Description CompatibleRuntimes CompatibleArchitectures LicenseInfo".split())
_PROPERTIES: dict[str, tuple[frozenset[str], frozenset[str], frozenset[str]]] = {
    SERVERLESS_FUNCTION: (
        _BUILT | {"CodeUri", "InlineCode", "FunctionUrlConfig"},
        _NOTED | frozenset(
            "AssumeRolePolicyDocument PermissionsBoundary Policies PropagateTags RolePath SourceKMSKeyArn "
            "Tracing".split()
        ),
        _NOT_YET | frozenset(
            "AutoPublishAlias AutoPublishAliasAllProperties AutoPublishCodeSha256 DeadLetterQueue "
            "DeploymentPreference EventInvokeConfig Events ImageUri ProvisionedConcurrencyConfig "
            "PublishToLatestPublished VersionDeletionPolicy VersionDescription".split()
        ),
    ),
    LAMBDA_FUNCTION: (
        _BUILT | {"AcceleratorConfig", "Code"},
        _NOTED | {"TracingConfig"},
        _NOT_YET | {"DeadLetterConfig", "PublishToLatestPublished"},
    ),
    LAMBDA_URL: (_URL_KEYS | {"TargetFunctionArn"}, frozenset(), frozenset({"Qualifier"})),
    SERVERLESS_LAYER: (_LAYER | {"ContentUri"}, frozenset({"PublishLambdaVersion", "RetentionPolicy"}), frozenset()),
    LAMBDA_LAYER: (_LAYER | {"Content"}, frozenset(), frozenset()),
}  # fmt: skip


def check(template: Template) -> tuple[str, ...]:
    """Return the notes on what is accepted without effect. Raises ``TemplateError`` at what is not supported."""
    document = template.document
    _only(template, (), document, _SECTIONS, _SECTIONS_NOT_YET)
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
    _only(template, ("Globals",), document.get("Globals") or {}, frozenset(_GLOBALS), ())
    for section, kind in _GLOBALS.items():
        if section in (document.get("Globals") or {}):
            noted += _properties(template, ("Globals", section), kind)
    for logical_id, resource in resources.items():
        noted += _resource(template, ("Resources", logical_id), resource)
    return tuple(_gathered(noted))


def without_noted(kind: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    """Return the properties of a resource type less those without effect, which need not even be well-formed."""
    return {name: value for name, value in properties.items() if name not in _PROPERTIES[kind][1]}


def _resource(template: Template, path: KeyPath, resource: Any) -> list[tuple[str, str]]:
    """Check one resource; return (what, where) of what has no effect."""
    if not isinstance(resource, Mapping):
        loop = " (Fn::ForEach is not supported yet)" if str(path[-1]).startswith("Fn::ForEach") else ""
        raise template.error(path, f"must be a mapping with a Type{loop}")
    kind = resource.get("Type")
    if not isinstance(kind, str):
        raise template.error((*path, "Type"), f"must be one of {', '.join(sorted(_PROPERTIES))}")
    if not isinstance(resource.get("Properties") or {}, Mapping):
        raise template.error((*path, "Properties"), "must be a mapping")
    if kind in _NOTED_TYPES:
        return [(kind, str(path[-1]))]
    if kind not in _PROPERTIES:
        raise template.error((*path, "Type"), f"{kind} is not supported yet")
    if kind in _GLOBALS.values() and "Transform" not in template.document:
        raise template.error((*path, "Type"), f"{kind} needs `Transform: {_TRANSFORMS[0]}` at the top of the template")
    _only(template, path, resource, _ATTRIBUTES, _ATTRIBUTES_NOT_YET)
    metadata = resource.get("Metadata") or {}
    if not isinstance(metadata, Mapping):
        raise template.error((*path, "Metadata"), "must be a mapping")
    for name in metadata:
        if name != "Glowplug" and str(name).lower() == "glowplug":
            raise template.error((*path, "Metadata", name), "unknown key; did you mean Glowplug?")
    if "Glowplug" in metadata and kind not in (SERVERLESS_FUNCTION, LAMBDA_FUNCTION):
        raise template.error((*path, "Metadata", "Glowplug"), "belongs to a function")
    noted = _properties(template, (*path, "Properties"), kind)
    if kind in (SERVERLESS_LAYER, LAMBDA_LAYER):
        return noted  # how it is built means something there
    return noted + [
        (f"Metadata.{name}", str(path[-1])) for name in ("BuildMethod", "BuildProperties") if name in metadata
    ]


def _properties(template: Template, path: KeyPath, kind: str) -> list[tuple[str, str]]:
    built, noted, not_yet = _PROPERTIES[kind]
    properties = template.get(path) or {}
    _only(template, path, properties, built | noted, not_yet)
    url = properties.get("FunctionUrlConfig")
    if url is not None:
        _only(template, (*path, "FunctionUrlConfig"), url, _URL_KEYS, ())
        if "AuthType" not in url and path[0] == "Resources":
            raise template.error((*path, "FunctionUrlConfig"), "AuthType is missing (NONE)")
    if properties.get("PackageType", "Zip") != "Zip":
        raise template.error((*path, "PackageType"), f"{properties['PackageType']!r} is not supported yet; use Zip")
    return [(name, str(path[1] if path[0] == "Resources" else "Globals")) for name in properties if name in noted]


def _only(template: Template, path: KeyPath, values: Any, known: frozenset[str], not_yet: Iterable[str]) -> None:
    """Refuse a key that is not known, with the nearest known name, or that is known but not built."""
    if not isinstance(values, Mapping):
        raise template.error(path, f"must be a mapping, not {values!r}")
    for name in values:
        if name in not_yet:
            raise template.error((*path, name), "is not supported yet")
        if name not in known:
            near = difflib.get_close_matches(str(name), [*known, *not_yet], 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise template.error((*path, name), f"unknown key; {hint}")


def _gathered(noted: list[tuple[str, str]]) -> list[str]:
    """One sentence per thing that has no effect, naming everything that asks for it."""
    places: dict[str, list[str]] = {}
    for what, where in noted:
        places.setdefault(what, []).append(where)
    return [f"{what} has no effect here ({', '.join(where)})" for what, where in places.items()]
