"""The edge on real sockets: both listeners, function URLs, the Lambda API with boto3, the admin API, clients that leave."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import aiohttp
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from glowplug.deploy.client import NodeClient
from glowplug.runtime.clock import SystemClock
from glowplug.runtime.config import Limits, NodeConfig
from glowplug.runtime.control import EngineListing, Health, StackResult
from glowplug.runtime.errors import (
    DefinitionError,
    Forbidden,
    HandlerTimeout,
    HoldTimeout,
    InternalError,
    ResourceNotFound,
    StateError,
    Throttled,
)
from glowplug.runtime.http.admin import AdminApi
from glowplug.runtime.http.admission import Admission
from glowplug.runtime.http.dispatch import ControlSurface, Door, Front, PublicSurface
from glowplug.runtime.http.downloads import VALID_S, Downloads
from glowplug.runtime.http.function_url import FunctionUrls
from glowplug.runtime.http.gateway import Gateway
from glowplug.runtime.http.hosts import ControlGuard
from glowplug.runtime.http.lambda_api.api import LambdaApi
from glowplug.runtime.http.lambda_api.call import Services
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.http.messages import Request
from glowplug.runtime.http.server import HttpServer
from glowplug.runtime.http.streaming import Streams
from glowplug.runtime.invocation import Invocation, Outcome, Tier
from glowplug.runtime.management.stacks import FunctionChange
from glowplug.runtime.metrics import Metrics
from glowplug.runtime.packages import Packages
from glowplug.runtime.routing.tasks import OwnedTasks
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.stacks import OnEvent, StackRequest
from glowplug.runtime.testing import FakeAcceptor, FakeMappings
from glowplug.runtime.testing.clock import ManualClock
from glowplug.runtime.testing.deployed import Deployed, a_function

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
ECHO = FunctionSpec(name="echo", handler="echo.handler", runtime="python3.11", code_digest="ab" * 32)
LIMIT_BYTES = 256 * 1024

Handler = Callable[[Invocation], Awaitable[Outcome]]


class Control:
    """As much of a control plane as the admin API's plumbing needs."""

    def __init__(self) -> None:
        self.code: dict[str, bytes] = {}
        self.refusal: Exception | None = None

    async def health(self) -> Health:
        return Health("ok", "0", 1.0, 1, 2, "/state", "x86_64", ("python3.11",))

    async def start(self, request_id: str) -> Any:
        raise ResourceNotFound(f"No start is recorded for request {request_id}")

    async def cool(self, name: str, to: Tier) -> Tier:
        return to

    async def logs(self, name: str, *, request_id: str | None, last: int | None) -> str:
        return f"{name} {request_id} {last} é\n"

    async def bake(self, name: str, *, wait: bool, on_event: OnEvent) -> tuple[EngineListing, ...]:
        raise RuntimeError("a fault of ours")

    async def has_code(self, digest: str) -> bool:
        return digest in self.code

    async def put_code(self, digest: str, parts: AsyncIterator[bytes]) -> int:
        self.code[digest] = b"".join([part async for part in parts])
        return len(self.code[digest])

    async def put_stack(self, request: StackRequest, on_event: OnEvent) -> StackResult:
        on_event({"event": "progress", "file": "m", "done_bytes": 1, "total_bytes": 2})
        if self.refusal is not None:
            raise self.refusal
        return StackResult(tuple(FunctionChange(name, "created") for name in request.definitions.functions))


