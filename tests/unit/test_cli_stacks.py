"""``glowplug validate``, ``plan``, ``stacks`` and ``destroy``, against a server that answers as a test tells it to."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from glowplug.deploy.cli import main
from glowplug.runtime.errors import Conflict
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


def test_validate_says_all_that_is_wrong_and_asks_no_node(
    run: Callable[..., Result], scripted: Any, template: Path, tmp_path: Path
) -> None:
    good = run("validate", str(template), "--stack", "main")
    assert (good.exit_code, good.output) == (0, f"{template}: stack main, 1 function, no problem\n")
    bad = tmp_path / "bad.yaml"
    bad.write_text(TEMPLATE.replace("Handler: echo.handler, ", "Handlr: x, ") + "Outputs: {X: {Value: !Ref Nobody}}\n")
    both = run("validate", str(template), str(bad))
    assert both.exit_code == 1
    assert both.output.splitlines()[1:] == [
        f"{bad}:6: Echo.Properties.Handlr: unknown key; did you mean Handler?",
        f"{bad}:7: Outputs.X.Value.Ref: no parameter or resource Nobody",
        f"{bad}: 2 problems",
    ]
    said = json.loads(run("validate", str(bad), "--json").stdout)["templates"][0]
    assert (said["stack"], [problem["line"] for problem in said["problems"]]) == ("bad", [6, 7])
    assert scripted.asked == []


def test_validate_refuses_a_function_that_two_templates_claim(
    run: Callable[..., Result], template: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other.yaml"
    other.write_text(TEMPLATE)
    result = run("validate", str(template), str(other))
    assert result.exit_code == 1
    assert f"{other}:6: Echo.Properties.FunctionName: echo belongs to the stack" in result.stdout


def test_validate_goes_on_behind_a_file_that_cannot_be_read(
    run: Callable[..., Result], template: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [\n")
    result = run("validate", str(broken), str(template), "--json")
    first, second = json.loads(result.stdout)["templates"]
    assert (result.exit_code, first["stack"], first["problems"][0]["line"], second["problems"]) == (1, "broken", 2, [])


def test_validate_notes_imports_that_no_template_of_these_exports(
    run: Callable[..., Result], template: Path, tmp_path: Path
) -> None:
    template.write_text(
        TEMPLATE + "Outputs: {A: {Value: !Sub 'x-${B}', Export: {Name: mine}}}\nParameters: {B: {Type: String}}\n"
    )
    other = tmp_path / "other.yaml"
    other.write_text(
        TEMPLATE.replace("echo,", "other,")
        + "Outputs: {A: {Value: !Join ['', [!ImportValue mine, !ImportValue yours]]}}\n"
    )
    shown = run("validate", str(template), str(other), "--parameter", "B=b").stdout
    assert [f"{other}: note: Fn::ImportValue yours is looked up at the deploy"] == [
        line for line in shown.splitlines() if ": note: " in line
    ]


def test_validate_tells_notes_and_refuses_them_under_strict(run: Callable[..., Result], template: Path) -> None:
    template.write_text(TEMPLATE.replace("CodeUri", "Tracing: Active, CodeUri"))
    assert "note: Tracing has no effect here (Echo)" in run("validate", str(template)).stdout
    strict = run("validate", str(template), "--strict")
    assert (strict.exit_code, strict.stdout.splitlines()[0]) == (
        1, f"{template}: Tracing has no effect here (Echo) (refused: --strict)"
    )  # fmt: skip


def test_plan_shows_what_would_change_and_sends_nothing(
    run: Callable[..., Result], scripted: Any, template: Path
) -> None:
    held = {
        "Definitions": {"Functions": {
            "Old": {"FunctionName": "old"}, "Echo": {"FunctionName": "echo", "Handler": "echo.handler",
                    "Runtime": "python3.11", "CodeSha256": "a" * 64, "Timeout": 9}}},
        "Functions": {"Old": "old", "Echo": "echo"},
        "Drift": {"Echo": ["MemorySize"]},
    }  # fmt: skip
    scripted.say(held, path="/_glowplug/stacks/main")
    result = run("plan", str(template), "--stack", "main")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert (lines[:2], lines[-2:]) == (
        ["- old", "~ echo"],
        ["    drift: was changed through the API: MemorySize", "stack main: 1 to change, 1 to delete"],
    )
    assert {"    Code", "    Timeout: 9 -> none", "    FunctionUrlConfig.$LATEST.AuthType: none -> NONE"} <= set(lines)
    said = json.loads(run("plan", str(template), "--stack", "main", "--json").stdout)
    [old, echo] = said["stacks"][0]["changes"]
    assert (old["change"], echo["change"], echo["drift"]) == ("delete", "update", ["MemorySize"])
    assert (echo["type"], echo["logical_id"], echo["name"]) == ("function", "Echo", "echo")
    assert {"field": "Timeout", "before": 9, "after": None} in echo["fields"]
    assert {method for method, *_ in scripted.asked} == {"GET"}


@pytest.mark.parametrize("command", ["deploy", "plan", "validate"])
def test_one_stack_name_is_not_for_several_templates(run: Callable[..., Result], template: Path, command: str) -> None:
    result = run(command, str(template), str(template), "--stack", "main")
    assert (result.exit_code, "several are named after them" in result.stderr) == (2, True)


def test_a_deploy_that_is_refused_says_that_nothing_was_changed(
    run: Callable[..., Result], scripted: Any, template: Path
) -> None:
    template.write_text(TEMPLATE.replace("Runtime", "Runtim"))
    assert run("deploy", str(template)).stderr.splitlines()[-1] == "nothing was changed on the node"
    template.write_text(TEMPLATE)
    scripted.say({"code": Conflict.code, "message": "taken"}, 409, path="PUT /_glowplug/stacks/main")
    refused = json.loads(run("deploy", str(template), "--stack", "main", "--json").stderr)
    assert refused["error"]["notes"] == ["the stack main is what it was: a stack is put as a whole or not at all"]


STACK = {
    "Name": "shop", "LastModified": "2026-01-02T03:04:05.000+0000", "Functions": {"Echo": "echo"}, "Layers": {"L": "deps"},
    "Apis": {}, "Queues": {}, "Mappings": {}, "Triggers": {}, "Exports": {"url": "http://a"}, "Imports": {"base": "other"},
}  # fmt: skip


def test_stacks_are_listed_with_what_they_share(run: Callable[..., Result], scripted: Any) -> None:
    assert "no stacks; deploy one" in run("stacks").stderr
    scripted.say({"stacks": [STACK]}, path="/_glowplug/stacks")
    lines = [line.split() for line in run("stacks").stdout.splitlines()]
    assert lines == [
        ["STACK", "FUNCTIONS", "DEPLOYED", "IMPORTS", "FROM"], ["shop", "1", "2026-01-02", "03:04:05", "other"], [],
        ["url", "=", "http://a"],
    ]  # fmt: skip
    assert json.loads(run("stacks", "--json").stdout) == {"stacks": [STACK]}


def test_destroy_shows_what_goes_and_asks(
    run: Callable[..., Result], scripted: Any, template: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held = STACK | {
        "Functions": {"Echo": "echo", "Gone": "gone"}, "Apis": {"Web": "shop-web"},
        "Queues": {"Jobs": "shop-Jobs", "Dead": "shop-Dead"}, "Mappings": {"Feed": "uuid"}, "Triggers": {"Tick": "tick"},
        "Definitions": {
            "Functions": {"Echo": {"Environment": {"Variables": {"TOKEN": "secret"}}}},
            "Queues": {"Jobs": {"QueueName": "shop-Jobs"}, "Dead": {"QueueName": "shop-Dead", "UpdateReplacePolicy": "Retain"}},
            "Triggers": {"Tick": {"Type": "AWS::Events::Rule", "Name": "tick"}},
        },
        "Drift": {"Gone": ["deleted"]},
    }  # fmt: skip
    scripted.say(held | {"changes": []}, path="/_glowplug/stacks/shop")
    unasked = run("destroy", "shop")
    assert (unasked.exit_code, unasked.stdout.splitlines()[:8]) == (1, [
        "- function echo", "- layer deps", "- API Web", "- queue shop-Jobs",
        "- queue shop-Dead, which stays with its messages (Retain)", "- event source mapping Feed", "- rule tick",
        "- export url",
    ])  # fmt: skip
    assert "DELETE" not in {method for method, *_ in scripted.asked}
    assert run("destroy", "shop", "--json").exit_code == 2
    assert "secret" not in unasked.output
    done = run("destroy", "shop", "--yes")
    assert (done.exit_code, done.stdout.splitlines()[-1]) == (0, f"stack shop is gone from {scripted.client.endpoint}")
    assert ("DELETE", "/_glowplug/stacks/shop") == scripted.asked[-1][:2]


def test_destroy_knows_no_files_and_no_other_names(run: Callable[..., Result], scripted: Any, template: Path) -> None:
    scripted.say({"stacks": [STACK]}, path="/_glowplug/stacks")
    scripted.say({"Type": "User", "Message": "Stack not found: x"}, 404, path="/_glowplug/stacks/x")
    assert f"no stack x at {scripted.client.endpoint}: there are shop" in run("destroy", "x").stderr
    assert "is a file; the stack of such a template is" in run("destroy", str(template)).stderr
