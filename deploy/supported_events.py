"""Which events of a function, and which parts of an API, mean something here. The tables of ``supported`` for them.

What API Gateway would do before or after a function and nothing here does (keys, usage plans, authorizers, custom
domains, validation) is refused by name: a template that asks for it would be served with less protection than it says.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from .keys import only
from .supported_triggers import EVENTS, check_trigger
from .template import KeyPath, Template

SERVERLESS_API = "AWS::Serverless::Api"
SERVERLESS_HTTP_API = "AWS::Serverless::HttpApi"

Keys = frozenset[str]

# Type -> what is built, what has no effect here, what is known and not built. Globals take the same.
API_PROPERTIES: dict[str, tuple[Keys, Keys, Keys]] = {
    SERVERLESS_HTTP_API: (
        frozenset("Auth CorsConfiguration DefinitionBody Name StageName StageVariables".split()),
        frozenset(
            "AccessLogSettings DefaultRouteSettings Description FailOnWarnings PropagateTags RouteSettings Tags".split()
        ),
        frozenset("DefinitionUri DisableExecuteApiEndpoint Domain".split()),
    ),
    SERVERLESS_API: (
        frozenset("Auth BinaryMediaTypes Cors DefinitionBody Name OpenApiVersion StageName Variables".split()),
        frozenset(
            "AccessLogSetting AlwaysDeploy CacheClusterEnabled CacheClusterSize Description EndpointConfiguration "
            "FailOnWarnings MergeDefinitions MethodSettings MinimumCompressionSize Mode Models PropagateTags "
            "SecurityPolicy Tags TracingEnabled".split()
        ),
        frozenset(
            "ApiKeySourceType CanarySetting DefinitionUri DisableExecuteApiEndpoint Domain GatewayResponses "
            "Policy".split()
        ),
    ),
}
GLOBALS: Mapping[str, str] = {"Api": SERVERLESS_API, "HttpApi": SERVERLESS_HTTP_API}
"""Sections of Globals, and the resource type whose properties each has."""

_API_AUTH: dict[str, tuple[Keys, Keys]] = {
    SERVERLESS_HTTP_API: (frozenset("DefaultAuthorizer EnableIamAuthorizer".split()), frozenset({"Authorizers"})),
    SERVERLESS_API: (
        frozenset("AddDefaultAuthorizerToCorsPreflight DefaultAuthorizer InvokeRole".split()),
        frozenset("AddApiKeyRequiredToCorsPreflight ApiKeyRequired Authorizers ResourcePolicy UsagePlan".split()),
    ),
}

MAPPING_PROPERTIES: Keys = frozenset(
    "BatchSize Enabled FilterCriteria FunctionResponseTypes MaximumBatchingWindowInSeconds ScalingConfig".split()
)
"""What an event of SQS and an AWS::Lambda::EventSourceMapping have in common."""
MAPPING_NOTED: Keys = frozenset("KmsKeyArn MetricsConfig ProvisionedPollerConfig".split())

_EVENTS: dict[str, tuple[Keys, Keys, Keys]] = {
    "HttpApi": (
        frozenset("ApiId Auth Method Path PayloadFormatVersion TimeoutInMillis".split()),
        frozenset({"RouteSettings"}),
        frozenset(),
    ),
    "Api": (
        frozenset("Auth Method Path RestApiId TimeoutInMillis".split()),
        frozenset({"RequestParameters"}),
        frozenset("RequestModel ResponseTransferMode".split()),
    ),
    "SQS": (MAPPING_PROPERTIES | {"Queue"}, MAPPING_NOTED, frozenset()),
    **EVENTS,
}
_EVENTS_NOT_YET = frozenset(
    "AlexaSkill CloudWatchLogs Cognito DocumentDB DynamoDB IoTRule Kinesis MQ MSK SelfManagedKafka".split()
)
_EVENT_AUTH = (
    frozenset("Authorizer InvokeRole OverrideApiAuth".split()),
    frozenset("ApiKeyRequired AuthorizationScopes ResourcePolicy".split()),
)
_ITS_API = {"HttpApi": ("ApiId", SERVERLESS_HTTP_API), "Api": ("RestApiId", SERVERLESS_API)}


def check_api(template: Template, path: KeyPath, kind: str, properties: Mapping[str, Any]) -> None:
    """Check what is below the properties of an API, or a section of Globals. Raises ``TemplateError``."""
    auth = properties.get("Auth")
    if auth is not None:
        only(template, (*path, "Auth"), auth, *_API_AUTH[kind])


def check_events(template: Template, path: KeyPath, events: Any) -> list[tuple[str, str]]:
    """Check a function's events; return (what, where) of what has no effect. Raises ``TemplateError``."""
    if not isinstance(events, Mapping):
        raise template.error(path, f"must be a mapping, not {events!r}")
    noted = []
    for name, event in events.items():
        at = (*path, name)
        if not isinstance(event, Mapping):
            raise template.error(at, "must be a mapping with a Type")
        only(template, at, event, frozenset({"Type", "Properties"}), frozenset())
        kind = event.get("Type")
        if not isinstance(kind, str):
            raise template.error(at, "must be a mapping with a Type")
        if kind in _EVENTS_NOT_YET:
            raise template.error((*at, "Type"), f"events of {kind} are not supported yet")
        if kind not in _EVENTS:
            names = [*_EVENTS, *_EVENTS_NOT_YET]
            near = [name for name in names if name.lower() == kind.lower()] or difflib.get_close_matches(kind, names, 1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(_EVENTS))}"
            raise template.error((*at, "Type"), f"{kind!r} is no type of an event; {hint}")
        properties = event.get("Properties") or {}
        built, without_effect, not_yet = _EVENTS[kind]
        only(template, (*at, "Properties"), properties, built | without_effect, not_yet)
        if properties.get("Auth") is not None:
            only(template, (*at, "Properties", "Auth"), properties["Auth"], *_EVENT_AUTH)
        if kind in _ITS_API:
            _check_its_api(template, (*at, "Properties"), kind, properties)
        else:
            check_trigger(template, (*at, "Properties"), kind, properties)
        noted += [(f"{kind}.{one}", f"{path[1]}.{name}") for one in properties if one in without_effect]
    return noted


def _check_its_api(template: Template, path: KeyPath, kind: str, properties: Mapping[str, Any]) -> None:
    """Refuse an event of an API that this template does not make: the translator gives it no route."""
    key, wanted = _ITS_API[kind]
    given = properties.get(key)
    if given is None:
        return
    target = given.get("Ref") if isinstance(given, Mapping) else None
    if not isinstance(target, str) or template.get(("Resources", target, "Type")) != wanted:
        raise template.error((*path, key), f"must be a !Ref to an {wanted} of this template")
