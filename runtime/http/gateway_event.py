"""Payload format 1.0: what a route of a REST API, or an HTTP API's that asks for it, gives a function, and takes of it.

Format 2.0 is that of function URLs (``url_event``); the door of a route is made here.

Beside API Gateway's developer guide, what others have observed on AWS: REST APIs deliver the path as it was sent and
HTTP APIs deliver it decoded, with the stage where that has a name (captures in hotsock/voker#8); a REST API refuses a
result with a member that it does not know, needs none of those it knows, and answers 200 where none says otherwise
(an open implementation whose tests were validated against AWS).
"""

from __future__ import annotations

import base64
import zlib
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl, unquote

from glowplug.runtime.apis import Api, Route

from .gateway_routing import Match
from .hosts import hostname
from .messages import JSON, Reply, Request, compact_json, parse_json, quoted
from .url_event import (
    Door,
    UnmappableResult,
    authorizer_of,
    body_of,
    clf_time,
    content_of,
    header_fields,
    mapping_of,
    object_of,
    status_of,
)

_MEMBERS = frozenset("statusCode headers multiValueHeaders body isBase64Encoded".split())
_IDENTITY = (
    "accessKey accountId apiKey apiKeyId caller cognitoAuthenticationProvider cognitoAuthenticationType "
    "cognitoIdentityId cognitoIdentityPoolId principalOrgId user userArn"
).split()
_UNFORWARDED = frozenset({"connection", "content-length"})


def door_of(api: Api, match: Match, request: Request, account_id: str) -> Door:
    """Return what an event of format 2.0 says of the route that it came through."""
    members = ""
    if match.parameters:
        members += f'"pathParameters":{object_of(_decoded(match.parameters))},'
    if api.variables:
        members += f'"stageVariables":{object_of(api.variables)},'
    return Door(
        route_key=quoted(match.route.key),
        stage=quoted(api.stage),
        account_id=quoted(account_id),
        authorizer="" if request.principal is None else authorizer_of(request.principal),
        members=members,
    )


def decoded_path(path: str) -> str:
    """Return a path as HTTP APIs hand it on. What is not UTF-8 is replaced by U+FFFD."""
    return unquote(path, errors="replace") if "%" in path else path


def event_v1_of(
    request: Request,
    api: Api,
    match: Match,
    path: str,
    body: bytes,
    *,
    trace_id: str,
    time_s: float,
    account_id: str,
) -> bytes:
    """Return the payload of a call in format 1.0, as JSON text.

    ``path`` is the raw path, the stage included, with any ``/_apis/<id>`` taken off; ``time_s`` is Unix time,
    ``account_id`` the API's account.
    """
    rest = api.protocol == "REST"
    headers = _headers_of(request, trace_id, lower=not rest)
    query: dict[str, list[str]] = {}
    for name, value in parse_qsl(request.query, keep_blank_values=True):
        query.setdefault(name, []).append(value)
    shown = path if rest else decoded_path(path)
    parameters = dict(match.parameters) if rest else _decoded(match.parameters)
    text, encoded = _body_of(body, request, api)
    resource = match.route.path
    event: dict[str, Any] = {} if rest else {"version": "1.0"}
    event |= {
        "resource": resource,
        "path": (shown.removeprefix(api.root) or "/") if rest else shown,
        "httpMethod": request.method,
        "headers": {name: values[-1] for name, values in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: values[-1] for name, values in query.items()} or None,
        "multiValueQueryStringParameters": query or None,
        "pathParameters": parameters or None,
        "stageVariables": dict(api.variables) or None,
        "requestContext": {
            "accountId": account_id,
            "apiId": api.api_id,
            **({} if rest else {"authorizer": {"claims": None, "scopes": None}}),
            "domainName": hostname(request.host),
            "domainPrefix": api.api_id,
            "extendedRequestId": request.request_id,
            "httpMethod": request.method,
            "identity": _identity_of(request),
            "path": shown,
            "protocol": request.protocol,
            "requestId": request.request_id,
            "requestTime": clf_time(int(time_s)),
            "requestTimeEpoch": int(time_s * 1000),
            "resourceId": f"{zlib.crc32(resource.encode()):08x}" if rest else None,
            "resourcePath": resource,
            "stage": api.stage,
        },
        "body": text,
        "isBase64Encoded": encoded,
    }
    return compact_json(event)


