"""Layers of a template: what is packed, who has them, and what is refused with file and line."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.apply import deploy_all
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack, translate
from glowplug.runtime.wanted import wanted_of

PREFIX = "arn:aws:lambda:us-east-1:000000000000:layer:"
HEAD = """\
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, Handler: app.handler, CodeUri: app.py}
Resources:
"""
FUNCTION = "  App: {Type: 'AWS::Serverless::Function', Properties: {FunctionName: app, Layers: [!Ref Common]}}\n"
COMMON = "  Common: {Type: 'AWS::Serverless::LayerVersion', Properties: {ContentUri: common/}}\n"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "common" / "python").mkdir(parents=True)
    (tmp_path / "common" / "python" / "common.py").write_text("x = 1\n")
    (tmp_path / "app.py").write_text("def handler(event, context): ...\n")
    return tmp_path


def translated(directory: Path, text: str, **options: Any) -> Stack:
    (directory / "template.yaml").write_text(text)
    return translate(load(directory / "template.yaml"), stack="main", **options)


def refused(directory: Path, text: str) -> str:
    with pytest.raises(TemplateError) as caught:
        translated(directory, text)
    return str(caught.value).removeprefix(f"{directory}/").replace(f"{directory}/", "")


def names(stack: Stack, layer: str) -> list[str]:
    with zipfile.ZipFile(io.BytesIO(stack.archives[stack.definitions.layers[layer]["CodeSha256"]].data)) as file:
        return file.namelist()


def test_a_layer_is_packed_and_named_by_its_function(directory: Path) -> None:
    stack = translated(directory, HEAD + COMMON + FUNCTION)
    assert ["python/common.py"] == names(stack, "Common")
    assert {
        "LayerName": "main-Common",
        "CodeSha256": stack.definitions.layers["Common"]["CodeSha256"],
    } == stack.definitions.layers["Common"]
    assert [{"Ref": "Common"}] == stack.definitions.functions["App"]["Layers"]
    assert (("Common", True),) == wanted_of(stack.definitions.functions["App"]).layers
    assert () == stack.notes
    assert {} == stack.builds


def test_what_a_layer_says_of_itself_is_passed_on(directory: Path) -> None:
    text = (
        HEAD
        + FUNCTION
        + """\
  Common:
    Type: AWS::Serverless::LayerVersion
    Properties:
      ContentUri: common
      LayerName: !Sub "${AWS::StackName}-shared"
      Description: ours
      CompatibleRuntimes: [python3.11, python3.12]
      CompatibleArchitectures: [x86_64]
      LicenseInfo: MIT
      RetentionPolicy: Retain
"""
    )
    stack = translated(directory, text)
    assert {
        "LayerName": "main-shared", "Description": "ours", "CompatibleRuntimes": ["python3.11", "python3.12"],
        "CompatibleArchitectures": ["x86_64"], "LicenseInfo": "MIT", "CodeSha256": stack.definitions.layers["Common"]["CodeSha256"],
    } == stack.definitions.layers["Common"]  # fmt: skip
    assert ("RetentionPolicy has no effect here (Common)",) == stack.notes


def test_cloudformations_own_layers_need_no_transform(directory: Path) -> None:
    text = """\
Resources:
  Common: {Type: "AWS::Lambda::LayerVersion", Properties: {Content: common/, LayerName: common}}
  App:
    Type: AWS::Lambda::Function
    Properties: {Runtime: python3.11, Handler: app.handler, Code: app.py, Role: r, Layers: [!GetAtt Common.LayerVersionArn]}
