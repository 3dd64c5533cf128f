"""Events and responses of API routes, row by row as API Gateway documents them, and as Powertools reads them."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote

import pytest
from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, APIGatewayRestResolver, Response
from aws_lambda_powertools.shared.cookies import Cookie
from aws_lambda_powertools.utilities.data_classes import APIGatewayProxyEvent, APIGatewayProxyEventV2
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.apis import Api, api_of
from glowplug.runtime.http.gateway_event import canned, decoded_path, door_of, event_v1_of, response_v1_of
from glowplug.runtime.http.gateway_routing import Match, RouteTable
from glowplug.runtime.http.messages import Reply, Request
from glowplug.runtime.http.url_event import UnmappableResult, event_of, response_of
from glowplug.runtime.principal import Principal

REQUEST = Request(
    request_id="0f5f5a9e-8b8e-4b4e-9d7f-1c6a1e2f3a4b",
    method="POST",
    path="",
    query="q=1&q=2&empty=&plus=a+b",
    host="web.execute-api.us-east-1.localhost:9000",
    headers={"host": "web.execute-api.us-east-1.localhost:9000", "content-type": "application/json", "user-agent": "c"},
    protocol="HTTP/1.1",
    peer="192.0.2.7",
    port=9000,
    arrived_s=1.0,
)
ANN = Principal("AKIA", "000000000000", "arn:aws:iam::000000000000:user/ann", "AIDA", "ann")
TIME_S = 1659687279.885
ACCOUNT = "000000000000"


@dataclass
class Raw:
    """The socket's side of a request, for its header fields."""

    raw_headers: list[tuple[bytes, bytes]]


def fields(*given: tuple[str, str]) -> Request:
    raw: Any = Raw([(name.encode(), value.encode()) for name, value in given])
    headers: dict[str, str] = {}
    for name, value in given:
        headers[name.lower()] = f"{headers[name.lower()]},{value}" if name.lower() in headers else value
    return replace(REQUEST, headers=headers, raw=raw)


def an_api(protocol: str = "HTTP", stage: str = "", payload: str = "", **changes: Any) -> Api:
    stage = stage or ("Prod" if protocol == "REST" else "$default")
    keys = ["POST /items/{id}/{rest+}", "GET /items/{id}", "ANY /plain", *(["$default"] if protocol == "HTTP" else [])]
    version = {"PayloadFormatVersion": payload} if payload else {}
    routes = [{"RouteKey": key, "FunctionName": "f", **version} for key in keys]
    return api_of("web", {"ProtocolType": protocol, "StageName": stage, "Routes": routes, **changes})


def matched(api: Api, method: str, path: str) -> Match:
    match = RouteTable(api).find(method, path.removeprefix(api.root) or "/")
    assert match is not None
    return match


def v2(api: Api, path: str, request: Request = REQUEST, body: bytes = b"") -> dict[str, Any]:
    door = door_of(api, matched(api, request.method, path), request, ACCOUNT)
    text = event_of(request, "web", decoded_path(path), body, trace_id="Root=1-x", time_s=TIME_S, door=door)
    return dict(json.loads(text))


def v1(api: Api, path: str, request: Request = REQUEST, body: bytes = b"") -> dict[str, Any]:
    match = matched(api, request.method, path)
    text = event_v1_of(
        request, api, match, path, body, trace_id="Root=1-x", time_s=TIME_S, account_id=ACCOUNT
    )  # fmt: skip
    return dict(json.loads(text))


def answered(value: Any, api: Api | None = None, accept: str = "") -> Reply:
    return response_v1_of(json.dumps(value).encode(), api or an_api("REST"), accept)


# --- format 2.0 -----------------------------------------------------------------------------------------------------


