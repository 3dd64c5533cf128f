"""``glowplug schedules``, against a server that answers as a test tells it to."""

from __future__ import annotations

from typing import Any

import pytest
from click.testing import CliRunner

from glowplug.deploy.cli import main

ONE = {
    "name": "shop-CollectMornings",
    "stack": "shop",
    "logical_id": "CollectMornings",
    "expression": "cron(0 9 ? * MON-FRI *)",
    "zone": "Europe/Berlin",
    "state": "ENABLED",
    "functions": ["collect"],
    "next": "2026-11-30T08:00:00+00:00",
    "last": "2026-11-27T08:00:00.5+00:00",
    "result": "succeeded",
    "error": "",
    "missed": 0,
    "failed": 0,
}


def test_a_schedule_has_its_zone_and_times_that_are_cut_between_words_alone(
    scripted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLOWPLUG_ENDPOINT", scripted.client.endpoint)
    other = {**ONE, "name": "Once", "zone": "UTC", "state": "DONE", "next": "", "missed": 2, "failed": 1}
    scripted.say({"schedules": [ONE, other]}, path="/_glowplug/schedules")
    lines = CliRunner().invoke(main, ["schedules"]).stdout.splitlines()
    assert "SCHEDULE RUNS FUNCTION NEXT LAST RESULT" == " ".join(lines[0].split())
    assert all(len(line) <= 80 for line in lines)
    words = " ".join(lines).split()
    for whole in ("2026-11-30", "2026-11-27", "08:00:00", "done", "succeeded"):
        assert whole in words
    text = "".join(words)
    assert 1 == text.count("Europe/")
    assert ["2", "missed,", "1", "failed"] == [word for word in words if word in ("2", "missed,", "1", "failed")]
