"""From events and resources of templates to triggers, and what is refused with its line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.events.triggers import trigger_of

HEAD = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Handler: app.handler}
Resources:
  Inbox: {Type: AWS::S3::Bucket, Properties: {BucketName: inbox}}
  News: {Type: AWS::SNS::Topic}
  Work:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: work
      AutoPublishAlias: live
      Events:
"""


def translated(directory: Path, text: str) -> Stack:
    (directory / "code").mkdir(exist_ok=True)
    (directory / "code" / "app.py").write_text("def handler(event, context): return event\n")
    (directory / "template.yaml").write_text(text)
    return translate(load(directory / "template.yaml"), stack="main", endpoint="http://node:9000")


def triggers(directory: Path, events: str, resources: str = "") -> dict[str, Any]:
    return dict(translated(directory, f"{HEAD}        {events}\n{resources}").definitions.triggers)


def target(**more: Any) -> dict[str, Any]:
    return {"FunctionName": "work", "Qualifier": "live", **more}


def test_schedules_become_a_rule_and_a_schedule(tmp_path: Path) -> None:
    found = triggers(
        tmp_path,
        "Old: {Type: Schedule, Properties: {Schedule: rate(5 minutes), Name: often, Enabled: false, Input: '{}'}}\n"
        "        New: {Type: ScheduleV2, Properties: {ScheduleExpression: 'cron(0 9 * * ? *)', StartDate: 2026-01-01T00:00:00Z,"
        " ScheduleExpressionTimezone: Europe/Berlin, FlexibleTimeWindow: {Mode: FLEXIBLE, MaximumWindowInMinutes: 5},"
        " RetryPolicy: {MaximumEventAgeInSeconds: 600}}}",
    )
    assert found["WorkOld"] == {
        "Type": "AWS::Events::Rule", "Name": "often", "ScheduleExpression": "rate(5 minutes)", "State": "DISABLED",
        "Targets": [target(Id="WorkOldLambdaTarget", Input="{}")],
    }  # fmt: skip
    schedule = trigger_of("main/WorkNew", found["WorkNew"]).schedule
    assert schedule is not None
    assert (300, 600, "Europe/Berlin") == (schedule.window_s, schedule.max_age_s, str(schedule.zone))


def test_rules_buckets_and_subscriptions_become_triggers(tmp_path: Path) -> None:
    found = triggers(
        tmp_path,
        "Orders: {Type: EventBridgeRule, Properties: {Pattern: {source: [shop]}, InputPath: $.detail, EventBusName: b}}\n"
        "        In: {Type: S3, Properties: {Bucket: !Ref Inbox, Events: ['s3:ObjectCreated:*', 's3:ObjectRemoved:*'],"
        " Filter: {S3Key: {Rules: [{Name: prefix, Value: in/}]}}}}\n"
        "        Sub: {Type: SNS, Properties: {Topic: !Ref News, FilterPolicy: {kind: [a]}}}",
    )
    assert ("b", {"source": ["shop"]}, [target(Id="WorkOrdersLambdaTarget", InputPath="$.detail")]) == (
        found["WorkOrders"]["EventBusName"], found["WorkOrders"]["EventPattern"], found["WorkOrders"]["Targets"],
    )  # fmt: skip
    assert ("inbox", [["s3:ObjectCreated:*"], ["s3:ObjectRemoved:*"]], ["in/", "in/"]) == (
        found["Inbox"]["Name"], [one["Events"] for one in found["Inbox"]["Targets"]],
        [one["Prefix"] for one in found["Inbox"]["Targets"]],
    )  # fmt: skip
    assert ("main-News", {"kind": ["a"]}, [target(Id="WorkSub")]) == (
        found["WorkSub"]["Name"], found["WorkSub"]["FilterPolicy"], found["WorkSub"]["Targets"],
    )  # fmt: skip