"""
    stack = translated(directory, text)
    assert ([{"Ref": "Common"}], "common") == (
        stack.definitions.functions["App"]["Layers"],
        stack.definitions.layers["Common"]["LayerName"],
    )


def test_globals_come_first_and_arns_stay_as_they_are(directory: Path) -> None:
    arn = f"{PREFIX}elsewhere:3"
    text = HEAD.replace("CodeUri", f'Layers: ["{arn}"], CodeUri') + COMMON + FUNCTION
    assert [arn, {"Ref": "Common"}] == translated(directory, text).definitions.functions["App"]["Layers"]


def test_conditions_decide_which_layers_there_are(directory: Path) -> None:
    text = (
        HEAD.replace("Resources:", "Conditions: {Other: !Equals [a, b]}\nResources:")
        + COMMON
        + "  Other: {Type: 'AWS::Serverless::LayerVersion', Condition: Other, Properties: {ContentUri: nowhere/}}\n"
        + FUNCTION.replace("[!Ref Common]", "[!If [Other, !Ref Other, !Ref Common], !If [Other, x, !Ref AWS::NoValue]]")
    )
    stack = translated(directory, text)
    assert (["Common"], [{"Ref": "Common"}]) == (
        list(stack.definitions.layers),
        stack.definitions.functions["App"]["Layers"],
    )
    assert "no parameter or resource Other" in refused(
        directory, text + FUNCTION.replace("App", "B").replace("Common", "Other")
    )


def test_the_same_content_is_one_archive(directory: Path) -> None:
    second = COMMON.replace("Common", "Second")
    stack = translated(directory, HEAD + COMMON + second + FUNCTION)
    assert stack.definitions.layers["Common"]["CodeSha256"] == stack.definitions.layers["Second"]["CodeSha256"]
    assert 2 == len(stack.archives)  # that of the function's code is the other


def test_content_outside_of_what_python_searches_is_noted(directory: Path) -> None:
    text = HEAD + COMMON.replace("common/", "common/python") + FUNCTION
    [note] = translated(directory, text).notes
    assert note.startswith("Common: nothing in ")
    assert note.endswith("common/python is below python/, where Python looks in a layer")


def test_a_layer_that_is_to_be_built_has_its_files_below_python(directory: Path) -> None:
    built = COMMON.replace("Properties", "Metadata: {BuildMethod: python3.11}, Properties").replace(
        "common/", "common/python"
    )
    stack = translated(directory, HEAD + built + FUNCTION)
    assert ["python/common.py"] == names(stack, "Common")
    assert {"Common": ("python3.11", directory / "common" / "python")} == {
        name: (build.runtime, build.directory) for name, build in stack.builds.items()
    }
    assert () == stack.notes
    for as_it_is in (
        built.replace("{Build", "{SkipBuild: true, Build"),
        built.replace("common/python", ".aws-sam/build/L"),
    ):
        (directory / ".aws-sam" / "build" / "L" / "python").mkdir(parents=True, exist_ok=True)
        (directory / ".aws-sam" / "build" / "L" / "python" / "common.py").write_text("")
        stack = translated(directory, HEAD + as_it_is + FUNCTION)
        assert ({}, [["common.py"], ["python/common.py"]][".aws-sam" in as_it_is]) == (
            stack.builds,
            names(stack, "Common"),
        )


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ContentUri: common/", "LayerName: x", "ContentUri: is missing: a directory, a .zip or s3://bucket/key"),
        ("common/", "nowhere", "ContentUri: nowhere does not exist"),
        ("common/", "common/python/common.py", "common/python/common.py is a file; a layer is a directory or a .zip"),
        ("common/", "https://b/k", "ContentUri: 'https://b/k' is not supported yet; give a local directory or .zip"),
        ("common/", "[b, k]", "is not supported yet; give a local directory or .zip, or s3://bucket/key"),
        ("common/", "{Bucket: b}", "ContentUri.Key: is missing"),
        ("common/", "common/, LayerName: a.b", "LayerName: 'a.b' is not a layer's name"),
        ("common/", "common/, Description: [a]", "Description: must be text of at most 256 characters"),
        ("common/", "common/, CompatibleRuntimes: python3.11", "must be a list of at most 15 names, not 'python3.11'"),
        ("common/", "common/, CompatibleArchitectures: [riscv]", "'riscv' is none of x86_64, arm64"),
        ("common/", "common/, Licence: MIT", "Licence: unknown key; did you mean LicenseInfo?"),
        ("Properties", "Metadata: {BuildMethod: makefile}, Properties", "BuildMethod: 'makefile' is not supported, python3.x is"),
        ("Properties", "Metadata: {Glowplug: {}}, Properties", "Glowplug: belongs to a function"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_layer_is_said_with_its_line(
    directory: Path, before: str, after: str, message: str
) -> None:
    said = refused(directory, HEAD + COMMON.replace(before, after) + FUNCTION)
    assert said.startswith("template.yaml:5: Common.")
    assert message in said


def test_an_empty_directory_is_no_layer(directory: Path) -> None:
    (directory / "empty").mkdir()
    for metadata in ("", "Metadata: {BuildMethod: python3.11}, "):
        text = HEAD + COMMON.replace("Properties", f"{metadata}Properties").replace("common/", "empty") + FUNCTION
        assert refused(directory, text).endswith("Common.Properties.ContentUri: empty holds no files")


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ("[!Ref App]", "'app' is not the ARN of a layer's version, nor a !Ref to a layer of this template"),
        ("[!Ref Version]", "layer's version, nor a !Ref to a layer of this template"),
        ("[!Ref Nothing]", "no parameter or resource Nothing"),
        ("!Ref Common", "must be a list, not "),
        ("[{a: b}]", "{'a': 'b'} is not the ARN of a layer's version"),
        (f"['{PREFIX}common']", "is not the ARN of a layer's version"),
        ("[" + ", ".join(f"'{PREFIX}l:{number}'" for number in range(1, 7)) + "]", "6 layers; a function may have 5"),
    ],
)
def test_what_is_no_layer_of_a_function(directory: Path, layers: str, message: str) -> None:
    version = "  Version: {Type: 'AWS::Lambda::Version', Properties: {FunctionName: !Ref App}}\n"
    said = refused(directory, HEAD + COMMON + FUNCTION.replace("[!Ref Common]", layers) + version)
    assert said.startswith("template.yaml:6: App.Properties.Layers")
    assert message in said


def test_two_layers_of_one_name_are_refused(directory: Path) -> None:
    named = COMMON.replace("common/", "common/, LayerName: same")
    text = HEAD + named + named.replace("Common", "Second") + FUNCTION
    assert (
        refused(directory, text) == "template.yaml:6: Second.Properties.LayerName: same is already the name of Common"
    )


@pytest.mark.parametrize("value", ["!Ref Common", '!Sub "at ${Common}"', "!GetAtt Common.LayerVersionArn"])
def test_a_version_is_not_known_to_the_functions_environment(directory: Path, value: str) -> None:
    text = HEAD + COMMON + FUNCTION.replace("Layers:", f"Environment: {{Variables: {{A: {value}}}}}, Layers:")
    assert refused(directory, text).startswith(
        "template.yaml:6: App.Properties.Environment.Variables.A: the number of Common is known"
    )


def test_nor_to_what_another_layer_says_of_itself(directory: Path) -> None:
    second = COMMON.replace("Common", "Second").replace("common/", "common/, Description: !Ref Common")
    said = refused(directory, HEAD + COMMON + second + FUNCTION)
    assert said.startswith(
        "template.yaml:6: Second.Properties.Description: the number of Common is known when it is published"
    )


class Client:
    """A node that publishes version 7 of everything."""

    endpoint = "http://127.0.0.1:9000"

    def __init__(self) -> None:
        self.body: Mapping[str, Any] = {}

    def has_code(self, digest: str) -> bool:
        return True

    def put_code(self, digest: str, data: bytes) -> None:
        raise AssertionError("the node has it")

    def stack(self, name: str) -> None:
        return None

    def stacks(self) -> list[dict[str, Any]]:
        return []

    def health(self) -> Mapping[str, Any]:
        return {}

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Any = None) -> Mapping[str, Any]:
        self.body = body
        return {"versions": dict.fromkeys(body["Layers"], "7")}


def test_outputs_have_the_version_that_the_node_has_published(directory: Path) -> None:
    outputs = "Outputs:\n  Arn: {Value: !Ref Common}\n  Text: {Value: !Sub 'it is ${Common}.'}\n"
    (directory / "template.yaml").write_text(HEAD + COMMON + FUNCTION + outputs)
    client = Client()
    [result] = deploy_all([directory / "template.yaml"], client, stack="main")
    arn = f"{PREFIX}main-Common:7"
    assert {"Arn": arn, "Text": f"it is {arn}."} == result.outputs
    assert ["Common"] == list(client.body["Layers"])
