"""Loops and imports: what a template becomes before it is translated, and which lines it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.expansion import expand, exports_of
from glowplug.deploy.template import KeyPath, Template, parse
from glowplug.deploy.translate import translate

HEAD = "Transform: [AWS::LanguageExtensions, AWS::Serverless-2016-10-31]\n"
NAMES = {"Stages": ["dev", "prod"], "Stage": "dev", "AWS::StackName": "main"}


def parsed(text: str, head: str = HEAD) -> Template:
    return parse(head + text, path=Path("/somewhere/template.yaml"), name="template.yaml")


def expanded(text: str, head: str = HEAD, exports: Any = None) -> Any:
    return expand(parsed(text, head), NAMES, exports)[0].document


def test_a_loop_makes_a_key_for_each_value_beside_those_that_stand_there() -> None:
    document = expanded(
        """
Resources:
  Before: {Type: T}
  Fn::ForEach::Queues:
    - Kind
    - [fast, slow]
    - "${Kind}Queue":
        Type: Q
        Properties: {Name: !Ref Kind, Text: !Sub "${Kind}-${AWS::Region}-${!Kind}", Number: 1, Arn: !GetAtt "${Kind}Queue.Arn"}
  After: {Type: T}
"""
    )
    assert ["Before", "fastQueue", "slowQueue", "After"] == list(document["Resources"])
    assert {
        "Name": "slow", "Text": {"Fn::Sub": "slow-${AWS::Region}-${!Kind}"}, "Number": 1,
        "Arn": {"Fn::GetAtt": ["slowQueue", "Arn"]},
    } == document["Resources"]["slowQueue"]["Properties"]  # fmt: skip


def test_loops_stand_in_conditions_outputs_and_properties_and_in_each_other() -> None:
    document = expanded(
        """
Conditions:
  Fn::ForEach::C: [S, !Ref Stages, {"Is${S}": !Equals [!Ref Stage, !Ref S]}]
Resources:
  Fn::ForEach::A:
    - A
    - [x, y]
    - Fn::ForEach::B:
        - B
        - !Split [",", "1,2"]
        - "R${A}${B}":
            Condition: "Is${A}"
            Properties:
              Fn::ForEach::P: [P, [u, v], {"K${P}": "${A}${B}${P}"}]
Outputs:
  Fn::ForEach::O: [S, !Ref Stages, {"Out&{S}": {Value: "${S}"}}]
"""
    )
    assert {
        "Isdev": {"Fn::Equals": [{"Ref": "Stage"}, "dev"]},
        "Isprod": {"Fn::Equals": [{"Ref": "Stage"}, "prod"]},
    } == (document["Conditions"])
    assert ["Rx1", "Rx2", "Ry1", "Ry2"] == list(document["Resources"])
    assert {"Condition": "Isy", "Properties": {"Ku": "y2u", "Kv": "y2v"}} == document["Resources"]["Ry2"]
    assert ["Outdev", "Outprod"] == list(document["Outputs"])


def test_what_is_no_letter_or_digit_is_left_out_by_an_ampersand() -> None:
    document = expanded('Resources: {Fn::ForEach::R: [A, [10.0.0.1], {"Host&{A}": {Name: "${A}", Short: "&{A}"}}]}')
    assert {"Host10001": {"Name": "10.0.0.1", "Short": "10001"}} == document["Resources"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Resources: {Fn::ForEach::R: [A, [x]]}", "2: Fn::ForEach::R: takes an identifier, a list of values, and a mapping"),
        ("Resources: {Fn::ForEach: [A, [x], {}]}", "2: Fn::ForEach: needs a name of letters and digits"),
        ("Resources: {Fn::ForEach::R: [A-B, [x], {}]}", "'A-B' is no identifier"),
        ("Resources: {Fn::ForEach::R: [Stage, [x], {}]}", "Stage is already the name of a parameter or of a loop"),
        ("Resources: {Fn::ForEach::R: [A, x, {}]}", "takes a list of texts, or a Ref to a parameter that is one, not 'x'"),
        ("Resources: {Fn::ForEach::R: [A, [[x]], {}]}", "takes a list of texts"),
        ("Resources: {Fn::ForEach::R: [A, !Ref Nobody, {}]}", "Ref: no parameter Nobody"),
        ("Resources: {Fn::ForEach::R: [A, [x], {B: {}}]}", "B: must hold ${A}, or every round makes the same key"),
        ('Resources: {Fn::ForEach::R: [A, [x, x], {"B${A}": {}}]}', "Bx is made twice"),
        ('Resources: {Bx: {}, Fn::ForEach::R: [A, [x], {"B${A}": {}}]}', "Bx is made twice"),
        ('Resources: {Fn::ForEach::R: [A, [x-y], {"B${A}": {}}]}', "'Bx-y' is no logical ID: those are letters and digits; write &{"),
        ("Globals: {Function: {Fn::ForEach::R: [A, [x], {}]}}", "stands in Conditions, Resources, Outputs or below them"),
        ("Resources: {R: {Fn::Transform: {Name: AWS::Include}}}", "Fn::Transform (AWS::Include) is not supported: macros run at AWS"),
    ],
)  # fmt: skip
def test_a_loop_that_is_none_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        expanded(text)
    assert message in str(caught.value)
    assert "template.yaml:2" in str(caught.value)


def test_a_loop_needs_its_transform() -> None:
    with pytest.raises(TemplateError, match=r"Fn::ForEach::R: needs `Transform: AWS::LanguageExtensions`"):
        expanded("Resources: {Fn::ForEach::R: [A, [x], {}]}", head="Transform: AWS::Serverless-2016-10-31\n")


@pytest.mark.parametrize("body", ["{}", '{"R${A}${B}": {}}'])
def test_loops_that_would_make_millions_of_values_are_refused(body: str) -> None:
    template = parsed(f"Resources: {{Fn::ForEach::R: [A, !Ref L, {{Fn::ForEach::S: [B, !Ref L, {body}]}}]}}")
    with pytest.raises(TemplateError, match="loops make more than 100000 values"):
        expand(template, {"L": [str(number) for number in range(10_000)]}, None)


def test_what_is_wrong_in_a_loop_is_named_with_the_line_it_was_written_in() -> None:
    template = parsed(
        """\
