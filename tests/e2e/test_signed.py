"""A node with credentials: who gets in with which signature, and what each may do then."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import subprocess
import sys
import urllib.request
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth, SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals: {HttpApi: {Auth: {EnableIamAuthorizer: true}}}
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: hello
      Handler: index.handler
      Runtime: python3.11
      Events:
        Signed: {Type: HttpApi, Properties: {Path: "/signed/{id}", Method: get, Auth: {Authorizer: AWS_IAM}}}
        Open: {Type: HttpApi, Properties: {Path: /open, Method: get}}
        Rest: {Type: Api, Properties: {Path: "/signed/{id}", Method: get, Auth: {Authorizer: AWS_IAM}}}
      InlineCode: |
        import json, boto3
        def handler(event, context):
            if "call" not in event:
                return {"body": json.dumps(event)} if "resource" in event else event
            client = boto3.client("lambda")
            try:
                if event["call"] == "self":
                    return json.loads(client.invoke(FunctionName="hello", Payload=b'{"by": "itself"}')["Payload"].read())
                return client.list_functions()["Functions"]
            except client.exceptions.ClientError as error:
                return error.response["Error"]["Code"]
"""
FOREIGN = """
[[credential]]
name = "partner"
access_key_id = "AKIAPARTNER00000"
secret_access_key = "a-secret-of-another-account"
account_id = "111122223333"
rights = ["invoke"]
"""
ADMIN = "/_glowplug/functions"
INVOKE = "/2015-03-31/functions/hello/invocations"


class Signed:
    """A node, its state directory and the keys of three callers."""

    def __init__(self, node: Any, keys: dict[str, tuple[str, str]]) -> None:
        self.node, self.keys = node, keys

    def client(self, name: str, secret: str = "", service: str = "lambda") -> Any:
        key_id, own = self.keys[name]
        return boto3.client(
            service, endpoint_url=self.node.endpoint, region_name="us-east-1", aws_access_key_id=key_id,
            aws_secret_access_key=secret or own, config=Config(retries={"max_attempts": 0}),
        )  # fmt: skip

    def ask(
        self, name: str, method: str, path: str, body: bytes = b"", *, presigned: bool = False, service: str = "lambda"
    ) -> tuple[int, Any]:
        """Send a request that botocore signed."""
        request = AWSRequest(method, f"{self.node.endpoint}{path}", data=body)
        signer = SigV4QueryAuth if presigned else SigV4Auth
        signer(Credentials(*self.keys[name]), service, "us-east-1").add_auth(request)
        target = request.prepare().url.removeprefix(self.node.endpoint)
        status, _, text = self.node.request_raw(method, target, body, dict(request.headers))
        return status, text


