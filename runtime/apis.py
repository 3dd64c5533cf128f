"""What an API is: its stage, its routes and where each of them goes. Read from JSON that a template was turned into.

    {"Name": "web", "ProtocolType": "HTTP", "StageName": "$default", "StageVariables": {"size": "large"},
     "CorsConfiguration": {"AllowOrigins": ["*"]},
     "Routes": [{"RouteKey": "GET /items/{id}", "FunctionName": "items", "Qualifier": "live",
                 "PayloadFormatVersion": "2.0", "TimeoutInMillis": 30000, "AuthorizationType": "NONE"}]}

``ProtocolType`` is ``HTTP`` (``AWS::Serverless::HttpApi``) or ``REST`` (``AWS::Serverless::Api``), which has one
payload format and ``BinaryMediaTypes``. A REST route may have a ``Response`` (``StatusCode``, ``Headers``, ``Body``)
in place of a function: what SAM writes for CORS. Names are those of API Gateway's own resources.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from .catalog import LATEST
from .errors import DefinitionError
from .reader import Reader, kind
from .spec import url_id_of
from .wanted import WantedFunction

ANY = "ANY"
DEFAULT_ROUTE = "$default"
DEFAULT_STAGE = "$default"

Protocol = Literal["HTTP", "REST"]
Payload = Literal["1.0", "2.0"]

_DEFAULT_TIMEOUT_MS = {"HTTP": 30_000, "REST": 29_000}
_MAX_TIMEOUT_MS = 5_400_000  # AWS ends at the defaults, which a first start with a large model may take
_METHODS = frozenset("ANY DELETE GET HEAD OPTIONS PATCH POST PUT".split())
_NAME = re.compile(r"[a-zA-Z0-9._:-]+")
_STAGE = re.compile(r"\$default|[a-zA-Z0-9_-]{1,128}")
_API = frozenset("Name ProtocolType StageName StageVariables CorsConfiguration BinaryMediaTypes Routes Stack".split())
_ROUTE = frozenset(
    "RouteKey FunctionName Qualifier PayloadFormatVersion TimeoutInMillis AuthorizationType Response".split()
)
_RESPONSE = frozenset("StatusCode Headers Body".split())
_CORS = frozenset("AllowCredentials AllowHeaders AllowMethods AllowOrigins ExposeHeaders MaxAge".split())


@dataclass(frozen=True, slots=True)
class Response:
    """An answer that needs no function."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: str


@dataclass(frozen=True, slots=True)
class Route:
    """One route. ``method`` may be ``ANY``; ``path`` is a template such as ``/items/{id}/{rest+}``, or ``$default``.

    ``function`` is empty where there is a ``response``. ``timeout_s`` is how long the function has to answer.
    """

    method: str
    path: str
    function: str = ""
    qualifier: str = LATEST
    payload: Payload = "2.0"
    timeout_s: float = 30.0
    signed: bool = False
    response: Response | None = None

    @property
    def key(self) -> str:
        """API Gateway's route key: ``GET /items/{id}`` or ``$default``."""
        return DEFAULT_ROUTE if self.path == DEFAULT_ROUTE else f"{self.method} {self.path}"


@dataclass(frozen=True, slots=True)
class Api:
    """An API with its one stage. ``cors`` is CorsConfiguration of an HTTP API; empty: there is none."""

    api_id: str
    name: str
    protocol: Protocol
    stage: str
    variables: Mapping[str, str]
    routes: tuple[Route, ...]
    cors: Mapping[str, Any]
    binary: frozenset[str] = frozenset()

    @property
    def root(self) -> str:
        """The path below which its routes are: the stage, but for an HTTP API's ``$default``, without a final slash."""
        return "" if self.stage == DEFAULT_STAGE else f"/{self.stage}"


def api_id_of(stack: str, logical_id: str) -> str:
    """Return the id of the API that a template calls ``logical_id``."""
    return url_id_of(f"{stack}-{logical_id}")


def api_of(api_id: str, definition: Mapping[str, Any], path: str = "") -> Api:
    """Read an API. Raises ``DefinitionError`` naming the first field that cannot be accepted, below ``path``."""
    read = Reader(definition, path)
    read.only(_API)
    protocol: Protocol = "REST" if read.choice("ProtocolType", ("HTTP", "REST"), "") == "REST" else "HTTP"
    stage = read.text("StageName", required=True)
    if not _STAGE.fullmatch(stage) or (protocol == "REST" and stage == DEFAULT_STAGE):
        raise DefinitionError(read.at("StageName"), f"{stage!r} is not a stage of letters, digits, - and _")
    variables = Reader(read.values.get("StageVariables") or {}, read.at("StageVariables"))
    routes = [_route(one, protocol) for one in _list_of(read, "Routes")]
    keys: set[str] = set()
    for number, route in enumerate(routes):
        if route.key in keys:
            raise DefinitionError(f"{read.at('Routes')}.{number}.RouteKey", f"{route.key} is there twice")
        keys.add(route.key)
    if protocol == "REST" and read.values.get("CorsConfiguration"):
        raise DefinitionError(read.at("CorsConfiguration"), "is for HTTP APIs; a REST API has routes for OPTIONS")
    return Api(
        api_id=api_id,
        name=read.text("Name"),
        protocol=protocol,
        stage=stage,
        variables={str(name): variables.text(name) for name in variables.values},
        routes=tuple(routes),
        cors=_cors(read.section("CorsConfiguration", _CORS)),
        binary=frozenset(one.lower() for one in _texts(read, "BinaryMediaTypes")),
    )