@dataclass
class Edge:
    """A server on free ports in front of ``handler``."""

    server: HttpServer
    control: Control
    metrics: Metrics
    invocations: list[Invocation]
    handler: Handler
    seen: asyncio.Event = field(default_factory=asyncio.Event)

    async def invoke(self, invocation: Invocation) -> Outcome:
        self.invocations.append(invocation)
        self.seen.set()
        return await self.handler(invocation)

    def answers(self, value: Any, **more: Any) -> None:
        async def handler(invocation: Invocation) -> Outcome:
            if isinstance(value, Exception):
                raise value
            payload = json.dumps(value).encode()
            return Outcome(invocation.request_id, payload, "$LATEST", "parked", duration_ms=1.0, **more)

        self.handler = handler

    async def raw(
        self, request: str, body: bytes = b"", *, port: int | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """Send bytes as they are, on a connection of their own, and read the response to its end."""
        reader, writer = await asyncio.open_connection("127.0.0.1", port or self.server.port)
        head = request.replace("\n", "\r\n")
        writer.write(f"{head}\r\nConnection: close\r\n\r\n".encode() + body)
        try:
            data = await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()
            await writer.wait_closed()
        head, _, rest = data.decode("latin-1").partition("\r\n\r\n")
        status, *lines = head.split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        return int(status.split()[1]), headers, rest.encode("latin-1")

    async def get(
        self, path: str, host: str = "localhost", *headers: str, port: int | None = None
    ) -> tuple[int, bytes]:
        lines = "\n".join([f"GET {path} HTTP/1.1", f"Host: {host}", *headers])
        status, _, body = await self.raw(lines, port=port)
        return status, body


def an_api(cors: dict[str, Any]) -> dict[str, Any]:
    routes = [
        {"RouteKey": "ANY /items/{id}", "FunctionName": "echo"},
        {"RouteKey": "ANY /old", "FunctionName": "echo", "PayloadFormatVersion": "1.0"},
    ]
    return {"ProtocolType": "HTTP", "StageName": "$default", "Routes": routes, "CorsConfiguration": cors}


class Zips:
    """One zip."""

    def has(self, digest: str) -> bool:
        return digest == ECHO.code_digest

    def size(self, digest: str) -> int:
        return 7

    async def read(self, digest: str) -> AsyncGenerator[bytes, None]:
        for piece in (b"the", b" zip"):
            yield piece


@asynccontextmanager
async def edge_at(**settings: Any) -> AsyncIterator[Edge]:
    clock = SystemClock()
    defaults: dict[str, Any] = {"port": 0, "public_port": 0, "limits": Limits(sync_request_bytes=LIMIT_BYTES)}
    config = NodeConfig(Path("/nowhere"), Path("/nowhere"), **(defaults | settings))
    server, control, metrics = HttpServer(config, clock=clock), Control(), Metrics(statuses=list)
    edge = Edge(server, control, metrics, [], lambda invocation: asyncio.sleep(0, Outcome("", b"", "", "hot")))
    edge.answers("hello")
    registry, invoke = Deployed(a_function(ECHO, url=True)), metrics.observed(edge.invoke)
    for api_id, cors in (("web", {}), ("shared", {"AllowOrigins": ["https://a.example"]})):
        registry.catalog = registry.catalog.with_document(f"api/{api_id}", an_api(cors))
    admission = Admission(registry, None, account_id="000000000000", enforce_policies=False)
    streams = Streams(invoke, OwnedTasks(), clock=clock, limits=config.limits)
    urls = FunctionUrls(
        registry, invoke, streams, admission, arn_prefix=ARN, clock=clock, request_bytes=LIMIT_BYTES, observer=metrics
    )
    gateway = Gateway(
        registry, invoke, admission, arn_prefix=ARN, account_id="000000000000", clock=clock,
        request_bytes=LIMIT_BYTES, observer=metrics,
    )  # fmt: skip
    downloads = Downloads(Zips(), b"k" * 32, clock)
    services = Services(
        directory=registry, deployments=registry, invoke=invoke, streams=streams, events=FakeAcceptor(), retries=Retries(clock), clock=clock, limits=config.limits,
        region="us-east-1", account_id="000000000000", endpoint=lambda: server.endpoint, packages=Packages(None, config.limits),  # type: ignore[arg-type]
        downloads=downloads, sources=FakeMappings(), pollers=FakeMappings(),
    )  # fmt: skip
    api = LambdaApi(services)
    admin = AdminApi(control, control, metrics, limits=config.limits)  # type: ignore[arg-type]
    server.bind()
    try:
        fronts: dict[Door, Front] = {"url": urls, "api": gateway}
        surface = ControlSurface(fronts, api, admin, ControlGuard(config.hosts), downloads)
        await server.serve(control=surface, public=PublicSurface(fronts))
        yield edge
    finally:
        await server.close(1.0)


@pytest.fixture
async def edge() -> AsyncIterator[Edge]:
    async with edge_at() as made:
        yield made


# --- APIs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "host"),
    [
        ("/_apis/web/items/a%2Fb?q=1", "localhost"),
        ("/_apis/WEB/items/a%2Fb?q=1", "localhost"),
        ("http://localhost/_apis/web/items/a%2Fb?q=1", "localhost"),
        ("/items/a%2Fb?q=1", "WEB.execute-api.us-east-1.amazonaws.com:9000"),
        ("/items/a%2Fb?q=1", "web.execute-api.localhost"),
    ],
)
async def test_an_api_is_found_by_path_and_by_host_on_either_listener(edge: Edge, target: str, host: str) -> None:
    for port in (edge.server.port, edge.server.public_port):
        assert (200, b"hello") == await edge.get(target, host, port=port)
        event = json.loads(edge.invocations[-1].payload)
        assert ("web", "/items/a/b", {"id": "a/b"}, "q=1") == (
            event["requestContext"]["apiId"], event["rawPath"], event["pathParameters"], event["rawQueryString"]
        )  # fmt: skip


