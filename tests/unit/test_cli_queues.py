"""``glowplug queues``, against a server that answers as a test tells it to."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from click.testing import CliRunner, Result

from glowplug.deploy.cli import main

MOVED = "/_glowplug/queues/dead/redrive"


@pytest.fixture
def run(scripted: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)
    return lambda *arguments: CliRunner().invoke(main, ["queues", *arguments])


def test_a_queue_is_shown_without_milliseconds_since_1970(scripted: Any, run: Callable[..., Result]) -> None:
    queue = {
        "name": "jobs",
        "fifo": False,
        "oldest_s": 1.5,
        "created_ms": 1795961058472,
        "settings": {"tags": {"a": "b"}},
    }
    scripted.say(queue, path="/_glowplug/queues/jobs")
    lines = [line.split(maxsplit=1) for line in run("show", "jobs").stdout.splitlines() if line.strip()]
    assert [["name", "jobs"], ["fifo", "false"], ["oldest_s", "1.5"], ["tags", '{"a": "b"}'],
            ["created", "2026-11-29 14:04:18"]] == [[key, value.strip()] for key, value in lines]  # fmt: skip


def test_a_redrive_without_a_target_says_what_it_could_not_move(scripted: Any, run: Callable[..., Result]) -> None:
    scripted.say({"moved": 1, "left": 4}, path=MOVED)
    done = run("redrive", "dead")
    assert ("moved 1 message\n", True) == (
        done.stdout,
        "left are 4 that came from no queue of this node" in done.stderr,
    )


@pytest.mark.parametrize(("left", "arguments"), [(0, ()), (4, ("--to", "jobs"))])
def test_a_redrive_that_moved_all_there_was_says_no_more(
    scripted: Any, run: Callable[..., Result], left: int, arguments: tuple[str, ...]
) -> None:
    scripted.say({"moved": 1, "left": left}, path=MOVED)
    done = run("redrive", "dead", *arguments)
    assert ("moved 1 message\n", "") == (done.stdout, done.stderr)
