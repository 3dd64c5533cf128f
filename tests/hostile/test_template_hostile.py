"""Any value at any place of a template is either deployed or refused with file and line; nothing else escapes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import parse
from glowplug.deploy.translate import translate

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Metadata: {Glowplug: {Parking: "off", Model: {Engine: eager}}}
Parameters: {P: {Type: Number, Default: 3, AllowedValues: [3]}}
Mappings: {M: {a: {b: c}}}
Conditions: {C: {Fn::Equals: [a, a]}}
Globals: {Function: {Runtime: python3.11, CodeUri: code/, Environment: {Variables: {AA: b}}}}
Resources:
  Echo:
    Type: AWS::Serverless::Function
    Condition: C
    Metadata: {Glowplug: {Warmup: {Event: event.json}, Model: {Source: "s3://a/b"}, Batching: {MaxBatchSize: 1}}}
    Properties:
      FunctionName: {Fn::Sub: "x${P}"}
      Handler: echo.handler
      FunctionUrlConfig: {AuthType: NONE}
      Timeout: {Ref: P}
      Policies: [a]
      EphemeralStorage: {Size: 512}
      Architectures: [x86_64]
  Raw: {Type: AWS::Lambda::Function, Properties: {Handler: a.b, Runtime: python3.11, Code: {ZipFile: abc},
        Role: {Fn::GetAtt: [Role, Arn]}}}
  RawUrl: {Type: AWS::Lambda::Url, Properties: {AuthType: NONE, TargetFunctionArn: {Fn::GetAtt: [Raw, Arn]}}}
  Role: {Type: AWS::IAM::Role, Properties: {}}
Outputs: {Url: {Value: {Fn::GetAtt: [EchoUrl, FunctionUrl]}, Condition: C}}
"""
VALUES: list[Any] = [
    None, [], "", -1, "a" * 300, {"a": 1}, {"Ref": "Absent"}, {"Ref": "AWS::NoValue"}, {"Fn::If": ["C", 1, 2]},
]  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if path:
        yield path
    for key, item in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from places(item, (*path, key))


@pytest.mark.slow
@pytest.mark.parametrize("value", VALUES, ids=lambda value: str(value)[:20])
def test_any_value_anywhere_is_deployed_or_refused_with_its_file(value: Any, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "echo.py").write_text("")
    (tmp_path / "event.json").write_text("{}")
    original = yaml.safe_load(TEMPLATE)
    deployed: list[tuple[Any, ...]] = []
    refused: list[str] = []
    for path in places(original):
        document = copy.deepcopy(original)
        target = document
        for key in path[:-1]:
            target = target[key]
        target[path[-1]] = value
        template = parse(yaml.safe_dump(document), path=tmp_path / "template.yaml", name="template.yaml")
        try:
            translate(template, stack="main")
            deployed.append(path)
        except TemplateError as error:
            refused.append(str(error))
    assert deployed
    assert refused
    assert [] == [message for message in refused if not message.startswith("template.yaml:")]