def response_v1_of(payload: bytes, api: Api, accept: str) -> Reply:
    """Return the response that a result of format 1.0 stands for. Raises ``UnmappableResult``.

    ``accept`` is the request's header: a REST API decodes a body only for who asks for one of its
    ``BinaryMediaTypes``, and sends everybody else the base64 text.
    """
    try:
        result = parse_json(payload)
    except (ValueError, RecursionError) as error:
        raise UnmappableResult(f"not JSON: {error}") from error
    if not isinstance(result, dict):
        raise UnmappableResult(f"it is a {type(result).__name__}, not an object")
    rest = api.protocol == "REST"
    if rest:
        _refuse_others(result)
    elif "statusCode" not in result:
        raise UnmappableResult("statusCode is missing")
    given = result.get("statusCode")
    status = status_of(HTTPStatus.OK if given is None and rest else given)
    headers, content_type = header_fields(_pairs(result), None, JSON)
    binary = not rest or is_binary(api, accept)
    content = content_of(result if binary else result | {"isBase64Encoded": False})
    return Reply(status, content, headers, content_type)


def canned(route: Route) -> Reply:
    """Return the answer of a route that has one."""
    response = route.response
    assert response is not None  # noqa: S101  (asked of such routes alone)
    headers = [(name, value) for name, value in response.headers if name.lower() != "content-type"]
    typed = next((value for name, value in response.headers if name.lower() == "content-type"), JSON)
    return Reply(response.status, response.body.encode(), headers, typed)


def is_binary(api: Api, media: str) -> bool:
    """Return whether the first media type of a header is one of the API's binary ones, of which ``*/*`` is all."""
    first = media.partition(",")[0].partition(";")[0].strip().lower()
    return "*/*" in api.binary or (bool(first) and first in api.binary)


def _refuse_others(result: Mapping[str, Any]) -> None:
    others = sorted(result.keys() - _MEMBERS)
    if others:
        raise UnmappableResult(f"{others[0]} is none of {', '.join(sorted(_MEMBERS))}")
    body = result.get("body")
    if body is not None and not isinstance(body, str):
        raise UnmappableResult(f"body is a {type(body).__name__}, not a string")
    for name, value in mapping_of(result.get("headers"), "headers").items():
        if not isinstance(value, str | bool):
            raise UnmappableResult(f"header {name} is a {type(value).__name__}, not a string")


def _pairs(result: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the headers of a result. ``multiValueHeaders`` win where both have a name (the developer guide)."""
    several = mapping_of(result.get("multiValueHeaders"), "multiValueHeaders")
    pairs: list[tuple[str, Any]] = []
    for name, values in several.items():
        if not isinstance(values, list):
            raise UnmappableResult(f"multiValueHeaders.{name} is a {type(values).__name__}, not a list")
        pairs += [(name, value) for value in values]
    given = {name.lower() for name in several}
    headers = mapping_of(result.get("headers"), "headers")
    return pairs + [(name, value) for name, value in headers.items() if name.lower() not in given]


def _headers_of(request: Request, trace_id: str, *, lower: bool) -> dict[str, list[str]]:
    """Return the request's headers, each with all of its values, and those that a gateway adds."""
    headers: dict[str, list[str]] = {}
    spelled: dict[str, str] = {}
    for name, value in request.fields():
        if name.lower() not in _UNFORWARDED:
            headers.setdefault(spelled.setdefault(name.lower(), name.lower() if lower else name), []).append(value)
    forwarded = headers.pop(spelled.get("x-forwarded-for", ""), [])
    headers.pop(spelled.get("x-amzn-trace-id", ""), None)
    for name, value in (
        ("X-Amzn-Trace-Id", trace_id),
        ("X-Forwarded-For", ", ".join([*forwarded, request.peer])),
        ("X-Forwarded-Port", str(request.port)),
        ("X-Forwarded-Proto", "http"),
    ):
        headers.pop(spelled.get(name.lower(), ""), None)
        headers[name.lower() if lower else name] = [value]
    return headers


def _body_of(body: bytes, request: Request, api: Api) -> tuple[str | None, bool]:
    if not body:
        return None, False
    content_type = request.headers.get("content-type", "")
    if api.protocol == "HTTP":
        return body_of(body, content_type)
    if is_binary(api, content_type):
        return base64.b64encode(body).decode(), True
    return body.decode(errors="replace"), False


def _identity_of(request: Request) -> dict[str, str | None]:
    identity: dict[str, str | None] = dict.fromkeys(_IDENTITY)
    principal = request.principal
    if principal is not None:
        identity |= {
            "accessKey": principal.access_key_id,
            "accountId": principal.account_id,
            "caller": principal.user_id,
            "principalOrgId": principal.organization_id or None,
            "user": principal.user_id,
            "userArn": principal.arn,
        }
    return identity | {"sourceIp": request.peer, "userAgent": request.headers.get("user-agent", "")}


def _decoded(parameters: Mapping[str, str]) -> dict[str, str]:
    return {name: decoded_path(value) for name, value in parameters.items()}
