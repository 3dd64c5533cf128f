"""Schedules as templates and the API write them, read into what the planner takes.

Property names and bounds are those of `AWS::Events::Rule`, of `AWS::Scheduler::Schedule` and of the service models of
both. What stands at a target (RetryPolicy) is read with it, in ``triggers``.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from glowplug.runtime.errors import DefinitionError, InvalidSchedule
from glowplug.runtime.reader import Reader, kind

from .schedule import At, Dialect, Expression, Schedule, parse, zone

RULE_TIMING: Final = frozenset({"ScheduleExpression"})
"""The properties that say when a rule runs."""
TIMING: Final = RULE_TIMING | frozenset(
    "ScheduleExpressionTimezone StartDate EndDate FlexibleTimeWindow ActionAfterCompletion".split()
)
"""Those that say when a schedule does."""
_WINDOW: Final = frozenset({"Mode", "MaximumWindowInMinutes"})
_MOST_MINUTES: Final = 1440


def rule_schedule(name: str, properties: Mapping[str, Any], created: datetime, path: str = "") -> Schedule:
    """Return the schedule of a rule. ``path`` stands before fields in errors. Raises ``DefinitionError``."""
    reader = Reader(properties, path)
    reader.only(RULE_TIMING)
    return Schedule(name, _expression(reader, Dialect.RULE), created, Dialect.RULE)


def scheduler_schedule(name: str, properties: Mapping[str, Any], created: datetime, path: str = "") -> Schedule:
    """Return a schedule of EventBridge Scheduler. Raises ``DefinitionError``, as `rule_schedule` does."""
    reader = Reader(properties, path)
    reader.only(TIMING)
    expression = _expression(reader, Dialect.SCHEDULER)
    starts, ends = _date(reader, "StartDate"), _date(reader, "EndDate")
    if starts is not None and ends is not None and starts >= ends and not isinstance(expression, At):
        raise DefinitionError(reader.at("EndDate"), "must be later than StartDate")
    name_of_zone = reader.text("ScheduleExpressionTimezone")
    try:
        local = zone(name_of_zone) if name_of_zone else UTC
    except InvalidSchedule as error:
        raise DefinitionError(reader.at("ScheduleExpressionTimezone"), str(error)) from error
    return Schedule(
        name=name,
        expression=expression,
        created=created,
        zone=local,
        starts=starts,
        ends=ends,
        window_s=_window_s(reader),
        delete_when_done=reader.choice("ActionAfterCompletion", ("NONE", "DELETE"), "NONE") == "DELETE",
    )


def _expression(reader: Reader, dialect: Dialect) -> Expression:
    text = reader.text("ScheduleExpression", required=True)
    try:
        return parse(text, dialect)
    except InvalidSchedule as error:
        raise DefinitionError(reader.at("ScheduleExpression"), str(error)) from error


def _window_s(reader: Reader) -> int:
    window = reader.section("FlexibleTimeWindow", _WINDOW)
    flexible = window.choice("Mode", ("OFF", "FLEXIBLE"), "OFF") == "FLEXIBLE"
    given = window.values.get("MaximumWindowInMinutes") is not None
    if flexible and not given:
        raise DefinitionError(window.at("MaximumWindowInMinutes"), "must be given where Mode is FLEXIBLE")
    if given and not flexible:
        raise DefinitionError(window.at("MaximumWindowInMinutes"), "belongs to Mode FLEXIBLE; Mode is OFF")
    return window.whole("MaximumWindowInMinutes", 1, low=1, high=_MOST_MINUTES) * 60 if given else 0


def _date(reader: Reader, name: str) -> datetime | None:
    """Return a date in UTC, which it is in where it names no other zone."""
    value = reader.values.get(name)
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError) as error:
        raise DefinitionError(
            reader.at(name), f"must be a time such as 2026-01-01T00:00:00Z, not {kind(value)}"
        ) from error
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
