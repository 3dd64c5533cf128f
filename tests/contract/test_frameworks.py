"""Frameworks that were written for Lambda, unmodified, behind function URLs: Mangum with FastAPI, and Powertools."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import socket
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from nodes import ServedNode, served

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Timeout: 30, FunctionUrlConfig: {AuthType: NONE}}
Resources:
  Asgi:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: asgi, Handler: asgi.handler}
  Orders:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: orders
      Handler: orders.handler
      Environment: {Variables: {POWERTOOLS_SERVICE_NAME: orders, POWERTOOLS_LOG_LEVEL: INFO}}
"""
ASGI = """
from fastapi import Cookie, FastAPI, HTTPException, Request, Response
from mangum import Mangum
from pydantic import BaseModel

app = FastAPI()
started = []

class Order(BaseModel):
    items: list[int]

@app.on_event("startup")
def start():
    started.append(True)

@app.get("/orders/{number}")
def one(number: int, request: Request, expand: list[str] | None = None):
    if number == 404:
        raise HTTPException(404, "no such order")
    return {"number": number, "expand": request.query_params.getlist("expand"), "started": len(started)}

@app.post("/orders", status_code=201)
def create(order: Order, response: Response):
    response.set_cookie("last", str(sum(order.items)))
    response.set_cookie("seen", "yes")
    return {"total": sum(order.items)}

@app.get("/cookies")
def cookies(last: str = Cookie(), seen: str = Cookie()):
    return [last, seen]

@app.put("/blob")
async def blob(request: Request):
    return Response((await request.body())[::-1], media_type="application/octet-stream")

@app.get("/context")
def context(request: Request):
    event, given = request.scope["aws.event"], request.scope["aws.context"]
    return {"name": given.function_name, "id": given.aws_request_id, "version": event["version"]}

handler = Mangum(app)
"""
ORDERS = """
from aws_lambda_powertools import Logger, Tracer
from aws_lambda_powertools.event_handler import CORSConfig, LambdaFunctionUrlResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError

logger, tracer = Logger(), Tracer()
app = LambdaFunctionUrlResolver(cors=CORSConfig(allow_origin="https://shop.example"))

@tracer.capture_method
def total(items):
    return sum(items)

@app.get("/orders/<number>")
def one(number):
    if number == "404":
        raise NotFoundError("no such order")
    logger.append_keys(number=number)
    logger.info("order")
    return {"number": number, "expand": app.current_event.get_query_string_value("expand", "none")}

@app.post("/orders")
def create():
    return {"total": total(app.current_event.json_body["items"])}, 201

@app.put("/blob")
def blob():
    return Response(200, "application/octet-stream", app.current_event.decoded_body.encode() + b"\\xff\\x00")

@app.exception_handler(ZeroDivisionError)
def divided(error):
    return Response(418, "text/plain", "divided by zero")

@app.get("/zero")
def zero():
    return 1 / 0

@logger.inject_lambda_context(clear_state=True)
@tracer.capture_lambda_handler
def handler(event, context):
    return app.resolve(event, context)
"""
PUBLIC = "GLOWPLUG_PUBLIC_PORT"
JSON = {"Content-Type": "application/json"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    root = tmp_path_factory.mktemp("frameworks")
    (root / "code").mkdir()
    (root / "code" / "asgi.py").write_text(ASGI)
    (root / "code" / "orders.py").write_text(ORDERS)
    (root / "template.yaml").write_text(TEMPLATE.replace("python3.11", f"python3.{sys.version_info.minor}"))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        environ = {PUBLIC: str(probe.getsockname()[1]), "GLOWPLUG_PRELOAD_TORCH": "0"}
    with served(root / "template.yaml", root / "state", **environ) as node:
        yield node


@pytest.mark.parametrize("name", ["asgi", "orders"])
class TestBoth:
    """What the two frameworks answer alike."""

    def test_a_path_and_a_query(self, node: ServedNode, name: str) -> None:
        status, headers, answer = node.request("GET", f"/_url/{name}/orders/7?expand=items")
        assert (200, "application/json") == (status, headers["content-type"])
        assert (["items"], 7) == (_listed(answer["expand"]), int(answer["number"]))

    def test_a_body_of_json(self, node: ServedNode, name: str) -> None:
        status, _, answer = node.request("POST", f"/_url/{name}/orders", {"items": [1, 2, 3]})
        assert (201, {"total": 6}) == (status, answer)

    def test_what_is_not_found(self, node: ServedNode, name: str) -> None:
        status, _, answer = node.request("GET", f"/_url/{name}/orders/404")
        assert (404, True) == (status, "no such order" in json.dumps(answer))
        assert 404 == node.request("GET", f"/_url/{name}/nowhere")[0]


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


class TestMangum:
    def test_a_body_that_does_not_fit_is_fastapis_422(self, node: ServedNode) -> None:
        status, _, answer = node.request("POST", "/_url/asgi/orders", {"items": ["one"]})
        assert (422, ["body", "items", 0]) == (status, answer["detail"][0]["loc"])

    def test_a_query_with_two_values(self, node: ServedNode) -> None:
        _, _, answer = node.request("GET", "/_url/asgi/orders/7?expand=a%20b&expand=c")
        assert ["a b", "c"] == answer["expand"]

    def test_cookies_both_ways(self, node: ServedNode) -> None:
        connection_cookies = {"Cookie": "last=6; seen=yes"}
        _, _, text = node.request_raw("GET", "/_url/asgi/cookies", None, connection_cookies)
        assert ["6", "yes"] == json.loads(text)
        assert ["last=6", "seen=yes"] == sorted(one.partition(";")[0] for one in _cookies(node))

    def test_bytes_both_ways(self, node: ServedNode) -> None:
        sent = bytes(range(256))
        status, headers, answer = _bytes(node, "PUT", "/_url/asgi/blob", sent)
        assert (200, "application/octet-stream", sent[::-1]) == (status, headers["content-type"], answer)

    def test_the_event_and_the_context_are_lambdas(self, node: ServedNode) -> None:
        _, headers, answer = node.request("GET", "/_url/asgi/context")
        assert {"name": "asgi", "id": headers["x-amzn-requestid"], "version": "2.0"} == answer

    def test_start_up_runs_with_each_request_as_mangum_has_it(self, node: ServedNode) -> None:
        first, second = (node.request("GET", "/_url/asgi/orders/1")[2]["started"] for _ in range(2))
        assert first + 1 == second

    def test_its_event_loop_keeps_it_from_parking_and_ls_says_so(self, node: ServedNode) -> None:
        node.request("GET", "/_url/asgi/orders/1")
        assert "an epoll descriptor" == node.function("asgi")["unparkable_reason"]


class TestPowertools:
    def test_cors_is_the_resolvers_own(self, node: ServedNode) -> None:
        """On the public listener: control refuses what a browser sends from elsewhere."""
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", int(node.environ[PUBLIC]))) as connection:
            for method, expected in (("GET", 200), ("OPTIONS", 204)):
                connection.request(method, "/_url/orders/orders/7", headers={"Origin": "https://shop.example"})
                response = connection.getresponse()
                response.read()
                assert expected == response.status
                assert "https://shop.example" == response.getheader("Access-Control-Allow-Origin")

    def test_an_exception_handler_answers(self, node: ServedNode) -> None:
        status, _, text = node.request_raw("GET", "/_url/orders/zero")
        assert (418, "divided by zero") == (status, text)

    def test_bytes_are_answered(self, node: ServedNode) -> None:
        assert b"abc\xff\x00" == _bytes(node, "PUT", "/_url/orders/blob", b"abc")[2]

    def test_the_logger_has_the_keys_of_the_request(self, node: ServedNode) -> None:
        event = {
            "version": "2.0", "rawPath": "/orders/8", "rawQueryString": "", "headers": {},
            "requestContext": {"http": {"method": "GET", "path": "/orders/8"}, "stage": "$default"},
        }  # fmt: skip
        answer = node.lambda_client().invoke(FunctionName="orders", Payload=json.dumps(event), LogType="Tail")
        assert 200 == json.loads(answer["Payload"].read())["statusCode"]
        lines = base64.b64decode(answer["LogResult"]).decode().splitlines()
        [logged] = [json.loads(line) for line in lines if line.startswith('{"level"')]
        assert ("orders", "8", "order") == (logged["service"], logged["number"], logged["message"])
        assert answer["ResponseMetadata"]["RequestId"] == logged["function_request_id"]

    def test_with_the_tracer_it_parks(self, node: ServedNode) -> None:
        assert "" == node.function("orders")["unparkable_reason"]
        node.admin("POST", "functions/orders/cool", {"to": "parked"})
        assert ("parked", 0) == tuple(node.function("orders")[key] for key in ("tier", "instances"))
        status, headers, answer = node.request("POST", "/_url/orders/orders", {"items": [4]})
        assert (201, {"total": 4}, "parked") == (status, answer, headers["x-glowplug-tier"])


def _cookies(node: ServedNode) -> list[str]:
    """Return the Set-Cookie headers of an order, which ``request_raw`` would make one of."""
    answered = node.exchange("POST", "/_url/asgi/orders", b'{"items": [6]}', JSON)
    return [value for name, value in answered[1] if name.lower() == "set-cookie"]


def _bytes(node: ServedNode, method: str, path: str, data: bytes) -> tuple[int, dict[str, str], bytes]:
    status, headers, answer = node.exchange(method, path, data, {"Content-Type": "application/octet-stream"})
    return status, {name.lower(): value for name, value in headers}, answer
