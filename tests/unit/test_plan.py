"""The difference between what a node has and what a template wants; and that a deploy carries out just that."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.deploy.apply import DeployResult, Progress, deploy, preview, stack_name
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.plan import Change, plan
from glowplug.deploy.template import load
from glowplug.deploy.translate import Stack
from glowplug.runtime.definition import spec_of
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import FunctionSpec, LayerSpec, ModelSpec, SourceFile

ECHO = FunctionSpec(name="echo", handler="echo.handler", runtime="python3.11", code_digest="a" * 64)
EMBED = replace(ECHO, name="embed", models=(ModelSpec(name="", source="s3://bucket/model"),))

TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Globals: {Function: {Runtime: python3.11, CodeUri: code}}
Resources:
  Echo: {Type: AWS::Serverless::Function, Properties: {FunctionName: echo, Handler: echo.handler}}
  Embed:
    Type: AWS::Serverless::Function
    Metadata:
      Glowplug:
        Model: {Source: "s3://bucket/model"}
    Properties: {FunctionName: embed, Handler: embed.handler}
"""


def test_a_first_deploy_creates_everything_in_the_templates_order() -> None:
    changes = plan({}, {"Echo": ECHO, "Embed": EMBED})
    assert ["+ echo", "+ embed"] == [str(change) for change in changes]


def test_the_same_again_changes_nothing_and_pinned_files_are_no_difference() -> None:
    pinned = EMBED.resolved({"": (SourceFile("model.safetensors", 1, "b" * 64),)})
    assert [Change("unchanged", "Embed", "embed")] == plan({"Embed": pinned}, {"Embed": EMBED})


def test_an_update_names_the_fields_that_differ() -> None:
    wanted = replace(ECHO, timeout_s=30.0, code_digest="c" * 64)
    assert ["~ echo (code_digest, timeout_s)"] == [str(change) for change in plan({"Echo": ECHO}, {"Echo": wanted})]


def test_a_renamed_function_is_deleted_before_the_new_one_is_made() -> None:
    changes = plan({"Echo": ECHO, "Embed": EMBED}, {"Echo": replace(ECHO, name="other"), "Embed": EMBED})
    assert ["- echo", "+ other", "= embed"] == [str(change) for change in changes]


def test_a_new_logical_id_for_the_same_function_changes_nothing() -> None:
    assert [Change("unchanged", "Renamed", "echo")] == plan({"Echo": ECHO}, {"Renamed": ECHO})


class NodeInMemory:
    """A control plane that keeps what it is given, and refuses what ``refusal`` says."""

    endpoint = "http://127.0.0.1:9000"

    def __init__(self) -> None:
        self.codes: dict[str, bytes] = {}
        self.functions: dict[str, dict[str, Any]] = {}
        self.bodies: list[Mapping[str, Any]] = []
        self.refusal: DefinitionError | None = None
        self.notes: list[str] = []

    def has_code(self, digest: str) -> bool:
        return digest in self.codes

    def put_code(self, digest: str, data: bytes) -> None:
        self.codes[digest] = data

    def stack(self, name: str) -> Mapping[str, Any] | None:
        return {"Functions": self.functions} if self.bodies else None

    def put_stack(self, name: str, body: Mapping[str, Any], on_progress: Progress | None = None) -> Mapping[str, Any]:
        if self.refusal:
            raise self.refusal
        self.bodies.append(body)
        self.functions = {key: spec_of(value).to_json() for key, value in body["Functions"].items()}
        return {"changes": [], "functions": list(self.functions), "notes": self.notes}


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "echo.py").write_text("def handler(event, context): return event\n")
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


def actions(result: DeployResult) -> list[str]:
    return [str(change) for change in result.changes]


