"""From HttpApi and Api events to APIs: what comes out, what an output says, and that what is not served is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.apply import deploy_all
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.apis import api_of
from glowplug.runtime.errors import DefinitionError

HEAD = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Handler: app.handler}
Resources:
  Items:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: items
      Events:
"""
URI = "arn:aws:apigateway:${AWS::Region}:lambda:path/2015-03-31/functions/${Items.Arn}/invocations"


def translated(directory: Path, text: str) -> Stack:
    (directory / "code").mkdir(exist_ok=True)
    (directory / "code" / "app.py").write_text("def handler(event, context): return event\n")
    (directory / "template.yaml").write_text(text)
    stack = translate(load(directory / "template.yaml"), stack="main", endpoint="http://node:9000")
    for logical_id, definition in stack.definitions.apis.items():
        api_of("id", json.loads(json.dumps(definition)), logical_id)
    return stack


def refused(directory: Path, text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        translated(directory, text)
    return str(caught.value).removeprefix(f"{directory}/")


def with_body(method: str, operation: str, kind: str = "HttpApi", more: str = "") -> str:
    """Return a template whose API has one operation of a DefinitionBody."""
    version = "openapi: 3.0.1" if kind == "HttpApi" else "swagger: '2.0'"
    return (
        HEAD.replace("      Events:\n", "")
        + f"  Web:\n    Type: AWS::Serverless::{kind}\n    Properties:\n      StageName: Prod\n{more}      DefinitionBody:\n"
        f"        {version}\n        paths:\n          /items:\n            {method}:\n{operation}"
    )


INTEGRATION = f"""\
              x-amazon-apigateway-integration:
                type: aws_proxy
                uri: !Sub {URI}
"""


def test_events_without_an_api_share_the_implicit_ones(tmp_path: Path) -> None:
    text = HEAD + (
        "        One: {Type: HttpApi, Properties: {Path: '/items/{id}', Method: get}}\n"
        "        Old: {Type: HttpApi, Properties: {Path: /old, Method: POST, PayloadFormatVersion: '1.0', "
        "TimeoutInMillis: 5000}}\n"
        "        All: {Type: HttpApi}\n"
        "        Rest: {Type: Api, Properties: {Path: '/items/{rest+}', Method: any}}\n"
    )
    apis = translated(tmp_path, text).definitions.apis
    web = {"Name": "main", "ProtocolType": "HTTP", "StageName": "$default"}
    assert {
        "ServerlessHttpApi": web | {"Routes": [
            {"RouteKey": "GET /items/{id}", "FunctionName": "items", "PayloadFormatVersion": "2.0"},
            {"RouteKey": "POST /old", "FunctionName": "items", "PayloadFormatVersion": "1.0", "TimeoutInMillis": 5000},
            {"RouteKey": "$default", "FunctionName": "items", "PayloadFormatVersion": "2.0"},
        ]},
        "ServerlessRestApi": {
            "Name": "main", "ProtocolType": "REST", "StageName": "Prod", "BinaryMediaTypes": [],
            "Routes": [{"RouteKey": "ANY /items/{rest+}", "FunctionName": "items"}],
        },
    } == {name: _sorted(api) for name, api in apis.items()}  # fmt: skip


def _sorted(api: Any) -> Any:
    order = ("GET", "POST", "$default", "ANY", "OPTIONS")
    return {**api, "Routes": sorted(api["Routes"], key=lambda route: order.index(route["RouteKey"].split()[0]))}


def test_an_api_of_its_own_has_its_stage_variables_types_and_cors(tmp_path: Path) -> None:
    text = HEAD + (
        "        Get: {Type: HttpApi, Properties: {Path: /, Method: get, ApiId: !Ref Web}}\n"
        "        Put: {Type: Api, Properties: {Path: /blob, Method: put, RestApiId: !Ref Classic}}\n"
        "  Web:\n    Type: AWS::Serverless::HttpApi\n    Properties:\n      Name: web\n      StageName: dev\n"
        "      StageVariables: {size: large}\n"
        "      CorsConfiguration: {AllowOrigins: ['https://a.example'], AllowMethods: [GET], AllowCredentials: true, "
        "MaxAge: 60}\n"
        "  Classic:\n    Type: AWS::Serverless::Api\n    Properties:\n      StageName: v1\n      Variables: {a: b}\n"
        "      BinaryMediaTypes: ['image~1png']\n"
        "      Cors: {AllowOrigin: \"'https://a.example'\", AllowHeaders: \"'x-a'\"}\n"
    )
    apis = translated(tmp_path, text).definitions.apis
    assert ("web", "dev", {"size": "large"}) == tuple(
        apis["Web"][name] for name in ("Name", "StageName", "StageVariables")
    )
    assert {
        "AllowOrigins": ["https://a.example"], "AllowMethods": ["GET"], "AllowCredentials": True, "MaxAge": 60,
    } == apis["Web"]["CorsConfiguration"]  # fmt: skip
    assert ("v1", {"a": "b"}, ["image/png"]) == tuple(
        apis["Classic"][name] for name in ("StageName", "StageVariables", "BinaryMediaTypes")
    )
    preflight = next(route for route in apis["Classic"]["Routes"] if route["RouteKey"] == "OPTIONS /blob")
    assert {
        "StatusCode": 200,
        "Headers": {
            "Access-Control-Allow-Origin": "https://a.example", "Access-Control-Allow-Headers": "x-a",
            "Access-Control-Allow-Methods": "OPTIONS,PUT",
        },
        "Body": "{}\n",
    } == preflight["Response"]  # fmt: skip


def test_globals_of_apis_are_for_the_implicit_ones_too(tmp_path: Path) -> None:
    text = HEAD.replace("Resources:", "  HttpApi: {CorsConfiguration: {AllowOrigins: [a]}}\nResources:") + (
        "        All: {Type: HttpApi}\n"
    )
    assert {"AllowOrigins": ["a"]} == translated(tmp_path, text).definitions.apis["ServerlessHttpApi"][
        "CorsConfiguration"
    ]


def test_aws_iam_is_asked_for_by_the_api_or_the_event(tmp_path: Path) -> None:
    text = HEAD + (
        "        A: {Type: HttpApi, Properties: {Path: /a, Method: get, ApiId: !Ref Web}}\n"
        "        B: {Type: HttpApi, Properties: {Path: /b, Method: get, ApiId: !Ref Web, Auth: {Authorizer: NONE}}}\n"
        "        C: {Type: Api, Properties: {Path: /c, Method: get, Auth: {Authorizer: AWS_IAM}}}\n"
        "        D: {Type: Api, Properties: {Path: /d, Method: get}}\n"
        "  Web:\n    Type: AWS::Serverless::HttpApi\n"
        "    Properties: {Auth: {EnableIamAuthorizer: true, DefaultAuthorizer: AWS_IAM}}\n"
    )
    apis = translated(tmp_path, text).definitions.apis
    routes = [route for api in apis.values() for route in api["Routes"]]
    assert {"GET /a", "GET /c"} == {
        route["RouteKey"] for route in routes if route.get("AuthorizationType") == "AWS_IAM"
    }  # fmt: skip
    assert 4 == len(routes)


def test_an_alias_in_a_definition_body_is_the_qualifier(tmp_path: Path) -> None:
    text = with_body("get", INTEGRATION.replace("${Items.Arn}", "${Items.Arn}:3"))
    assert [{
        "RouteKey": "GET /items", "FunctionName": "items", "Qualifier": "3", "PayloadFormatVersion": "1.0",
    }] == translated(tmp_path, text).definitions.apis["Web"]["Routes"]  # fmt: skip


def test_routes_under_a_condition_that_does_not_hold_are_left_out(tmp_path: Path) -> None:
    text = HEAD.replace("Resources:", "Conditions: {Never: !Equals [a, b]}\nResources:") + (
        "        Get: {Type: Api, Properties: {Path: /, Method: get}}\n"
        "  Other:\n    Type: AWS::Serverless::Function\n    Condition: Never\n    Properties:\n      FunctionName: other\n"
        "      Events: {Get: {Type: Api, Properties: {Path: /other, Method: get}}}\n"
    )
    assert ["GET /"] == [
        route["RouteKey"] for route in translated(tmp_path, text).definitions.apis["ServerlessRestApi"]["Routes"]
    ]


def test_outputs_say_where_the_api_is_on_this_node(tmp_path: Path) -> None:
    text = HEAD + (
        "        A: {Type: HttpApi}\n"
        "        B: {Type: Api, Properties: {Path: /b, Method: get}}\n"
        "        C: {Type: HttpApi, Properties: {Path: /c, Method: get, ApiId: !Ref Web}}\n"
        "  Web: {Type: AWS::Serverless::HttpApi}\n"
        "Outputs:\n"
        '  Http: {Value: !Sub "https://${ServerlessHttpApi}.execute-api.${AWS::Region}.amazonaws.com/"}\n'
        '  Rest: {Value: !Sub "https://${ServerlessRestApi}.execute-api.${AWS::Region}.${AWS::URLSuffix}/Prod/b"}\n'
        "  Endpoint: {Value: !GetAtt Web.ApiEndpoint}\n"
        "  Id: {Value: !Ref Web}\n"
        "  Stage: {Value: !Ref ServerlessRestApi.Stage}\n"
        "  Root: {Value: !GetAtt ServerlessRestApi.RootResourceId}\n"
        "  Foreign: {Value: 'https://other.execute-api.us-east-1.amazonaws.com/'}\n"
    )
    assert {
        "Http": "http://node:9000/_apis/main-serverlesshttpapi/",
        "Rest": "http://node:9000/_apis/main-serverlessrestapi/Prod/b",
        "Endpoint": "http://node:9000/_apis/main-web",
        "Id": "main-web",
        "Stage": "Prod",
        "Root": "main-serverlessrestapi-root",
        "Foreign": "https://other.execute-api.us-east-1.amazonaws.com/",
    } == translated(tmp_path, text).outputs


def test_what_has_no_effect_is_said_once(tmp_path: Path) -> None:
    text = HEAD + (
        "        A: {Type: HttpApi, Properties: {Path: /, Method: get, ApiId: !Ref Web, "
        "RouteSettings: {ThrottlingBurstLimit: 5}}}\n"
        "  Web:\n    Type: AWS::Serverless::HttpApi\n    Properties: {AccessLogSettings: {DestinationArn: a}}\n"
    )
    assert (
        "HttpApi.RouteSettings has no effect here (Items.A)",
        "AccessLogSettings has no effect here (Web)",
    ) == translated(tmp_path, text).notes


EVENTS = [
    (
        "{Type: Kinesis, Properties: {Stream: a}}",
        "Items.Properties.Events.A.Type: events of Kinesis are not supported yet",
    ),
    ("{Type: HttpAp}", "Items.Properties.Events.A.Type: 'HttpAp' is no type of an event; did you mean HttpApi?"),
    ("{}", "Items.Properties.Events.A: must be a mapping with a Type"),
    ("daily", "Items.Properties.Events.A: must be a mapping with a Type"),
    ("{Typ: Api}", "Items.Properties.Events.A.Typ: unknown key; did you mean Type?"),
    ("{Type: Api, Properties: {Pat: /}}", "Items.Properties.Events.A.Properties.Pat: unknown key; did you mean Path?"),
    (
        "{Type: Api, Properties: {Path: /, Method: get, RequestModel: {Model: M}}}",
        "Items.Properties.Events.A.Properties.RequestModel: is not supported yet",
    ),
    (
        "{Type: Api, Properties: {Path: /, Method: get, Auth: {ApiKeyRequired: true}}}",
        "Items.Properties.Events.A.Properties.Auth.ApiKeyRequired: is not supported yet",
    ),
    (
        "{Type: Api, Properties: {Path: /, Method: get, RestApiId: abc123}}",
        "Items.Properties.Events.A.Properties.RestApiId: must be a !Ref to an AWS::Serverless::Api of this template",
    ),
    (
        "{Type: HttpApi, Properties: {Path: '/a-{id}', Method: get}}",
        "Items.Properties.Events.A: '/a-{id}' has 'a-{id}';",
    ),
    (
        "{Type: HttpApi, Properties: {Path: /, Method: get, TimeoutInMillis: 9}}",
        "Items.Properties.Events.A: 9 is not between",
    ),
    ("{Type: HttpApi, Properties: {Path: /, Method: get, PayloadFormatVersion: '3.0'}}", "Items"),
]


@pytest.mark.parametrize(("event", "message"), EVENTS)
def test_an_event_that_is_not_served_is_refused_where_it_is_written(tmp_path: Path, event: str, message: str) -> None:
    assert refused(tmp_path, f"{HEAD}        A: {event}\n").startswith(f"template.yaml:10: {message}")


def test_events_are_a_mapping(tmp_path: Path) -> None:
    text = HEAD.replace("Events:", "Events: []")
    assert "template.yaml:9: Items.Properties.Events: must be a mapping, not []" == refused(tmp_path, text)


@pytest.mark.parametrize(
    ("kind", "properties", "message"),
    [
        ("HttpApi", "Domain: {DomainName: a.example, CertificateArn: b}", "Domain: is not supported yet"),
        ("HttpApi", "Auth: {Authorizers: {Mine: {}}}", "Auth.Authorizers: is not supported yet"),
        ("HttpApi", "CorsConfig: true", "CorsConfig: unknown key; did you mean CorsConfiguration?"),
        ("Api", "StageName: v1, Auth: {UsagePlan: {CreateUsagePlan: PER_API}}", "Auth.UsagePlan: is not supported yet"),
        ("Api", "StageName: v1, Auth: {ResourcePolicy: {}}", "Auth.ResourcePolicy: is not supported yet"),
        ("Api", "StageName: v1, GatewayResponses: {}", "GatewayResponses: is not supported yet"),
    ],
)
def test_a_part_of_an_api_that_is_not_built_is_refused_by_name(
    tmp_path: Path, kind: str, properties: str, message: str
) -> None:
    text = (
        f"{HEAD}        A: {{Type: HttpApi}}\n  Web: {{Type: AWS::Serverless::{kind}, Properties: {{{properties}}}}}\n"
    )
    assert f"template.yaml:11: Web.Properties.{message}" == refused(tmp_path, text)


def operation(change: tuple[str, str] = ("", ""), more: str = "") -> str:
    return INTEGRATION.replace(*change) + more


BODIES = [
    (operation(("aws_proxy", "http_proxy")), "an integration of type http_proxy is not supported yet"),
    (operation(("${Items.Arn}", "arn:aws:lambda:us-east-1:1:function:x")), "x is no function of this stack"),
    (operation(("${Items.Arn}", "${!stageVariables.f}")), "is not a function of this template"),
    (operation(("${Items.Arn}", "${Items.Arn}:beta")), "beta is no alias of items"),
    (operation(more="              security: [{Mine: []}]\n"), "the authorizer Mine is not supported yet; AWS_IAM is"),
    ("              responses: {}\n", "has no x-amazon-apigateway-integration"),
]


@pytest.mark.parametrize(("text", "message"), BODIES)
@pytest.mark.parametrize("kind", ["HttpApi", "Api"])
def test_an_operation_that_is_not_served_is_refused(tmp_path: Path, kind: str, text: str, message: str) -> None:
    said = refused(tmp_path, with_body("get", text, kind))
    assert "template.yaml:" in said
    assert "Web.Properties" in said
    assert message in said


@pytest.mark.parametrize(
    ("responses", "message"),
    [
        ("{a: {}, b: {}}", "a mock needs one response, or a default one"),
        (
            "{default: {responseParameters: {method.response.header.A: integration.response.header.B}}}",
            "literal values",
        ),
        ("{default: {responseTemplates: {application/json: $input.body}}}", "computes something is not supported yet"),
    ],
)
def test_a_mock_that_computes_is_refused(tmp_path: Path, responses: str, message: str) -> None:
    mock = f"              x-amazon-apigateway-integration: {{type: mock, responses: {responses}}}\n"
    assert message in refused(tmp_path, with_body("options", mock, "Api"))


def test_what_the_node_refuses_of_a_route_is_found_at_its_event(tmp_path: Path) -> None:
    text = HEAD + "        A: {Type: HttpApi, Properties: {Path: /, Method: get}}\n"
    stack = translated(tmp_path, text)
    bodies: list[Any] = []

    class Refusing:
        endpoint = "http://node:9000"

        def has_code(self, digest: str) -> bool:
            return True

        def put_code(self, digest: str, data: bytes) -> None: ...

        def stack(self, name: str) -> None: ...

        def stacks(self) -> list[dict[str, Any]]:
            return []

        def health(self) -> dict[str, Any]:
            return {}

        def put_stack(self, name: str, body: Any, on_progress: Any = None) -> Any:
            bodies.append(body)
            raise DefinitionError("ServerlessHttpApi.Routes.0.FunctionName", "is not to my taste")

    with pytest.raises(TemplateError, match=r"template\.yaml:10: Items\.Properties\.Events\.A: is not to my taste"):
        deploy_all([tmp_path / "template.yaml"], Refusing(), stack="main")
    assert stack.definitions.apis == bodies[0]["Apis"]
