"""AWS's cron expressions: six fields, read once, and asked which local times they name.

The fields, their values and their signs are those of EventBridge's and EventBridge Scheduler's user guides ("Schedule
types", "cron-based"). What these leave open is answered as by Quartz, whose dialect it is: a range that goes backwards
runs over the field's end (`20-2` hours, an example of the guide; `FRI-MON`), days of the week take steps, `L` alone as
one is Saturday, `LW` is the month's last weekday, `L-3` three days before its last day; `15W` never leaves its month.

No library reads it as AWS does: croniter and cronsim count days of the week from 0 and know no years or `?`; pyawscron,
which the tests compare with, checks no field, knows no lists with steps, no ranges over the end and no time zones.
"""

from __future__ import annotations

import calendar
import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from glowplug.runtime.errors import InvalidSchedule

_MONTHS: Final = tuple("JAN FEB MAR APR MAY JUN JUL AUG SEP OCT NOV DEC".split())
_WEEKDAYS: Final = tuple("SUN MON TUE WED THU FRI SAT".split())


@dataclass(frozen=True, slots=True)
class Field:
    """One of the six: its name for messages, its smallest and largest value, names of values, the signs it knows."""

    title: str
    low: int
    high: int
    signs: str
    names: tuple[str, ...] = ()
    wraps: bool = True

    def refuse(self, text: str, problem: str) -> InvalidSchedule:
        """Return the error for ``text`` in this field, which says what the field takes."""
        named = f" or {self.names[0]}-{self.names[-1]}" if self.names else ""
        return InvalidSchedule(
            f"{self.title} {text!r}: {problem}. It takes {self.low}-{self.high}{named} and the signs {self.signs}"
        )

    def number(self, text: str, whole: str) -> int:
        """Return a value of this field. Raises ``InvalidSchedule``."""
        if text.upper() in self.names:
            return self.names.index(text.upper()) + self.low
        if not re.fullmatch(r"[0-9]{1,4}", text):
            raise self.refuse(whole, f"{text!r} is no value" if text else "a value is missing")
        value = int(text)
        if not self.low <= value <= self.high:
            raise self.refuse(whole, f"{value} is out of range")
        return value


MINUTES: Final = Field("Minutes", 0, 59, ", - * /")
HOURS: Final = Field("Hours", 0, 23, ", - * /")
DAY_OF_MONTH: Final = Field("Day-of-month", 1, 31, ", - * ? / L W")
MONTH: Final = Field("Month", 1, 12, ", - * /", _MONTHS)
DAY_OF_WEEK: Final = Field("Day-of-week", 1, 7, ", - * ? / L #", _WEEKDAYS)
YEAR: Final = Field("Year", 1970, 2199, ", - * /", wraps=False)
_FIELDS: Final = (MINUTES, HOURS, DAY_OF_MONTH, MONTH, DAY_OF_WEEK, YEAR)


@dataclass(frozen=True, slots=True)
class Values:
    """Days by number: of the month, or of the week with Sunday as 1."""

    days: frozenset[int]


@dataclass(frozen=True, slots=True)
class LastDay:
    """`L`, `L-n`, `LW`: the month's last day, ``before`` days ahead of it, or the weekday nearest to it."""

    before: int = 0
    weekday: bool = False


@dataclass(frozen=True, slots=True)
class Nearest:
    """`nW`: the weekday nearest to day ``day``, within the month."""

    day: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """`d#n` and `dL`: the ``nth`` day of the week ``day`` in the month; the last one where ``nth`` is 0."""

    day: int
    nth: int


@dataclass(frozen=True, slots=True)
class Cron:
    """A parsed expression. One of ``of_month`` and ``of_week`` decides the days, the other is None (`?`)."""

    text: str
    minutes: tuple[int, ...]
    hours: tuple[int, ...]
    of_month: Values | LastDay | Nearest | None
    months: tuple[int, ...]
    of_week: Values | Numbered | None
    years: tuple[int, ...]

    def __str__(self) -> str:
        return f"cron({self.text})"

    def times(self, start: datetime) -> Iterator[datetime]:
        """Yield the local times (naive, whole minutes) that the expression names, in order, none before ``start``.

        The work between two of them is bounded by the months up to 2199, so a day that never comes (30 February)
        ends the iteration at once.
        """
        for day in self._days(start.date()):
            for hour in self.hours:
                for minute in self.minutes:
                    moment = datetime(day.year, day.month, day.day, hour, minute)
                    if moment >= start:
                        yield moment

    def _days(self, start: date) -> Iterator[date]:
        for year in self.years[bisect_left(self.years, start.year) :]:
            for month in self.months:
                if (year, month) < (start.year, start.month):
                    continue
                for day in self.days_of(year, month):
                    if (found := date(year, month, day)) >= start:
                        yield found

    def days_of(self, year: int, month: int) -> list[int]:
        """Return the days of a month on which the expression runs, in order, whether or not the month is named."""
        first, length = calendar.monthrange(year, month)
        ahead = first - 1  # (ahead + day) % 7 is a day's place in the week, Monday being 0

        match self.of_month or self.of_week:
            case Values(days) if self.of_month is not None:
                return [day for day in range(1, length + 1) if day in days]
            case Values(days):
                return [day for day in range(1, length + 1) if (ahead + day + 1) % 7 + 1 in days]
            case LastDay(before, at_weekday):
                last = length - before
                if at_weekday:
                    last -= max((ahead + last) % 7 - 4, 0)
                return [last] if last >= 1 else []
            case Nearest(day):
                return [_nearest(day, (ahead + day) % 7, length)] if day <= length else []
            case Numbered(day, nth):
                hits = [one for one in range(1, length + 1) if (ahead + one + 1) % 7 + 1 == day]
                return hits[nth - 1 : nth] if nth else hits[-1:]
        raise AssertionError("an expression has one of day-of-month and day-of-week")


