"""Frameworks that were written for API Gateway, unmodified, behind HTTP and REST APIs of a node.

One FastAPI application (by Mangum) and one of Powertools answer on three doors each: an HTTP API with payload format
2.0, one with 1.0, and a REST API.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from nodes import ServedNode, served

from glowplug.deploy.apply import deploy_all
from glowplug.deploy.client import NodeClient

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Timeout: 30}
  Api: {BinaryMediaTypes: ["*~1*"], Cors: "'https://shop.example'"}
Resources:
  Asgi:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: asgi
      Handler: asgi.handler
      Events:
        New: {Type: HttpApi}
        Old: {Type: HttpApi, Properties: {ApiId: !Ref Old, Path: "/{proxy+}", Method: any, PayloadFormatVersion: "1.0"}}
        Rest: {Type: Api, Properties: {Path: "/{proxy+}", Method: any}}
  Orders:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: orders
      Handler: orders.http
      Environment: {Variables: {POWERTOOLS_SERVICE_NAME: orders}}
      Events:
        One: {Type: HttpApi, Properties: {ApiId: !Ref Shop, Path: "/orders/{number}", Method: get}}
        Blob: {Type: HttpApi, Properties: {ApiId: !Ref Shop, Path: /blob, Method: put}}
        Slow: {Type: HttpApi, Properties: {ApiId: !Ref Shop, Path: /slow, Method: get, TimeoutInMillis: 300}}
        Zero: {Type: HttpApi, Properties: {ApiId: !Ref Shop, Path: /zero, Method: get}}
  OldOrders:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: old-orders
      Handler: orders.rest
      Environment: {Variables: {POWERTOOLS_SERVICE_NAME: orders}}
      Events:
        Old: {Type: HttpApi, Properties: {ApiId: !Ref OldShop, Path: "/{rest+}", Method: "*", PayloadFormatVersion: "1.0"}}
        One: {Type: Api, Properties: {RestApiId: !Ref RestShop, Path: "/orders/{number}", Method: get}}
        Blob: {Type: Api, Properties: {RestApiId: !Ref RestShop, Path: /blob, Method: put}}
        Slow: {Type: Api, Properties: {RestApiId: !Ref RestShop, Path: /slow, Method: get, TimeoutInMillis: 300}}
        Zero: {Type: Api, Properties: {RestApiId: !Ref RestShop, Path: /zero, Method: get}}
  Old: {Type: AWS::Serverless::HttpApi}
  Shop:
    Type: AWS::Serverless::HttpApi
    Properties: {StageName: dev, CorsConfiguration: {AllowOrigins: ["https://shop.example"], AllowMethods: [GET, PUT]}}
  OldShop: {Type: AWS::Serverless::HttpApi}
  RestShop: {Type: AWS::Serverless::Api, Properties: {StageName: v1}}
Outputs:
  Rest: {Value: !Sub "https://${ServerlessRestApi}.execute-api.${AWS::Region}.amazonaws.com/Prod/orders/7"}
"""
ASGI = """
from fastapi import Cookie, FastAPI, HTTPException, Request, Response
from mangum import Mangum
from pydantic import BaseModel

app = FastAPI()

class Order(BaseModel):
    items: list[int]

@app.get("/orders/{number}")
def one(number: int, request: Request):
    if number == 404:
        raise HTTPException(404, "no such order")
    return {"number": number, "expand": request.query_params.getlist("expand"), "many": request.headers["x-many"]}

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

@app.get("/files/{path:path}")
def file(path: str, request: Request):
    return {"path": path, "version": request.scope["aws.event"].get("version")}

handler = Mangum(app)
"""
ORDERS = """
import time

from aws_lambda_powertools.event_handler import APIGatewayHttpResolver, APIGatewayRestResolver, Response
from aws_lambda_powertools.event_handler.exceptions import NotFoundError
from aws_lambda_powertools.shared.cookies import Cookie

def serving(app):
    @app.get("/orders/<number>")
    def one(number):
        if number == "404":
            raise NotFoundError("no such order")
        expand = app.current_event.resolved_query_string_parameters.get("expand", [])
        cookies = [Cookie("last", number), Cookie("seen", "yes")]
        return Response(200, "application/json", {"number": number, "expand": expand}, cookies=cookies)

    @app.put("/blob")
    def blob():
        import base64
        event = app.current_event
        data = base64.b64decode(event.body) if event.is_base64_encoded else event.body.encode()
        return Response(200, "application/octet-stream", data[::-1])

    @app.get("/slow")
    def slow():
        time.sleep(2)
        return {}

    @app.get("/zero")
    def zero():
        return 1 / 0

    return app.resolve

http = serving(APIGatewayHttpResolver())
rest = serving(APIGatewayRestResolver())
"""
ASGI_DOORS = {"2.0": "serverlesshttpapi", "1.0": "old", "REST": "serverlessrestapi/Prod"}
SHOP_DOORS = {"2.0": "shop/dev", "1.0": "oldshop", "REST": "restshop/v1"}


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedNode]:
    root = tmp_path_factory.mktemp("apis") / "web"
    (root / "code").mkdir(parents=True)
    (root / "code" / "asgi.py").write_text(ASGI)
    (root / "code" / "orders.py").write_text(ORDERS)
    (root / "template.yaml").write_text(TEMPLATE.replace("python3.11", f"python3.{sys.version_info.minor}"))
    with served(root / "template.yaml", root / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield node


@pytest.fixture(params=ASGI_DOORS)
def asgi(node: ServedNode, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{node.endpoint}/_apis/web-{ASGI_DOORS[request.param]}", timeout=60) as client:
        yield client


@pytest.fixture(params=SHOP_DOORS)
def shop(node: ServedNode, request: pytest.FixtureRequest) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{node.endpoint}/_apis/web-{SHOP_DOORS[request.param]}", timeout=60) as client:
        yield client


def door_of(client: httpx.Client) -> str:
    path = client.base_url.path
    return next(
        door for doors in (ASGI_DOORS, SHOP_DOORS) for door, api in doors.items() if path == f"/_apis/web-{api}/"
    )


def cookies_of(answer: httpx.Response) -> list[str]:
    return sorted(one.partition(";")[0] for one in answer.headers.get_list("set-cookie"))


class TestMangum:
    def test_path_query_and_repeated_headers(self, asgi: httpx.Client) -> None:
        many = [("x-many", "1"), ("x-many", "2")]
        answer = asgi.get("/orders/7?expand=a%20b&expand=c", headers=many)
        assert (200, "application/json") == (answer.status_code, answer.headers["content-type"])
        seen = answer.json()
        assert (7, ["a b", "c"], "1,2") == (seen["number"], seen["expand"], seen["many"].replace(" ", ""))

    def test_json_and_cookies_both_ways(self, asgi: httpx.Client) -> None:
        answer = asgi.post("/orders", json={"items": [1, 2, 3]})
        assert (201, {"total": 6}) == (answer.status_code, answer.json())
        assert ["last=6", "seen=yes"] == cookies_of(answer)
        asgi.cookies.clear()
        assert ["6", "yes"] == asgi.get("/cookies", headers={"cookie": "last=6; seen=yes"}).json()

    def test_what_fastapi_refuses(self, asgi: httpx.Client) -> None:
        headers = {"x-many": "1"}
        assert {"detail": "no such order"} == asgi.get("/orders/404", headers=headers).json()
        assert 422 == asgi.post("/orders", json={"items": ["one"]}).status_code
        assert 405 == asgi.delete("/orders").status_code
        assert 404 == asgi.get("/nowhere").status_code

    def test_bytes_both_ways(self, asgi: httpx.Client) -> None:
        sent = bytes(range(256))
        answer = asgi.put("/blob", content=sent, headers={"content-type": "application/octet-stream"})
        assert (200, "application/octet-stream", sent[::-1]) == (
            answer.status_code, answer.headers["content-type"], answer.content
        )  # fmt: skip

    def test_a_path_with_encoded_characters(self, asgi: httpx.Client) -> None:
        version = {"2.0": "2.0", "1.0": "1.0", "REST": None}[door_of(asgi)]
        assert {"path": "a b/é", "version": version} == asgi.get("/files/a%20b/%C3%A9").json()


class TestPowertools:
    def test_path_query_and_cookies(self, shop: httpx.Client) -> None:
        answer = shop.get("/orders/7?expand=a%20b&expand=c")
        assert (200, {"number": "7", "expand": ["a b", "c"]}) == (answer.status_code, answer.json())
        assert ["last=7", "seen=yes"] == cookies_of(answer)

    def test_what_is_not_found(self, shop: httpx.Client) -> None:
        assert (404, "no such order") == ((answer := shop.get("/orders/404")).status_code, answer.json()["message"])
        nowhere = {"2.0": (404, "Not Found"), "1.0": (404, "Not found"), "REST": (403, "Missing Authentication Token")}
        answer = shop.get("/nowhere")
        assert nowhere[door_of(shop)] == (answer.status_code, answer.json()["message"])

    def test_bytes_both_ways(self, shop: httpx.Client) -> None:
        sent = bytes(range(256))
        headers = {"content-type": "application/octet-stream", "accept": "application/octet-stream"}
        answer = shop.put("/blob", content=sent, headers=headers)
        assert (200, sent[::-1]) == (answer.status_code, answer.content)

    def test_an_error_of_the_handler_stays_secret(self, shop: httpx.Client) -> None:
        answer = shop.get("/zero")
        expected = (502, "Internal server error") if door_of(shop) == "REST" else (500, "Internal Server Error")
        assert expected == (answer.status_code, answer.json()["message"])
        assert "ZeroDivision" not in answer.text

    def test_a_route_has_its_own_patience(self, node: ServedNode) -> None:
        for door, expected in {
            "2.0": (503, "Service Unavailable"),
            "REST": (504, "Endpoint request timed out"),
        }.items():
            answer = httpx.get(f"{node.endpoint}/_apis/web-{SHOP_DOORS[door]}/slow", timeout=60)
            assert expected == (answer.status_code, answer.json()["message"])

    def test_preflights_need_no_function(self, shop: httpx.Client) -> None:
        asked = {"origin": "https://shop.example", "access-control-request-method": "GET"}
        answer = shop.options("/orders/7", headers=asked)
        expected = {"2.0": (204, "https://shop.example"), "REST": (200, "https://shop.example")}
        if door_of(shop) in expected:
            assert expected[door_of(shop)] == (answer.status_code, answer.headers["access-control-allow-origin"])
            assert "x-glowplug-tier" not in answer.headers


def test_an_api_is_reached_by_its_host(node: ServedNode) -> None:
    host = {"host": "web-serverlesshttpapi.execute-api.us-east-1.amazonaws.com", "x-many": "1"}
    assert 7 == httpx.get(f"{node.endpoint}/orders/7", headers=host, timeout=60).json()["number"]


def test_the_node_lists_what_leads_to_a_function(node: ServedNode) -> None:
    assert {
        f"ANY {node.endpoint}/_apis/web-serverlesshttpapi/",
        f"ANY {node.endpoint}/_apis/web-old/{{proxy+}}",
        f"ANY {node.endpoint}/_apis/web-serverlessrestapi/Prod/{{proxy+}}",
    } == set(node.function("asgi")["routes"])


ALIASED = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Items:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: items
      Handler: index.handler
      Runtime: python3.11
      InlineCode: |
        def handler(event, context):
            arn, seen = context.invoked_function_arn, "RELEASE"
            return {"version": context.function_version, "arn": arn, "seen": seen}
      AutoPublishAlias: live
      Events:
        One: {Type: HttpApi, Properties: {Path: "/items/{id}", Method: get}}
"""


def test_routes_of_a_function_with_an_alias_lead_to_the_alias(tmp_path: Path) -> None:
    template = tmp_path / "shop" / "template.yaml"
    template.parent.mkdir()
    arn = "arn:aws:lambda:us-east-1:000000000000:function:items:live"
    with served(None, tmp_path / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        for number, release in (("1", "first"), ("2", "second")):
            template.write_text(ALIASED.replace("RELEASE", release))
            deploy_all([template], NodeClient(node.endpoint))
            answer = httpx.get(f"{node.endpoint}/_apis/shop-serverlesshttpapi/items/7", timeout=60)
            assert {"version": number, "arn": arn, "seen": release} == answer.json()
