"""Function URLs, the pure half: an HTTP request becomes an event, a handler's result becomes a response.

The event is payload format 2.0 (spec 2.2), which routes of an HTTP API have as well; the response mapping is that of
``InvokeMode: BUFFERED`` (spec 2.3). Nothing here waits, reads a clock or knows a socket, so every row of the
specification is one assert in a test.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qsl

from glowplug.runtime.principal import Principal

from .hosts import hostname
from .messages import JSON, Reply, Request, compact_json, parse_json, quoted

_TEXT_TYPES = frozenset({"application/json", "application/xml", "application/javascript"})
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
HOP_BY_HOP = frozenset(  # RFC 9110 section 7.6.1, and the length, which is ours to count
    "connection content-length keep-alive proxy-connection te trailer transfer-encoding upgrade".split()
)
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # a CR or LF would let a handler forge headers
_STATUS_TEXT = re.compile(r"[0-9]{3}")


class UnmappableResult(ValueError):
    """The handler's result is not something a function URL can answer with: the client gets a 502."""


@dataclass(frozen=True, slots=True)
class Door:
    """What an event says of the door that its request came through; all of it JSON text.

    The default is a function URL that knows nobody. ``authorizer`` (of the request context) and ``members`` (of the
    event) are whole members with their commas, or empty.
    """

    route_key: str = '"$default"'
    stage: str = '"$default"'
    account_id: str = '"anonymous"'
    authorizer: str = ""
    members: str = ""


OPEN = Door()


def signed_by(principal: Principal) -> Door:
    """Return the door of a function URL whose caller is known (``AuthType: AWS_IAM``)."""
    return Door(account_id=quoted(principal.account_id), authorizer=authorizer_of(principal))


def authorizer_of(principal: Principal) -> str:
    """Return the member ``authorizer`` of a request context, which tells a handler who called."""
    caller = {
        "accessKey": principal.access_key_id,
        "accountId": principal.account_id,
        "callerId": principal.user_id,
        "cognitoIdentity": None,
        "principalOrgId": principal.organization_id or None,
        "userArn": principal.arn,
        "userId": principal.user_id,
    }
    return f'"authorizer":{{"iam":{compact_json(caller).decode()}}},'


def event_of(
    request: Request, url_id: str, path: str, body: bytes, *, trace_id: str, time_s: float, door: Door = OPEN
) -> bytes:
    """Return the payload of a call in format 2.0, as JSON text.

    ``url_id`` is the id of the function URL or of the API, ``path`` the raw path with any ``/_url/<id>`` taken off,
    ``time_s`` Unix time. The body is given apart, because reading it waits.
    """
    headers = {name: value for name, value in request.headers.items() if name != "connection"}
    forwarded = headers.get("x-forwarded-for")
    headers["x-forwarded-for"] = f"{forwarded}, {request.peer}" if forwarded else request.peer
    headers["x-forwarded-port"] = str(request.port)
    headers["x-forwarded-proto"] = "http"
    headers["x-amzn-trace-id"] = trace_id
    cookies = parameters = content = ""
    if "cookie" in headers:  # there alone: frameworks make the header from it
        parts = headers.pop("cookie").split(";")
        cookies = f'"cookies":[{",".join([quoted(part.strip()) for part in parts if part.strip()])}],'
    if request.query:
        parameters = f'"queryStringParameters":{object_of(_parameters(request.query))},'
    encoded = False
    if body:
        text, encoded = body_of(body, headers.get("content-type", ""))
        content = f'"body":{quoted(text)},'
    # Written out rather than encoded from a dict, which takes four times as long: this is made for every request
    raw_path, ip, url = quoted(path), quoted(request.peer), quoted(url_id)
    event = (
        f'{{"version":"2.0","routeKey":{door.route_key},"rawPath":{raw_path},"rawQueryString":{quoted(request.query)},'
        f'{cookies}"headers":{object_of(headers)},{parameters}{door.members}'
        f'"requestContext":{{"accountId":{door.account_id},{door.authorizer}"apiId":{url},'
        f'"domainName":{quoted(hostname(request.host))},"domainPrefix":{url},"http":{{"method":{quoted(request.method)},'
        f'"path":{raw_path},"protocol":"{request.protocol}","sourceIp":{ip},'
        f'"userAgent":{quoted(headers.get("user-agent", ""))}}},"requestId":"{request.request_id}",'
        f'"routeKey":{door.route_key},"stage":{door.stage},"time":"{clf_time(int(time_s))}",'
        f'"timeEpoch":{int(time_s * 1000)}}},{content}"isBase64Encoded":{"true" if encoded else "false"}}}'
    )
    return event.encode()


def response_of(payload: bytes) -> Reply:
    """Return the response that a handler's result stands for. Raises ``UnmappableResult``.

    ``payload`` is JSON by construction (the worker wrote it), so an array, or an object that nowhere says
    ``statusCode``, is only freed of its spaces, which also keeps its numbers digit for digit.
    """
    if payload[:1] in (b"{", b"[") and b'"statusCode"' not in payload:
        compacted = _without_spaces(payload)
        if compacted is not None:
            return Reply(HTTPStatus.OK, compacted)
    try:
        result = parse_json(payload)
    except (ValueError, RecursionError) as error:
        raise UnmappableResult(f"not JSON: {error}") from error
    if isinstance(result, dict) and "statusCode" in result:
        return _structured(result)
    if isinstance(result, str):
        return Reply(HTTPStatus.OK, _utf8(result))  # recorded: without quotes
    return Reply(HTTPStatus.OK, compact_json(result))


