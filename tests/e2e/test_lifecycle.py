"""Start, stop, kill and start again: no orphan process, no stale socket, no lost function, one node per state."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

TEMPLATE = Path(__file__).parent / "misbehaving.yaml"


def alive(pids: list[int]) -> list[int]:
    """Those of ``pids`` that still run (a zombie does not)."""
    running = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        if state != "Z":
            running.append(pid)
    return running


def wait_gone(pids: list[int], limit_s: float = 5.0) -> list[int]:
    end = time.monotonic() + limit_s
    while (left := alive(pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return left


@pytest.fixture
def node(tmp_path: Path, serving: Any) -> Any:
    with serving(TEMPLATE, tmp_path / "state", GLOWPLUG_PRELOAD_TORCH="0") as running:
        yield running


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_clean_stop_drains_and_leaves_no_process(node: Any, how: signal.Signals) -> None:
    node.admin("POST", "functions/answers/warm")
    node.admin("POST", "functions/sleeps/warm")
    family = node.family()
    assert len(family) >= 3
    path = "/2015-03-31/functions/sleeps/invocations"
    caller = subprocess.Popen(
        ["curl", "-s", "-d", '{"seconds": 1, "n": 7}', f"{node.endpoint}{path}"], stdout=subprocess.PIPE
    )
    time.sleep(0.4)
    assert 0 == node.stop(how)
    answer, _ = caller.communicate(timeout=10)
    assert b'{"seconds": 1, "n": 7}' == answer  # it was in flight, so it was answered
    assert [] == wait_gone(family)


def test_workers_notice_that_the_node_was_killed(node: Any) -> None:
    for name in ("answers", "answers-unparked", "leaks-thread"):
        node.admin("POST", f"functions/{name}/warm")
    node.request("POST", "/2015-03-31/functions/strays/invocations", {})
    family = node.family()
    node.stop(signal.SIGKILL)
    assert [] == wait_gone(family)


def test_after_a_kill_the_next_start_serves_the_same_functions(node: Any) -> None:
    before = sorted(row["name"] for row in node.admin("GET", "functions")["functions"])
    node.stop(signal.SIGKILL)
    node.template = None  # the registry alone
    node.start()
    status = 0
    end = time.monotonic() + 20
    while status != 200 and time.monotonic() < end:
        status, _, _ = node.request("POST", "/_url/answers/", {})
    assert 200 == status
    assert before == sorted(row["name"] for row in node.admin("GET", "functions")["functions"])


def test_a_second_node_on_the_same_state_is_refused(node: Any) -> None:
    command = [sys.executable, "-m", "glowplug.deploy.cli", "up", "--port", "0", "--state", str(node.state)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ran.returncode
    assert str(node.pid) in ran.stderr
    assert "--state" in ran.stderr
    assert "Traceback" not in ran.stderr


def test_a_taken_port_is_named(node: Any, tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "glowplug.deploy.cli",
        "up",
        "--port",
        str(node.port),
        "--state",
        str(tmp_path / "s2"),
    ]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ran.returncode
    assert str(node.port) in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere; the full-disk test covers root")
def test_a_read_only_state_directory_is_named(tmp_path: Path) -> None:
    home = tmp_path / "readonly"
    home.mkdir(mode=0o555)
    command = [sys.executable, "-m", "glowplug.deploy.cli", "up", "--port", "0", "--state", str(home / "state")]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert 1 == ran.returncode
    assert str(home) in ran.stderr


def test_a_killed_zygote_is_rebuilt_and_instances_keep_answering(node: Any) -> None:
    node.admin("POST", "functions/answers/warm")
    for pid in node.family():
        if "process.zygote" in Path(f"/proc/{pid}/cmdline").read_text() and pid not in (node.pid,):
            os.kill(pid, signal.SIGKILL)
    end = time.monotonic() + 30
    status = 0
    while status != 200 and time.monotonic() < end:
        status, _, _ = node.request("POST", "/_url/answers/", {})
    assert 200 == status
    status, _, _ = node.request("POST", "/2015-03-31/functions/environment/invocations", {"names": []})
    assert 200 == status