def parse(text: str) -> Cron:
    """Read what stands between the parentheses of `cron(…)`. Raises ``InvalidSchedule``, which names the field."""
    fields = text.split()
    if len(fields) != len(_FIELDS):
        titles = ", ".join(field.title for field in _FIELDS)
        raise InvalidSchedule(f"cron({text}) has {len(fields)} fields, not six: {titles}")
    minutes, hours, of_month, months, of_week, years = fields
    if (of_month == "?") == (of_week == "?"):
        problem = "both are '?'" if of_month == "?" else "neither is '?'"
        raise InvalidSchedule(
            f"cron({text}): one of Day-of-month and Day-of-week says when it runs, the other has to be '?'; {problem}"
        )
    return Cron(
        text=" ".join(fields),
        minutes=tuple(sorted(_values(MINUTES, minutes))),
        hours=tuple(sorted(_values(HOURS, hours))),
        of_month=None if of_month == "?" else _of_month(of_month),
        months=tuple(sorted(_values(MONTH, months))),
        of_week=None if of_week == "?" else _of_week(of_week),
        years=tuple(sorted(_values(YEAR, years))),
    )


def _of_month(text: str) -> Values | LastDay | Nearest:
    upper = text.upper()
    if upper in ("L", "LW", "WL"):
        return LastDay(weekday=len(upper) == 2)
    if found := re.fullmatch(r"L-([0-9]{1,2})", upper):
        before = int(found[1])
        if not 1 <= before <= 30:
            raise DAY_OF_MONTH.refuse(text, "L-n goes 1 to 30 days back")
        return LastDay(before)
    if upper.endswith("W"):
        return Nearest(DAY_OF_MONTH.number(text[:-1], text))
    if "L" in upper or "W" in upper:
        raise DAY_OF_MONTH.refuse(text, "L and W stand alone, as L, L-n, LW or nW, in no list or range")
    return Values(_values(DAY_OF_MONTH, text))


def _of_week(text: str) -> Values | Numbered:
    if text.upper() == "L":
        return Values(frozenset({DAY_OF_WEEK.high}))
    if "#" in text:
        day, _, nth = text.partition("#")
        if not re.fullmatch("[1-5]", nth):
            raise DAY_OF_WEEK.refuse(text, "after '#' stands 1 to 5, and nothing else")
        return Numbered(DAY_OF_WEEK.number(day, text), int(nth))
    if text.upper().endswith("L"):
        return Numbered(DAY_OF_WEEK.number(text[:-1], text), 0)
    return Values(_values(DAY_OF_WEEK, text))


def _values(field: Field, text: str) -> frozenset[int]:
    """Return what a list of values, ranges and steps names."""
    found: set[int] = set()
    for part in text.split(","):
        body, slash, step = part.partition("/")
        every = 1
        if slash:
            if not re.fullmatch(r"[0-9]{1,4}", step) or int(step) == 0:
                raise field.refuse(text, f"{step!r} is no step: a positive number stands after '/'")
            every = int(step)
        first, dash, last = body.partition("-")
        if body == "*":
            low, high = field.low, field.high
        elif dash:
            low, high = field.number(first, text), field.number(last, text)
        else:
            low = field.number(first, text)
            high = field.high if slash else low
        if low > high and not field.wraps:
            raise field.refuse(text, f"the range {body} goes backwards")
        size = field.high - field.low + 1
        span = (high - low) % size
        found.update(field.low + (low - field.low + ahead) % size for ahead in range(0, span + 1, every))
    return frozenset(found)


def _nearest(day: int, weekday: int, length: int) -> int:
    """Return the weekday (Monday to Friday) nearest to ``day``, without leaving a month of ``length`` days."""
    if weekday == 5:
        return day - 1 if day > 1 else day + 2
    if weekday == 6:
        return day + 1 if day < length else day - 2
    return day


def earliest(moment: datetime) -> datetime:
    """Return the first whole minute at or after a naive time."""
    whole = moment.replace(second=0, microsecond=0)
    return whole if whole == moment else whole + timedelta(minutes=1)