async def test_an_apis_host_never_reaches_what_is_the_nodes(edge: Edge) -> None:
    for path in ("/_glowplug/health", "/_url/echo/", "/metrics", "/2015-03-31/functions", "/_apis/web/items/7"):
        assert (404, b'{"message":"Not Found"}') == await edge.get(path, "web.execute-api.localhost")
    assert [] == edge.invocations


async def test_repeated_headers_reach_format_1_one_by_one(edge: Edge) -> None:
    edge.answers({"statusCode": 200, "multiValueHeaders": {"Set-Cookie": ["a=1", "b=2"]}, "body": "é"})
    status, _, body = await edge.raw("GET /_apis/web/old HTTP/1.1\nHost: localhost\nX-A: 1\nx-a: 2\nCookie: c=3")
    assert (200, "é".encode()) == (status, body)
    event = json.loads(edge.invocations[0].payload)
    assert (["1", "2"], "2", "c=3") == (
        event["multiValueHeaders"]["x-a"], event["headers"]["x-a"], event["headers"]["cookie"]
    )  # fmt: skip


async def test_head_and_options_are_methods_of_a_route(edge: Edge) -> None:
    status, headers, body = await edge.raw("HEAD /_apis/web/items/7 HTTP/1.1\nHost: localhost")
    assert (200, "5", b"") == (status, headers["content-length"], body)
    status, _, body = await edge.raw("OPTIONS /_apis/web/items/7 HTTP/1.1\nHost: localhost")
    assert (200, b"hello") == (status, body)


async def test_a_page_of_another_origin_is_let_in_where_the_api_lets_it_in(edge: Edge) -> None:
    page = "Origin: https://a.example\nSec-Fetch-Site: cross-site"
    asked = "Access-Control-Request-Method: GET"
    status, headers, _ = await edge.raw(f"OPTIONS /_apis/shared/old HTTP/1.1\nHost: localhost\n{page}\n{asked}")
    assert (204, "https://a.example") == (status, headers["access-control-allow-origin"])
    status, headers, body = await edge.raw(f"GET /_apis/shared/items/7 HTTP/1.1\nHost: localhost\n{page}")
    assert (200, "https://a.example", b"hello") == (status, headers["access-control-allow-origin"], body)
    for target in ("/_apis/web/items/7", "/_apis/none/", "/_glowplug/health"):
        assert 403 == (await edge.raw(f"GET {target} HTTP/1.1\nHost: localhost\n{page}"))[0]
    other = page.replace("a.example", "b.example")
    assert 403 == (await edge.raw(f"GET /_apis/shared/items/7 HTTP/1.1\nHost: localhost\n{other}"))[0]


async def test_requests_to_an_api_are_counted_by_its_id(edge: Edge) -> None:
    for path in ("items/7", "none"):
        await edge.get(f"/_apis/web/{path}")
    await edge.get("/_apis/nobody/")
    text = edge.metrics.render().decode()
    assert 'ApiRequestCount_total{api_id="web"} 2.0' in text
    assert 'Api4xxCount_total{api_id="web"} 1.0' in text
    assert "nobody" not in text


