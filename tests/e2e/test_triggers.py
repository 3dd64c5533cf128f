"""What sends events by itself, on a live node: schedules, posted events, topics, a bucket that is a directory."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import boto3
import pytest
from botocore.exceptions import ClientError
from nodes import ServedNode, served

from glowplug.deploy.apply import deploy_all
from glowplug.deploy.client import NodeClient

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Inbox: {{Type: AWS::S3::Bucket, Properties: {{BucketName: inbox}}}}
  News: {{Type: AWS::SNS::Topic, Properties: {{TopicName: news}}}}
  Work:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: work
      Runtime: python3.11
      Handler: index.handler
      InlineCode: |
        def handler(event, context):
            return event
      Events:
        Once: {{Type: ScheduleV2, Properties: {{ScheduleExpression: 'at({at})', Input: '{{"at": "<aws.scheduler.scheduled-time>"}}',
                FlexibleTimeWindow: {{Mode: 'OFF'}}}}}}
        Often: {{Type: Schedule, Properties: {{Schedule: rate(1 hour)}}}}
        Orders: {{Type: EventBridgeRule, Properties: {{Pattern: {{source: [shop]}}, InputPath: $.detail}}}}
        In: {{Type: S3, Properties: {{Bucket: !Ref Inbox, Events: 's3:ObjectCreated:*',
             Filter: {{S3Key: {{Rules: [{{Name: suffix, Value: .txt}}]}}}}}}}}
        Sub: {{Type: SNS, Properties: {{Topic: !Ref News, FilterPolicy: {{kind: [wanted]}}}}}}
"""
KEYS = {"region_name": "us-east-1", "aws_access_key_id": "any", "aws_secret_access_key": "any"}
ENVIRON = {"GLOWPLUG_PRELOAD_TORCH": "0", "GLOWPLUG_S3_POLL_SECONDS": "0.2"}


def at(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%S")


def write(directory: Path, due: str) -> Path:
    template = directory / "template.yaml"
    template.write_text(TEMPLATE.format(at=due))
    return template


def ended(node: ServedNode, source: str, count: int = 1, limit_s: float = 30.0) -> list[Any]:
    """Return what the function answered to the events of a source, once there are ``count``."""
    found: list[Any] = []

    def there() -> bool:
        events = node.admin("GET", "async?function=work")["events"]
        ids = [one["requestId"] for one in events if one.get("source", "").startswith(source) and "finishedAt" in one]
        found[:] = [node.admin("GET", f"async/{one}")["result"] for one in reversed(ids)]
        return len(found) >= count

    until(there, limit_s)
    return found


def until(holds: Callable[[], bool], limit_s: float = 30.0) -> None:
    end = time.monotonic() + limit_s
    while not holds():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.05)


def test_sources_reach_their_function(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "before.txt").write_text("no event")
    with served(None, tmp_path / "state", GLOWPLUG_BUCKETS=f"inbox={inbox}", **ENVIRON) as node:
        deploy_all([write(tmp_path, at(8))], NodeClient(node.endpoint))
        events = boto3.client("events", endpoint_url=node.endpoint, **KEYS)
        answer = events.put_events(Entries=[
            {"Source": "shop", "DetailType": "order", "Detail": '{"n": 1}'},
            {"Source": "other", "DetailType": "order", "Detail": "{}"},
            {"Source": "shop", "DetailType": "order", "Detail": "no json"},
        ])  # fmt: skip
        assert 1 == answer["FailedEntryCount"]
        assert ["MalformedDetail"] == [one["ErrorCode"] for one in answer["Entries"] if "ErrorCode" in one]
        posted = {"Entries": [{"Source": "shop", "DetailType": "order", "Detail": '{"n": 2}'}]}
        assert 0 == node.admin("POST", "events", posted)["FailedEntryCount"]
        assert [{"n": 1}, {"n": 2}] == sorted(ended(node, "rule:", 2), key=lambda one: one["n"])

        topics = boto3.client("sns", endpoint_url=node.endpoint, **KEYS)
        arn = "arn:aws:sns:us-east-1:000000000000:news"
        for kind in ("unwanted", "wanted"):
            kinds = {"kind": {"DataType": "String", "StringValue": kind}}
            topics.publish(TopicArn=arn, Message=f"an {kind} one", Subject="s", MessageAttributes=kinds)
        ((record,),) = [one["Records"] for one in ended(node, "sns:")]
        assert ("an wanted one", "s", arn) == tuple(record["Sns"][name] for name in ("Message", "Subject", "TopicArn"))
        with pytest.raises(ClientError, match="NotFound"):
            topics.publish(TopicArn=f"{arn}-none", Message="lost")

        (inbox / "a b.txt").write_text("hello")
        (inbox / "other.png").write_text("not wanted")
        ((record,),) = [one["Records"] for one in ended(node, "s3:")]
        assert ("ObjectCreated:Put", "a+b.txt", 5) == (
            record["eventName"], record["s3"]["object"]["key"], record["s3"]["object"]["size"],
        )  # fmt: skip

        (once,) = ended(node, "schedule:")
        assert once["at"].endswith("Z")
        listed = {one["logical_id"]: one for one in node.admin("GET", "schedules")["schedules"]}
        assert ("DONE", 1, "succeeded") == tuple(listed["WorkOnce"][name] for name in ("state", "fired", "result"))
        assert ("ENABLED", "") == (listed["WorkOften"]["state"], listed["WorkOften"]["last"])
        status, _, text = node.request_raw("GET", "/metrics")
        assert 200 == status
        assert 'glowplug_schedule_runs_total{schedule="' in text


def test_a_node_that_is_killed_around_the_time_of_a_schedule_runs_it_once(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        offsets_s = (-0.2, 0.05)
        nodes = [stack.enter_context(served(None, tmp_path / f"{offset_s}", **ENVIRON)) for offset_s in offsets_s]
        due = at(8)
        template = write(tmp_path, due)
        for node in nodes:
            deploy_all([template], NodeClient(node.endpoint))
        for offset_s, node in zip(offsets_s, nodes, strict=True):
            moment = datetime.fromisoformat(f"{due}+00:00") + timedelta(seconds=offset_s)
            time.sleep(max(0.0, (moment - datetime.now(UTC)).total_seconds()))
            assert datetime.now(UTC) < moment + timedelta(seconds=2), "it took too long to deploy"
            node.stop(signal.SIGKILL)
        time.sleep(0.5)
        for node in nodes:
            node.start()
        for node in nodes:
            assert [{"at": f"{due}Z"}] == ended(node, "schedule:")
        time.sleep(0.5)
        for node in nodes:
            events = node.admin("GET", "async?function=work")["events"]
            assert 1 == len([one for one in events if one.get("source", "").startswith("schedule:")])
            assert json.dumps(node.admin("GET", "schedules")).count('"DONE"') == 1