def test_format_2_of_a_route_has_every_field_of_the_format() -> None:
    assert {
        "version": "2.0",
        "routeKey": "POST /items/{id}/{rest+}",
        "rawPath": "/items/7/a/b c",
        "rawQueryString": "q=1&q=2&empty=&plus=a+b",
        "headers": {
            "host": "web.execute-api.us-east-1.localhost:9000",
            "content-type": "application/json",
            "user-agent": "c",
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-port": "9000",
            "x-forwarded-proto": "http",
            "x-amzn-trace-id": "Root=1-x",
        },
        "queryStringParameters": {"q": "1,2", "empty": "", "plus": "a b"},
        "pathParameters": {"id": "7", "rest": "a/b c"},
        "stageVariables": {"size": "large"},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "web",
            "domainName": "web.execute-api.us-east-1.localhost",
            "domainPrefix": "web",
            "http": {
                "method": "POST", "path": "/items/7/a/b c", "protocol": "HTTP/1.1", "sourceIp": "192.0.2.7",
                "userAgent": "c",
            },
            "requestId": "0f5f5a9e-8b8e-4b4e-9d7f-1c6a1e2f3a4b",
            "routeKey": "POST /items/{id}/{rest+}",
            "stage": "$default",
            "time": "05/Aug/2022:08:14:39 +0000",
            "timeEpoch": 1659687279885,
        },
        "body": "{}",
        "isBase64Encoded": False,
    } == v2(an_api(StageVariables={"size": "large"}), "/items/7/a/b%20c", body=b"{}")  # fmt: skip


def test_format_2_leaves_out_what_is_not_there() -> None:
    event = v2(an_api(), "/elsewhere", replace(REQUEST, query=""))
    assert not {"pathParameters", "stageVariables", "queryStringParameters", "cookies", "body"} & event.keys()
    assert "$default" == event["routeKey"] == event["requestContext"]["routeKey"]


def test_a_stage_with_a_name_is_part_of_an_http_apis_path() -> None:
    event = v2(an_api(stage="dev"), "/dev/items/7/x")
    assert ("/dev/items/7/x", "dev") == (event["rawPath"], event["requestContext"]["stage"])
    assert "/items/7/x" == APIGatewayProxyEventV2(event).path
    old = v1(an_api(stage="dev", payload="1.0"), "/dev/items/7/x")
    assert ("/dev/items/7/x", "dev", "1.0") == (old["path"], old["requestContext"]["stage"], old["version"])


def test_cookies_are_a_member_of_format_2_alone() -> None:
    request = fields(("Host", "h"), ("Cookie", "a=1; b=2"))
    event = v2(an_api(), "/plain", request)
    assert (["a=1", "b=2"], False) == (event["cookies"], "cookie" in event["headers"])
    old = v1(an_api("REST"), "/Prod/plain", request)
    assert ("a=1; b=2", False) == (old["headers"]["Cookie"], "cookies" in old)


def test_who_signed_is_told_in_either_format() -> None:
    signed = replace(REQUEST, principal=ANN)
    iam = v2(an_api(), "/plain", signed)["requestContext"]["authorizer"]["iam"]
    assert (ANN.arn, ANN.user_id) == (iam["userArn"], iam["userId"])
    identity = v1(an_api("REST"), "/Prod/plain", signed)["requestContext"]["identity"]
    assert (ANN.arn, ANN.access_key_id, ACCOUNT) == (
        identity["userArn"], identity["accessKey"], identity["accountId"]
    )  # fmt: skip


# --- format 1.0 -----------------------------------------------------------------------------------------------------


