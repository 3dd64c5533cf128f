"""Two stacks on one node, from the command line: validate, plan, deploy, drift, destroy."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

pytestmark = pytest.mark.slow

SHOP = """\
Transform: [AWS::LanguageExtensions, AWS::Serverless-2016-10-31]
Parameters:
  Stage: {Type: String, Default: dev}
Resources:
  Fn::ForEach::Functions:
    - Name
    - [orders, returns]
    - "${Name}":
        Type: AWS::Serverless::Function
        Properties:
          FunctionName: !Sub "${Stage}-${Name}"
          Handler: index.handler
          Runtime: python3.11
          Timeout: 5
          Environment: {Variables: {WHAT: "${Name}"}}
          FunctionUrlConfig: {AuthType: NONE}
          InlineCode: |
            import os
            def handler(event, context): return os.environ["WHAT"]
Outputs:
  Url: {Value: !GetAtt ordersUrl.FunctionUrl, Export: {Name: !Sub "${AWS::StackName}-orders"}}
"""
CLIENT = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Caller:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: NAME
      Handler: index.handler
      Runtime: python3.11
      Environment: {Variables: {ORDERS: !ImportValue shop-orders}}
      InlineCode: |
        import os, urllib.request
        def handler(event, context):
            return urllib.request.urlopen(os.environ["ORDERS"]).read().decode()
"""

WORK = """\
Transform: AWS::Serverless-2016-10-31
Parameters: {Hidden: {Type: Number, Default: 30}}
Resources:
  Failed: {Type: AWS::SQS::Queue, DeletionPolicy: Retain, UpdateReplacePolicy: Retain}
  Jobs:
    Type: AWS::SQS::Queue
    Properties:
      VisibilityTimeout: !Ref Hidden
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Failed.Arn, maxReceiveCount: 5}
  Inbox: {Type: AWS::S3::Bucket, Properties: {BucketName: inbox}}
  News: {Type: AWS::SNS::Topic}
  Work:
    Type: AWS::Serverless::Function
    Properties:
      Handler: index.handler
      Runtime: python3.11
      InlineCode: "def handler(event, context): return 1"
      Events:
        Jobs: {Type: SQS, Properties: {Queue: !GetAtt Jobs.Arn, Enabled: false}}
        Nightly: {Type: Schedule, Properties: {Schedule: rate(1 day), Name: nightly}}
        Files: {Type: S3, Properties: {Bucket: !Ref Inbox, Events: "s3:ObjectCreated:*"}}
        Told: {Type: SNS, Properties: {Topic: !Ref News}}
"""
PARTS = [
    "work-Work", "queue work-Failed", "queue work-Jobs", "event source mapping WorkJobs", "rule nightly",
    "notifications of bucket inbox", "subscription WorkTold to topic work-News",
]  # fmt: skip