Resources:
  Fn::ForEach::Functions:
    - Name
    - [one, two]
    - "${Name}Function":
        Type: AWS::Serverless::Function
        Properties:
          Handler: index.handler
          Runtime: python3.11
          InlineCode: "x = 1"
          Timeout: 0
"""
    )
    with pytest.raises(TemplateError, match=r"^template\.yaml:12: oneFunction\.Properties\.Timeout: 0 is not between"):
        translate(template, stack="main")


def test_a_template_of_loops_is_translated() -> None:
    template = parsed(
        """\
Resources:
  Fn::ForEach::Functions:
    - Name
    - [one, two]
    - "${Name}":
        Type: AWS::Serverless::Function
        Properties: {FunctionName: !Sub "${AWS::StackName}-${Name}", Handler: h.f, Runtime: python3.11, InlineCode: "x = 1"}
Outputs:
  Fn::ForEach::Arns: [Name, [one, two], {"Arn${Name}": {Value: !GetAtt "${Name}.Arn"}}]
"""
    )
    stack = translate(template, stack="main")
    assert ["main-one", "main-two"] == [one["FunctionName"] for one in stack.definitions.functions.values()]
    assert stack.outputs["Arntwo"].endswith(":function:main-two")


IMPORTS = """
Conditions: {Never: !Equals [a, b]}
Resources:
  R:
    Known: !ImportValue base-url
    Built: {Fn::ImportValue: !Sub "${AWS::StackName}-url"}
    Unknown: !ImportValue nobody
    Odd: {Fn::ImportValue: !GetAtt R.Arn}
  Fn::ForEach::S: [S, !Ref Stages, {"S${S}": {Url: {Fn::ImportValue: "url-${S}"}}}]
"""


def test_imports_are_filled_in_and_what_nobody_exports_is_left() -> None:
    exports = {"base-url": "http://a", "main-url": "http://b", "url-prod": "http://c"}
    template, imports = expand(parsed(IMPORTS), NAMES, exports)
    assert {
        "Known": "http://a", "Built": "http://b", "Unknown": {"Fn::ImportValue": "nobody"},
        "Odd": {"Fn::ImportValue": {"Fn::GetAtt": ["R", "Arn"]}},
    } == template.document["Resources"]["R"]  # fmt: skip
    assert {"Fn::ImportValue": "url-dev"} == template.document["Resources"]["Sdev"]["Url"]
    assert ("base-url", "main-url", "url-prod") == imports


def test_an_import_stands_for_its_name_where_there_is_no_node_to_ask() -> None:
    template, imports = expand(parsed(IMPORTS), NAMES, None)
    assert "nobody" == template.document["Resources"]["R"]["Unknown"]
    assert {"base-url", "main-url", "nobody", "url-dev", "url-prod"} == set(imports)


def test_an_import_of_what_nobody_exports_is_an_error_only_where_it_is_used() -> None:
    function = """
Conditions: {Shared: !Equals [a, CHOICE]}
Resources:
  R:
    Type: AWS::Serverless::Function
    Properties:
      {Handler: h.f, Runtime: python3.11, InlineCode: "x = 1", Description: !If [Shared, !ImportValue nobody, mine]}