def test_format_1_of_a_rest_api_has_every_field_of_the_format() -> None:
    request = fields(
        ("Host", "web.execute-api.us-east-1.localhost:9000"), ("X-Many", "1"), ("x-many", "2"), ("User-Agent", "c"),
        ("Content-Length", "2"), ("Connection", "close"), ("X-Forwarded-For", "203.0.113.9"),
    )  # fmt: skip
    event = v1(an_api("REST", Name="web", StageVariables={"size": "large"}), "/Prod/items/7/a/b%20c", request, b"{}")
    several = {
        "Host": ["web.execute-api.us-east-1.localhost:9000"], "X-Many": ["1", "2"], "User-Agent": ["c"],
        "X-Amzn-Trace-Id": ["Root=1-x"], "X-Forwarded-For": ["203.0.113.9, 192.0.2.7"], "X-Forwarded-Port": ["9000"],
        "X-Forwarded-Proto": ["http"],
    }  # fmt: skip
    unknown = dict.fromkeys(
        "accessKey accountId apiKey apiKeyId caller cognitoAuthenticationProvider cognitoAuthenticationType "
        "cognitoIdentityId cognitoIdentityPoolId principalOrgId user userArn".split()
    )
    assert {
        "resource": "/items/{id}/{rest+}",
        "path": "/items/7/a/b%20c",
        "httpMethod": "POST",
        "headers": {name: values[-1] for name, values in several.items()},
        "multiValueHeaders": several,
        "queryStringParameters": {"q": "2", "empty": "", "plus": "a b"},
        "multiValueQueryStringParameters": {"q": ["1", "2"], "empty": [""], "plus": ["a b"]},
        "pathParameters": {"id": "7", "rest": "a/b%20c"},
        "stageVariables": {"size": "large"},
        "requestContext": {
            "accountId": "000000000000",
            "apiId": "web",
            "domainName": "web.execute-api.us-east-1.localhost",
            "domainPrefix": "web",
            "extendedRequestId": request.request_id,
            "httpMethod": "POST",
            "identity": {**unknown, "sourceIp": "192.0.2.7", "userAgent": "c"},
            "path": "/Prod/items/7/a/b%20c",
            "protocol": "HTTP/1.1",
            "requestId": request.request_id,
            "requestTime": "05/Aug/2022:08:14:39 +0000",
            "requestTimeEpoch": 1659687279885,
            "resourceId": event["requestContext"]["resourceId"],
            "resourcePath": "/items/{id}/{rest+}",
            "stage": "Prod",
        },
        "body": "{}",
        "isBase64Encoded": False,
    } == event


def test_format_1_says_null_where_format_2_says_nothing() -> None:
    event = v1(an_api("REST"), "/Prod/plain", replace(REQUEST, query=""))
    absent = ("queryStringParameters", "multiValueQueryStringParameters", "pathParameters", "stageVariables", "body")
    assert [None] * 5 == [event[name] for name in absent]


def test_format_1_of_an_http_api_has_a_version_small_headers_and_a_decoded_path() -> None:
    event = v1(an_api(payload="1.0"), "/items/7/a%20b", fields(("X-A", "1"), ("Host", "h")))
    assert ("1.0", "/items/7/a b", {"id": "7", "rest": "a b"}) == (
        event["version"], event["path"], event["pathParameters"]
    )  # fmt: skip
    assert {"x-a", "host"} < event["headers"].keys()
    assert event["headers"].keys() == {name.lower() for name in event["headers"]}


@pytest.mark.parametrize(
    ("media", "body", "text", "encoded"),
    [
        ("image/png", b"\x00\xff", "AP8=", True),
        ("IMAGE/PNG; q=1", b"ok", "b2s=", True),
        ("application/pdf", b"ok", "ok", False),
        ("", "é".encode(), "é", False),
        ("application/pdf", b"\xff", "\ufffd", False),
    ],
)
def test_a_rest_api_encodes_the_bodies_of_its_binary_types_alone(
    media: str, body: bytes, text: str, encoded: bool
) -> None:
    given = ("Content-Type", media)
    event = v1(an_api("REST", BinaryMediaTypes=["image/png"]), "/Prod/plain", fields(given), body)
    assert (text, encoded) == (event["body"], event["isBase64Encoded"])
    everything = v1(an_api("REST", BinaryMediaTypes=["*/*"]), "/Prod/plain", fields(given), body)
    assert (base64.b64encode(body).decode(), True) == (everything["body"], everything["isBase64Encoded"])


