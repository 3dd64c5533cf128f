"""The gateway: what reaches a function, and what a client learns when something else happens."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from glowplug.runtime import sigv4
from glowplug.runtime.catalog import Alias
from glowplug.runtime.credentials import Identity
from glowplug.runtime.errors import HandlerTimeout, HoldTimeout, InternalError, StateError, Throttled
from glowplug.runtime.http.admission import Admission
from glowplug.runtime.http.authentication import Authenticator
from glowplug.runtime.http.gateway import Gateway
from glowplug.runtime.http.messages import Reply, Request
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.principal import Principal
from glowplug.runtime.sigv4 import Key, Signable
from glowplug.runtime.testing import ManualClock
from glowplug.runtime.testing.deployed import Deployed, a_function
from glowplug.runtime.testing.rig import a_spec

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
ANN = Principal("AKIAANN", "000000000000", "arn:aws:iam::000000000000:user/ann", "AIDA", "ann", frozenset({"invoke"}))
IDLE = replace(ANN, access_key_id="AKIAIDLE", rights=frozenset())
STRANGER = replace(ANN, access_key_id="AKIAOTHER", account_id="111111111111")
SECRET = "s3cr3t"
LIMIT_BYTES = 100
HTTP = {
    "ProtocolType": "HTTP",
    "StageName": "$default",
    "Routes": [
        {"RouteKey": "GET /items/{id}", "FunctionName": "items", "Qualifier": "live"},
        {"RouteKey": "POST /old", "FunctionName": "items", "PayloadFormatVersion": "1.0"},
        {"RouteKey": "GET /signed", "FunctionName": "items", "AuthorizationType": "AWS_IAM"},
        {"RouteKey": "GET /gone", "FunctionName": "items", "Qualifier": "gone"},
    ],
}
REST = {
    "ProtocolType": "REST",
    "StageName": "Prod",
    "Routes": [
        {"RouteKey": "GET /items/{id}", "FunctionName": "items", "Qualifier": "live"},
        {"RouteKey": "GET /signed", "FunctionName": "items", "AuthorizationType": "AWS_IAM"},
        {"RouteKey": "OPTIONS /items/{id}", "Response": {"Headers": {"Access-Control-Allow-Origin": "https://a.example"}}},
        {"RouteKey": "GET /gone", "FunctionName": "items", "Qualifier": "gone"},
    ],
}  # fmt: skip


class Keys:
    """Three people with one secret."""

    def find(self, access_key_id: str) -> Identity | None:
        known = {one.access_key_id: one for one in (ANN, IDLE, STRANGER)}
        one = known.get(access_key_id)
        return None if one is None else Identity(one, Key(access_key_id, SECRET))


@dataclass
class Site:
    """A gateway in front of ``handler``, and all that it was asked."""

    deployed: Deployed
    handler: Callable[[Invocation], Awaitable[Outcome]]
    invocations: list[Invocation] = field(default_factory=list)
    counted: list[tuple[str, int]] = field(default_factory=list)

    def __post_init__(self) -> None:
        clock = ManualClock()
        authenticator = Authenticator(Keys(), clock, body_bytes=LIMIT_BYTES)
        admission = Admission(self.deployed, authenticator, account_id=ANN.account_id, enforce_policies=True)
        self.gateway = Gateway(
            self.deployed, self.invoke, admission, arn_prefix=ARN, account_id=ANN.account_id, clock=clock,
            request_bytes=LIMIT_BYTES, observer=self,
        )  # fmt: skip

    async def invoke(self, invocation: Invocation) -> Outcome:
        self.invocations.append(invocation)
        return await self.handler(invocation)

    def api_request(self, api_id: str, status: int, seconds: float) -> None:
        self.counted.append((api_id, status))

    def put(self, api_id: str, document: dict[str, Any] | None) -> None:
        self.deployed.catalog = self.deployed.catalog.with_document(f"api/{api_id}", document)

    def answers(self, value: Any, **more: Any) -> None:
        async def handler(invocation: Invocation) -> Outcome:
            if isinstance(value, Exception):
                raise value
            return Outcome(invocation.request_id, json.dumps(value).encode(), "$LATEST", "hot", **more)

        self.handler = handler

    async def ask(self, method: str, path: str, api: str = "http", body: bytes = b"", **headers: Any) -> Reply:
        given = {"host": "localhost", **{name.replace("_", "-"): value for name, value in headers.items()}}
        request = Request(
            "r-1", method, f"/_apis/{api}{path}", "", "localhost", given, "HTTP/1.1", "127.0.0.1", 9000, 1.0, body=body
        )
        return await self.gateway.answer(request, api, path)

    async def said(self, method: str, path: str, api: str = "http", **more: Any) -> tuple[int, str]:
        reply = await self.ask(method, path, api, **more)
        return reply.status, json.loads(reply.body)["message"]

    def event(self) -> dict[str, Any]:
        return dict(json.loads(self.invocations[-1].payload))


@pytest.fixture
def site() -> Site:
    function = replace(a_function(a_spec("items")), aliases={"live": Alias("live", "$LATEST", "rev")})
    site = Site(Deployed(function), lambda invocation: asyncio.sleep(0, Outcome("", b"", "", "hot")))
    site.put("http", HTTP)
    site.put("rest", REST)
    site.answers({"statusCode": 200, "body": "done"})
    return site


def signature(by: Principal, path: str, service: str = "execute-api") -> dict[str, Any]:
    signable = Signable("GET", path, "", {"host": "localhost"})
    digest = hashlib.sha256(b"").hexdigest()
    return {**sigv4.sign(
        Key(by.access_key_id, SECRET), signable, region="us-east-1", service=service, now_s=ManualClock().time(),
        payload_hash=digest,
    )}  # fmt: skip


async def test_a_route_invokes_the_alias_that_it_names(site: Site) -> None:
    reply = await site.ask("GET", "/items/7", x_amzn_trace_id="Root=1-y", prefer="wait=9")
    assert (200, b"done") == (reply.status, reply.body)
    one = site.invocations[0]
    assert ("items", "$LATEST", f"{ARN}items:live", "Root=1-y", 9.0) == (
        one.function, one.version, one.function_arn, one.trace_id, one.hold_s
    )  # fmt: skip
    assert ({"id": "7"}, "GET /items/{id}") == (site.event()["pathParameters"], site.event()["routeKey"])
    assert [("http", 200)] == site.counted
    assert ("X-Glowplug-Tier", "hot") in reply.headers


async def test_the_payload_format_is_the_routes_own(site: Site) -> None:
    assert b"done" == (await site.ask("POST", "/old", body=b"x", content_type="text/plain")).body
    assert ("1.0", "/old", "x") == (site.event()["version"], site.event()["resource"], site.event()["body"])
    assert b"done" == (await site.ask("GET", "/Prod/items/7", "rest")).body
    assert ("/items/{id}", "/items/7") == (site.event()["resource"], site.event()["path"])
    site.answers(["plain"])
    assert (200, b'["plain"]') == ((reply := await site.ask("GET", "/items/7")).status, reply.body)


@pytest.mark.parametrize(
    ("path", "api", "status", "message"),
    [
        ("/none", "http", 404, "Not Found"),
        ("/Prod/none", "rest", 403, "Missing Authentication Token"),
        ("/Prod", "rest", 403, "Missing Authentication Token"),
        ("/items/7", "rest", 403, "Forbidden"),
        ("/Production/items/7", "rest", 403, "Forbidden"),
        ("*", "http", 404, "Not Found"),
        ("/items/7", "nobody", 403, "Forbidden"),
        ("/gone", "http", 500, "Internal Server Error"),
        ("/Prod/gone", "rest", 502, "Internal server error"),
    ],
)
async def test_what_leads_nowhere(site: Site, path: str, api: str, status: int, message: str) -> None:
    assert (status, message) == await site.said("GET", path, api)
    assert [] == site.invocations


@pytest.mark.parametrize(
    ("answer", "http", "rest"),
    [
        (HandlerTimeout("secret"), (500, "Internal Server Error"), (502, "Internal server error")),
        ({"statusCode": "?"}, (500, "Internal Server Error"), (502, "Internal server error")),
        (HoldTimeout("late"), (503, "Service Unavailable"), (504, "Endpoint request timed out")),
        (Throttled("m", reason="r", retry_after_s=1.2), (429, "Too Many Requests"), (429, "Too Many Requests")),
    ],
)
async def test_faults_in_the_words_of_each_kind_of_api(site: Site, answer: Any, http: Any, rest: Any) -> None:
    site.answers(answer)
    assert [http, rest] == [await site.said("GET", "/items/7"), await site.said("GET", "/Prod/items/7", "rest")]
    if isinstance(answer, Throttled):
        assert ("Retry-After", "2") in (await site.ask("GET", "/items/7")).headers


async def test_a_function_error_stays_secret(site: Site) -> None:
    site.answers({"errorMessage": "secret"}, function_error="Unhandled")
    assert (500, "Internal Server Error") == await site.said("GET", "/items/7")
    assert (502, "Internal server error") == await site.said("GET", "/Prod/items/7", "rest")


@pytest.mark.parametrize("error", [InternalError("ours"), StateError("ours"), TimeoutError("ours")])
async def test_a_fault_of_the_node_is_not_dressed_up(site: Site, error: Exception) -> None:
    """Nor taken for the end of the route's time: only that is one."""
    site.answers(error)
    with pytest.raises(type(error)):
        await site.ask("GET", "/items/7")


