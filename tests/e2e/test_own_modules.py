"""Functions whose code brings modules that the node's base zygotes have loaded already, on a real node."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import typing_extensions
from safetensors.torch import save_file

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: python3.11, CodeUri: code/, Timeout: 30}
Resources:
  Plain:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: plain, Handler: plain.handler}
  Unparked:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {Parking: off}}
    Properties: {FunctionName: unparked, Handler: plain.handler}
  Linear:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {Model: {Source: "file://MODEL", Engine: eager}}}
    Properties: {FunctionName: linear, Handler: linear.handler, MemorySize: 512}
  Layered:
    Type: AWS::Serverless::Function
    Metadata: {Glowplug: {Model: {Source: "file://MODEL", Engine: eager}}}
    Properties: {FunctionName: layered, Handler: layered.handler, MemorySize: 512, CodeUri: layered/}
"""

PLAIN = """
import msgpack

def handler(event, context):
    return msgpack.whose
"""

LINEAR = """
import torch, typing_extensions
from torch import nn
from glowplug.handlers import Example, model

@model
def linear(files):
    return nn.Linear(2, 1, bias=False)

@linear.example
def _():
    return Example(args=(torch.ones(2, 2),), dynamic={"input": ("rows", 2)})

def handler(event, context):
    return [typing_extensions.whose, linear(torch.ones(1, 2)).item()]
"""

OWN = "whose = 'mine'\n"


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory, serving: Any) -> Iterator[Any]:
    root = tmp_path_factory.mktemp("own-modules")
    for directory in ("code", "model", "layered"):
        (root / directory).mkdir()
    (root / "layered" / "layered.py").write_text(LINEAR)
    save_file({"weight": torch.tensor([[1.0, 2.0]])}, root / "model" / "model.safetensors")
    own = Path(typing_extensions.__file__).read_text() + OWN  # in that process torch uses the function's copy as well
    for name, text in {"plain.py": PLAIN, "linear.py": LINEAR, "msgpack.py": OWN, "typing_extensions.py": own}.items():
        (root / "code" / name).write_text(text)
    (root / "template.yaml").write_text(TEMPLATE.replace("MODEL", str(root / "model")))
    with serving(root / "template.yaml", root / "state", GLOWPLUG_FILE_ROOTS=str(root)) as node:
        yield node


def parked(node: Any, name: str) -> tuple[Any, str]:
    """Park the function, call it, and return its answer and the tier that the call found."""
    node.admin("POST", f"functions/{name}/cool", {"to": "parked"})
    _, headers, answer = node.request("POST", f"/2015-03-31/functions/{name}/invocations", {})
    return answer, headers["x-glowplug-tier"]


def called(node: Any, name: str) -> tuple[Any, str]:
    status, headers, answer = node.request("POST", f"/2015-03-31/functions/{name}/invocations", {})
    assert (200, None) == (status, headers.get("x-amz-function-error")), answer
    _, _, explained = node.request_raw("GET", f"/_glowplug/explain/{headers['x-amzn-requestid']}")
    return answer, explained


def test_a_function_gets_its_own_msgpack_and_parks_with_it(node: Any) -> None:
    answer, explained = called(node, "plain")
    assert "mine" == answer
    assert "a zygote of its own: its code brings its own msgpack, which the zygote has loaded already." in explained
    assert "" == node.function("plain")["unparkable_reason"]
    assert ("mine", "parked") == parked(node, "plain")


def test_one_that_is_not_to_be_parked_starts_by_exec_and_explain_says_why(node: Any) -> None:
    answer, explained = called(node, "unparked")
    assert "mine" == answer
    assert "Note: not forked: its code brings its own msgpack, which the zygote has loaded already." in explained
    assert "its code brings its own msgpack" in node.function("unparked")["unparkable_reason"]


def test_a_function_with_a_model_gets_its_own_typing_extensions_and_parks_with_it(node: Any) -> None:
    answer, explained = called(node, "linear")
    assert ["mine", 3.0] == answer
    assert "its own msgpack and typing_extensions, which the zygote has loaded already." in explained
    assert (["mine", 3.0], "parked") == parked(node, "linear")


def test_a_function_with_a_model_gets_the_typing_extensions_of_its_layer_and_parks_with_it(node: Any) -> None:
    client, packed = node.lambda_client(), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr("python/typing_extensions.py", Path(typing_extensions.__file__).read_text() + OWN)
    layer = client.publish_layer_version(LayerName="typing", Content={"ZipFile": packed.getvalue()})
    client.update_function_configuration(FunctionName="layered", Layers=[layer["LayerVersionArn"]])
    answer, explained = called(node, "layered")
    assert ["mine", 3.0] == answer
    assert "its own typing_extensions, which the zygote has loaded already." in explained
    assert (["mine", 3.0], "parked") == parked(node, "layered")
