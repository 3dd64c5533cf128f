"""Queues and event source mappings of templates: what they become, and where they are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.wantedqueues import mapping_id_of

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Parameters:
  Hidden: {Type: Number, Default: 60}
Resources:
  Dead: {Type: AWS::SQS::Queue}
  Jobs:
    Type: AWS::SQS::Queue
    DeletionPolicy: Retain
    Properties:
      VisibilityTimeout: !Ref Hidden
      RedrivePolicy: {deadLetterTargetArn: !GetAtt Dead.Arn, maxReceiveCount: 5}
      KmsMasterKeyId: alias/a
      Tags: [{Key: team, Value: a}, {Key: shared, Value: true}]
  Ordered:
    Type: AWS::SQS::Queue
    Properties: {FifoQueue: true, ContentBasedDeduplication: "true", QueueName: ordered.fifo}
  Allowed:
    Type: AWS::SQS::QueuePolicy
    Properties: {Queues: [!Ref Jobs], PolicyDocument: {}}
  Work:
    Type: AWS::Serverless::Function
    Properties:
      Handler: app.handler
      Runtime: python3.11
      CodeUri: src
      AutoPublishAlias: live
      Events:
        Jobs:
          Type: SQS
          Properties:
            Queue: !GetAtt Jobs.Arn
            BatchSize: 5
            Enabled: false
            FunctionResponseTypes: [ReportBatchItemFailures]
            FilterCriteria: {Filters: [{Pattern: '{"body": {"kind": ["a"]}}'}]}
            ScalingConfig: {MaximumConcurrency: 4}
            MetricsConfig: {Metrics: [EventCount]}
  Direct:
    Type: AWS::Lambda::EventSourceMapping
    Properties:
      FunctionName: !Ref Work
      EventSourceArn: !GetAtt Ordered.Arn
      BatchSize: 10
      Tags: [{Key: count, Value: 3}]
Outputs:
  Url: {Value: !Ref Jobs}
  Arn: {Value: !GetAtt Ordered.Arn}
  Name: {Value: !GetAtt Dead.QueueName}
  Mapping: {Value: !Ref Direct}
"""


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "app.py").write_text("def handler(event, context): return None\n")
    return tmp_path


def translated(directory: Path, text: str) -> Stack:
    path = directory / "template.yaml"
    path.write_text(text)
    return translate(load(path), stack="shop")


