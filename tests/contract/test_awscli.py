"""The aws CLI, unmodified, one command after the other. It brings a botocore of its own, apart from boto3's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from nodes import ServedNode

ROLE = "arn:aws:iam::000000000000:role/any"
HANDLER = "def handler(event, context):\n    return {'got': event, 'version': context.function_version}\n"
LATER = "def handler(event, context):\n    return 'later'\n"
MADE = ("--role", ROLE, "--runtime", "python3.11", "--handler", "index.handler")

Aws = Callable[..., Any]


@pytest.fixture
def aws(empty: ServedNode, client: Any, tmp_path: Path) -> Aws:
    """Run ``aws lambda COMMAND…`` and return what it prints, as JSON where it prints something."""
    environ = {
        "AWS_ENDPOINT_URL_LAMBDA": empty.endpoint, "AWS_DEFAULT_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test", "AWS_MAX_ATTEMPTS": "1", "AWS_PAGER": "", "HOME": str(tmp_path),
    }  # fmt: skip

    def run(*command: str) -> Any:
        done = subprocess.run(
            [sys.executable, "-m", "awscli", "lambda", *command], env={**os.environ, **environ}, cwd=tmp_path,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        assert 0 == done.returncode, f"{command}: {done.stderr}"
        assert "" == done.stderr
        return json.loads(done.stdout) if done.stdout.strip() else None

    return run


@pytest.fixture
def code(tmp_path: Path, zipped: Callable[..., bytes]) -> Callable[[str], str]:
    """Write a function's zip and return the argument that names it."""

    def write(text: str) -> str:
        (tmp_path / "code.zip").write_bytes(zipped(index=text))
        return "fileb://code.zip"

    return write


