"""Reading a template: values, lines, and every way in which a file can fail to be one."""

from __future__ import annotations

from pathlib import Path

import pytest

from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import Template, load, parse, read_json_file

TEXT = """\
AWSTemplateFormatVersion: 2010-09-09
Resources:
  Embed:
    Metadata:
      Glowplug: {Parking: off, Model: {Source: !Sub "s3://${Bucket}/x"}}
    Properties:
      Tags:
        - !Ref A
        - plain
"""


def read(text: str) -> Template:
    return parse(text, path=Path("/somewhere/template.yaml"), name="template.yaml")


def test_values_are_plain_and_short_tags_are_spelled_out() -> None:
    template = read(TEXT)
    assert "2010-09-09" == template.document["AWSTemplateFormatVersion"]
    glowplug = template.get(("Resources", "Embed", "Metadata", "Glowplug"))
    assert {"Parking": False, "Model": {"Source": {"Fn::Sub": "s3://${Bucket}/x"}}} == glowplug
    assert [{"Ref": "A"}, "plain"] == template.get(("Resources", "Embed", "Properties", "Tags"))


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("Resources",), 2),
        (("Resources", "Embed", "Metadata", "Glowplug", "Model"), 5),
        (("Resources", "Embed", "Properties", "Tags"), 7),
        (("Resources", "Embed", "Properties", "Tags", 1), 9),
        (("Resources", "Embed", "Properties", "Absent", "Deeper"), 6),
        (("Nowhere",), 1),
    ],
)
def test_every_key_has_its_line_and_what_is_absent_has_its_parents(path: tuple[str | int, ...], line: int) -> None:
    assert line == read(TEXT).line(path)


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ("A: !GetAtt Queue.Arn", "A", {"Fn::GetAtt": ["Queue", "Arn"]}),
        ("A: !GetAtt Nested.Outputs.X", "A", {"Fn::GetAtt": ["Nested", "Outputs.X"]}),
        ("A: !GetAtt [Queue, Arn]", "A", {"Fn::GetAtt": ["Queue", "Arn"]}),
        ("A: !Condition C", "A", {"Condition": "C"}),
        ("A: !If [C, 1, !Ref X]", "A", {"Fn::If": ["C", 1, {"Ref": "X"}]}),
        ("A: !Transform {Name: M}", "A", {"Fn::Transform": {"Name": "M"}}),
        ("A: &x [1]\nB: *x", "B", [1]),
        ("A: 0o17", "A", "0o17"),
        ("A: 'yes'", "A", "yes"),
        ("A:", "A", None),
    ],
)
def test_yaml_as_cloudformation_reads_it(text: str, name: str, value: object) -> None:
    assert value == read(text).document[name]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "template.yaml:1: is empty"),
        ("- a", "template.yaml:1: a template is a mapping with a Resources section"),
        ("A: 1\nB: [1, 2\nC: 3\n", "template.yaml:3:2: not valid YAML: expected ',' or ']', but got ':'"),
        ("A: 1\n\tB: 2\n", "template.yaml:2:1: not valid YAML: found character '\\t' that cannot start any token"),
        ("A: 1\nB: 2\nA: 3\n", "template.yaml:3:1: A is given twice (first in line 1)"),
        ("A: &x {B: 1}\nC:\n  <<: *x\n", "template.yaml:3:3: << is not read by CloudFormation"),
        ("? [a]\n: 1", "template.yaml:1:3: a key must be text"),
        ("A: *nope", "template.yaml:1:4: not valid YAML: found undefined alias 'nope'"),
        ("A: &a\n  B: *a", "template.yaml:1:4: nested more than 100 deep (an alias that contains itself?)"),
        ("A: 1\n--- \nB: 2", "template.yaml:2:1: not valid YAML: but found another document"),
        ("A: 1\nB: \x07", "template.yaml:2: character U+0007 is not allowed in YAML"),
        ("A: " + "[" * 5000, "template.yaml: nested more than 100 deep"),
    ],
)
def test_what_is_not_a_template_is_named_with_file_line_and_column(text: str, message: str) -> None:
    with pytest.raises(TemplateError) as caught:
        read(text)
    assert message in str(caught.value)


def test_aliases_cannot_multiply_a_template_beyond_bounds() -> None:
    levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(TemplateError, match="more than 100000 values"):
        read("\n".join(levels))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"absent\.yaml: cannot be read: No such file or directory"):
        load(tmp_path / "absent.yaml")


def test_a_file_that_is_not_text_is_refused_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_bytes(b"A: 1\nB: \xff\n")
    with pytest.raises(TemplateError, match=r"template\.yaml:2: is not UTF-8 text \(byte 0xff\)"):
        load(file)


def test_a_file_over_cloudformations_limit_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "template.yaml"
    file.write_text("A: " + "x" * 1_000_000)
    with pytest.raises(TemplateError, match="1000003 bytes; a template may have 1000000"):
        load(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "event.json cannot be read: No such file or directory"),
        (b"{", "event.json:1:2 is not JSON: Expecting property name enclosed in double quotes"),
        (b"\xff", "event.json is not UTF-8 text"),
    ],
)
def test_a_named_json_file_that_is_no_json_is_an_error_of_the_template(
    tmp_path: Path, content: bytes | None, message: str
) -> None:
    if content is not None:
        (tmp_path / "event.json").write_bytes(content)
    template = parse("A:\n  Event: event.json\n", path=tmp_path / "template.yaml", name="template.yaml")
    with pytest.raises(TemplateError) as caught:
        read_json_file(template, ("A", "Event"), "event.json")
    assert f"template.yaml:2: A.Event: {message}" == str(caught.value)
