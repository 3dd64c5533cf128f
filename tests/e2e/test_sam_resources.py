"""What a template says beside a function's own configuration, on a real node, through boto3 and function URLs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

ARN = "arn:aws:lambda:us-east-1:000000000000:function:hello"
TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function:
    Runtime: python3.11
    Tags: {shared: all}
Resources:
  Hello:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: hello
      Handler: index.handler
      InlineCode: |
        def handler(event, context):
            return {"answer": "first", "version": context.function_version, "arn": context.invoked_function_arn}
      AutoPublishAlias: live
      VersionDescription: as deployed
      FunctionUrlConfig: {AuthType: NONE, Cors: {AllowOrigins: ["https://example.org"]}}
      EventInvokeConfig:
        MaximumRetryAttempts: 1
        DestinationConfig: {OnFailure: {Type: SQS, Destination: "arn:aws:sqs:us-east-1:000000000000:failed"}}
      DeadLetterQueue: {Type: SQS, TargetArn: "arn:aws:sqs:us-east-1:000000000000:dead"}
      ReservedConcurrentExecutions: 3
      ProvisionedConcurrencyConfig: {ProvisionedConcurrentExecutions: 1}
      LoggingConfig: {LogFormat: JSON, ApplicationLogLevel: WARN}
      Tracing: Active
      Tags: {team: search}
  Everyone:
    Type: AWS::Lambda::Permission
    Properties: {FunctionName: !Ref Hello.Alias, Action: lambda:InvokeFunction, Principal: s3.amazonaws.com}
Outputs:
  Url: {Value: !GetAtt HelloUrl.FunctionUrl}
  Alias: {Value: !Ref Hello.Alias}
  Version: {Value: !Ref Hello.Version}
"""


class Deployed:
    """A node, and the template that is deployed on it again and again."""

    def __init__(self, node: Any, directory: Path) -> None:
        self.node = node
        self.template = directory / "template.yaml"
        self.client = node.lambda_client()

    def deploy(self, text: str, *options: str) -> str:
        self.template.write_text(text)
        command = [
            sys.executable,
            "-m",
            "glowplug.deploy.cli",
            "deploy",
            str(self.template),
            "--stack",
            "main",
            *options,
        ]
        ran = subprocess.run(
            [*command, "--endpoint", self.node.endpoint], capture_output=True, text=True, timeout=120, check=False
        )
        assert 0 == ran.returncode, ran.stdout + ran.stderr
        return ran.stdout + ran.stderr

    def call(self, path: str) -> tuple[int, Any]:
        status, _, answer = self.node.request("POST", path, {})
        return status, answer

    def sids(self, **qualifier: str) -> list[str]:
        policy = json.loads(self.client.get_policy(FunctionName="hello", **qualifier)["Policy"])
        return [statement["Sid"] for statement in policy["Statement"]]

    def versions(self) -> list[str]:
        listed = self.client.list_versions_by_function(FunctionName="hello")["Versions"]
        return [version["Version"] for version in listed]


