"""Layers of a template on a real node: published with the stack, built of requirements, at /opt of their functions."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typing_extensions

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Globals:
  Function: {Runtime: RUNTIME, Handler: app.handler, CodeUri: code/, Timeout: 30, Layers: [!Ref Common]}
Resources:
  Common:
    Type: AWS::Serverless::LayerVersion
    Properties: {ContentUri: common/, LayerName: common, Description: ours}
  Built:
    Type: AWS::Serverless::LayerVersion
    Metadata: {BuildMethod: RUNTIME}
    Properties: {ContentUri: built/}
  App: {Type: "AWS::Serverless::Function", Properties: {FunctionName: app, Layers: [!Ref Built]}}
  Bare: {Type: "AWS::Serverless::Function", Properties: {FunctionName: bare}}
Outputs:
  Common: {Value: !Ref Common}
"""
APP = """
import importlib, typing_extensions

def handler(event, context):
    found = {}
    for name in ("common", "helper", "beside"):
        try:
            module = importlib.import_module(name)
            found[name] = [module.x, module.__file__]
        except ImportError:
            found[name] = None
    return found | {"whose": typing_extensions.__file__}
"""
COMMON = "arn:aws:lambda:us-east-1:000000000000:layer:common"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("layers")
    runtime = f"python3.{sys.version_info.minor}"
    for directory in ("code", "common/python", "built"):
        (root / directory).mkdir(parents=True)
    (root / "template.yaml").write_text(TEMPLATE.replace("RUNTIME", runtime))
    (root / "code" / "app.py").write_text(APP)
    (root / "common" / "python" / "common.py").write_text("x = 1\n")
    own = Path(typing_extensions.__file__).read_text()
    (root / "common" / "python" / "typing_extensions.py").write_text(own)
    (root / "built" / "beside.py").write_text("x = 2\n")
    (root / "built" / "requirements.txt").write_text("--no-index\n./helper-1.0-py3-none-any.whl\n")
    info = "helper-1.0.dist-info"
    files = {
        "helper.py": "x = 3\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: helper\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/RECORD": f"helper.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n",
    }
    with zipfile.ZipFile(root / "built" / "helper-1.0-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return root


@pytest.fixture(scope="module")
def node(project: Path, serving: Any) -> Iterator[Any]:
    cache = {"XDG_CACHE_HOME": str(project / "cache")}
    with serving(project / "template.yaml", project / "state", **cache) as node:
        yield node


def called(node: Any, name: str) -> Any:
    status, headers, answer = node.request("POST", f"/2015-03-31/functions/{name}/invocations", {})
    assert (200, None) == (status, headers.get("x-amz-function-error")), answer
    return answer


def deployed(node: Any, project: Path) -> Any:
    command = [sys.executable, "-m", "glowplug.deploy.cli", "deploy", str(project / "template.yaml"), "--json"]
    done = subprocess.run(
        [*command, "--state", str(node.state)], capture_output=True, text=True, timeout=60, check=False
    )
    assert 0 == done.returncode, done.stderr
    return json.loads(done.stdout)


def test_functions_find_their_layers_and_only_theirs(node: Any) -> None:
    assert {
        "common": [1, "/opt/python/common.py"],
        "helper": [3, "/opt/python/helper.py"],
        "beside": [2, "/opt/python/beside.py"],
        "whose": "/opt/python/typing_extensions.py",
    } == called(node, "app")
    assert {"common", "whose"} == {name for name, found in called(node, "bare").items() if found}


def test_a_new_content_is_a_new_version_and_the_same_content_is_none(node: Any, project: Path) -> None:
    client = node.lambda_client()
    again = deployed(node, project)
    assert {"Common": f"{COMMON}:1"} == again["outputs"]
    assert {"unchanged"} == {change["change"] for change in again["changes"]}
    (project / "common" / "python" / "common.py").write_text("x = 'new'\n")
    changed = deployed(node, project)
    assert {"Common": f"{COMMON}:2"} == changed["outputs"]
    assert [("app", ["Layers"]), ("bare", ["Layers"]), ("common", ["Code"])] == [
        (one["name"], one["fields"]) for one in changed["changes"] if one["fields"]
    ]
    assert "new" == called(node, "app")["common"][0]
    arns = [layer["Arn"] for layer in client.get_function_configuration(FunctionName="app")["Layers"]]
    assert f"{COMMON}:2" == arns[0]
    assert [2, 1] == [version["Version"] for version in client.list_layer_versions(LayerName="common")["LayerVersions"]]
    assert "ours" == client.get_layer_version_by_arn(Arn=arns[0])["Description"]


def test_a_layer_that_the_api_has_made_is_named_by_its_arn(node: Any, project: Path) -> None:
    client, template = node.lambda_client(), project / "template.yaml"
    with zipfile.ZipFile(project / "api.zip", "w") as file:
        file.writestr("python/helper.py", "x = 'from the API'\n")
    made = client.publish_layer_version(LayerName="api", Content={"ZipFile": (project / "api.zip").read_bytes()})
    text = template.read_text()
    try:
        template.write_text(
            text.replace("FunctionName: bare", f"FunctionName: bare, Layers: ['{made['LayerVersionArn']}']")
        )
        deployed(node, project)
        assert "from the API" == called(node, "bare")["helper"][0]
        template.write_text(text.replace("FunctionName: bare", f"FunctionName: bare, Layers: ['{COMMON}:77']"))
        with pytest.raises(
            AssertionError, match=r"template\.yaml:\d+: Bare\.Properties\.Layers: Layer version .*:77 does not exist"
        ):
            deployed(node, project)
    finally:
        template.write_text(text)