# --- function URLs --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "raw_path", "query"),
    [
        ("/_url/echo", "/", ""),
        ("/_url/echo?x=1", "/", "x=1"),
        ("/_url/ECHO/", "/", ""),
        ("/_url/ech%6F/pa2%2Fth/1?q=%20a&q=2", "/pa2%2Fth/1", "q=%20a&q=2"),
        ("/_url/echo//a/../b", "//a/../b", ""),
        ("http://localhost/_url/echo/x", "/x", ""),
    ],
)
async def test_a_function_url_by_path_keeps_the_path_as_sent(
    edge: Edge, target: str, raw_path: str, query: str
) -> None:
    assert (200, b"hello") == await edge.get(target)
    event = json.loads(edge.invocations[0].payload)
    assert (raw_path, query) == (event["rawPath"], event["rawQueryString"])


async def test_a_function_url_by_host_has_every_path(edge: Edge) -> None:
    host = "ECHO.lambda-url.us-east-1.on.aws:9000"
    for path in ("/", "/_glowplug/health", "/_url/other/", "/metrics", "/2015-03-31/functions"):
        assert (200, b"hello") == await edge.get(path, host)
        assert path == json.loads(edge.invocations[-1].payload)["rawPath"]
    context = json.loads(edge.invocations[0].payload)["requestContext"]
    assert ("echo", "echo.lambda-url.us-east-1.on.aws") == (context["domainPrefix"], context["domainName"])


async def test_a_structured_response_reaches_the_client(edge: Edge) -> None:
    encoded = base64.b64encode(b"\x00\x01").decode()
    edge.answers(
        {
            "statusCode": 418,
            "headers": {"X-A": "1"},
            "cookies": ["a=1", "b=2"],
            "body": encoded,
            "isBase64Encoded": True,
        },
        phases=(("start", 20.0), ("handler", 1.5)),
    )
    status, headers, body = await edge.raw("GET /_url/echo/ HTTP/1.1\nHost: localhost")
    assert (418, "1", b"\x00\x01") == (status, headers["x-a"], body)
    assert ("parked", "start;dur=20.00, handler;dur=1.50") == (headers["x-glowplug-tier"], headers["server-timing"])
    assert edge.invocations[0].request_id == headers["x-amzn-requestid"]
    assert "b=2" == headers["set-cookie"]  # the last one


async def test_head_has_no_body(edge: Edge) -> None:
    status, headers, body = await edge.raw("HEAD /_url/echo/ HTTP/1.1\nHost: localhost")
    assert (200, "5", b"") == (status, headers["content-length"], body)


@pytest.mark.parametrize(
    ("answer", "status", "body"),
    [
        (HandlerTimeout("secret"), 502, b"Internal Server Error"),
        ({"statusCode": "?"}, 502, b"Internal Server Error"),
        (HoldTimeout("late"), 504, b'{"Type":"Service","Message":"late"}'),
        (InternalError("m"), 500, b'{"Type":"Service","Message":"m"}'),
    ],
)
async def test_faults_behind_a_function_url(edge: Edge, answer: Any, status: int, body: bytes) -> None:
    edge.answers(answer)
    assert (status, body) == await edge.get("/_url/echo/")


async def test_a_function_error_stays_secret(edge: Edge) -> None:
    edge.answers({"errorMessage": "secret"}, function_error="Unhandled")
    status, headers, body = await edge.raw("GET /_url/echo/ HTTP/1.1\nHost: localhost")
    assert (502, b"Internal Server Error", "parked") == (status, body, headers["x-glowplug-tier"])


async def test_a_throttled_client_is_told_when_to_come_back(edge: Edge) -> None:
    edge.answers(Throttled("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded", retry_after_s=2.1))
    status, headers, body = await edge.raw("GET /_url/echo/ HTTP/1.1\nHost: localhost")
    assert (429, "3", "Rate Exceeded.") == (status, headers["retry-after"], json.loads(body)["message"])