def test_an_http_api_encodes_what_is_no_text_in_either_format() -> None:
    form = fields(("Content-Type", "application/x-www-form-urlencoded"))
    for event in (v2(an_api(), "/plain", form, b"a=b"), v1(an_api(payload="1.0"), "/plain", form, b"a=b")):
        assert ("YT1i", True) == (event["body"], event["isBase64Encoded"])


TEXT = st.text('aB=&;,%+/ \u00e9\x00"\\', max_size=12)


@given(
    st.text("aB/%\u00e9\u6f22\x00\"\\", max_size=12), TEXT,
    st.dictionaries(st.sampled_from(["Cookie", "X-A", "x-a", "Content-Type", "X-Forwarded-For"]), TEXT), st.binary(max_size=9),
)  # fmt: skip
def test_whatever_is_sent_makes_an_event(path: str, query: str, headers: dict[str, str], body: bytes) -> None:
    request = replace(fields(*headers.items()), query=query)
    for made in (
        v1(an_api("REST"), "/Prod/plain", request, body),
        v1(an_api(payload="1.0"), f"/{path}", request, body),
    ):
        content = made["body"] or ""
        assert not made["isBase64Encoded"] or body == base64.b64decode(content)
        assert made["headers"].keys() == made["multiValueHeaders"].keys()
    assert f"/{unquote(path, errors='replace')}" == v2(an_api(), f"/{path}", request, body)["rawPath"]


# --- responses of format 1.0 ----------------------------------------------------------------------------------------


def test_a_response_of_format_1_has_status_headers_and_body() -> None:
    reply = answered(
        {
            "statusCode": 201,
            "headers": {"X-A": "1", "X-B": "gone", "Content-Type": "text/plain", "Connection": "close", "X-C": True},
            "multiValueHeaders": {"x-b": ["1", "2"], "Set-Cookie": ["a=1", "b=2"]},
            "body": "é",
        }
    )
    headers = [("x-b", "1"), ("x-b", "2"), ("Set-Cookie", "a=1"), ("Set-Cookie", "b=2"), ("X-A", "1"), ("X-C", "true")]
    assert (201, "text/plain", headers, "é".encode()) == (reply.status, reply.content_type, reply.headers, reply.body)


def test_a_rest_api_needs_no_member() -> None:
    assert (200, b"", "application/json") == ((reply := answered({})).status, reply.body, reply.content_type)
    assert 204 == answered({"statusCode": "204", "body": None, "headers": None}).status


@pytest.mark.parametrize(
    "result",
    [
        None, "text", 3, [1], {"hello": "world"}, {"statusCode": 200, "cookies": ["a=1"]}, {"statusCode": "?"},
        {"statusCode": 200, "body": {"a": 1}}, {"headers": ["a"]}, {"headers": {"A": 1}}, {"headers": {"A": "b\nc"}},
        {"multiValueHeaders": {"A": "b"}}, {"multiValueHeaders": {"A b": ["c"]}}, {"statusCode": True},
    ],
)  # fmt: skip
def test_what_is_no_response_of_a_rest_api_is_malformed(result: Any) -> None:
    with pytest.raises(UnmappableResult):
        answered(result)


def test_an_http_api_wants_a_status_and_takes_members_that_it_does_not_know() -> None:
    old = an_api(payload="1.0")
    assert (200, b"x") == ((reply := answered({"statusCode": 200, "body": "x", "note": 1}, old)).status, reply.body)
    with pytest.raises(UnmappableResult, match="statusCode is missing"):
        answered({"body": "x"}, old)


@pytest.mark.parametrize(
    ("accept", "body"),
    [("image/png", b"\x00\xff"), ("image/png;q=1, */*", b"\x00\xff"), ("*/*", b"AP8="), ("", b"AP8=")],
)
def test_a_rest_api_decodes_a_body_for_who_asks_for_a_binary_type(accept: str, body: bytes) -> None:
    result = {"statusCode": 200, "body": "AP8=", "isBase64Encoded": True}
    assert body == answered(result, an_api("REST", BinaryMediaTypes=["image/png"]), accept).body
    assert b"\x00\xff" == answered(result, an_api("REST", BinaryMediaTypes=["*/*"]), accept).body
    assert b"\x00\xff" == answered(result, an_api(payload="1.0"), accept).body