@pytest.fixture
def deployed(serving: Any, tmp_path: Path) -> Iterator[Deployed]:
    with serving(None, tmp_path / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield Deployed(node, tmp_path)


@pytest.mark.slow
def test_everything_of_a_template_is_there_changes_with_it_and_goes_with_it(deployed: Deployed) -> None:
    client = deployed.client
    said = deployed.deploy(TEMPLATE)
    assert f"{ARN}:live" in said
    assert f"{ARN}:1\n" in said
    assert ["note: Tracing has no effect here (Hello)"] == [line for line in said.splitlines() if "no effect" in line]

    # As CreateFunction, PublishVersion, CreateAlias, AddPermission and so on would have made it.
    configuration = client.get_function_configuration(FunctionName="hello", Qualifier="live")
    assert ("1", "as deployed") == (configuration["Version"], configuration["Description"])
    assert {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:dead"} == configuration["DeadLetterConfig"]
    assert {"Mode": "Active"} == configuration["TracingConfig"]
    logging = {"LogFormat": "JSON", "ApplicationLogLevel": "WARN", "SystemLogLevel": "INFO"}
    assert logging | {"LogGroup": "/aws/lambda/hello"} == configuration["LoggingConfig"]
    tags = {"lambda:createdBy": "SAM", "shared": "all", "team": "search"}
    assert tags == client.list_tags(Resource=ARN)["Tags"] == client.get_function(FunctionName="hello")["Tags"]
    assert "1" == client.get_alias(FunctionName="hello", Name="live")["FunctionVersion"]
    provisioned = client.get_provisioned_concurrency_config(FunctionName="hello", Qualifier="live")
    assert 1 == provisioned["RequestedProvisionedConcurrentExecutions"]
    assert 3 == client.get_function_concurrency(FunctionName="hello")["ReservedConcurrentExecutions"]
    config = client.get_function_event_invoke_config(FunctionName="hello", Qualifier="live")
    assert 1 == config["MaximumRetryAttempts"]
    assert {"Destination": "arn:aws:sqs:us-east-1:000000000000:failed"} == config["DestinationConfig"]["OnFailure"]
    url = client.get_function_url_config(FunctionName="hello", Qualifier="live")
    assert ("NONE", ["https://example.org"]) == (url["AuthType"], url["Cors"]["AllowOrigins"])
    ours = ["main-Everyone", "main-HelloUrlPublicPermissions", "main-HelloURLInvokeAllowPublicAccess"]
    assert ours == deployed.sids(Qualifier="live")
    answer = {"answer": "first", "version": "1", "arn": f"{ARN}:live"}
    assert (200, answer) == deployed.call("/_url/hello-live/")
    assert 403 == deployed.call("/_url/hello/")[0]

    # Nothing new publishes nothing, what the API adds stays, new code is version 2 and the alias's.
    assert "= hello" in deployed.deploy(TEMPLATE)
    assert ["$LATEST", "1"] == deployed.versions()
    client.add_permission(
        FunctionName="hello", Qualifier="live", StatementId="mine", Action="lambda:InvokeFunction",
        Principal="123456789012",
    )  # fmt: skip
    client.create_alias(FunctionName="hello", Name="by-hand", FunctionVersion="1")
    client.tag_resource(Resource=ARN, Tags={"mine": "x"})
    said = deployed.deploy(TEMPLATE.replace('"first"', '"second"'))
    assert f"{ARN}:2\n" in said
    assert ["$LATEST", "1", "2"] == deployed.versions()
    assert "2" == client.get_alias(FunctionName="hello", Name="live")["FunctionVersion"]
    assert (200, answer | {"answer": "second", "version": "2"}) == deployed.call("/_url/hello-live/")
    assert [*ours, "mine"] == deployed.sids(Qualifier="live")
    old = client.invoke(FunctionName="hello", Qualifier="by-hand")
    assert "first" == json.loads(old["Payload"].read())["answer"]

    # Without the alias, all that was the alias's goes; versions, and what the API made, stay.
    gone = ("AutoPublishAlias", "VersionDescription", "EventInvokeConfig", "MaximumRetry", "DestinationConfig",
            "Provisioned", "DeadLetter", "Tracing")  # fmt: skip
    lines = [line for line in TEMPLATE.splitlines() if not line.strip().startswith(gone)]
    text = "\n".join(lines).partition("Outputs:")[0].replace("!Ref Hello.Alias", "!Ref Hello")
    deployed.deploy(text)
    with pytest.raises(ClientError, match="Cannot find alias arn"):
        client.get_alias(FunctionName="hello", Name="live")
    assert ["by-hand"] == [alias["Name"] for alias in client.list_aliases(FunctionName="hello")["Aliases"]]
    assert ["$LATEST", "1", "2"] == deployed.versions()
    assert (403, 200) == (deployed.call("/_url/hello-live/")[0], deployed.call("/_url/hello/")[0])
    assert ours == deployed.sids()
    assert "mine" in client.list_tags(Resource=ARN)["Tags"]
    configuration = client.get_function_configuration(FunctionName="hello")
    assert ("PassThrough", None) == (configuration["TracingConfig"]["Mode"], configuration.get("DeadLetterConfig"))


@pytest.mark.slow
def test_a_url_without_its_public_permissions_is_refused_unless_policies_are_not_enforced(
    deployed: Deployed, serving: Any, tmp_path: Path
) -> None:
    text = """\
Resources:
  Raw:
    Type: AWS::Lambda::Function
    Properties:
      {FunctionName: hello, Handler: index.handler, Runtime: python3.11, Role: r, Code: {ZipFile: "def handler(e, c): return 1"}}
  Url: {Type: AWS::Lambda::Url, Properties: {TargetFunctionArn: !Ref Raw, AuthType: NONE}}
"""
    deployed.deploy(text)
    assert 403 == deployed.call("/_url/hello/")[0]
    for action, more in (
        ("lambda:InvokeFunctionUrl", {"FunctionUrlAuthType": "NONE"}),
        ("lambda:InvokeFunction", {"InvokedViaFunctionUrl": True}),
    ):
        assert 403 == deployed.call("/_url/hello/")[0]
        deployed.client.add_permission(
            FunctionName="hello", StatementId=action.partition(":")[2], Action=action, Principal="*", **more
        )
    assert (200, 1) == deployed.call("/_url/hello/")
    with serving(None, tmp_path / "open", GLOWPLUG_PRELOAD_TORCH="0", GLOWPLUG_ENFORCE_POLICIES="0") as node:
        lax = Deployed(node, tmp_path)
        lax.deploy(text)
        assert (200, 1) == lax.call("/_url/hello/")
