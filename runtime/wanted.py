"""What a template asks for beside the functions' own configuration: versions, aliases, URLs, layers, APIs.

``wanted_of`` reads the whole definition of a function, ``definition.spec_of`` the part of it that makes its revision.
Both name the field of what they refuse. ``deploy`` calls ``wanted_of`` too, so that a template is refused with file and
line before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from .definition import spec_of
from .errors import DefinitionError, InvalidParameter
from .reader import Reader, kind
from .settings import settings_of
from .spec import FunctionSpec
from .statements import ACTION, STATEMENT_ID, statement_of

REQUIREMENTS = "Requirements"
"""How the logical id of a layer ends that a deploy makes of a requirements.txt. It is none of a function's five: on AWS
these packages are part of its code."""

_URL = frozenset("AuthType InvokeMode Cors".split())
_CORS = frozenset("AllowCredentials AllowHeaders AllowMethods AllowOrigins ExposeHeaders MaxAge".split())
_VERSION = frozenset("Description ProvisionedConcurrencyConfig".split())
_ALIAS = frozenset("FunctionVersion RoutingConfig Description ProvisionedConcurrencyConfig".split())
_ALIAS_NAME = re.compile(r"(?![0-9]+$)[a-zA-Z0-9-_]{1,128}")
RECURSION = ("Terminate", "Allow")
"""What becomes of a function's loops: Lambda's RecursiveLoop."""
_INVOKE = frozenset("MaximumRetryAttempts MaximumEventAgeInSeconds DestinationConfig".split())
_TAKERS = {"OnSuccess": ("lambda", "sqs", "sns", "events"), "OnFailure": ("lambda", "sqs", "sns", "events", "s3")}
_PERMISSION = frozenset(
    "Action Principal Qualifier FunctionUrlAuthType InvokedViaFunctionUrl SourceArn SourceAccount PrincipalOrgID "
    "EventSourceToken StatementId".split()
)
_SCALING = frozenset("MinExecutionEnvironments MaxExecutionEnvironments".split())


@dataclass(frozen=True, slots=True)
class WantedVersion:
    """A version that is to be published where its logical id is new. ``provisioned`` of None: none is kept."""

    description: str | None
    provisioned: int | None


@dataclass(frozen=True, slots=True)
class WantedAlias:
    """An alias. ``version`` is a number, or, where ``by_id``, the logical id of one of the template's versions.

    ``weights`` are by number or logical id; which of both, its first character tells.
    """

    version: str
    by_id: bool
    weights: Mapping[str, float]
    description: str
    provisioned: int | None


@dataclass(frozen=True, slots=True)
class WantedUrl:
    """A function URL of one qualifier. ``cors`` is Lambda's Cors."""

    auth_type: str
    invoke_mode: str
    cors: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class WantedFunction:
    """A function as a template asks for it. ``layers`` are ARNs, or (with ``by_id``) logical ids of its layers.

    ``spec`` has no layers yet: which version of a layer a logical id means is the node's to say. ``permissions`` are
    inputs of AddPermission, ``event_invoke`` is by qualifier, ``scaling`` is (least, most) instances, ``recursion`` is
    RecursiveLoop, empty where nothing is said of it.
    """

    spec: FunctionSpec
    layers: tuple[tuple[str, bool], ...]
    tags: Mapping[str, str]
    settings: Mapping[str, Any]
    reserved: int | None
    scaling: tuple[int | None, int | None] | None
    versions: Mapping[str, WantedVersion]
    aliases: Mapping[str, WantedAlias]
    urls: Mapping[str, WantedUrl]
    event_invoke: Mapping[str, Mapping[str, Any]]
    permissions: tuple[Mapping[str, Any], ...]
    recursion: str


def wanted_of(definition: Mapping[str, Any]) -> WantedFunction:
    """Validate a definition. Raises ``DefinitionError`` naming the first field that cannot be accepted."""
    spec = spec_of(definition)
    read = Reader(definition, "")
    versions = {name: _version(section) for name, section in _sections(read, "Versions", _VERSION)}
    aliases = {name: _alias(section) for name, section in _sections(read, "Aliases", _ALIAS)}
    for name, alias in aliases.items():
        if not _ALIAS_NAME.fullmatch(name):
            raise DefinitionError(f"Aliases.{name}", f"{name!r} does not match {_ALIAS_NAME.pattern}")
        if alias.by_id and alias.version not in versions:
            raise DefinitionError(f"Aliases.{name}.FunctionVersion", f"{alias.version} is no version of this function")
        for version in alias.weights:
            if not version.isdigit() and version not in versions:
                raise DefinitionError(f"Aliases.{name}.RoutingConfig", f"{version} is no version of this function")
    scaling = read.section("FunctionScalingConfig", _SCALING)
    return WantedFunction(
        spec=spec,
        layers=_layers(read),
        tags=_tags(read),
        settings=settings_of(read),
        reserved=read.optional_whole("ReservedConcurrentExecutions", low=0),
        scaling=_scaling(scaling) if scaling.values else None,
        versions=versions,
        aliases=aliases,
        urls={name: _url(section) for name, section in _sections(read, "Urls", _URL)},
        event_invoke={name: _event_invoke(one) for name, one in _sections(read, "EventInvokeConfigs", _INVOKE)},
        permissions=_permissions(read),
        recursion=_recursion(read),
    )


def _sections(read: Reader, name: str, known: frozenset[str]) -> list[tuple[str, Reader]]:
    outer = Reader(read.values.get(name) or {}, read.at(name))
    return [(str(key), outer.section(key, known)) for key in outer.values]