async def test_an_unknown_url_is_403(edge: Edge) -> None:
    status, headers, body = await edge.raw("GET /_url/nobody/ HTTP/1.1\nHost: localhost")
    assert (403, b'{"Message":null}', "AccessDeniedException") == (status, body, headers["x-amzn-errortype"])


async def test_an_unexpected_error_is_500_and_the_next_request_works(edge: Edge) -> None:
    edge.answers(ValueError("a bug"))
    status, body = await edge.get("/_url/echo/")
    assert (500, False) == (status, b"a bug" in body)
    edge.answers("again")
    assert (200, b"again") == await edge.get("/_url/echo/")


# --- bodies ---------------------------------------------------------------------------------------------------------

POST = "POST /_url/echo/ HTTP/1.1\nHost: localhost\nContent-Type: text/plain\n"


async def test_a_body_over_the_limit_is_413_with_lambdas_sentence(edge: Edge) -> None:
    size = LIMIT_BYTES + 1
    status, _, body = await edge.raw(f"{POST}Content-Length: {size}", b"x" * size)
    assert 413 == status
    assert {
        "Type": "User",
        "message": f"{size} byte payload is too large for the RequestResponse invocation type (limit {LIMIT_BYTES} bytes)",
    } == json.loads(body)
    assert [] == edge.invocations


