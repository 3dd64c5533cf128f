"""``glowplug deploy --watch`` and ``up --watch``: who saves a file sees its answer, and mistakes end nothing."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = """
Transform: AWS::Serverless-2016-10-31
Resources:
  App:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: app, Runtime: python3.11, Handler: app.handler, CodeUri: code/, Layers: [!Ref Common]}
  Common: {Type: "AWS::Serverless::LayerVersion", Properties: {ContentUri: common/}}
"""
HANDLER = "import common\n\ndef handler(event, context):\n    return ['first', common.x]\n"
LIMIT_S = 30.0


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "code").mkdir(parents=True)
    (root / "common" / "python").mkdir(parents=True)
    (root / "template.yaml").write_text(TEMPLATE)
    (root / "code" / "app.py").write_text(HANDLER)
    (root / "common" / "python" / "common.py").write_text("x = 1\n")
    return root


def answer(node: Any) -> Any:
    return node.request("POST", "/2015-03-31/functions/app/invocations", {})[2]


def until(holds: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + LIMIT_S
    while not holds():
        assert time.monotonic() < end, what
        time.sleep(0.05)


@contextlib.contextmanager
def watching(
    node: Any, project: Path, mortal: Callable[..., list[str]]
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    template, state = str(project / "template.yaml"), str(node.state)
    command = mortal("-m", "glowplug.deploy.cli", "deploy", template, "--watch", "--state", state)
    log = project.parent / "watch.log"
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command,
            stdout=sink,
            stderr=sink,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            yield process, log
        finally:
            process.kill()
            process.wait()


def test_what_is_saved_is_deployed_and_a_mistake_is_told_and_survived(
    project: Path, serving: Any, mortal_command: Any
) -> None:
    with serving(None, project.parent / "state") as node, watching(node, project, mortal_command) as (process, log):
        until(lambda: "= app" in log.read_text() or "+ app" in log.read_text(), "the first deploy")
        assert ["first", 1] == answer(node)

        (project / "code" / "app.py").write_text(HANDLER.replace("first", "second"))
        until(lambda: answer(node) == ["second", 1], "an edited handler")
        assert f"changed: {project / 'code' / 'app.py'}" in log.read_text()

        (project / "common" / "python" / "common.py").write_text("x = 2\n")
        until(lambda: answer(node) == ["second", 2], "an edited layer")

        (project / "template.yaml").write_text(TEMPLATE.replace("Handler:", "Handlr:"))
        until(lambda: "unknown key; did you mean Handler?" in log.read_text(), "a broken template")
        assert ["second", 2] == answer(node)

        revision = node.function("app")["revision"]
        shown = len(log.read_text())
        (project / "template.yaml").write_text(TEMPLATE)  # nothing differs from what is deployed
        until(lambda: "= app" in log.read_text()[shown:], "the mended template")
        assert revision == node.function("app")["revision"]

        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(LIMIT_S)
        assert "Traceback" not in log.read_text()


def test_a_node_that_watches_its_template_ends_when_it_is_told_to(project: Path, mortal_command: Any) -> None:
    state, log = project.parent / "state", project.parent / "up.log"
    template = str(project / "template.yaml")
    command = mortal_command(
        "-m", "glowplug.deploy.cli", "up", template, "--watch", "--port", "0", "--state", str(state)
    )
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, start_new_session=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "GLOWPLUG_PRELOAD_TORCH": "0"},
        )  # fmt: skip
    try:
        until(lambda: "watching " in log.read_text(), "the node")
        (project / "code" / "app.py").write_text(HANDLER.replace("first", "second"))
        until(lambda: "~ app (Code)" in log.read_text(), "an edited handler")
        process.send_signal(signal.SIGINT)
        assert 0 == process.wait(LIMIT_S)
        assert "Traceback" not in log.read_text()
    finally:
        process.kill()
        process.wait()
