"""Function URLs: the event of payload format 2.0 (spec 2.2) and the response mapping (spec 2.3), row by row."""

from __future__ import annotations

import base64
import json
import uuid
from dataclasses import replace
from typing import Any

import pytest

from glowplug.runtime.http.invoking import hold_of, start_headers
from glowplug.runtime.http.messages import Reply, Request
from glowplug.runtime.http.url_event import UnmappableResult, event_of, is_text, response_of
from glowplug.runtime.identifiers import new_request_id
from glowplug.runtime.invocation import Outcome

REQUEST = Request(
    request_id="0f5f5a9e-8b8e-4b4e-9d7f-1c6a1e2f3a4b",
    method="POST",
    path="/_url/echo/pa2%2Fth/1",
    query="q=1&q=2&empty=&plus=a+b",
    host="127.0.0.1:9000",
    headers={"host": "127.0.0.1:9000", "content-type": "application/json", "user-agent": 'curl "8"'},
    protocol="HTTP/1.1",
    peer="192.0.2.7",
    port=9000,
    arrived_s=1.0,
)
NESTED = b"[" * 100_000 + b'"statusCode"' + b"]" * 100_000


def event(request: Request = REQUEST, body: bytes = b"", path: str = "/pa2%2Fth/1") -> dict[str, Any]:
    text = event_of(request, "echo", path, body, trace_id="Root=1-x", time_s=1659687279.885)
    return dict(json.loads(text))


def with_headers(**headers: str) -> Request:
    return replace(REQUEST, headers={name.replace("_", "-"): value for name, value in headers.items()})


def mapped(value: Any) -> Reply:
    return response_of(json.dumps(value).encode())


def test_event_has_every_field_of_the_format() -> None:
    assert {
        "version": "2.0",
        "routeKey": "$default",
        "rawPath": "/pa2%2Fth/1",
        "rawQueryString": "q=1&q=2&empty=&plus=a+b",
        "headers": {
            "host": "127.0.0.1:9000",
            "content-type": "application/json",
            "user-agent": 'curl "8"',
            "x-forwarded-for": "192.0.2.7",
            "x-forwarded-port": "9000",
            "x-forwarded-proto": "http",
            "x-amzn-trace-id": "Root=1-x",
        },
        "queryStringParameters": {"q": "1,2", "empty": "", "plus": "a b"},
        "requestContext": {
            "accountId": "anonymous",
            "apiId": "echo",
            "domainName": "127.0.0.1",
            "domainPrefix": "echo",
            "http": {
                "method": "POST",
                "path": "/pa2%2Fth/1",
                "protocol": "HTTP/1.1",
                "sourceIp": "192.0.2.7",
                "userAgent": 'curl "8"',
            },
            "requestId": "0f5f5a9e-8b8e-4b4e-9d7f-1c6a1e2f3a4b",
            "routeKey": "$default",
            "stage": "$default",
            "time": "05/Aug/2022:08:14:39 +0000",
            "timeEpoch": 1659687279885,
        },
        "body": '{"text":"héllo"}',
        "isBase64Encoded": False,
    } == event(body='{"text":"héllo"}'.encode())


def test_event_leaves_out_what_is_not_there() -> None:
    bare = event(replace(REQUEST, query=""))
    assert {"body", "queryStringParameters", "cookies"} & bare.keys() == set()
    assert "" == bare["rawQueryString"]


def test_event_splits_cookies_and_keeps_their_commas() -> None:
    assert ["a=1,2", "b=3"] == event(with_headers(cookie="a=1,2; b=3;"))["cookies"]


def test_event_drops_connection_and_appends_to_forwarded_for() -> None:
    headers = event(with_headers(connection="keep-alive", x_forwarded_for="203.0.113.9"))["headers"]
    assert "connection" not in headers
    assert "203.0.113.9, 192.0.2.7" == headers["x-forwarded-for"]


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/json; charset=utf-8", "application/problem+json", "application/xml", "image/svg+xml",
     "application/javascript", "TEXT/HTML"],
)  # fmt: skip
def test_textual_bodies_travel_as_text(content_type: str) -> None:
    assert is_text(content_type)
    made = event(with_headers(content_type=content_type), body=b"abc")
    assert ("abc", False) == (made["body"], made["isBase64Encoded"])


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "multipart/form-data; boundary=x",
        "application/x-www-form-urlencoded",
        "image/png",
        "application/octet-stream",
    ],
)
def test_other_bodies_travel_as_base64(content_type: str) -> None:
    made = event(with_headers(content_type=content_type), body=b"abc")
    assert (base64.b64encode(b"abc").decode(), True) == (made["body"], made["isBase64Encoded"])


def test_a_textual_body_that_is_not_utf8_travels_as_base64() -> None:
    made = event(with_headers(content_type="text/plain"), body=b"\xff\xfe")
    assert (base64.b64encode(b"\xff\xfe").decode(), True) == (made["body"], made["isBase64Encoded"])


@pytest.mark.parametrize("nasty", ['"', "\\", "\n", "\x00", "\u2028", "é", "🙂"])
def test_event_stays_json_whatever_a_request_holds(nasty: str) -> None:
    request = replace(with_headers(x_nasty=nasty, cookie=nasty + "=1"), query=f"q={nasty}", method=f"M{nasty}")
    made = event(request, path="/" + nasty)
    assert (nasty, "/" + nasty) == (made["headers"]["x-nasty"], made["rawPath"])