@pytest.fixture
def made(client: Any, zipped: Callable[..., bytes]) -> str:
    """A function, active, with version 1."""
    client.create_function(
        FunctionName="made", Role=ROLE, Runtime="python3.11", Handler="index.handler", Publish=True,
        Code={"ZipFile": zipped(index=HANDLER)},
    )  # fmt: skip
    client.get_waiter("function_active_v2").wait(FunctionName="made", WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    return "made"


def test_a_function_from_its_creation_to_its_end(aws: Aws, code: Callable[[str], str], tmp_path: Path) -> None:
    name = ("--function-name", "by-cli")
    created = aws("create-function", *name, *MADE, "--zip-file", code(HANDLER))
    assert ("Pending", "by-cli", "$LATEST") == (created["State"], created["FunctionName"], created["Version"])
    aws("wait", "function-active-v2", *name)
    answered = aws("invoke", *name, "--payload", '{"a": 1}', "out.json")
    assert {"StatusCode": 200, "ExecutedVersion": "$LATEST"} == answered
    assert {"got": {"a": 1}, "version": "$LATEST"} == json.loads((tmp_path / "out.json").read_text())
    changed = aws("update-function-code", *name, "--zip-file", code(LATER))
    assert ("InProgress", True) == (changed["LastUpdateStatus"], changed["CodeSha256"] != created["CodeSha256"])
    aws("wait", "function-updated", *name)
    aws("invoke", *name, "out.json")
    assert "later" == json.loads((tmp_path / "out.json").read_text())
    configured = aws("update-function-configuration", *name, "--timeout", "7", "--environment", "Variables={KEY=value}")
    assert (7, {"KEY": "value"}) == (configured["Timeout"], configured["Environment"]["Variables"])
    aws("wait", "function-updated-v2", *name)
    got = aws("get-function", *name)
    assert ("Active", 7, "S3") == (
        got["Configuration"]["State"], got["Configuration"]["Timeout"], got["Code"]["RepositoryType"],
    )  # fmt: skip
    aws("delete-function", *name)
    assert {"Functions": []} == aws("list-functions")


def test_versions_and_an_alias_that_moves(aws: Aws, made: str, tmp_path: Path) -> None:
    name = ("--function-name", made)
    aws("update-function-configuration", *name, "--description", "second")
    aws("wait", "function-updated", *name)
    assert "2" == aws("publish-version", *name, "--description", "the second")["Version"]
    aws("wait", "published-version-active", *name, "--qualifier", "2")
    alias = aws("create-alias", *name, "--name", "live", "--function-version", "1")
    assert alias["AliasArn"].endswith(":function:made:live")
    aws("invoke", *name, "--qualifier", "live", "out.json")
    assert "1" == json.loads((tmp_path / "out.json").read_text())["version"]
    routed = aws(
        "update-alias", *name, "--name", "live", "--routing-config", "AdditionalVersionWeights={2=1.0}",
        "--revision-id", alias["RevisionId"],
    )  # fmt: skip
    assert {"AdditionalVersionWeights": {"2": 1.0}} == routed["RoutingConfig"]
    answered = aws("invoke", *name, "--qualifier", "live", "out.json")
    assert ("2", "2") == (answered["ExecutedVersion"], json.loads((tmp_path / "out.json").read_text())["version"])
    versions = aws("list-versions-by-function", *name, "--page-size", "1")["Versions"]
    assert ["$LATEST", "1", "2"] == [one["Version"] for one in versions]


def test_lists_by_the_page(aws: Aws, made: str, client: Any, zipped: Callable[..., bytes]) -> None:
    for name in ("a", "b"):
        client.create_function(
            FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="index.handler",
            Code={"ZipFile": zipped(index=HANDLER)},
        )  # fmt: skip
    first = aws("list-functions", "--max-items", "2")
    assert ["a", "b"] == [one["FunctionName"] for one in first["Functions"]]
    rest = aws("list-functions", "--max-items", "2", "--starting-token", first["NextToken"])
    assert ([made], None) == ([one["FunctionName"] for one in rest["Functions"]], rest.get("NextToken"))


def test_a_url_a_permission_concurrency_tags_and_a_layer(
    aws: Aws, made: str, empty: ServedNode, tmp_path: Path, zipped: Callable[..., bytes]
) -> None:
    name = ("--function-name", made)
    url = aws("create-function-url-config", *name, "--auth-type", "NONE")["FunctionUrl"]
    permitted = aws(
        "add-permission", *name, "--statement-id", "all", "--action", "lambda:InvokeFunctionUrl", "--principal", "*",
        "--function-url-auth-type", "NONE",
    )  # fmt: skip
    assert ("all", "*") == tuple(json.loads(permitted["Statement"])[key] for key in ("Sid", "Principal"))
    assert "all" == json.loads(aws("get-policy", *name)["Policy"])["Statement"][0]["Sid"]
    assert 200 == empty.request("GET", url.removeprefix(empty.endpoint))[0]
    reserved = aws("put-function-concurrency", *name, "--reserved-concurrent-executions", "3")
    assert {"ReservedConcurrentExecutions": 3} == reserved
    provisioned = ("--qualifier", "1", "--provisioned-concurrent-executions", "1")
    assert "IN_PROGRESS" == aws("put-provisioned-concurrency-config", *name, *provisioned)["Status"]
    (tmp_path / "layer.zip").write_bytes(zipped(brought=""))
    layer = aws("publish-layer-version", "--layer-name", "by-cli", "--zip-file", "fileb://layer.zip")
    assert (1, "arn:aws:lambda:us-east-1:000000000000:layer:by-cli:1") == (layer["Version"], layer["LayerVersionArn"])
    arn = aws("get-function-configuration", *name)["FunctionArn"]
    aws("tag-resource", "--resource", arn, "--tags", "Team=search,Stage=test")
    assert {"Team": "search", "Stage": "test"} == aws("list-tags", "--resource", arn)["Tags"]


def test_a_refusal_is_told_in_awss_words(aws: Aws, empty: ServedNode) -> None:
    with pytest.raises(AssertionError, match=r"\(ResourceNotFoundException\) when calling the GetFunction operation"):
        aws("get-function", "--function-name", "nobody")
