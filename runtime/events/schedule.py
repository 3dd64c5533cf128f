"""When a schedule runs: `rate(…)`, `cron(…)` and `at(…)`, in a time zone, between two dates, within a window.

Sources: the user guides of EventBridge ("Creating a rule that runs on a schedule") and of EventBridge Scheduler
("Schedule types", "Flexible time windows", `CreateSchedule`).

| | a rule (SAM `Schedule`) | EventBridge Scheduler (SAM `ScheduleV2`) |
|---|---|---|
| expressions | rate, cron | rate, cron, at |
| `rate(1 minutes)`, `rate(5 minute)` | refused | taken |
| time zone | UTC | any; default UTC |
| a rate's first run | one period after the rule was made | at StartDate, else when the schedule was made |
| StartDate, EndDate | none | both belong to it; neither concerns `at` |

**Daylight saving.** A local time that a day does not have is skipped, and one that it has twice counts once, the first
time, so `cron(0/15 * * * ? *)` pauses for the hour that is repeated; a rate's day is 24 hours. The guide says so of
cron and rate and is silent on `at`: a one-time schedule in the gap runs as far behind it as it was written into it,
because skipping would lose it.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import Enum
from typing import Final
from zoneinfo import ZoneInfo

from glowplug.runtime.errors import InvalidSchedule

from . import cron
from .cron import Cron

DAY_S: Final = 86_400
_UNITS: Final = {"minute": 60, "hour": 3600, "day": DAY_S}


class Dialect(Enum):
    """Whose rules an expression follows."""

    RULE = "rule"
    SCHEDULER = "scheduler"


@dataclass(frozen=True, slots=True)
class Rate:
    """`rate(n unit)`: every ``period_s`` seconds."""

    text: str
    period_s: int

    def __str__(self) -> str:
        return f"rate({self.text})"


@dataclass(frozen=True, slots=True)
class At:
    """`at(yyyy-mm-ddThh:mm:ss)`: once; ``local`` is naive."""

    local: datetime

    def __str__(self) -> str:
        return f"at({self.local.isoformat()})"


Expression = Rate | Cron | At


@dataclass(frozen=True, slots=True)
class Schedule:
    """A schedule as the planner sees it. All moments are aware; durations are seconds."""

    name: str
    """Its stable key: what the planner remembers it by, and what its place in a flexible window is derived from."""
    expression: Expression
    created: datetime
    """When it was made or last given another expression; nothing runs for a time before this."""
    dialect: Dialect = Dialect.SCHEDULER
    zone: tzinfo = UTC
    starts: datetime | None = None
    ends: datetime | None = None
    window_s: int = 0
    """FlexibleTimeWindow.MaximumWindowInMinutes in seconds; 0 is Mode OFF."""
    max_age_s: int = DAY_S
    """RetryPolicy.MaximumEventAgeInSeconds: how late a run may start. AWS's default for both services is a day."""
    delete_when_done: bool = False
    """ActionAfterCompletion is DELETE."""

    @property
    def origin(self) -> datetime:
        """The moment after which occurrences count when nothing has run yet."""
        return self.created - timedelta(microseconds=1)

    def next_after(self, moment: datetime) -> datetime | None:
        """Return the first occurrence strictly after ``moment``, in UTC; None if there is none before the year 2200.

        What EventBridge Scheduler says of both dates is that runs may occur "on" them, so both are included.
        """
        match self.expression:
            case At(local):
                found = _instant(local, self.zone)
                return found if found > moment else None
            case Rate(_, period_s):
                found_or_none = self._next_of_rate(moment, period_s)
            case Cron():
                after = moment if self.starts is None else max(moment, self.starts - timedelta(microseconds=1))
                found_or_none = _next_of_cron(self.expression, self.zone, after)
        if found_or_none is None or (self.ends is not None and found_or_none > self.ends):
            return None
        return found_or_none

    def due(self, occurrence: datetime) -> datetime:
        """Return when an occurrence is to run: at a place in its window that only the names decide.

        The place is a digest of schedule and occurrence, so a restart does not move it. It lies before the next
        occurrence: runs of one schedule never overtake each other.
        """
        window_s = self.window_s
        if window_s and (following := self.next_after(occurrence)) is not None:
            window_s = min(window_s, int((following - occurrence).total_seconds()))
        if window_s <= 0:
            return occurrence
        digest = hashlib.sha256(f"{self.name}\0{occurrence.astimezone(UTC).isoformat()}".encode()).digest()
        return occurrence + timedelta(seconds=int.from_bytes(digest[:8]) % window_s)

    def _next_of_rate(self, moment: datetime, period_s: int) -> datetime | None:
        anchor, first = self.created, 1
        if self.dialect is Dialect.SCHEDULER:
            anchor, first = self.starts or self.created, 0
        period = timedelta(seconds=period_s)
        periods = max(first, (moment - anchor) // period + 1)
        try:
            found = (anchor + periods * period).astimezone(UTC)
        except OverflowError:
            return None
        return found if found.year < 2200 else None


def parse(text: str, dialect: Dialect) -> Expression:
    """Read a ScheduleExpression. Raises ``InvalidSchedule``, which names what is wrong and what is allowed."""
    found = re.fullmatch(r"\s*(rate|cron|at)\s*\(([^()]*)\)\s*", text)
    forms = "rate(value unit) or cron(fields)"
    if dialect is Dialect.SCHEDULER:
        forms = "rate(value unit), cron(fields) or at(yyyy-mm-ddThh:mm:ss)"
    if found is None or (found[1] == "at" and dialect is Dialect.RULE):
        raise InvalidSchedule(f"{text!r} is no schedule expression: it has the form {forms}")
    if found[1] == "rate":
        return _rate(found[2].strip(), dialect)
    if found[1] == "cron":
        return cron.parse(found[2])
    return _at(found[2].strip())


def zone(name: str) -> tzinfo:
    """Return the time zone of a name such as `Europe/Berlin`. Raises ``InvalidSchedule``."""
    try:
        return ZoneInfo(name)
    except (OSError, ValueError) as error:  # ZoneInfoNotFoundError is a KeyError and comes below
        raise InvalidSchedule(f"ScheduleExpressionTimezone {name!r} is no time zone") from error
    except KeyError as error:
        raise InvalidSchedule(
            f"ScheduleExpressionTimezone {name!r} is not in this machine's database of time zones (IANA names, such as "
            "Europe/Berlin)"
        ) from error


def _rate(text: str, dialect: Dialect) -> Rate:
    found = re.fullmatch(r"([0-9]{1,9})\s+(minute|hour|day)(s?)", text)
    if found is None or int(found[1]) == 0:
        raise InvalidSchedule(
            f"rate({text}): a positive whole number and minute, minutes, hour, hours, day or days are allowed"
        )
    value, unit, plural = int(found[1]), found[2], bool(found[3])
    if dialect is Dialect.RULE and plural != (value > 1):
        right = f"{value} {unit}{'s' if value > 1 else ''}"
        raise InvalidSchedule(f"rate({text}): a rule's unit agrees with its value: rate({right})")
    return Rate(text, value * _UNITS[unit])


def _at(text: str) -> At:
    if not re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", text, re.ASCII):
        raise InvalidSchedule(f"at({text}): the form is yyyy-mm-ddThh:mm:ss, without a time zone")
    try:
        local = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidSchedule(f"at({text}): {error}") from error
    if not 1970 <= local.year <= 2199:
        raise InvalidSchedule(f"at({text}): years from 1970 to 2199 are allowed")
    return At(local)


def _instant(local: datetime, zone: tzinfo) -> datetime:
    """Return the moment of a local time: the first of two; in a gap, the one that the offset before the gap implies."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _next_of_cron(expression: Cron, zone: tzinfo, moment: datetime) -> datetime | None:
    """Return the first moment after ``moment`` at which a clock on the wall there shows a time of the expression."""
    local = moment.astimezone(zone).replace(tzinfo=None, fold=0)
    for candidate in expression.times(cron.earliest(local)):
        found = _instant(candidate, zone)
        if found > moment and found.astimezone(zone).replace(tzinfo=None, fold=0) == candidate:
            return found
    return None
