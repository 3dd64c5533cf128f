"""From the OpenAPI documents that the SAM translator makes (or a DefinitionBody is) to APIs that the node serves.

Each AWS::ApiGatewayV2::Api and AWS::ApiGateway::RestApi with its one stage becomes a definition as ``runtime.apis``
reads it. An operation has a function of this template behind it (``aws_proxy``), or is the ``mock`` with which SAM
answers preflights; any other integration, and any authorizer but AWS_IAM, is refused with the line of the event that it
comes from, or of the API.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.apis import api_id_of, api_of, check_targets
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wanted import wanted_of

from .errors import TemplateError
from .resources import HTTP_API, REST_API, Resources
from .template import KeyPath, Template

_INTEGRATION = "x-amazon-apigateway-integration"
_ANY = "x-amazon-apigateway-any-method"
_METHODS = {name.lower(): name for name in "DELETE GET HEAD OPTIONS PATCH POST PUT".split()} | {_ANY: "ANY", "*": "ANY"}
_BESIDE_METHODS = frozenset("parameters summary description servers".split())
_REFUSED = frozenset(
    "x-amazon-apigateway-auth x-amazon-apigateway-gateway-responses x-amazon-apigateway-policy "
    "x-amazon-apigateway-request-validator x-amazon-apigateway-request-validators".split()
)
_FUNCTION = re.compile(r".*/functions/arn:[^:/]+:lambda:[^:/]*:\d*:function:(?P<name>[^:/]+)(?::(?P<alias>[^:/]+))?/.*")
_HEADER = "method.response.header."
_LITERAL = re.compile(r"'(?P<value>[^']*)'")


def apis_of(
    template: Template, resources: Resources, definitions: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the definitions of a template's APIs, by logical id; ``definitions`` are those of its functions.

    Raises ``TemplateError`` for what cannot be served.
    """
    functions = [wanted_of(definition) for definition in definitions.values()]
    found = {}
    for kind in (HTTP_API, REST_API):
        for logical_id in resources.of_type(kind):
            found[logical_id] = _Reading(template, resources, logical_id, kind).definition()
            try:
                check_targets(api_of("", found[logical_id]), functions)
            except DefinitionError as error:
                raise in_template(template, logical_id, found[logical_id], error) from error
    return found


def in_template(
    template: Template, logical_id: str, definition: Mapping[str, Any], error: DefinitionError
) -> TemplateError:
    """Return the refusal of an API's field (``Routes.2.FunctionName``) as an error of the template: at the event that
    the route comes from, or at the API."""
    parts = error.field.split(".")
    if parts[0] == "Routes" and len(parts) > 1 and parts[1].isdigit():
        method, _, path = str(definition["Routes"][int(parts[1])].get("RouteKey", "")).partition(" ")
        place = _event_at(template, method, path)
        return template.error(place or ("Resources", logical_id, "Properties", "DefinitionBody"), error.problem)
    return template.error(("Resources", logical_id, "Properties", *parts), error.problem)


