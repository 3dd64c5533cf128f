"""Schedules as they are written: defaults, bounds, and errors that name the field."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.events.definitions import rule_schedule, scheduler_schedule
from glowplug.runtime.events.schedule import Dialect, Schedule, parse

MADE = datetime(2026, 1, 1, tzinfo=UTC)
DAILY = {"ScheduleExpression": "rate(1 day)"}


def test_a_rule() -> None:
    expected = Schedule("r", parse("rate(1 day)", Dialect.RULE), MADE, Dialect.RULE)
    assert expected == rule_schedule("r", DAILY, MADE)


def test_a_schedule_with_everything() -> None:
    properties = {
        "ScheduleExpression": "cron(0 3 * * ? *)",
        "ScheduleExpressionTimezone": "Europe/Berlin",
        "StartDate": "2026-02-01T00:00:00+01:00",
        "EndDate": "2026-03-01T00:00:00",
        "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 15},
        "ActionAfterCompletion": "DELETE",
    }
    assert scheduler_schedule("s", properties, MADE) == Schedule(
        name="s",
        expression=parse("cron(0 3 * * ? *)", Dialect.SCHEDULER),
        created=MADE,
        zone=ZoneInfo("Europe/Berlin"),
        starts=datetime(2026, 1, 31, 23, tzinfo=UTC),
        ends=datetime(2026, 3, 1, tzinfo=UTC),
        window_s=900,
        delete_when_done=True,
    )


def test_a_schedule_with_nothing_else() -> None:
    one = scheduler_schedule("s", {**DAILY, "FlexibleTimeWindow": {"Mode": "OFF"}}, MADE)
    assert Schedule("s", parse("rate(1 day)", Dialect.SCHEDULER), MADE) == one


@pytest.mark.parametrize(
    ("properties", "field", "problem"),
    [
        ({}, "x.ScheduleExpression", "must be a string, not nothing"),
        ({"ScheduleExpression": "daily"}, "x.ScheduleExpression", "at(yyyy-mm-ddThh:mm:ss)"),
        ({"ScheduleExpression": "cron(61 * * * ? *)"}, "x.ScheduleExpression", "Minutes '61'"),
        ({**DAILY, "Timezone": "UTC"}, "x.Timezone", "unknown key; known: ActionAfterCompletion"),
        ({**DAILY, "ScheduleExpressionTimezone": "Mars"}, "x.ScheduleExpressionTimezone", "time zones"),
        ({**DAILY, "StartDate": "soon"}, "x.StartDate", "must be a time such as"),
        ({**DAILY, "EndDate": 5}, "x.EndDate", "must be a time such as"),
        ({**DAILY, "StartDate": "2026-02-01", "EndDate": "2026-02-01"}, "x.EndDate", "later than StartDate"),
        (
            {**DAILY, "FlexibleTimeWindow": {"Mode": "ON"}},
            "x.FlexibleTimeWindow.Mode",
            "'ON' is not one of OFF, FLEXIBLE",
        ),
        (
            {**DAILY, "FlexibleTimeWindow": {"Mode": "FLEXIBLE"}},
            "x.FlexibleTimeWindow.MaximumWindowInMinutes",
            "must be given",
        ),
        (
            {**DAILY, "FlexibleTimeWindow": {"MaximumWindowInMinutes": 5}},
            "x.FlexibleTimeWindow.MaximumWindowInMinutes",
            "Mode is OFF",
        ),
        (
            {**DAILY, "FlexibleTimeWindow": {"Mode": "FLEXIBLE", "MaximumWindowInMinutes": 1441}},
            "x.FlexibleTimeWindow.MaximumWindowInMinutes",
            "not between 1 and 1440",
        ),
        ({**DAILY, "ActionAfterCompletion": "KEEP"}, "x.ActionAfterCompletion", "NONE, DELETE"),
    ],
)
def test_an_error_names_the_field(properties: dict[str, Any], field: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        scheduler_schedule("s", properties, MADE, path="x")
    assert field in str(raised.value)
    assert problem in str(raised.value)


@pytest.mark.parametrize("name", ["ScheduleExpressionTimezone", "StartDate", "FlexibleTimeWindow"])
def test_a_rule_has_no_field_of_the_scheduler(name: str) -> None:
    with pytest.raises(DefinitionError, match=name):
        rule_schedule("r", {**DAILY, name: "UTC"}, MADE)


def test_a_one_time_schedule_ignores_its_dates() -> None:
    properties = {"ScheduleExpression": "at(2026-05-01T00:00:00)", "StartDate": "2026-04-01", "EndDate": "2026-03-01"}
    assert scheduler_schedule("s", properties, MADE).next_after(MADE) == datetime(2026, 5, 1, tzinfo=UTC)
