"""Intrinsic functions, one row per rule; and the names of what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.intrinsics import Intrinsics
from glowplug.deploy.template import parse

TEMPLATE = """\
Mappings:
  Sizes: {eu: {memory: 512, zones: [a, b]}}
Conditions:
  Prod: !Equals [!Ref Stage, prod]
  Dev: !Not [!Condition Prod]
  Both: !And [!Condition Prod, !Equals [1, "1"]]
  Either: !Or [!Condition Dev, !Condition Prod]
  True: !Equals [true, "true"]
  Loop: !Not [!Condition Loop]
  Odd: !Ref Stage
Value: VALUE
"""
NAMES = {"Stage": "prod", "Names": ["x", "y"], "AWS::Region": "eu", "Count": "3"}


class TwoResources:
    """Echo and Queue, as References."""

    def ref(self, logical_id: str) -> Any:
        if logical_id != "Echo":
            raise LookupError(f"no parameter or resource {logical_id}")
        return "echo"

    def attribute(self, logical_id: str, attribute: str) -> Any:
        if (logical_id, attribute) != ("Echo", "Arn"):
            raise LookupError(f"{logical_id} has no attribute {attribute}")
        return "arn:echo"


def evaluated(yaml: str) -> Any:
    template = parse(TEMPLATE.replace("VALUE", yaml), path=Path("/somewhere/template.yaml"), name="template.yaml")
    return Intrinsics(template, NAMES, TwoResources()).evaluate(template.document["Value"], ("Value",))


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("plain", "plain"),
        ("!Ref Stage", "prod"),
        ("!Ref Echo", "echo"),
        ("!Ref Names", ["x", "y"]),
        ("!Ref AWS::NoValue", None),
        ("{a: !Ref AWS::NoValue, b: [!Ref AWS::NoValue, 1]}", {"b": [1]}),
        ("!GetAtt Echo.Arn", "arn:echo"),
        ("{Fn::GetAtt: [Echo, Arn]}", "arn:echo"),
        ('!Sub "${Stage}-${AWS::Region}-${Echo}-${Echo.Arn}"', "prod-eu-echo-arn:echo"),
        ('!Sub "${!Literal}"', "${Literal}"),
        ('!Sub ["${Own} ${Stage}", {Own: !Ref Count}]', "3 prod"),
        ("!Join [-, [a, 1, true, !Ref Stage]]", "a-1-true-prod"),
        ('!Join [",", !Ref Names]', "x,y"),
        ('!Join ["", []]', ""),
        ('!Split [",", "a,b,,c"]', ["a", "b", "", "c"]),
        ("!Select [1, [a, b]]", "b"),
        ('!Select ["1", !Split ["/", a/b]]', "b"),
        ("!FindInMap [Sizes, !Ref AWS::Region, memory]", 512),
        ("!FindInMap [Sizes, eu, zones]", ["a", "b"]),
        ("!FindInMap [Sizes, us, memory, {DefaultValue: 128}]", 128),
        ("!Base64 text", "dGV4dA=="),
        ("!If [Prod, !Ref Stage, !Ref Absent]", "prod"),
        ("!If [Dev, !Ref Absent, [1]]", [1]),
        ("{a: !If [Dev, 1, !Ref AWS::NoValue]}", {}),
        ("[!If [Both, 1, 2], !If [Either, 1, 2], !If ['True', 1, 2]]", [1, 1, 1]),
        ("!Length [a, b]", 2),
        ('!GetAZs ""', ["eua", "eub", "euc"]),
        ("!GetAZs us-east-1", ["us-east-1a", "us-east-1b", "us-east-1c"]),
        ("!Cidr [10.0.0.0/24, 3, 5]", ["10.0.0.0/27", "10.0.0.32/27", "10.0.0.64/27"]),
        ('!Cidr [!Select [0, ["fd00::/60"]], "1", "64"]', ["fd00::/64"]),
        ("!ToJsonString {a: !Ref Stage}", '{"a":"prod"}'),
        ("{Condition: Prod, Other: 1}", {"Condition": "Prod", "Other": 1}),
    ],
)
def test_functions_give_what_cloudformation_gives(yaml: str, expected: object) -> None:
    assert json.dumps(expected) == json.dumps(evaluated(yaml))


@pytest.mark.parametrize(
    ("yaml", "message"),
    [
        ("!Ref Absent", "Value.Ref: no parameter or resource Absent"),
        ("!Ref [a]", "Value.Ref: takes the name of a parameter or resource"),
        ("!GetAtt Echo.Url", "Value.Fn::GetAtt: Echo has no attribute Url"),
        ("!GetAtt Echo", "Value.Fn::GetAtt: takes a resource and an attribute"),
        ('!Sub "${Absent}"', "Value.Fn::Sub: no parameter or resource Absent"),
        ('!Sub "${Names}"', "Value.Fn::Sub: ${Names} is not text but ['x', 'y']"),
        ("!Sub [a]", "Value.Fn::Sub: takes a text, or a text and a mapping of its variables"),
        ("!Join [a]", "Value.Fn::Join: takes a delimiter and a list"),
        ("!Join [a, b]", "Value.Fn::Join.1: takes a list, not 'b'"),
        ("!Join ['', [[a]]]", "Value.Fn::Join: an item is not text but ['a']"),
        ("!Split ['', a]", "Value.Fn::Split: takes a delimiter that is not empty"),
        ("!Select [2, [a, b]]", "Value.Fn::Select: index 2 of a list of 2"),
        ("!Select [-1, [a, b]]", "Value.Fn::Select: index -1 of a list of 2"),
        ("!FindInMap [Sizes, us, memory]", "Value.Fn::FindInMap: no 'us' in that mapping"),
        ("!FindInMap [Nope, us, memory]", "Value.Fn::FindInMap: no 'Nope' in Mappings"),
        ("!If [Absent, 1, 2]", "Value.Fn::If.0: no condition 'Absent' in Conditions"),
        ("!If [Prod, 1]", "Value.Fn::If: takes a condition, a value if true and a value if false"),
        ("!If [Loop, 1, 2]", "template.yaml:9: Conditions.Loop: depends on itself (Loop -> Loop)"),
        ("!If [Odd, 1, 2]", "template.yaml:10: Conditions.Odd: a condition is one of"),
        ("!Equals [1, 1]", "Value: Fn::Equals decides a condition; it gives no value here"),
        (
            "!ImportValue x",
            "Value.Fn::ImportValue: 'x' is exported by no stack of the node and no template before this one",
        ),
        ("!GetAZs [a]", "Value.Fn::GetAZs: the argument is not text but ['a']"),
        ("!Cidr [10.0.0.0/24, 4]", "Value.Fn::Cidr: takes a block of addresses, a count and subnet bits"),
        ("!Cidr [10.0.0.0/24, 0, 5]", "Value.Fn::Cidr: takes a count of 1 to 256 and a number of bits, not 0, 5"),
        ("!Cidr [10.0.0.0/24, 9, 5]", "Value.Fn::Cidr: 10.0.0.0/24 has 8 subnets of 5 bits, not 9"),
        ("!Cidr [10.0.0.0/24, 1, 9]", "Value.Fn::Cidr: new prefix must be longer"),
        ("!Cidr [10.0.0.0/24, 1, 33]", "Value.Fn::Cidr: "),
        ("!Cidr [10.0.0.1/24, 1, 8]", "Value.Fn::Cidr: 10.0.0.1/24 has host bits set"),
        ("!RefAll x", "Value: Fn::RefAll is not supported"),
        ("!Subb x", "Value: Fn::Subb is no intrinsic function"),
        ("{Ref: a, b: 1}", "Value: Ref cannot stand beside other keys (Ref, b)"),
    ],
)
def test_what_cannot_be_evaluated_names_function_file_and_line(yaml: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        evaluated(yaml)
    assert message in str(caught.value)
    assert "template.yaml:" in str(caught.value)


def test_the_line_is_that_of_the_function_in_a_long_value() -> None:
    with pytest.raises(TemplateError) as caught:
        evaluated("\n  A: 1\n  B:\n    - x\n    - !Ref Absent\n")
    assert "template.yaml:15: Value.B.1.Ref: no parameter or resource Absent" == str(caught.value)