def _without_spaces(text: bytes) -> bytes | None:
    """Return JSON text without the spaces between its tokens; None where that takes a parser.

    Without a backslash every quote begins or ends a string, so the even parts between quotes are structure and numbers.
    A capital letter there is NaN or Infinity, which Python writes and JSON does not know.
    """
    if b"\\" in text:
        return None
    parts = text.split(b'"')
    structure = b'"'.join(parts[::2])
    if b"N" in structure or b"I" in structure:
        return None
    parts[::2] = structure.translate(None, b" \t\r\n").split(b'"')
    return b'"'.join(parts)


def header_fields(
    fields: Iterable[tuple[str, Any]], cookies: Any, content_type: str
) -> tuple[list[tuple[str, str]], str]:
    """Return the headers of a response and its content type, which is ``content_type`` where no field names one.

    Raises ``UnmappableResult`` for what cannot be a header.
    """
    headers: list[tuple[str, str]] = []
    for name, value in fields:
        text = header_of(name, value)
        if name.lower() == "content-type":
            content_type = text
        elif name.lower() not in HOP_BY_HOP:
            headers.append((name, text))
    if cookies is not None and not isinstance(cookies, list):
        raise UnmappableResult(f"cookies is a {type(cookies).__name__}, not a list")
    headers.extend(("set-cookie", header_of("set-cookie", cookie)) for cookie in cookies or ())
    return headers, content_type


def _structured(result: dict[str, Any]) -> Reply:
    status = status_of(result["statusCode"])
    headers, content_type = header_fields(
        mapping_of(result.get("headers"), "headers").items(), result.get("cookies"), JSON
    )
    return Reply(status, content_of(result), headers, content_type)


def status_of(value: object) -> int:
    """Accept integers and numeric strings (recorded: "418"); 1xx is not a final status. Raises ``UnmappableResult``."""
    if isinstance(value, str) and _STATUS_TEXT.fullmatch(value):
        value = int(value)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 200 <= value <= 599:
        raise UnmappableResult(f"statusCode {value!r} is not an HTTP status")
    return value


def content_of(result: dict[str, Any]) -> bytes:
    """Return the body that a structured result means. Raises ``UnmappableResult``."""
    body = result.get("body")
    if body is None:
        return b""
    if not isinstance(body, str):
        return compact_json(body)
    if not result.get("isBase64Encoded"):
        return _utf8(body)
    try:
        return base64.b64decode(body, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UnmappableResult(f"isBase64Encoded is set and body is not base64: {error}") from error


def header_of(name: str, value: object) -> str:
    """Return the value of a header as it is sent. Raises ``UnmappableResult`` for one that would break the message."""
    if not _TOKEN.fullmatch(name):
        raise UnmappableResult(f"{name!r} is not a header name")
    if isinstance(value, dict | list):
        raise UnmappableResult(f"header {name} is a {type(value).__name__}, not a string")
    text = value if isinstance(value, str) else json.dumps(value)
    if _FORBIDDEN_IN_VALUE.search(text):
        raise UnmappableResult(f"header {name} holds a control character")
    _utf8(text)
    return text


def mapping_of(value: object, name: str) -> dict[str, Any]:
    """Return the member ``name`` of a result, which is an object or absent. Raises ``UnmappableResult``."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UnmappableResult(f"{name} is a {type(value).__name__}, not an object")
    return value


def _utf8(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise UnmappableResult(f"text cannot be sent as UTF-8: {error}") from error


def body_of(body: bytes, content_type: str) -> tuple[str, bool]:
    """Return (text, False) for textual content types, (base64, True) for the rest and for what is not UTF-8."""
    if is_text(content_type):
        try:
            return body.decode(), False
        except UnicodeDecodeError:
            return base64.b64encode(body).decode(), True
    return base64.b64encode(body).decode(), True


@lru_cache(maxsize=256)
def is_text(content_type: str) -> bool:
    """Return whether a body of this content type travels as text (spec 2.2); an absent type is binary."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind.startswith("text/") or kind in _TEXT_TYPES or kind.endswith(("+json", "+xml"))


def object_of(fields: Mapping[str, str]) -> str:
    """Return strings by name as JSON text."""
    return "{" + ",".join([f"{quoted(name)}:{quoted(value)}" for name, value in fields.items()]) + "}"


def _parameters(query: str) -> dict[str, str]:
    parameters: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        parameters[name] = f"{parameters[name]},{value}" if name in parameters else value
    return parameters


@lru_cache(maxsize=2)
def clf_time(unix_s: int) -> str:
    """Return ``05/Aug/2022:08:14:39 +0000``; by hand, since strftime's month follows the locale."""
    at = time.gmtime(unix_s)
    return (
        f"{at.tm_mday:02d}/{_MONTHS[at.tm_mon - 1]}/{at.tm_year}:{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} +0000"
    )
