"""``glowplug deploy`` and ``glowplug up``: the real deploy, against a server that answers as a test tells it to."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from glowplug.deploy.cli import main
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import StateError
from glowplug.runtime.spec import ARCHITECTURE

pytestmark = pytest.mark.slow  # the first one imports the SAM translator

EMBED = {
    "name": "embed",
    "tier": "stored",
    "instances": 0,
    "busy": 0,
    "held": 0,
    "events": 0,
    "oldest_event_s": 0.0,
    "event_retries": 0,
    "dead_letters": 0,
    "engine": "eager",
    "engines": [{"model": "", "engine": "eager", "state": "queued", "reason": ""}],
    "urls": ["http://127.0.0.1:9000/_url/embed/"],
    "routes": [],
}
ECHO = EMBED | {"name": "echo", "engine": "", "engines": [], "urls": ["http://127.0.0.1:9000/_url/echo/"]}
TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Resources:
  Echo:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: echo, Handler: echo.handler, Runtime: python3.11, CodeUri: code/, FunctionUrlConfig: {AuthType: NONE}}
"""


@pytest.fixture
def template(tmp_path: Path) -> Path:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "echo.py").write_text("def handler(event, context):\n    return event\n")
    path = tmp_path / "template.yaml"
    path.write_text(TEMPLATE)
    return path


@pytest.fixture
def run(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    scripted.say({"functions": [ECHO, EMBED]}, path="/_glowplug/functions")
    scripted.say({"starts": []}, path="/_glowplug/starts")
    scripted.say({"stacks": []}, path="/_glowplug/stacks")
    scripted.say({"runtimes": ["python3.11"], "architecture": ARCHITECTURE}, path="/_glowplug/health")
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)

    def run_(*arguments: str) -> Result:
        monkeypatch.setattr(sys, "argv", ["glowplug", *arguments])
        return CliRunner().invoke(main, arguments)

    return run_


@pytest.fixture
def node(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> list[NodeConfig]:
    """Replace the node that ``up`` starts by the scripted one; returns the configurations it was started with."""
    started: list[NodeConfig] = []

    async def serve(config: NodeConfig, *, ready: Callable[[Any], Awaitable[None]]) -> None:
        started.append(config)
        await ready(scripted.client)

    monkeypatch.setattr(importlib.import_module("glowplug.deploy.cli.up"), "serve", serve)
    return started


def test_deploy_says_what_changed(run: Callable[..., Result], scripted: Any, template: Path) -> None:
    result = run("deploy", str(template), "--stack", "main")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == ["+ echo", "stack main: 1 function"]
    sent = json.loads(next(body for method, path, _, body in scripted.asked if method == "PUT"))
    assert list(sent["Functions"]) == ["Echo"]
    assert sent["Refresh"] is False


def test_deploy_as_json(run: Callable[..., Result], scripted: Any, template: Path) -> None:
    said = json.loads(run("deploy", str(template), "--stack", "main", "--refresh", "--json").stdout)
    assert said["changes"] == [
        {"type": "function", "logical_id": "Echo", "name": "echo", "change": "create", "fields": [], "drift": []}
    ]
    assert (said["stack"], said["endpoint"]) == ("main", scripted.client.endpoint)
    assert json.loads(scripted.asked[-1][3])["Refresh"] is True


def test_deploy_wait_bakes_what_has_a_model_and_fails_when_the_engine_is_not_there(
    run: Callable[..., Result], scripted: Any, template: Path
) -> None:
    template.write_text(TEMPLATE.replace("echo,", "embed,"))
    failed = {"model": "", "engine": "eager", "state": "failed", "reason": "g++ is missing"}
    scripted.say({"engines": [failed]}, path="/_glowplug/functions/embed/bake")
    result = run("deploy", str(template), "--wait")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1] == "embed: eager, failed (g++ is missing)"
    assert [path for _, path, _, _ in scripted.asked if path.endswith("/bake")] == ["/_glowplug/functions/embed/bake"]


def test_a_wrong_template_names_file_and_line_and_sends_nothing(
    run: Callable[..., Result], scripted: Any, template: Path
) -> None:
    template.write_text(TEMPLATE.replace("Handler: echo.handler, ", "Handlr: echo.handler, "))
    result = run("deploy", str(template))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "template.yaml:6" in result.stderr
    assert [method for method, _, _, _ in scripted.asked if method != "GET"] == []


def test_a_parameter_that_is_no_pair_is_a_usage_error(run: Callable[..., Result], template: Path) -> None:
    assert run("deploy", str(template), "--parameter", "Name").exit_code == 2


