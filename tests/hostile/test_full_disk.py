"""A state directory on a disk that is full, becomes full or is read-only: the right person is told, the rest goes on."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ECHO_ONLY = """\
AWSTemplateFormatVersion: "2010-09-09"
Transform: AWS::Serverless-2016-10-31
Resources:
  Echo:
    Type: AWS::Serverless::Function
    Properties: {FunctionName: echo, Handler: echo.handler, Runtime: python3.11, CodeUri: handlers/}
"""


DISK_SIZE = "20m"  # MiniLM's 90 MB do not fit


def test_a_model_that_does_not_fit_is_refused_and_the_functions_before_it_go_on(
    small_disk: Path, tmp_path: Path, serving: Any
) -> None:
    shutil.copytree(ROOT / "handlers", tmp_path / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "template.yaml", tmp_path / "template.yaml")
    (tmp_path / "echo.yaml").write_text(ECHO_ONLY)
    with serving(tmp_path / "echo.yaml", small_disk / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        command = [sys.executable, "-m", "glowplug.deploy.cli", "deploy", str(tmp_path / "template.yaml")]
        ran = subprocess.run(
            [*command, "--stack", "echo", "--endpoint", node.endpoint],
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        assert 1 == ran.returncode
        assert "Traceback" not in ran.stderr
        assert "space" in ran.stderr.lower() or "full" in ran.stderr.lower(), ran.stderr
        assert ["echo"] == [row["name"] for row in node.admin("GET", "functions")["functions"]]
        assert [] == [path for path in (small_disk / "state" / "cache" / "partial").rglob("*") if path.is_file()]
        status, _, answer = node.request("POST", "/2015-03-31/functions/echo/invocations", {"a": 1})
        assert (200, {"a": 1}) == (status, answer)


def test_logs_and_ledger_on_a_full_disk_do_not_stop_invocations(
    small_disk: Path, tmp_path: Path, serving: Any, fill: Any
) -> None:
    shutil.copytree(ROOT / "handlers", tmp_path / "handlers", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "echo.yaml").write_text(ECHO_ONLY)
    with serving(tmp_path / "echo.yaml", small_disk / "state", GLOWPLUG_PRELOAD_TORCH="0") as node:
        filler = fill(small_disk)
        for number in range(20):
            if number % 5 == 0:
                node.admin("POST", "functions/echo/cool", {"to": "stored"})
            status, _, answer = node.request("POST", "/2015-03-31/functions/echo/invocations", {"n": number})
            assert (200, {"n": number}) == (status, answer)
        filler.unlink()
        assert 0 == node.stop()


def test_a_disk_that_is_full_from_the_start_is_named(small_disk: Path, fill: Any) -> None:
    fill(small_disk)
    command = [sys.executable, "-m", "glowplug.deploy.cli", "up", "--port", "0", "--state", str(small_disk / "state")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ran.returncode
    assert str(small_disk / "state") in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("used_before", [False, True])
def test_a_read_only_disk_is_named(small_disk: Path, tmp_path: Path, serving: Any, used_before: bool) -> None:
    """Root may write anywhere but there."""
    state = small_disk / "state"
    if used_before:
        with serving(None, state, GLOWPLUG_PRELOAD_TORCH="0"):
            pass
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    command = [sys.executable, "-m", "glowplug.deploy.cli", "up", "--port", "0", "--state", str(state)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ran.returncode
    [line] = ran.stderr.splitlines()
    assert line.startswith(f"glowplug: {state}")
    assert "Read-only file system" in line
    assert "--state" in line