def callable_here(value: Any, stack: str, logical_ids: Collection[str], endpoint: str) -> Any:
    """Return an output's value with the AWS addresses of this template's APIs in it as addresses of the node.

    ``https://<api-id>.execute-api.<region>.<domain>`` is what a template can only write out; what follows it, stage and
    path, is the same here.
    """
    if isinstance(value, list):
        return [callable_here(one, stack, logical_ids, endpoint) for one in value]
    if not isinstance(value, str):
        return value
    for logical_id in logical_ids:
        api_id = api_id_of(stack, logical_id)
        host = rf"https://{re.escape(api_id)}\.execute-api\.[a-z0-9-]+(?:\.[a-z0-9-]+)+"
        value = re.sub(host, f"{endpoint}/_apis/{api_id}", value)
    return value


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads one API."""

    template: Template
    resources: Resources
    logical_id: str
    kind: str

    def definition(self) -> dict[str, Any]:
        """Return the API's definition."""
        given = self._evaluated(self.logical_id)
        try:
            staged = self._evaluated(self.resources.stage_of(self.logical_id))
        except LookupError as error:
            raise self._error((), str(error.args[0])) from None
        body = given.get("Body")
        if not isinstance(body, Mapping):
            raise self._error((), "has no body with paths: give its functions events, or a DefinitionBody")
        self._refuse(body, ())
        rest = self.kind == REST_API
        definition: dict[str, Any] = {
            "Name": str(given.get("Name") or (body.get("info") or {}).get("title") or self.logical_id),
            "ProtocolType": "REST" if rest else "HTTP",
            "StageName": staged.get("StageName"),
            "Routes": self._routes(body),
        }
        variables = staged.get("Variables" if rest else "StageVariables")
        if variables:
            definition["StageVariables"] = {name: str(value) for name, value in variables.items()}
        if rest:
            binary = [*(body.get("x-amazon-apigateway-binary-media-types") or ())]
            binary += [str(one).replace("~1", "/") for one in given.get("BinaryMediaTypes") or ()]
            definition["BinaryMediaTypes"] = sorted(set(binary))
        elif body.get("x-amazon-apigateway-cors"):
            definition["CorsConfiguration"] = _cors(body["x-amazon-apigateway-cors"])
        return definition

    def _evaluated(self, logical_id: str) -> Mapping[str, Any]:
        wanted = ("Body", "Name", "BinaryMediaTypes", "StageName", "StageVariables", "Variables")
        properties = {name: value for name, value in self.resources.properties(logical_id).items() if name in wanted}
        evaluated: Mapping[str, Any] = self.resources.intrinsics.evaluate(
            properties, ("Resources", logical_id, "Properties")
        )
        return evaluated

    def _routes(self, body: Mapping[str, Any]) -> list[dict[str, Any]]:
        routes = []
        for path, item in (body.get("paths") or {}).items():
            if not isinstance(item, Mapping):
                continue  # all of its operations are under conditions that do not hold
            for name, operation in item.items():
                if name in _BESIDE_METHODS:
                    continue
                method = _METHODS.get(str(name).lower())
                if method is None or not isinstance(operation, Mapping):
                    raise self._error((path, name), f"{name} is no method of a route")
                routes.append(self._route(body, method, str(path), operation))
        return routes

    def _route(self, body: Mapping[str, Any], method: str, path: str, operation: Mapping[str, Any]) -> dict[str, Any]:
        at = (path, method)
        self._refuse(operation, at)
        integration = operation.get(_INTEGRATION)
        if not isinstance(integration, Mapping):
            raise self._error(at, f"has no {_INTEGRATION}")
        route: dict[str, Any] = {"RouteKey": path if path == "$default" else f"{method} {path}"}
        if self._signed(body, operation, at):
            route["AuthorizationType"] = "AWS_IAM"
        kind = str(integration.get("type", "")).lower()
        if kind == "mock" and self.kind == REST_API:
            return route | {"Response": self._response(integration, at)}
        if kind != "aws_proxy":
            raise self._error(at, f"an integration of type {integration.get('type')} is not supported yet")
        target = _FUNCTION.fullmatch(str(integration.get("uri")))
        if target is None:
            raise self._error(at, f"{integration.get('uri')!r} is not a function of this template")
        route["FunctionName"] = target["name"]
        if target["alias"]:
            route["Qualifier"] = target["alias"]
        if self.kind == HTTP_API:
            route["PayloadFormatVersion"] = str(integration.get("payloadFormatVersion", "1.0"))
        timeout = integration.get("timeoutInMillis")
        if timeout is not None:
            route["TimeoutInMillis"] = int(timeout) if str(timeout).isdigit() else timeout
        return route

    def _response(self, integration: Mapping[str, Any], at: tuple[str, ...]) -> dict[str, Any]:
        """Return the answer that a mock gives whoever asks."""
        responses = integration.get("responses") or {}
        response = responses.get("default") if len(responses) != 1 else next(iter(responses.values()))
        if not isinstance(response, Mapping):
            raise self._error(at, "a mock needs one response, or a default one")
        headers = {}
        for name, value in (response.get("responseParameters") or {}).items():
            literal = _LITERAL.fullmatch(str(value))
            if not name.startswith(_HEADER) or literal is None:
                raise self._error(at, f"{name}: {value}: a mock's response takes headers with literal values")
            headers[name.removeprefix(_HEADER)] = literal["value"]
        body = str((response.get("responseTemplates") or {}).get("application/json", ""))
        if "$" in body or "#" in body:
            raise self._error(at, "a mock's response template that computes something is not supported yet")
        status = str(response.get("statusCode", "200"))
        return {"StatusCode": int(status) if status.isdigit() else status, "Headers": headers, "Body": body}

    def _signed(self, body: Mapping[str, Any], operation: Mapping[str, Any], at: tuple[str, ...]) -> bool:
        """Return whether callers have to sign. Every other way to say who calls is refused."""
        wanted = operation.get("security", body.get("security")) or []
        schemes = (body.get("components") or {}).get("securitySchemes") or body.get("securityDefinitions") or {}
        signed = False
        for name in (name for one in wanted for name in one):
            if name == "NONE":
                continue
            scheme = schemes.get(name) or {}
            if scheme.get("x-amazon-apigateway-authtype") != "awsSigv4":
                raise self._error(at, f"the authorizer {name} is not supported yet; AWS_IAM is, and none")
            signed = True
        return signed

    def _refuse(self, values: Mapping[str, Any], at: tuple[str, ...]) -> None:
        for name in values:
            if name in _REFUSED:
                raise self._error(at, f"{name} is not supported yet")

    def _error(self, at: tuple[str, ...], problem: str) -> TemplateError:
        """Return an error of an operation (path and method) at its event, or of the whole API."""
        place = _event_at(self.template, at[1], at[0]) if len(at) > 1 else None
        if place is not None:
            return self.template.error(place, problem)
        what = f"{at[1]} {at[0]}: " if len(at) > 1 else ""
        return self.template.error(("Resources", self.logical_id, "Properties"), f"{what}{problem}")


def _event_at(template: Template, method: str, path: str) -> KeyPath | None:
    """Return where the event of a route is written, by its path and method as they are spelled out; or None."""
    for logical_id, resource in template.document["Resources"].items():
        events = (resource.get("Properties") or {}).get("Events") or {}
        for name, event in events.items():
            properties = event.get("Properties") or {}
            given = str(properties.get("Method", "ANY")).upper().replace("*", "ANY").replace(_ANY.upper(), "ANY")
            if (given, properties.get("Path", "$default")) == (method.upper(), path):
                return ("Resources", logical_id, "Properties", "Events", name)
    return None


def _cors(given: Any) -> Any:
    """Return CorsConfiguration of what an OpenAPI document calls the same, in lower camel case."""
    if not isinstance(given, Mapping):
        return given
    return {f"{name[:1].upper()}{name[1:]}": value for name, value in given.items()}