class Terminal:
    """A node, and the command line in a directory with two templates."""

    def __init__(self, node: Any, directory: Path) -> None:
        self.node, self.directory = node, directory

    def __call__(self, *arguments: str, status: int = 0, said: str = "") -> str:
        """Run a command; return what it printed, errors behind answers."""
        done = subprocess.run(
            [sys.executable, "-m", "glowplug.deploy.cli", *arguments], input=said, capture_output=True, text=True,
            cwd=self.directory, env={"PATH": "/usr/bin:/bin", "GLOWPLUG_HOME": str(self.node.state), "HOME": "/tmp"},
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout + done.stderr

    def changes(self, *templates: str) -> dict[str, str]:
        """Return what a plan would do to each part of the stacks."""
        planned = json.loads(self("plan", *templates, "--json"))
        return {change["name"]: change["change"] for one in planned["stacks"] for change in one["changes"]}


@pytest.fixture(scope="module")
def glowplug(serving: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Terminal]:
    directory = tmp_path_factory.mktemp("stacks")
    for name, text in (("shop", SHOP), ("client", CLIENT.replace("NAME", "caller"))):
        (directory / f"{name}.yaml").write_text(text)
    with serving(None, directory / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        yield Terminal(node, directory)


def test_two_stacks_from_validation_to_their_end(glowplug: Terminal) -> None:
    node = glowplug.node
    shown = glowplug("validate", "shop.yaml", "client.yaml")
    assert "shop.yaml: stack shop, 2 functions, no problem" in shown

    # A plan creates nothing, in whatever order it is asked for.
    new = {"dev-orders": "create", "dev-returns": "create", "caller": "create"}
    assert new == glowplug.changes("shop.yaml", "client.yaml")
    assert "'shop-orders' is exported by no stack of the node" in glowplug("plan", "client.yaml", status=1)
    assert [] == node.admin("GET", "stacks")["stacks"]

    shown = glowplug("deploy", "shop.yaml", "client.yaml")
    assert shown.index("stack shop: 2 functions") < shown.index("stack client: 1 function")
    assert '"orders"' == glowplug("invoke", "caller").strip().replace('\\"', "").replace('""', '"')
    assert dict.fromkeys(new, "unchanged") == glowplug.changes("shop.yaml", "client.yaml")
    listed = glowplug("stacks")
    assert "shop-orders = http://" in listed
    assert ["client", "shop"] == [line.split()[0] for line in listed.splitlines()[1:3]]

    # What is changed behind the template's back is told, and set back.
    client = node.lambda_client()
    client.update_function_configuration(
        FunctionName="dev-orders", Timeout=9, Environment={"Variables": {"WHAT": "other"}}
    )
    client.delete_function(FunctionName="dev-returns")
    drifted = glowplug("plan", "shop.yaml")
    assert [
        "~ dev-orders", "    drift: was changed through the API: Timeout, Environment.Variables.WHAT",
        "+ dev-returns", "    drift: was deleted through the API", "stack shop: 1 to create, 1 to change",
    ] == drifted.splitlines()  # fmt: skip
    assert (
        "drift: dev-orders was changed through the API: Timeout, Environment.Variables.WHAT; this deploy has undone it"
        in (glowplug("deploy", "shop.yaml"))
    )
    configuration = client.get_function_configuration(FunctionName="dev-orders")
    assert (5, {"WHAT": "orders"}) == (configuration["Timeout"], configuration["Environment"]["Variables"])
    assert {"dev-orders": "unchanged", "dev-returns": "unchanged"} == glowplug.changes("shop.yaml")

    # A stack goes as a whole, when it is said so and when nobody needs it.
    refused = glowplug("destroy", "shop", "--yes", status=1)
    assert "shop-orders is imported by the stack client: change or destroy that one first" in refused
    glowplug("destroy", "client", said="n\n", status=1)
    assert 3 == len(node.admin("GET", "functions")["functions"])
    glowplug("destroy", "client", said="y\n")
    assert "stack shop is gone" in glowplug("destroy", "shop", "--yes")
    assert ([], []) == (node.admin("GET", "functions")["functions"], node.admin("GET", "stacks")["stacks"])


def test_queues_mappings_and_triggers_are_planned_drift_and_go_as_functions_do(glowplug: Terminal) -> None:
    def shown(*arguments: str) -> list[str]:
        return [line for line in glowplug(*arguments).splitlines() if not line.startswith("note: ")]

    (glowplug.directory / "work.yaml").write_text(WORK)
    assert [*(f"+ {part}" for part in PARTS), "stack work: 7 to create"] == shown("plan", "work.yaml")
    glowplug("deploy", "work.yaml")
    assert [*(f"= {part}" for part in PARTS), "stack work: 7 unchanged"] == shown("plan", "work.yaml")

    (glowplug.directory / "work.yaml").write_text(WORK.replace("rate(1 day)", "rate(2 days)"))
    changed = shown("plan", "work.yaml", "--parameter", "Hidden=60")
    for line in ("~ queue work-Jobs", "    VisibilityTimeout: 30 -> 60", "~ rule nightly",
                 "    ScheduleExpression: rate(1 day) -> rate(2 days)", "stack work: 2 to change, 5 unchanged"):  # fmt: skip
        assert line in changed
    (glowplug.directory / "work.yaml").write_text(WORK)

    client = glowplug.node.lambda_client()
    sqs = boto3.client(
        "sqs", endpoint_url=glowplug.node.endpoint, region_name="us-east-1", aws_access_key_id="test",
        aws_secret_access_key="test",
    )  # fmt: skip
    sqs.set_queue_attributes(
        QueueUrl=sqs.get_queue_url(QueueName="work-Jobs")["QueueUrl"], Attributes={"DelaySeconds": "9"}
    )
    (mapping,) = client.list_event_source_mappings(FunctionName="work-Work")["EventSourceMappings"]
    client.delete_event_source_mapping(UUID=mapping["UUID"])
    drifted = shown("plan", "work.yaml")
    assert ("    drift: was changed through the API: DelaySeconds", "    drift: was deleted through the API") == (
        drifted[drifted.index("~ queue work-Jobs") + 1], drifted[drifted.index("+ event source mapping WorkJobs") + 1]
    )  # fmt: skip
    undone = shown("deploy", "work.yaml")
    assert "drift: queue work-Jobs was changed through the API: DelaySeconds; this deploy has undone it" in undone
    assert "stack work: 7 unchanged" in shown("plan", "work.yaml")

    gone = [f"- {part}" for part in ("function work-Work", *PARTS[1:])]
    gone[1] = "- queue work-Failed, which stays with its messages (Retain)"
    assert gone == shown("destroy", "work", "--yes")[:-1]
    assert ["work-Failed"] == [url.rpartition("/")[2] for url in sqs.list_queues()["QueueUrls"]]


def test_a_deploy_is_all_or_nothing_and_says_so(glowplug: Terminal) -> None:
    glowplug("deploy", "shop.yaml", "--parameter", "Stage=one")
    before = glowplug.node.admin("GET", "stacks/shop")
    (glowplug.directory / "taken.yaml").write_text(CLIENT.replace("NAME", "one-orders"))
    refused = glowplug("deploy", "taken.yaml", status=1)
    assert "taken.yaml:6: Caller.Properties.FunctionName: one-orders belongs to the stack shop" in refused
    assert refused.endswith("nothing was changed on the node\n")

    # Refused by the node, in the middle: one function of the two has a name that the API took.
    client = glowplug.node.lambda_client()
    role = client.get_function_configuration(FunctionName="one-orders")["Role"]
    made = {"FunctionName": "two-returns", "Handler": "h.f", "Runtime": "python3.11", "Role": role}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("h.py", "def f(event, context): return 1\n")
    client.create_function(**made, Code={"ZipFile": packed.getvalue()})
    refused = glowplug("deploy", "shop.yaml", "--parameter", "Stage=two", status=1)
    assert "returns: function two-returns belongs to no stack: it was made by the Lambda API" in refused
    assert "the stack shop is what it was: a stack is put as a whole or not at all" in refused
    assert before == glowplug.node.admin("GET", "stacks/shop")