def test_up_deploys_its_template_and_shows_a_line_to_paste(
    run: Callable[..., Result], node: list[NodeConfig], template: Path, scripted: Any, tmp_path: Path
) -> None:
    result = run("up", str(template), "--port", "1234", "--state", str(tmp_path / "s"))
    assert result.exit_code == 0, result.output
    assert (node[0].port, node[0].state) == (1234, tmp_path / "s")
    lines = result.stdout.splitlines()
    assert lines[0] == f"glowplug serves 2 functions at {scripted.client.endpoint}; Ctrl-C stops it"
    assert lines[1] == f"for other terminals:  export GLOWPLUG_ENDPOINT={scripted.client.endpoint}"
    assert lines[-1].startswith("try:  curl -s http://127.0.0.1:9000/_url/embed/ ")
    assert all(len(line) <= 80 for line in lines[:-1])


def test_up_where_commands_look_needs_no_address(
    run: Callable[..., Result], node: list[NodeConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLOWPLUG_HOME", raising=False)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert "export" not in run("up").stdout
    monkeypatch.setenv("GLOWPLUG_HOME", str(tmp_path / "elsewhere"))  # another shell may not have it
    assert "export GLOWPLUG_ENDPOINT=" in run("up").stdout
    assert [tmp_path / "glowplug", tmp_path / "elsewhere"] == [config.state for config in node]


def test_deploy_and_up_show_what_the_node_notes(
    run: Callable[..., Result], node: list[NodeConfig], scripted: Any, template: Path
) -> None:
    template.write_text(TEMPLATE.replace("python3.11", "python3.9"))
    scripted.say({"changes": [], "notes": ["echo: Runtime python3.9 runs on Python 3.11 here"]})
    for result in (run("deploy", str(template), "--stack", "main"), run("up", str(template))):
        assert result.exit_code == 0, result.output
    assert "note: echo: Runtime python3.9 runs on Python 3.11 here\n" in result.stderr


def test_up_without_a_template_serves_the_registry(
    run: Callable[..., Result], node: list[NodeConfig], scripted: Any
) -> None:
    result = run("up", "--json")
    assert json.loads(result.stdout)["functions"][1]["name"] == "embed"
    assert [method for method, _, _, _ in scripted.asked] == ["GET", "GET"]


def test_up_ends_when_its_template_is_wrong(run: Callable[..., Result], node: list[NodeConfig], template: Path) -> None:
    template.write_text("Resources: {")
    result = run("up", str(template))
    assert result.exit_code == 1
    assert result.stderr.startswith("glowplug: ")
    assert "Traceback" not in result.output


def test_up_on_a_state_directory_in_use_says_so(run: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    async def serve(config: NodeConfig, *, ready: object) -> None:
        raise StateError(
            "/s is in use by the node with pid 7 at http://127.0.0.1:9000; stop it or choose another --state"
        )

    monkeypatch.setattr(importlib.import_module("glowplug.deploy.cli.up"), "serve", serve)
    result = run("up")
    assert (result.exit_code, result.stderr.startswith("glowplug: /s is in use by the node with pid 7")) == (1, True)


def test_up_deploys_several_templates_as_stacks_of_their_own(
    run: Callable[..., Result], node: list[NodeConfig], template: Path, scripted: Any
) -> None:
    other = template.with_name("other.yaml")
    other.write_text(TEMPLATE.replace("echo,", "other,"))
    result = run("up", str(template), str(other))
    assert result.exit_code == 0, result.output
    put = [path for method, path, _, _ in scripted.asked if method == "PUT" and "/stacks/" in path]
    assert [path.rpartition("/")[2] for path in put][1:] == ["other"]
    assert 2 == len(json.loads(run("up", str(template), str(other), "--json").stdout)["stacks"])


@pytest.mark.parametrize(
    ("more", "status", "said"),
    [
        (["other/code.yaml", "code.yaml"], 1, "its stack would be code, as that of"),
        (["code.yaml", "--strict"], 1, "Tracing has no effect here (Echo)"),
        (["code.yaml", "--parameter", "Nobody=1"], 1, "the template has no parameter Nobody"),
        (["code.yaml", "other/code.yaml", "--stack", "x"], 2, "several are named after them"),
        (["--stack", "x"], 2, "names the stack of a template, and there is none"),
    ],
)
def test_up_refuses_before_it_starts_a_node(
    run: Callable[..., Result], node: list[NodeConfig], template: Path, more: list[str], status: int, said: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(template.parent)
    for path in (Path("code.yaml"), Path("other/code.yaml")):
        path.parent.mkdir(exist_ok=True)
        path.write_text(TEMPLATE.replace("CodeUri", "Tracing: Active, CodeUri"))
    result = run("up", *more)
    assert (result.exit_code, said in result.stderr) == (status, True), result.output
    assert [] == node