def test_queues_and_mappings_become_definitions(directory: Path) -> None:
    stack = translated(directory, TEMPLATE)
    prefix = "arn:aws:sqs:us-east-1:000000000000:"
    assert {
        "Dead": {"QueueName": "shop-Dead"},
        "Jobs": {
            "QueueName": "shop-Jobs", "VisibilityTimeout": 60, "DeletionPolicy": "Retain",
            "Tags": {"team": "a", "shared": "true"},
            "RedrivePolicy": {"deadLetterTargetArn": f"{prefix}shop-Dead", "maxReceiveCount": 5},
        },
        "Ordered": {"QueueName": "ordered.fifo", "FifoQueue": True, "ContentBasedDeduplication": True},
    } == stack.definitions.queues  # fmt: skip
    assert {
        "Direct": {"FunctionName": "shop-Work", "EventSourceArn": f"{prefix}ordered.fifo", "BatchSize": 10,
                   "Tags": {"count": "3"}},
        "WorkJobs": {
            "FunctionName": "shop-Work:live", "EventSourceArn": f"{prefix}shop-Jobs", "BatchSize": 5, "Enabled": False,
            "FunctionResponseTypes": ["ReportBatchItemFailures"], "ScalingConfig": {"MaximumConcurrency": 4},
            "FilterCriteria": {"Filters": [{"Pattern": '{"body": {"kind": ["a"]}}'}]},
        },
    } == stack.definitions.mappings  # fmt: skip
    assert {
        "Url": "http://127.0.0.1:9000/000000000000/shop-Jobs", "Arn": f"{prefix}ordered.fifo", "Name": "shop-Dead",
        "Mapping": mapping_id_of("shop", "Direct"),
    } == stack.outputs  # fmt: skip
    assert {
        "AWS::SQS::QueuePolicy has no effect here (Allowed)", "KmsMasterKeyId has no effect here (Jobs)",
        "SQS.MetricsConfig has no effect here (Work.Jobs)",
    } <= set(stack.notes)  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("BatchSize: 5", "BatchSize: 50", "Work.Properties.Events.Jobs.Properties.BatchSize: more than 10 need a"),
        ("BatchSize: 10", "BatchSize: 11", "template.yaml:43: Direct.Properties.BatchSize: 11 is not between 1 and 10"),
        ("maxReceiveCount: 5", "maxReceiveCount: 0", "Jobs.Properties.RedrivePolicy.maxReceiveCount: 0 is not between"),
        ("VisibilityTimeout: !Ref Hidden", "VisibilityTimeout: 50000", "Jobs.Properties.VisibilityTimeout: 50000 is not"),
        ("QueueName: ordered.fifo", "QueueName: ordered", "Ordered.Properties.QueueName: the name of a FIFO queue ends"),
        ("VisibilityTimeout: !Ref", "VisiblityTimeout: !Ref", "unknown key; did you mean VisibilityTimeout?"),
        ("DeletionPolicy: Retain", "DeletionPolicy: Keep", "Jobs.DeletionPolicy: 'Keep' is not one of Delete, Retain"),
        ("!GetAtt Ordered.Arn\n      Batch", "arn:aws:kinesis:us-east-1:000000000000:stream/s\n      Batch",
         "Direct.Properties.EventSourceArn: event sources of kinesis are not supported; sqs is"),
        ("!GetAtt Ordered.Arn\n      Batch", "arn:aws:kinesis:us-east-1:000000000000:stream/s\n      StartingPosition: LATEST\n"
         "      Batch", "Direct.Properties.EventSourceArn: event sources of kinesis are not supported; sqs is"),
        ("BatchSize: 5", "BatchSize: few", "Work.Properties.Events.Jobs.Properties.BatchSize: Type of property"),
        ("            Queue: !GetAtt Jobs.Arn\n", "", "Work.Properties.Events.Jobs.Properties.Queue: Missing required"),
        ("BatchSize: 10", "StartingPosition: LATEST", "Direct.Properties.StartingPosition: is not supported yet"),
        ('"kind": ["a"]', '"kind": "a"', "Work.Properties.Events.Jobs.Properties.FilterCriteria.Filters.0.Pattern: body"),
        ("Queue: !GetAtt Jobs.Arn", "Queue: jobs", "Work.Properties.Events.Jobs.Properties.Queue: 'jobs' is not the ARN"),
        ("MaximumConcurrency: 4", "MaximumConcurrency: 1",
         "Jobs.Properties.ScalingConfig.MaximumConcurrency: 1 is not between 2 and 1000"),
        ("      EventSourceArn: !GetAtt Ordered.Arn\n", "", "Direct.Properties: EventSourceArn is missing"),
        ("QueueName: ordered.fifo", "QueueName: !Ref Jobs", "Ordered.Properties.QueueName:"),
        ("Tags: [{Key: team, Value: a}, {Key: shared, Value: true}]", "Tags: {team: a}",
         "template.yaml:13: Jobs.Properties.Tags: must be a list of mappings with Key and Value"),
        ("Tags: [{Key: count, Value: 3}]", "Tags: [{Key: count}]",
         "template.yaml:44: Direct.Properties.Tags: must be a list of mappings with Key and Value"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_refused_where_it_was_written(directory: Path, old: str, new: str, message: str) -> None:
    assert old in TEMPLATE
    with pytest.raises(TemplateError) as raised:
        translated(directory, TEMPLATE.replace(old, new))
    assert message in str(raised.value)


def test_two_queues_of_one_name_are_refused(directory: Path) -> None:
    text = TEMPLATE.replace(
        "Dead: {Type: AWS::SQS::Queue}", "Dead: {Type: AWS::SQS::Queue, Properties: {QueueName: shop-Jobs}}"
    )
    with pytest.raises(TemplateError, match="shop-Jobs is already the name of Dead"):
        translated(directory, text)


def test_the_node_s_refusals_are_found_again(directory: Path) -> None:
    from glowplug.deploy.queues import in_template
    from glowplug.runtime.errors import DefinitionError

    stack = translated(directory, TEMPLATE)
    found: Any = in_template(stack.template, "WorkJobs", DefinitionError("EventSourceArn", "no"))
    assert str(found).endswith("template.yaml:31: Work.Properties.Events.Jobs.Properties.Queue: no")
