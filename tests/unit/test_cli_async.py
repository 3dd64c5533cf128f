"""``glowplug async``, against a server that answers as a test tells it to."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from glowplug.deploy.cli import main


@pytest.mark.parametrize(("attempts", "said"), [(1, "after 1 attempt"), (3, "after 3 attempts")])
def test_a_failed_event_is_shown_with_its_error_and_its_attempts(
    scripted: Any, monkeypatch: pytest.MonkeyPatch, attempts: int, said: str
) -> None:
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)
    event = {"requestId": "r", "function": "f", "state": "failed", "attempts": attempts, "error": {"errorType": "E"}}
    scripted.say(event, path="/_glowplug/async/r")
    done = CliRunner().invoke(main, ["async", "show", "r"])
    assert (1, '{"errorType": "E"}\n', f"glowplug: f: failed {said}\n") == (done.exit_code, done.stdout, done.stderr)