def check_targets(api: Api, functions: Collection[WantedFunction], path: str = "") -> None:
    """Refuse a route to what is no function of the same stack, or no version of it that there is going to be.

    Raises ``DefinitionError``.
    """
    known = {one.spec.name: one for one in functions}
    for number, route in enumerate(api.routes):
        at = f"{path}.Routes.{number}" if path else f"Routes.{number}"
        if route.response is not None:
            continue
        function = known.get(route.function)
        if function is None:
            raise DefinitionError(f"{at}.FunctionName", f"{route.function} is no function of this stack")
        alias = route.qualifier
        if alias != LATEST and not alias.isdigit() and alias not in function.aliases:
            raise DefinitionError(f"{at}.Qualifier", f"{alias} is no alias of {route.function}")


def segments_of(path: str) -> tuple[str, ...]:
    """Return the segments of a path that begins with a slash; ``/`` has none."""
    return tuple(path[1:].split("/")) if path != "/" else ()


def variable_of(segment: str) -> str:
    """Return the name of the variable that a segment is (``{id}``, ``{rest+}``), with its plus; empty for a literal."""
    return segment[1:-1] if segment[:1] == "{" and segment[-1:] == "}" else ""


def _route(read: Reader, protocol: Protocol) -> Route:
    read.only(_ROUTE)
    method, path = _key(read, protocol)
    response = read.section("Response", _RESPONSE) if read.values.get("Response") is not None else None
    if response is not None and protocol == "HTTP":
        raise DefinitionError(response.path, "is for REST APIs")
    if (response is None) == (not read.text("FunctionName")):
        raise DefinitionError(read.path, "has either a FunctionName or a Response")
    payload = read.choice("PayloadFormatVersion", ("1.0",) if protocol == "REST" else ("2.0", "1.0"),
                          "1.0" if protocol == "REST" else "2.0")  # fmt: skip
    milliseconds = read.whole("TimeoutInMillis", _DEFAULT_TIMEOUT_MS[protocol], low=50, high=_MAX_TIMEOUT_MS)
    return Route(
        method=method,
        path=path,
        function=read.text("FunctionName"),
        qualifier=read.text("Qualifier") or LATEST,
        payload="1.0" if payload == "1.0" else "2.0",
        timeout_s=milliseconds / 1000,
        signed=read.choice("AuthorizationType", ("NONE", "AWS_IAM"), "NONE") == "AWS_IAM",
        response=None if response is None else _response(response),
    )


def _key(read: Reader, protocol: Protocol) -> tuple[str, str]:
    """Return method and path of a RouteKey."""
    key = read.text("RouteKey", required=True)
    if key == DEFAULT_ROUTE and protocol == "HTTP":
        return ANY, DEFAULT_ROUTE
    method, space, path = key.partition(" ")
    at = read.at("RouteKey")
    if not space or method not in _METHODS:
        raise DefinitionError(at, f"{key!r} does not begin with one of {', '.join(sorted(_METHODS))}")
    if not path.startswith("/"):
        raise DefinitionError(at, f"{path!r} is not a path that begins with /")
    names: set[str] = set()
    segments = segments_of(path)
    for number, segment in enumerate(segments):
        name = variable_of(segment)
        if not name:
            if not segment or "{" in segment or "}" in segment:
                what = (
                    "an empty segment" if not segment else f"{segment!r}; a variable is a whole segment such as {{id}}"
                )
                raise DefinitionError(at, f"{path!r} has {what}")
            continue
        if name.endswith("+") and number < len(segments) - 1:
            raise DefinitionError(at, f"{{{name}}} takes all that follows, so nothing can follow it")
        if not _NAME.fullmatch(name.removesuffix("+")) or name.removesuffix("+") in names:
            raise DefinitionError(at, f"{{{name}}} is there twice, or is not a name of letters, digits and . _ : -")
        names.add(name.removesuffix("+"))
    return method, path


def _response(read: Reader) -> Response:
    headers = Reader(read.values.get("Headers") or {}, read.at("Headers"))
    given = tuple((str(name), headers.text(name)) for name in headers.values)
    for name, value in given:
        if any(ord(one) < 32 for one in name + value):
            raise DefinitionError(headers.at(name), "holds a control character")
    return Response(read.whole("StatusCode", 200, low=200, high=599), given, read.text("Body"))


def _cors(read: Reader) -> Mapping[str, Any]:
    for name in read.values:
        if name == "MaxAge":
            read.whole(name, 0, low=-1, high=86400)
        elif name == "AllowCredentials":
            if not isinstance(read.values[name], bool):
                raise DefinitionError(read.at(name), f"must be true or false, not {kind(read.values[name])}")
        else:
            _texts(read, name)
    if read.values.get("AllowCredentials") and "*" in _texts(read, "AllowOrigins"):
        raise DefinitionError(read.at("AllowCredentials"), "cannot be true where AllowOrigins is *")
    return read.values


def _texts(read: Reader, name: str) -> list[str]:
    value = read.values.get(name)
    if value is None:
        return []
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise DefinitionError(read.at(name), f"must be a list of strings, not {kind(value)}")
    return value


def _list_of(read: Reader, name: str) -> list[Reader]:
    value = read.values.get(name) or []
    if not isinstance(value, list):
        raise DefinitionError(read.at(name), f"must be a list, not {kind(value)}")
    return [Reader(one, f"{read.at(name)}.{number}") for number, one in enumerate(value)]