@pytest.mark.parametrize(
    ("result", "body"),
    [
        ({"hello": "world"}, b'{"hello":"world"}'),
        ({"a b": "c, d: e", "n": [1, 2.5, None, True]}, b'{"a b":"c, d: e","n":[1,2.5,null,true]}'),
        ({"quote": 'say "hi"', "slash": "\\ "}, b'{"quote":"say \\"hi\\"","slash":"\\\\ "}'),
        ({"text": "h\u00e9llo"}, '{"text":"héllo"}'.encode()),
        ({"NaN": "Infinity"}, b'{"NaN":"Infinity"}'),
        ("hello", b"hello"),
        ("", b""),
        (3, b"3"),
        (3.1, b"3.1"),
        (True, b"true"),
        (None, b"null"),
        (["hello", 3, True], b'["hello",3,true]'),
        ([], b"[]"),
        ({"body": "x"}, b'{"body":"x"}'),
        (2**70, str(2**70).encode()),
    ],
)
def test_results_without_status_code_are_200_compact_json(result: Any, body: bytes) -> None:
    assert Reply(200, body) == mapped(result)


def test_a_float_keeps_its_digits() -> None:
    assert (
        b'{"x":0.1000000000000000055511151231257827}'
        == response_of(b'{"x": 0.1000000000000000055511151231257827}').body
    )


def test_a_structured_result_is_taken_apart() -> None:
    reply = mapped(
        {
            "statusCode": 201,
            "headers": {"Content-Type": "text/html", "X-Number": 3, "X-True": True, "Content-Length": "999"},
            "cookies": ["a=1; Secure", "b=2"],
            "body": "<p>é</p>",
        }
    )
    assert (
        Reply(
            201,
            "<p>é</p>".encode(),
            [("X-Number", "3"), ("X-True", "true"), ("set-cookie", "a=1; Secure"), ("set-cookie", "b=2")],
            "text/html",
        )
        == reply
    )


@pytest.mark.parametrize(("status", "expected"), [(200, 200), ("418", 418), (404.0, 404), (599, 599)])
def test_status_codes_that_map(status: Any, expected: int) -> None:
    assert expected == mapped({"statusCode": status}).status


@pytest.mark.parametrize(
    ("body", "encoded", "expected"),
    [
        (None, False, b""),
        ({"a": 1}, False, b'{"a":1}'),
        (base64.b64encode(b"\x00\xff").decode(), True, b"\x00\xff"),
        ("AAA=", False, b"AAA="),
    ],
)
def test_bodies_of_structured_results(body: Any, encoded: bool, expected: bytes) -> None:
    assert expected == mapped({"statusCode": 200, "body": body, "isBase64Encoded": encoded}).body


@pytest.mark.parametrize(
    "result",
    [
        {"statusCode": "abc"},
        {"statusCode": None},
        {"statusCode": True},
        {"statusCode": 100},
        {"statusCode": 600},
        {"statusCode": 200.5},
        {"statusCode": 200, "headers": ["a"]},
        {"statusCode": 200, "headers": {"a": {"b": 1}}},
        {"statusCode": 200, "headers": {"a b": "1"}},
        {"statusCode": 200, "headers": {"x": "1\r\nset-cookie: stolen=1"}},
        {"statusCode": 200, "cookies": "a=1"},
        {"statusCode": 200, "cookies": ["a=1\nb"]},
        {"statusCode": 200, "body": "not base64!", "isBase64Encoded": True},
        {"statusCode": 200, "body": "\ud800"},
    ],
)
def test_what_cannot_be_mapped_is_refused(result: Any) -> None:
    with pytest.raises(UnmappableResult):
        mapped(result)


@pytest.mark.parametrize(
    "payload", [b"", b'{"statusCode":', b"NaN", b'{"x": NaN}', b'[-Infinity, "I"]', b"\xff", NESTED]
)
def test_what_is_not_json_is_refused(payload: bytes) -> None:
    with pytest.raises(UnmappableResult):
        response_of(payload)


@pytest.mark.parametrize(
    ("prefer", "hold_s"),
    [
        (None, None),
        ("wait=5", 5.0),
        ('respond-async, WAIT = "10"; foo=bar', 10.0),
        ("wait=-1", None),
        ("wait=soon", None),
        ("handling=lenient", None),
    ],
)
def test_prefer_wait(prefer: str | None, hold_s: float | None) -> None:
    assert hold_s == hold_of(prefer)


def test_timing_headers_name_tier_and_phases() -> None:
    outcome = Outcome("r", b"{}", "$LATEST", "parked", duration_ms=2.0, phases=(("start", 21.336), ("handler", 2.0)))
    assert [("X-Glowplug-Tier", "parked"), ("Server-Timing", "start;dur=21.34, handler;dur=2.00")] == start_headers(
        outcome
    )


def test_request_ids_are_version_4_uuids() -> None:
    ids = {new_request_id() for _ in range(100)}
    assert 100 == len(ids)
    assert {(4, uuid.RFC_4122)} == {(uuid.UUID(one).version, uuid.UUID(one).variant) for one in ids}