async def test_a_chunked_body(edge: Edge) -> None:
    status, _, _ = await edge.raw(f"{POST}Transfer-Encoding: chunked", b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
    assert (200, "abcde") == (status, json.loads(edge.invocations[0].payload)["body"])


async def test_a_chunked_body_over_the_limit_is_413(edge: Edge) -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    status, _, _ = await edge.raw(f"{POST}Transfer-Encoding: chunked", chunk * 5 + b"0\r\n\r\n")
    assert 413 == status


async def test_expect_100_continue_is_answered_before_the_body(edge: Edge) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    writer.write(f"{POST}Content-Length: 3\nExpect: 100-continue\n\n".replace("\n", "\r\n").encode())
    assert b"HTTP/1.1 100 Continue\r\n\r\n" == await asyncio.wait_for(reader.readexactly(25), 5)
    writer.write(b"abc")
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 200")
    writer.close()
    await writer.wait_closed()


async def test_a_client_that_leaves_cancels_its_invocation(edge: Edge) -> None:
    cancelled = asyncio.Event()

    async def handler(invocation: Invocation) -> Outcome:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise
        raise AssertionError("unreachable")

    edge.handler = handler
    _, writer = await asyncio.open_connection("127.0.0.1", edge.server.port)
    writer.write(b"GET /_url/echo/ HTTP/1.1\r\nHost: localhost\r\n\r\n")
    await asyncio.wait_for(edge.seen.wait(), 5)
    writer.close()
    await asyncio.wait_for(cancelled.wait(), 5)


# --- listeners ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9000", "127.0.0.1.evil.example"])
@pytest.mark.parametrize("path", ["/_glowplug/health", "/_url/echo/", "/2015-03-31/functions", "/metrics"])
async def test_control_refuses_a_foreign_host(edge: Edge, host: str, path: str) -> None:
    assert 403 == (await edge.get(path, host))[0]
    assert 403 == (await edge.get(f"http://{host}{path}", "localhost"))[0]
    assert [] == edge.invocations


@pytest.mark.parametrize(
    "header", ["Origin: http://evil.example", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
)
@pytest.mark.parametrize("path", ["/_glowplug/health", "/_url/echo/", "/2015-03-31/functions/echo"])
async def test_control_refuses_what_a_browser_marks_as_cross_site(edge: Edge, header: str, path: str) -> None:
    assert 403 == (await edge.get(path, "localhost", header))[0]
    assert [] == edge.invocations


async def test_control_answers_its_own_names() -> None:
    async with edge_at(hosts=("gpu-box.lan",)) as edge:
        for host in (f"localhost:{edge.server.port}", "127.0.0.1", "[::1]:1", "GPU-Box.lan:80"):
            assert 200 == (await edge.get("/_glowplug/health", host))[0]


async def test_public_serves_function_urls_and_nothing_else(edge: Edge) -> None:
    port = edge.server.public_port
    assert (200, b"hello") == await edge.get("/_url/echo/", "models.example", "Origin: http://else.example", port=port)
    assert (200, b"hello") == await edge.get("/", "echo.lambda-url.eu.models.example", port=port)
    for path in ("/", "/_glowplug/health", "/metrics", "/2015-03-31/functions/echo", "/_url", "/_url%2Fecho/"):
        assert 403 == (await edge.get(path, "localhost", port=port))[0]


async def test_a_port_that_is_taken_is_named_and_the_other_one_given_back() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        with pytest.raises(StateError, match=f"control listener: port {number} on 127.0.0.1 is taken.*--port"):
            async with edge_at(port=number):
                pass
        with socket.create_server(("127.0.0.1", 0)) as free:
            other = free.getsockname()[1]
        with pytest.raises(StateError, match=f"public listener: port {number} .*--public-port"):
            async with edge_at(port=other, public_port=number):
                pass
        socket.create_server(("127.0.0.1", other)).close()


async def test_the_control_listener_stays_on_loopback() -> None:
    with pytest.raises(StateError, match="reachable by other machines"):
        async with edge_at(host="0.0.0.0"):
            pass


async def test_a_control_listener_that_asks_who_calls_may_be_reached_by_other_machines() -> None:
    server = HttpServer(NodeConfig(Path("/s"), Path("/s"), host="0.0.0.0", port=0), clock=SystemClock(), guarded=True)
    server.bind()
    server.stop_accepting()
    assert server.endpoint == f"http://127.0.0.1:{server.port}"


async def test_no_socket_is_inherited_by_children(edge: Edge) -> None:
    await edge.get("/_url/echo/")
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:
            continue  # the one that listed them
        if int(name) > 2 and target.startswith("socket:"):
            assert not os.get_inheritable(int(name))


async def test_close_lets_a_request_under_way_finish() -> None:
    async with edge_at() as edge:
        release = asyncio.Event()

        async def handler(invocation: Invocation) -> Outcome:
            await release.wait()
            return Outcome(invocation.request_id, b'"done"', "$LATEST", "hot")

        edge.handler = handler
        answer = asyncio.create_task(edge.get("/_url/echo/"))
        await asyncio.wait_for(edge.seen.wait(), 5)
        closing = asyncio.create_task(edge.server.close(5.0))
        await asyncio.sleep(0)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", edge.server.port)
        release.set()
        assert (200, b"done") == await answer
        await closing


# --- the Lambda API -------------------------------------------------------------------------------------------------


def boto(edge: Edge) -> Any:
    return boto3.client(
        "lambda",
        endpoint_url=edge.server.endpoint,
        region_name="us-east-1",
        aws_access_key_id="test",
        aws_secret_access_key="test",
        config=Config(retries={"max_attempts": 0}, read_timeout=10),
    )


async def call(edge: Edge, operation: str, **parameters: Any) -> Any:
    def work() -> Any:
        client = boto(edge)
        try:
            answer = getattr(client, operation)(**parameters)
            return answer | ({"Payload": answer["Payload"].read()} if "Payload" in answer else {})
        finally:
            client.close()

    return await asyncio.to_thread(work)


@pytest.mark.parametrize("name", ["echo", f"{ARN}echo", "000000000000:function:echo", "echo:$LATEST"])
async def test_boto3_invokes_by_name_and_arn(edge: Edge, name: str) -> None:
    edge.answers({"a": "é"}, log_tail="START …".encode())
    answer = await call(edge, "invoke", FunctionName=name, Payload=b'{"x": 1}', LogType="Tail")
    assert (200, b'{"a": "\\u00e9"}', "$LATEST") == (answer["StatusCode"], answer["Payload"], answer["ExecutedVersion"])
    assert "START …".encode() == base64.b64decode(answer["LogResult"])
    assert edge.invocations[0].request_id == answer["ResponseMetadata"]["RequestId"]
    assert b'{"x": 1}' == edge.invocations[0].payload


async def test_boto3_sees_a_function_error(edge: Edge) -> None:
    edge.answers({"errorType": "E"}, function_error="Unhandled")
    answer = await call(edge, "invoke", FunctionName="echo")
    assert (200, "Unhandled") == (answer["StatusCode"], answer["FunctionError"])


@pytest.mark.parametrize(
    ("parameters", "code", "status"),
    [
        ({"FunctionName": "nobody"}, "ResourceNotFoundException", 404),
        ({"FunctionName": "echo", "Payload": b"{"}, "InvalidRequestContentException", 400),
        ({"FunctionName": "nobody", "InvocationType": "Event"}, "ResourceNotFoundException", 404),
        ({"FunctionName": "echo:a", "Qualifier": "b"}, "InvalidParameterValueException", 400),
        ({"FunctionName": "echo", "Payload": b"x" * (LIMIT_BYTES + 1)}, "RequestEntityTooLargeException", 413),
    ],
)
async def test_boto3_sees_errors_by_code(edge: Edge, parameters: dict[str, Any], code: str, status: int) -> None:
    with pytest.raises(ClientError) as caught:
        await call(edge, "invoke", **parameters)
    response = caught.value.response
    assert (code, status) == (response["Error"]["Code"], response["ResponseMetadata"]["HTTPStatusCode"])


async def test_boto3_sees_operations_that_are_not_built(edge: Edge) -> None:
    with pytest.raises(ClientError, match="GetDurableExecution is not supported"):
        await call(edge, "get_durable_execution", DurableExecutionArn="arn:aws:lambda:us-east-1:000000000000:x")


async def test_boto3_lists_and_describes_functions(edge: Edge) -> None:
    assert ["echo"] == [one["FunctionName"] for one in (await call(edge, "list_functions"))["Functions"]]
    assert "Active" == (await call(edge, "get_function", FunctionName="echo"))["Configuration"]["State"]


async def test_the_code_is_downloaded_by_its_link_and_by_no_other(edge: Edge) -> None:
    location = (await call(edge, "get_function", FunctionName="echo"))["Code"]["Location"]
    assert location.startswith(f"{edge.server.endpoint}/_glowplug/download/{ECHO.code_digest}?Expires=")
    async with aiohttp.ClientSession() as session:

        async def get(url: str, method: str = "GET") -> tuple[int, str, str | None]:
            async with session.request(method, url) as response:
                return response.status, await response.text(), response.headers.get("Content-Length")

        assert (200, "the zip", "7") == await get(location)
        bare, other = location.partition("?")[0], ECHO.code_digest[::-1]
        later = re.sub(r"Expires=(\d+)", lambda found: f"Expires={int(found[1]) + 1}", location)
        for forged in (
            bare,
            later,
            location[:-1],
            location + "0",
            location.replace(ECHO.code_digest, other),
            f"{bare}?Expires=%ff&Signature=%ff",
        ):
            status, text, _ = await get(forged)
            assert (403, True) == (status, "signature of this link" in text), forged
        assert 405 == (await get(location, "PUT"))[0]
        public = location.replace(f":{edge.server.port}/", f":{edge.server.public_port}/")
        assert 403 == (await get(public))[0]


async def test_a_link_expires_and_is_not_found_when_the_code_is_gone() -> None:
    clock = ManualClock()
    downloads = Downloads(Zips(), b"k" * 32, clock)
    request = Request("r-1", "GET", "/", "", "localhost:9000", {}, "HTTP/1.1", "127.0.0.1", 9000, 0.0)

    def asked(digest: str) -> Request:
        _, _, target = downloads.location(request, digest).partition("localhost:9000")
        path, _, query = target.partition("?")
        return replace(request, path=path, query=query)

    link, gone = asked(ECHO.code_digest), asked("0" * 64)
    with pytest.raises(ResourceNotFound, match="Code not found"):
        await downloads.answer(gone)
    await clock.advance(VALID_S)
    assert 200 == (await downloads.answer(link)).status
    await clock.advance(1.0)
    with pytest.raises(Forbidden, match="expired"):
        await downloads.answer(link)
    with pytest.raises(Forbidden, match="signature"):
        await Downloads(Zips(), b"l" * 32, clock).answer(link)


async def test_boto3_dry_run(edge: Edge) -> None:
    answer = await call(edge, "invoke", FunctionName="echo", InvocationType="DryRun")
    assert (204, []) == (answer["StatusCode"], edge.invocations)


# --- the admin API, with the command line's own client ---------------------------------------------------------------


async def test_admin_answers_the_client_of_the_command_line(edge: Edge) -> None:
    client = NodeClient(edge.server.endpoint)
    assert "ok" == (await asyncio.to_thread(client.health))["status"]
    assert {"function": "echo", "tier": "parked"} == await asyncio.to_thread(client.cool, "echo", "parked")
    assert "echo r-1 5 é\n" == await asyncio.to_thread(client.logs, "echo", request_id="r-1", last=5)
    assert not await asyncio.to_thread(client.has_code, "ab")
    await asyncio.to_thread(client.put_code, "ab", b"zip")
    assert await asyncio.to_thread(client.has_code, "ab")
    with pytest.raises(ResourceNotFound):
        await asyncio.to_thread(client.start, "r-1")


async def test_a_deploy_streams_progress_and_then_its_result(edge: Edge) -> None:
    events: list[Mapping[str, Any]] = []
    client = NodeClient(edge.server.endpoint)
    result = await asyncio.to_thread(client.put_stack, "main", {"Functions": {"Echo": {}}}, events.append)
    assert [{"function": "Echo", "change": "created"}] == result["changes"]
    assert [{"file": "m", "done_bytes": 1, "total_bytes": 2}] == events


async def test_a_deploy_that_is_refused_names_the_field_also_in_a_stream(edge: Edge) -> None:
    edge.control.refusal = DefinitionError("Echo.Timeout", "is wrong")
    with pytest.raises(DefinitionError) as caught:
        await asyncio.to_thread(NodeClient(edge.server.endpoint).put_stack, "main", {"Functions": {"Echo": {}}})
    assert ("Echo.Timeout", "is wrong") == (caught.value.field, caught.value.problem)


async def test_a_fault_of_ours_ends_a_stream_with_an_error(edge: Edge) -> None:
    with pytest.raises(InternalError):
        await asyncio.to_thread(NodeClient(edge.server.endpoint).bake, "echo", wait=True)


@pytest.mark.parametrize(
    ("request_line", "body", "status"),
    [
        ("DELETE /_glowplug/health", b"", 405),
        ("GET /_glowplug/functions/echo/warm", b"", 405),
        ("GET /_glowplug/nothing", b"", 404),
        ("GET /nothing", b"", 404),
        ("GET /_glowplug/starts/r-1", b"", 404),
        ("POST /_glowplug/functions/echo/cool", b'{"to": "hot"}', 400),
        ("POST /_glowplug/functions/echo/cool", b"{", 400),
        ("POST /_glowplug/functions/echo/bake", b'{"wait": "yes"}', 400),
        ("GET /_glowplug/functions/echo/logs?last=-1", b"", 400),
        ("PUT /_glowplug/stacks/..%2Fx", b"{}", 400),
        ("PUT /_glowplug/stacks/main", b"[]", 400),
        ("GET /_glowplug/starts/%ff", b"", 400),
    ],
)
async def test_admin_refusals(edge: Edge, request_line: str, body: bytes, status: int) -> None:
    answered, headers, text = await edge.raw(
        f"{request_line} HTTP/1.1\nHost: localhost\nContent-Length: {len(body)}", body
    )
    assert status == answered
    assert headers["x-amzn-errortype"]
    assert 1 == len({"message", "Message"} & json.loads(text).keys())


async def test_metrics_count_what_the_edge_answered(edge: Edge) -> None:
    await edge.get("/_url/echo/")
    status, headers, body = await edge.raw("GET /metrics HTTP/1.1\nHost: localhost")
    assert (200, True) == (status, headers["content-type"].startswith("text/plain"))
    assert b'UrlRequestCount_total{function_name="echo"} 1.0' in body
    assert b'Invocations_total{function_name="echo",version="$LATEST"} 1.0' in body