def test_a_deploy_uploads_code_once_and_a_second_one_changes_nothing(template: Path) -> None:
    node = NodeInMemory()
    steps: list[Mapping[str, Any]] = []
    first = deploy(template, node, stack="main", on_progress=steps.append)
    assert ["+ echo", "+ embed"] == actions(first)
    assert ["translate", "plan", "upload"] == [step["step"] for step in steps]
    assert first.uploaded_bytes == sum(map(len, node.codes.values())) > 0
    assert {"Functions", "Layers", "Apis", "TemplateDigest", "Refresh"} == set(node.bodies[0])

    second = deploy(template, node, stack="main", refresh=True)
    assert (["= echo", "= embed"], 0) == (actions(second), second.uploaded_bytes)
    assert [False, True] == [body["Refresh"] for body in node.bodies]
    assert 1 == len({body["TemplateDigest"] for body in node.bodies})

    (template.parent / "code" / "echo.py").write_text("def handler(event, context): return 1\n")
    assert ["~ echo (code_digest)", "~ embed (code_digest)"] == actions(deploy(template, node, stack="main"))
    assert 2 == len(node.codes)


def test_layers_are_a_difference_where_one_of_them_or_their_order_is_another(template: Path) -> None:
    held = replace(ECHO, layers=(LayerSpec("arn:1", "1" * 64, 10), LayerSpec("arn:2", "2" * 64, 10)))
    node = NodeInMemory()
    node.functions, node.bodies = {"Echo": held.to_json()}, [{}]
    definition = {"FunctionName": "echo", "Handler": "echo.handler", "Runtime": "python3.11", "CodeSha256": "a" * 64}

    def previewed(layers: Sequence[object], digest: str = "1" * 64) -> list[str]:
        wanted = Stack(
            "main", load(template), {"Echo": {**definition, "Layers": layers}}, {},
            layers={"Deps": {"LayerName": "deps", "CodeSha256": digest}},
        )  # fmt: skip
        return [str(change) for change in preview(wanted, node)]

    assert ["= echo"] == previewed([{"Ref": "Deps"}, "arn:2"])
    for layers, digest in (
        ([{"Ref": "Deps"}, "arn:2"], "3" * 64),
        (["arn:2", {"Ref": "Deps"}], "1" * 64),
        ([{"Ref": "Deps"}], "1" * 64),
        ([{"Ref": "Deps"}, "arn:2", "arn:3"], "1" * 64),
    ):
        assert ["~ echo (layers)"] == previewed(layers, digest)


def test_what_the_node_notes_follows_what_the_template_does(template: Path) -> None:
    node = NodeInMemory()
    node.notes = ["echo: Runtime python3.9 runs on Python 3.11 here"]
    template.write_text(TEMPLATE.replace("Handler:", "Tracing: Active, Handler:", 1))
    assert ("Tracing has no effect here (Echo)", *node.notes) == deploy(template, node).notes


def test_a_template_that_is_refused_sends_nothing(template: Path) -> None:
    node = NodeInMemory()
    template.write_text(TEMPLATE.replace("Source:", "Sorce:"))
    with pytest.raises(TemplateError, match=r"template\.yaml:9: Embed\.Metadata\.Glowplug\.Model\.Sorce: unknown key"):
        deploy(template, node)
    assert ({}, []) == (node.codes, node.bodies)


def test_what_the_node_refuses_is_named_with_file_and_line(template: Path) -> None:
    node = NodeInMemory()
    node.refusal = DefinitionError("Embed.Glowplug.Model.Source", "s3://bucket/model: no such bucket")
    with pytest.raises(TemplateError) as caught:
        deploy(template, node)
    assert f"{template}:9: Embed.Metadata.Glowplug.Model.Source: s3://bucket/model: no such bucket" == str(caught.value)


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/home/me/my_project/template.yaml", "my-project"),
        ("/home/me/project/other.yaml", "other"),
        ("/template.yaml", "glowplug"),
        ("/home/me/\u00fc/template.yml", "glowplug"),
    ],
)
def test_a_stack_is_named_after_its_directory_or_its_file(path: str, name: str) -> None:
    assert name == stack_name(Path(path))