"""
    stack = translate(parsed(function.replace("CHOICE", "b")), stack="main", exports={})
    assert ("mine", ()) == (stack.definitions.functions["R"]["Description"], stack.imports)
    with pytest.raises(TemplateError, match=r"template\.yaml:8: .*: 'nobody' is exported by no stack"):
        translate(parsed(function.replace("CHOICE", "a")), stack="main", exports={})


def test_exports_are_text_by_the_name_that_they_say() -> None:
    template = parsed('Outputs: {A: {Value: 1, Export: {Name: !Sub "${AWS::StackName}-a"}}, B: {Value: b}}')
    assert {"main-a": "1"} == exports_of(template, NAMES, {"A": 1, "B": "b"})
    for text, message in (
        ("{A: {Value: a, Export: x}}", "takes a Name"),
        ("{A: {Value: a, Export: {Name: !Ref Stages}}}", "takes a Name"),
        ("{A: {Value: [a], Export: {Name: x}}}", r"exports text, not \['a'\]"),
        ("{A: {Value: a, Export: {Name: x}}, B: {Value: a, Export: {Name: x}}}", "x is exported twice"),
    ):
        template = parsed(f"Outputs: {text}")
        outputs = {name: spec["Value"] for name, spec in template.document["Outputs"].items()}
        with pytest.raises(TemplateError, match=message):
            exports_of(template, NAMES, outputs)


def test_a_version_that_is_not_published_yet_cannot_be_exported() -> None:
    template = parsed(
        """\
Resources:
  Fn:
    Type: AWS::Serverless::Function
    Properties: {Handler: h.f, Runtime: python3.11, InlineCode: "x = 1", AutoPublishAlias: live}
Outputs: {V: {Value: !Ref Fn.Version, Export: {Name: version}}}
"""
    )
    with pytest.raises(TemplateError, match=r"template\.yaml:6: Outputs\.V\.Export: exports the number of a version"):
        translate(template, stack="main")


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=8),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text("abR", min_size=1, max_size=4), inner, max_size=3)
        ),
    )
)
def test_what_has_no_loop_and_no_import_is_left_as_it_is(value: object) -> None:
    template = Template(Path("/t"), "t", "", {"Resources": {"R": value}}, {("Resources", "R"): 1})
    made, imports = expand(template, NAMES, {})
    assert ({"Resources": {"R": value}}, {("Resources", "R"): 1}, ()) == (
        dict(made.document),
        dict(made.lines),
        imports,
    )


words = st.text("abcXYZ019", min_size=1, max_size=4)
bodies = st.recursive(
    st.sampled_from(["${It}", "a-${It}-&{It}", "${Other}", "plain", {"Ref": "It"}, {"Ref": "Other"}, 1, True]),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["k", "k${It}", "l"]), inner, max_size=3)
    ),
    max_leaves=6,
)


def by_hand(body: Any, value: str) -> Any:
    """What stands in a loop, written out for one value."""
    if isinstance(body, str):
        return body.replace("${It}", value).replace("&{It}", value)
    if isinstance(body, list):
        return [by_hand(item, value) for item in body]
    if body == {"Ref": "It"}:
        return value
    return {by_hand(key, value): by_hand(item, value) for key, item in body.items()} if isinstance(body, dict) else body


@given(st.lists(words, unique=True, max_size=4), st.dictionaries(words, bodies, max_size=3))
def test_a_loop_is_what_one_would_have_written_out(values: list[str], made: dict[str, Any]) -> None:
    body = {f"${{It}}x{key}": value for key, value in made.items()}
    document = {"Transform": "AWS::LanguageExtensions", "Resources": {"Fn::ForEach::L": ["It", values, body]}}
    lines: dict[KeyPath, int] = {("Resources", "Fn::ForEach::L", 2, key): line for line, key in enumerate(body, 1)}
    template = Template(Path("/t"), "t", "", document, lines)
    expected = {by_hand(key, value): by_hand(one, value) for value in values for key, one in body.items()}
    if len(expected) < len(values) * len(body):  # two rounds make one key
        with pytest.raises(TemplateError, match="is made twice"):
            expand(template, {}, {})
        return
    expanded, _ = expand(template, {}, {})
    assert expected == expanded.document["Resources"]
    assert {key: number for value in values for number, key in enumerate((by_hand(one, value) for one in body), 1)} == {
        path[1]: line for path, line in expanded.lines.items()
    }


def test_a_condition_that_cannot_be_decided_is_refused_also_where_nothing_asks_for_it() -> None:
    with pytest.raises(TemplateError, match=r"template\.yaml:2: Conditions\.C.*: no parameter Nobody"):
        expanded("Conditions: {C: !Equals [!Ref Nobody, a]}")