async def test_a_function_that_takes_longer_than_its_route_allows_is_given_up(site: Site) -> None:
    ended: list[str] = []

    async def hangs(invocation: Invocation) -> Outcome:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append(invocation.request_id)
        raise AssertionError

    site.handler = hangs
    for api, kind in (("http", HTTP), ("rest", REST)):
        routes: Any = kind["Routes"]
        site.put(api, {**kind, "Routes": [{**routes[0], "TimeoutInMillis": 50}]})
    assert (503, "Service Unavailable") == await site.said("GET", "/items/7")
    assert (504, "Endpoint request timed out") == await site.said("GET", "/Prod/items/7", "rest")
    assert ["r-1", "r-1"] == ended


async def test_a_body_over_the_limit_runs_nothing(site: Site) -> None:
    assert (413, "Request Entity Too Large") == await site.said("POST", "/old", body=b"x" * (LIMIT_BYTES + 1))
    assert [] == site.invocations


async def test_an_api_that_is_put_again_is_served_as_it_is_now(site: Site) -> None:
    assert 200 == (await site.ask("GET", "/items/7")).status
    site.put("http", {**HTTP, "Routes": []})
    assert 404 == (await site.ask("GET", "/items/7")).status
    site.put("http", None)
    assert 403 == (await site.ask("GET", "/items/7")).status