def glowplug(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "glowplug.deploy.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environ or None)


@pytest.fixture(scope="module")
def signed(serving: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Signed]:
    directory = tmp_path_factory.mktemp("signed")
    state, template = directory / "state", directory / "template.yaml"
    keys = {"partner": ("AKIAPARTNER00000", "a-secret-of-another-account")}
    for name, *options in (("ops",), ("caller", "--invoke-only")):
        made = json.loads(glowplug("credentials", "add", name, *options, "--state", str(state), "--json").stdout)
        keys[name] = (made["access_key_id"], made["secret_access_key"])
    with (state / "credentials.toml").open("a") as file:
        file.write(FOREIGN)
    template.write_text(TEMPLATE)
    with serving(None, state, GLOWPLUG_PRELOAD_TORCH="0") as node:
        deployed = glowplug("deploy", str(template), "--state", str(state))
        assert deployed.returncode == 0, deployed.stderr
        yield Signed(node, keys)
        log = node.log.read_text()
    assert not [secret for _, secret in keys.values() if secret in log]


@pytest.mark.parametrize("path", [ADMIN, "/metrics", "/2015-03-31/functions", "/_glowplug/stacks", "/nothing"])
def test_nobody_gets_in_without_a_signature(signed: Signed, path: str) -> None:
    status, headers, text = signed.node.request_raw("GET", path)
    assert (403, "MissingAuthenticationTokenException") == (status, headers["x-amzn-errortype"])
    assert {"message": "Missing Authentication Token"} == json.loads(text)


def test_the_link_of_get_function_downloads_the_code_without_credentials(signed: Signed) -> None:
    found = signed.client("ops").get_function(FunctionName="hello")
    content = signed.client("ops").publish_layer_version(LayerName="same", Content={"ZipFile": _zip()})["Content"]
    for location, described in ((found["Code"]["Location"], found["Configuration"]), (content["Location"], content)):
        with urllib.request.urlopen(location, timeout=10) as answer:
            data = answer.read()
        assert base64.b64encode(hashlib.sha256(data).digest()).decode() == described["CodeSha256"]
        assert len(data) == described["CodeSize"]
    assert data == _zip()
    bare = location.partition("?")[0].removeprefix(signed.node.endpoint)
    assert 403 == signed.node.request_raw("GET", bare)[0]


def _zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr(zipfile.ZipInfo("python/a.py"), "a = 1\n")
    return buffer.getvalue()


@pytest.mark.parametrize(("name", "allowed"), [("ops", True), ("caller", False)])
def test_who_may_only_invoke_has_no_results_sent_to_hosts_of_their_choice(
    signed: Signed, name: str, allowed: bool
) -> None:
    """The node would call for them what they cannot reach."""
    client = signed.client(name)
    webhook = {"X-Glowplug-Webhook": "http://127.0.0.1:1/"}
    client.meta.events.register("before-call.lambda.Invoke", lambda params, **_: params["headers"].update(webhook))
    call = partial(client.invoke, FunctionName="hello", InvocationType="Event", Payload=b"{}")
    if allowed:
        assert 202 == call()["StatusCode"]
    else:
        with pytest.raises(client.exceptions.InvalidParameterValueException, match="GLOWPLUG_WEBHOOK_HOSTS"):
            call()


def test_that_the_node_is_up_is_all_that_strangers_learn(signed: Signed) -> None:
    assert {"status": "ok"} == signed.node.admin("GET", "health")
    assert "state" in json.loads(signed.ask("ops", "GET", "/_glowplug/health")[1])
    assert 403 == signed.ask("caller", "GET", "/_glowplug/health")[0]


def test_boto3_with_the_right_secret_and_with_a_wrong_one(signed: Signed) -> None:
    answer = signed.client("ops").invoke(FunctionName="hello", Payload=b'{"a": 1}')
    assert b'{"a": 1}' == answer["Payload"].read()
    with pytest.raises(ClientError) as refused:
        signed.client("ops", secret="not-the-secret-at-all").list_functions()
    assert "InvalidSignatureException" == refused.value.response["Error"]["Code"]
    assert refused.value.response["Error"]["Message"].startswith("The request signature we calculated does not match")


def test_events_and_messages_are_for_those_who_may_invoke(signed: Signed) -> None:
    entry = {"Source": "shop", "DetailType": "order", "Detail": "{}"}
    assert 0 == signed.client("caller", service="events").put_events(Entries=[entry])["FailedEntryCount"]
    with pytest.raises(ClientError, match="InvalidSignatureException"):
        signed.client("caller", "wrong", service="events").put_events(Entries=[entry])
    message = {"TopicArn": "arn:aws:sns:us-east-1:000000000000:none", "Message": "x"}
    with pytest.raises(ClientError, match="NotFound"):  # so it was let in
        signed.client("caller", service="sns").publish(**message)
    with pytest.raises(ClientError, match="SignatureDoesNotMatch"):
        signed.client("caller", "wrong", service="sns").publish(**message)


def test_an_aws_key_that_is_not_the_nodes_is_unknown(signed: Signed) -> None:
    with pytest.raises(ClientError, match="The security token included in the request is invalid"):
        Signed(signed.node, {"x": ("AKIANOBODY000000", "s" * 40)}).client("x").list_functions()


def test_the_command_line_signs_by_itself_and_with_the_environments_key(signed: Signed, tmp_path: Path) -> None:
    by_state = glowplug("ls", "--json", "--state", str(signed.node.state))
    assert ["hello"] == [row["name"] for row in json.loads(by_state.stdout)["functions"]]
    home = {"HOME": str(tmp_path), "GLOWPLUG_ENDPOINT": signed.node.endpoint}
    refused = glowplug("ls", **home)
    assert (1, True) == (refused.returncode, "set GLOWPLUG_ACCESS_KEY_ID" in refused.stderr)
    key_id, secret = signed.keys["ops"]
    listed = glowplug("ls", **home, GLOWPLUG_ACCESS_KEY_ID=key_id, GLOWPLUG_SECRET_ACCESS_KEY=secret)
    assert (0, True) == (listed.returncode, "hello" in listed.stdout)


def test_who_may_only_invoke_may_not_control(signed: Signed) -> None:
    client = signed.client("caller")
    assert b"{}" == client.invoke(FunctionName="hello", Payload=b"{}")["Payload"].read()
    with pytest.raises(ClientError) as refused:
        client.get_function(FunctionName="hello")
    assert (403, "AccessDeniedException") == (
        refused.value.response["ResponseMetadata"]["HTTPStatusCode"],
        refused.value.response["Error"]["Code"],
    )
    assert (
        "User: arn:aws:iam::000000000000:user/caller is not authorized to perform: lambda:GetFunction on resource: "
        "arn:aws:lambda:us-east-1:000000000000:function:hello because no identity-based policy allows the "
        "lambda:GetFunction action" == refused.value.response["Error"]["Message"]
    )
    assert 403 == signed.ask("caller", "GET", ADMIN)[0]
    assert 403 == signed.ask("caller", "GET", "/metrics")[0]


@pytest.mark.parametrize("kind", ["httpapi", "restapi"])
def test_a_route_of_aws_iam_is_for_those_who_may_invoke(signed: Signed, kind: str) -> None:
    listed = json.loads(signed.ask("ops", "GET", ADMIN)[1])["functions"][0]["routes"]
    routes = [route.partition(signed.node.endpoint)[2] for route in listed]
    path = next(route for route in routes if kind in route and "signed" in route).replace("{id}", "a%20b?q=1%202")
    for name in ("ops", "caller"):
        for presigned in (False, True):
            status, text = signed.ask(name, "GET", path, presigned=presigned, service="execute-api")
            assert (200, True) == (status, f"user/{name}" in text), text
    assert 403 == signed.ask("partner", "GET", path, service="execute-api")[0]
    assert 403 == signed.ask("ops", "GET", path)[0]
    assert 403 == signed.node.request_raw("GET", path)[0]
    assert 200 == signed.node.request_raw("GET", next(route for route in routes if route.endswith("/open")))[0]


def test_another_account_needs_a_statement(signed: Signed) -> None:
    partner, ops = signed.client("partner"), signed.client("ops")
    with pytest.raises(ClientError, match="no resource-based policy allows the lambda:InvokeFunction action"):
        partner.invoke(FunctionName="hello", Payload=b"{}")
    ops.add_permission(
        FunctionName="hello", StatementId="partner", Action="lambda:InvokeFunction", Principal="111122223333"
    )
    assert b"{}" == partner.invoke(FunctionName="hello", Payload=b"{}")["Payload"].read()
    ops.remove_permission(FunctionName="hello", StatementId="partner")
    with pytest.raises(ClientError, match="no resource-based policy"):
        partner.invoke(FunctionName="hello", Payload=b"{}")


def test_a_function_may_call_functions_and_control_nothing(signed: Signed) -> None:
    client = signed.client("ops")
    own = client.invoke(FunctionName="hello", Payload=b'{"call": "self"}')["Payload"].read()
    assert {"by": "itself"} == json.loads(own)
    listed = client.invoke(FunctionName="hello", Payload=b'{"call": "list"}')["Payload"].read()
    assert "AccessDeniedException" == json.loads(listed)


def test_a_presigned_url_needs_no_header(signed: Signed) -> None:
    assert 200 == signed.ask("ops", "GET", "/2015-03-31/functions?MaxItems=1", presigned=True)[0]
    assert (200, "{}") == signed.ask("caller", "POST", INVOKE, presigned=True)


def test_a_key_that_is_taken_out_is_out_at_once(signed: Signed) -> None:
    state = str(signed.node.state)
    made = json.loads(glowplug("credentials", "add", "guest", "--state", state, "--json").stdout)
    guest = Signed(signed.node, {"guest": (made["access_key_id"], made["secret_access_key"])})
    assert 200 == guest.ask("guest", "GET", ADMIN)[0]
    assert 0 == glowplug("credentials", "remove", "guest", "--state", state).returncode
    assert 403 == guest.ask("guest", "GET", ADMIN)[0]


# --- hostile callers --------------------------------------------------------------------------------------------------


def test_an_upload_is_refused_before_it_is_sent_to_somebody_unknown_and_to_somebody_who_sends_too_much(
    signed: Signed,
) -> None:
    stranger = Signed(signed.node, {"x": ("AKIANOBODY000000", "s" * 40)})
    for caller, name, status in ((stranger, "x", 403), (signed, "ops", 413)):
        request = AWSRequest("PUT", f"{signed.node.endpoint}/2015-03-31/functions/hello/code", data=b"x")
        SigV4Auth(Credentials(*caller.keys[name]), "lambda", "us-east-1").add_auth(request)
        headers = {**dict(request.headers), "Content-Length": str(10**9), "Connection": "close"}
        answered, _, text = signed.node.request_raw("PUT", "/2015-03-31/functions/hello/code", None, headers)
        assert status == answered, text


@pytest.mark.parametrize("length", [8_000, 100_000])
def test_a_signature_of_any_length_is_refused(signed: Signed, length: int) -> None:
    scope = "a/20260101/r/lambda/aws4_request"
    value = f"AWS4-HMAC-SHA256 Credential={scope}, SignedHeaders={'host;' * (length // 5)}host, Signature=x"
    status, _, _ = signed.node.request_raw(
        "GET", ADMIN, None, {"Authorization": value, "X-Amz-Date": "20260101T000000Z"}
    )
    assert status in (400, 403)
