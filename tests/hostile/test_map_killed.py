"""``glowplug map`` while the node or the command itself is killed: one line of output for each line of input."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from nodes import ServedNode, served

LINES = 240
TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Work:
    Type: AWS::Serverless::Function
    Properties:
      FunctionName: work
      Runtime: python3.11
      Handler: index.handler
      InlineCode: |
        import time
        def handler(event, context):
            time.sleep(0.03)
            if event["n"] % 10 == 3:
                raise ValueError(str(event["n"]))
            return event["n"] * 2
"""


def begun(node: ServedNode, directory: Path, *more: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "glowplug.deploy.cli", "map", "work", "--input", str(directory / "in.jsonl"),
               "--output", str(directory / "out.jsonl"), "--state", str(node.state), *more]  # fmt: skip
    with (directory / "map.log").open("ab") as log:
        return subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)


def lines_of(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def wait_for(directory: Path, lines: int) -> None:
    end = time.monotonic() + 60
    while lines_of(directory / "out.jsonl.part") < lines:
        assert time.monotonic() < end, (directory / "map.log").read_text()
        time.sleep(0.01)


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    (tmp_path / "in.jsonl").write_text("".join(f'{{"n": {n}}}\n' for n in range(LINES)))
    return tmp_path


def check(directory: Path) -> None:
    results = [json.loads(line) for line in (directory / "out.jsonl").read_text().splitlines()]
    assert list(range(LINES)) == [one["index"] for one in results]
    for n, one in enumerate(results):
        if n % 10 == 3:
            assert ("ValueError", str(n)) == (one["error"]["errorType"], one["error"]["errorMessage"])
        else:
            assert one == {"index": n, "output": n * 2}
    assert not (directory / "out.jsonl.job").exists()
    assert not (directory / "out.jsonl.part").exists()


def test_a_node_that_is_killed_in_the_middle_costs_no_line_and_doubles_none(directory: Path) -> None:
    with served(directory / "template.yaml", directory / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        command = begun(node, directory)
        for lines in (10, 60):
            wait_for(directory, lines)
            node.stop(signal.SIGKILL)
            node.start()
        assert 0 == command.wait(60), (directory / "map.log").read_text()
        check(directory)


def test_a_command_that_is_killed_or_interrupted_goes_on_where_it_was(directory: Path) -> None:
    with served(directory / "template.yaml", directory / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        for lines, how in ((10, signal.SIGKILL), (60, signal.SIGINT), (110, signal.SIGKILL)):
            command = begun(node, directory)
            wait_for(directory, lines)
            os.kill(command.pid, how)
            assert 0 != command.wait(30)
            if how == signal.SIGKILL:  # as a machine that lost power in the middle of a line leaves it
                with (directory / "out.jsonl.part").open("ab") as part:
                    part.write(b'{"index": 99')
        command = begun(node, directory)
        assert 0 == command.wait(60), (directory / "map.log").read_text()
        check(directory)
        runs = node.admin("GET", "async?function=work&limit=1000")["events"]
        assert LINES == len(runs)  # what was accepted before a kill was not run again


def test_two_commands_do_not_work_on_one_output(directory: Path) -> None:
    with served(directory / "template.yaml", directory / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        first = begun(node, directory)
        wait_for(directory, 1)
        assert 1 == begun(node, directory).wait(30)
        assert "another `glowplug map` is working on it" in (directory / "map.log").read_text()
        assert 0 == first.wait(60)
        check(directory)