def test_a_canned_response_is_sent_as_it_is_written() -> None:
    response = {"StatusCode": 202, "Headers": {"Access-Control-Allow-Origin": "*", "Content-Type": "x/y"}, "Body": "{}"}
    api = an_api("REST", Routes=[{"RouteKey": "OPTIONS /", "Response": response}])
    reply = canned(api.routes[0])
    assert (202, [("Access-Control-Allow-Origin", "*")], "x/y", b"{}") == (
        reply.status, reply.headers, reply.content_type, reply.body
    )  # fmt: skip


# --- as Powertools reads and answers them ---------------------------------------------------------------------------


def orders(app: APIGatewayHttpResolver | APIGatewayRestResolver) -> Any:
    @app.post("/items/<id>/<rest>")
    def item(id: str, rest: str) -> Response[Any]:  # noqa: A002  (the route's own name)
        seen = {"id": id, "rest": rest, "q": app.current_event.resolved_query_string_parameters["q"]}
        cookies = [Cookie("a", "1"), Cookie("b", "2")]
        return Response(201, "application/json", json.dumps(seen), cookies=cookies)

    return app


def test_powertools_resolves_format_2_and_its_answer_is_understood() -> None:
    event = v2(an_api(stage="dev"), "/dev/items/7/x")
    result = orders(APIGatewayHttpResolver()).resolve(event, None)
    reply = response_of(json.dumps(result).encode())
    assert (201, {"id": "7", "rest": "x", "q": ["1", "2"]}) == (reply.status, json.loads(reply.body))
    assert ["a=1; Secure", "b=2; Secure"] == [value for name, value in reply.headers if name == "set-cookie"]


@pytest.mark.parametrize("protocol", ["REST", "HTTP"])
def test_powertools_resolves_format_1_and_its_answer_is_understood(protocol: str) -> None:
    api = an_api(protocol, payload="1.0" if protocol == "HTTP" else "")
    event = v1(api, f"{api.root}/items/7/x")
    reply = answered(orders(APIGatewayRestResolver()).resolve(event, None), api)
    assert (201, {"id": "7", "rest": "x", "q": ["1", "2"]}) == (reply.status, json.loads(reply.body))
    assert ["a=1; Secure", "b=2; Secure"] == [value for name, value in reply.headers if name == "Set-Cookie"]


def test_powertools_data_classes_read_every_member() -> None:
    new = APIGatewayProxyEventV2(v2(an_api(StageVariables={"k": "v"}), "/items/7/x", body=b'{"a": 1}'))
    assert ("POST", "/items/7/x", {"id": "7", "rest": "x"}, {"k": "v"}, {"a": 1}, "192.0.2.7") == (
        new.http_method, new.path, new.path_parameters, new.stage_variables, new.json_body,
        new.request_context.http.source_ip,
    )  # fmt: skip
    old = APIGatewayProxyEvent(v1(an_api("REST"), "/Prod/items/7/x", body=b'{"a": 1}'))
    context = old.request_context
    assert ("POST", "/items/7/x", "/items/{id}/{rest+}", "/Prod/items/7/x", "Prod", "192.0.2.7", "c") == (
        old.http_method, old.path, old.resource, context.path, context.stage, context.identity.source_ip,
        context.identity.user_agent,
    )  # fmt: skip
    assert ("05/Aug/2022:08:14:39 +0000", 1659687279885, "/items/{id}/{rest+}") == (
        context.request_time, context.request_time_epoch, context.resource_path
    )  # fmt: skip
    assert (["1", "2"], context.resource_id) == (old.multi_value_query_string_parameters["q"], context.resource_id)