# --- who calls --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("api", ["http", "rest"])
async def test_a_route_of_aws_iam_wants_a_signature_for_apis(site: Site, api: str) -> None:
    path = "/Prod/signed" if api == "rest" else "/signed"
    signed = signature(ANN, f"/_apis/{api}{path}")
    assert 200 == (await site.ask("GET", path, api, **signed)).status
    context = site.event()["requestContext"]
    assert ANN.arn == (context["identity"] if api == "rest" else context["authorizer"]["iam"])["userArn"]
    others = [
        {}, signature(IDLE, f"/_apis/{api}{path}"), signature(STRANGER, f"/_apis/{api}{path}"),
        signature(ANN, f"/_apis/{api}/elsewhere"), signature(ANN, f"/_apis/{api}{path}", "lambda"),
    ]  # fmt: skip
    assert [403] * 5 == [(await site.ask("GET", path, api, **one)).status for one in others]
    assert 1 == len(site.invocations)


async def test_a_rest_api_says_what_is_wrong_with_a_signature_and_an_http_api_does_not(site: Site) -> None:
    assert (403, "Missing Authentication Token") == await site.said("GET", "/Prod/signed", "rest")
    assert (403, "Forbidden") == await site.said("GET", "/signed")


# --- pages of other origins -------------------------------------------------------------------------------------------

PREFLIGHT: dict[str, Any] = {"origin": "https://a.example", "access_control_request_method": "GET"}
CORS = {"AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "MaxAge": 60}


async def test_an_http_api_with_cors_answers_preflights_by_itself(site: Site) -> None:
    site.put("http", {**HTTP, "CorsConfiguration": CORS})
    reply = await site.ask("OPTIONS", "/anywhere", **PREFLIGHT)
    assert (204, b"") == (reply.status, reply.body)
    assert {
        "access-control-allow-origin": "https://a.example", "vary": "Origin", "access-control-allow-methods": "GET",
        "access-control-max-age": "60",
    } == dict(reply.headers)  # fmt: skip
    assert [] == site.invocations
    assert () == (await site.ask("OPTIONS", "/", **{**PREFLIGHT, "origin": "https://b.example"})).headers


async def test_a_function_behind_cors_settings_has_no_say_in_them(site: Site) -> None:
    site.put("http", {**HTTP, "CorsConfiguration": CORS})
    site.answers({"statusCode": 200, "headers": {"Access-Control-Allow-Origin": "*", "X-A": "1"}})
    headers = dict((await site.ask("GET", "/items/7", origin="https://a.example")).headers)
    assert ("https://a.example", "1") == (headers["access-control-allow-origin"], headers["X-A"])
    strangers: list[dict[str, Any]] = [{}, {"origin": "https://b.example"}]
    for more in strangers:
        assert "origin" not in str((await site.ask("GET", "/items/7", **more)).headers).lower()
    missing = dict((await site.ask("GET", "/none", origin="https://a.example")).headers)
    assert "https://a.example" == missing["access-control-allow-origin"]


async def test_without_settings_options_is_a_method_like_others(site: Site) -> None:
    assert (404, "Not Found") == await site.said("OPTIONS", "/items/7", **PREFLIGHT)
    reply = await site.ask("OPTIONS", "/Prod/items/7", "rest", **PREFLIGHT)
    assert [("Access-Control-Allow-Origin", "https://a.example")] == reply.headers


async def test_who_is_welcome_is_what_the_author_of_the_api_says(site: Site) -> None:
    def welcome(api: str, origin: str = "https://a.example") -> bool:
        return site.gateway.welcomes(api, origin)

    assert (False, True, False, False) == (
        welcome("http"), welcome("rest"), welcome("rest", "https://b.example"), welcome("nobody")
    )  # fmt: skip
    site.put("http", {**HTTP, "CorsConfiguration": CORS})
    assert (True, False) == (welcome("http"), welcome("http", "https://b.example"))