def _version(section: Reader) -> WantedVersion:
    described = section.text("Description") if "Description" in section.values else None
    return WantedVersion(described, _provisioned(section))


def _alias(section: Reader) -> WantedAlias:
    given = section.values.get("FunctionVersion")
    by_id = isinstance(given, Mapping)
    version = given.get("Ref") if isinstance(given, Mapping) else given
    if not isinstance(version, str) or not version or not (by_id or version.isdigit() or version == "$LATEST"):
        raise DefinitionError(section.at("FunctionVersion"), f"{given!r} is not a version")
    routing = section.section("RoutingConfig", frozenset({"AdditionalVersionWeights"}))
    weights = Reader(routing.values.get("AdditionalVersionWeights") or {}, routing.at("AdditionalVersionWeights"))
    if len(weights.values) > 1:
        raise DefinitionError(weights.path, "has more than one version")
    return WantedAlias(
        version=version,
        by_id=by_id,
        weights={number: weights.number(number, 0, low=0, high=1) for number in weights.values},
        description=section.text("Description"),
        provisioned=_provisioned(section),
    )


def _provisioned(section: Reader) -> int | None:
    config = section.section("ProvisionedConcurrencyConfig", frozenset({"ProvisionedConcurrentExecutions"}))
    return config.optional_whole("ProvisionedConcurrentExecutions", low=1)


def _url(section: Reader) -> WantedUrl:
    cors = section.section("Cors", _CORS)
    for name, value in cors.values.items():
        if name == "AllowCredentials":
            if not isinstance(value, bool):
                raise DefinitionError(cors.at(name), f"must be true or false, not {kind(value)}")
        elif name == "MaxAge":
            cors.whole(name, 0, low=0, high=86400)
        elif not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise DefinitionError(cors.at(name), f"must be a list of strings, not {kind(value)}")
    return WantedUrl(
        auth_type=section.choice("AuthType", ("NONE", "AWS_IAM"), "NONE"),
        invoke_mode=section.choice("InvokeMode", ("BUFFERED", "RESPONSE_STREAM"), "BUFFERED"),
        cors=cors.values,
    )


def _recursion(read: Reader) -> str:
    said = read.values.get("RecursiveLoop") is not None
    return read.choice("RecursiveLoop", RECURSION, "") if said else ""


def _event_invoke(section: Reader) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, low, high in (("MaximumRetryAttempts", 0, 2), ("MaximumEventAgeInSeconds", 60, 21600)):
        if section.values.get(name) is not None:
            found[name] = section.whole(name, low, low=low, high=high)
    destinations = section.section("DestinationConfig", {"OnSuccess", "OnFailure"})
    sides = {
        side: destinations.section(side, {"Destination"}).unordered_arn("Destination", *_TAKERS[side])
        for side in destinations.values
    }
    if chosen := {side: {"Destination": arn} for side, arn in sides.items() if arn}:
        found["DestinationConfig"] = chosen
    return found


def _layers(read: Reader) -> tuple[tuple[str, bool], ...]:
    given = read.values.get("Layers") or []
    if not isinstance(given, list):
        raise DefinitionError(read.at("Layers"), f"must be a list, not {kind(given)}")
    found = []
    for layer in given:
        by_id = isinstance(layer, Mapping)
        name = layer.get("Ref") if isinstance(layer, Mapping) else layer
        if not isinstance(name, str) or not name:
            raise DefinitionError(read.at("Layers"), f"{layer!r} is not the ARN of a layer's version")
        found.append((name, by_id))
    own = [name for name, by_id in found if not (by_id and name.endswith(REQUIREMENTS))]
    if len(own) > 5:
        raise DefinitionError(read.at("Layers"), f"{len(own)} layers; a function may have 5")
    return tuple(found)


def _tags(read: Reader) -> dict[str, str]:
    tags = Reader(read.values.get("Tags") or {}, read.at("Tags"))
    return {str(name): tags.text(name) for name in tags.values}


def _scaling(section: Reader) -> tuple[int | None, int | None]:
    least = section.optional_whole("MinExecutionEnvironments", low=0)
    most = section.optional_whole("MaxExecutionEnvironments", low=0)
    if least is not None and most is not None and least > most:
        raise DefinitionError(section.at("MinExecutionEnvironments"), f"{least} is more than the most, {most}")
    return least, most


def _permissions(read: Reader) -> tuple[Mapping[str, Any], ...]:
    given = read.values.get("Permissions") or []
    if not isinstance(given, list):
        raise DefinitionError(read.at("Permissions"), f"must be a list, not {kind(given)}")
    found = []
    for number, permission in enumerate(given):
        section = Reader(permission, f"{read.at('Permissions')}.{number}")
        section.only(_PERMISSION)
        found.append(_permission(section))
    return tuple(found)


def _permission(section: Reader) -> Mapping[str, Any]:
    section.text("Principal", required=True)
    for name, pattern in (("Action", ACTION), ("StatementId", STATEMENT_ID)):
        if not re.fullmatch(pattern, section.text(name, required=True)):
            raise DefinitionError(section.at(name), f"{section.values[name]!r} does not match {pattern}")
    for name in ("Qualifier", "SourceArn", "SourceAccount", "PrincipalOrgID", "EventSourceToken"):
        section.text(name)
    section.choice("FunctionUrlAuthType", ("NONE", "AWS_IAM"), "NONE")
    if not isinstance(section.values.get("InvokedViaFunctionUrl", False), bool):
        raise DefinitionError(section.at("InvokedViaFunctionUrl"), "must be true or false")
    try:
        statement_of(section.values, "")
    except InvalidParameter as error:
        raise DefinitionError(section.at("Principal"), str(error)) from error
    return section.values