def test_plain_resources_and_their_arns(tmp_path: Path) -> None:
    resources = """\
  Rule:
    Type: AWS::Events::Rule
    Properties:
      EventPattern: {detail-type: [x]}
      Targets:
        - {Id: a, Arn: !GetAtt Work.Arn, InputTransformer: {InputPathsMap: {n: $.detail.n}, InputTemplate: '{"n": <n>}'}}
  Plan:
    Type: AWS::Scheduler::Schedule
    Properties:
      ScheduleExpression: at(2030-01-01T00:00:00)
      FlexibleTimeWindow: {Mode: 'OFF'}
      ActionAfterCompletion: DELETE
      Target: {Arn: !Ref Work.Alias, RoleArn: 'arn:aws:iam::000000000000:role/x'}
Outputs:
  Rule: {Value: !GetAtt Rule.Arn}
  Plan: {Value: !GetAtt Plan.Arn}
  News: {Value: !Ref News}
  Inbox: {Value: !GetAtt Inbox.Arn}
"""
    stack = translated(tmp_path, f"{HEAD.replace('      Events:', '      Tags: {}')}{resources}")
    assert [{"FunctionName": "work", "Id": "a", "InputTransformer": {
        "InputPathsMap": {"n": "$.detail.n"}, "InputTemplate": '{"n": <n>}'}}] == stack.definitions.triggers["Rule"]["Targets"]  # fmt: skip
    assert ("main-Plan", [target()]) == (
        stack.definitions.triggers["Plan"]["Name"],
        stack.definitions.triggers["Plan"]["Targets"],
    )
    assert {
        "Rule": "arn:aws:events:us-east-1:000000000000:rule/main-Rule",
        "Plan": "arn:aws:scheduler:us-east-1:000000000000:schedule/default/main-Plan",
        "News": "arn:aws:sns:us-east-1:000000000000:main-News",
        "Inbox": "arn:aws:s3:::inbox",
    } == stack.outputs


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        (
            "{Type: Schedule, Properties: {Schedule: rate(1 minutes)}}",
            "Schedule: rate(1 minutes): a rule's unit agrees",
        ),
        (
            "{Type: Schedule, Properties: {Schedule: at(2030-01-01T00:00:00)}}",
            "Schedule: 'at(2030-01-01T00:00:00)' is no",
        ),
        ("{Type: Schedule, Properties: {Schedule: rate(1 day), Input: '{'}}", "Input: is not JSON"),
        (
            "{Type: Schedule, Properties: {Schedule: rate(1 day), DeadLetterConfig: {Type: SQS}}}",
            "DeadLetterConfig.Type: is not supported yet",
        ),
        (
            "{Type: Schedule, Properties: {Schedule: rate(1 day), DeadLetterConfig: {Arn: 'arn:aws:sns:a'}}}",
            "DeadLetterConfig.Arn: 'arn:aws:sns:a' is not the ARN of an SQS queue",
        ),
        (
            "{Type: Schedule, Properties: {Schedule: rate(1 day), DeadLetterConfig: {Arn: "
            "'arn:aws:sqs:us-east-1:000000000000:dead.fifo'}}}",
            "DeadLetterConfig.Arn: arn:aws:sqs:us-east-1:000000000000:dead.fifo is FIFO; only standard queues",
        ),
        (
            "{Type: ScheduleV2, Properties: {ScheduleExpression: rate(1 day), ScheduleExpressionTimezone: Mars/Base}}",
            "ScheduleExpressionTimezone: ScheduleExpressionTimezone 'Mars/Base' is not",
        ),
        ("{Type: EventBridgeRule, Properties: {Pattern: {source: shop}}}", "source: a field has a list"),
        ("{Type: EventBridgeRule, Properties: {Pattern: {a: [b]}, InputPath: x}}", "InputPath: 'x' is no path"),
        (
            "{Type: S3, Properties: {Bucket: other, Events: 's3:ObjectCreated:*'}}",
            "Bucket: must be a !Ref to an AWS::S3",
        ),
        (
            "{Type: S3, Properties: {Bucket: !Ref Inbox, Events: 's3:ObjectRestore:*'}}",
            "'s3:ObjectRestore:*' is not seen",
        ),
        ("{Type: SNS, Properties: {Topic: !Ref News, SqsSubscription: true}}", "SqsSubscription: is not supported yet"),
        ("{Type: Kinesis, Properties: {}}", "Type: events of Kinesis are not supported yet"),
    ],
)
def test_what_cannot_be_run_is_refused_with_its_line(tmp_path: Path, event: str, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        triggers(tmp_path, f"One: {event}")
    assert problem in str(caught.value)
    assert caught.value.line == (5 if "ObjectRestore" in event else 13)


@pytest.mark.parametrize(
    ("resource", "problem"),
    [
        (
            "{Type: AWS::Events::Rule, Properties: {ScheduleExpression: rate(1 day)}}",
            "X.Properties.Targets: a rule without targets does nothing",
        ),
        (
            "{Type: AWS::Events::Rule, Properties: {ScheduleExpression: rate(1 day), Targets: [{Id: a, Arn: 'arn:x'}]}}",
            "X.Properties.Targets.0.Arn: arn:x is not a function of this template",
        ),
        (
            "{Type: AWS::Events::Rule, Properties: {ScheduleExpression: rate(1 day), Targets: [{Id: a, EcsParameters: 1,"
            " Arn: !GetAtt Work.Arn}]}}",
            "X.Properties.Targets.0.EcsParameters: is not supported yet: targets are functions",
        ),
        (
            "{Type: AWS::SNS::Subscription, Properties: {TopicArn: !Ref News, Protocol: email, Endpoint: a@b}}",
            "X.Properties.Protocol: 'email' is not supported yet; use lambda",
        ),
        (
            "{Type: AWS::S3::Bucket, Properties: {NotificationConfiguration: {QueueConfigurations: []}}}",
            "X.Properties.NotificationConfiguration.QueueConfigurations: is not supported yet",
        ),
    ],
)
def test_resources_that_cannot_be_run_are_refused(tmp_path: Path, resource: str, problem: str) -> None:
    with pytest.raises(TemplateError) as caught:
        translated(tmp_path, f"{HEAD.replace('      Events:', '      Tags: {}')}  X: {resource}\n")
    assert problem in str(caught.value)


def test_a_rule_that_is_called_events_is_not_taken_for_one_of_a_function(tmp_path: Path) -> None:
    rule = "{Type: AWS::Events::Rule, Properties: {ScheduleExpression: rate(1 day), Targets: [{Id: a, Arn: 'arn:x'}]}}"
    with pytest.raises(TemplateError, match=r"Events\.Properties\.Targets\.0\.Arn: arn:x is not a function"):
        translated(tmp_path, f"{HEAD.replace('      Events:', '      Tags: {}')}  Events: {rule}\n")
