"""AWS's cron dialect: what is accepted, what is refused and how, and that the times are right."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyawscron import AWSCron

from glowplug.runtime.errors import InvalidSchedule
from glowplug.runtime.events import cron


def first(text: str, start: datetime, count: int = 3) -> list[str]:
    times = cron.parse(text).times(start)
    return [moment.isoformat(timespec="minutes") for moment, _ in zip(times, range(count), strict=False)]


START = datetime(2026, 1, 1)  # a Thursday


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0 10 * * ? *", ["2026-01-01T10:00", "2026-01-02T10:00", "2026-01-03T10:00"]),
        ("0 18 ? * MON-FRI *", ["2026-01-01T18:00", "2026-01-02T18:00", "2026-01-05T18:00"]),
        ("1/10 0 1 1 ? *", ["2026-01-01T00:01", "2026-01-01T00:11", "2026-01-01T00:21"]),
        ("5,35 14 * * ? *", ["2026-01-01T14:05", "2026-01-01T14:35", "2026-01-02T14:05"]),
        ("15 10 ? * 6L 2019-2026", ["2026-01-30T10:15", "2026-02-27T10:15", "2026-03-27T10:15"]),
        ("15 10 ? * FRIL *", ["2026-01-30T10:15", "2026-02-27T10:15", "2026-03-27T10:15"]),
        ("0 0 ? * 3#2 *", ["2026-01-13T00:00", "2026-02-10T00:00", "2026-03-10T00:00"]),
        ("0 0 ? * tue#2 *", ["2026-01-13T00:00", "2026-02-10T00:00", "2026-03-10T00:00"]),
        ("0 0 ? * SUN#5 *", ["2026-03-29T00:00", "2026-05-31T00:00", "2026-08-30T00:00"]),
        ("0 0 ? * L *", ["2026-01-03T00:00", "2026-01-10T00:00", "2026-01-17T00:00"]),
        ("0 0 ? * FRI-MON *", ["2026-01-02T00:00", "2026-01-03T00:00", "2026-01-04T00:00"]),
        ("0 0 L * ? *", ["2026-01-31T00:00", "2026-02-28T00:00", "2026-03-31T00:00"]),
        ("0 0 L-3 2 ? *", ["2026-02-25T00:00", "2027-02-25T00:00", "2028-02-26T00:00"]),
        ("0 0 LW * ? *", ["2026-01-30T00:00", "2026-02-27T00:00", "2026-03-31T00:00"]),
        ("0 0 3W * ? *", ["2026-01-02T00:00", "2026-02-03T00:00", "2026-03-03T00:00"]),
        ("0 0 1W 8 ? *", ["2026-08-03T00:00", "2027-08-02T00:00", "2028-08-01T00:00"]),  # Saturday, Sunday, Tuesday
        ("0 0 31W 5 ? *", ["2026-05-29T00:00", "2027-05-31T00:00", "2028-05-31T00:00"]),  # Sunday at the end
        ("0 0 31W 2 ? *", []),
        ("0 20-2 1 1 ? 2026", ["2026-01-01T00:00", "2026-01-01T01:00", "2026-01-01T02:00"]),
        ("0 0 1 NOV-FEB ? *", ["2026-01-01T00:00", "2026-02-01T00:00", "2026-11-01T00:00"]),
        ("0 0 29 2 ? *", ["2028-02-29T00:00", "2032-02-29T00:00", "2036-02-29T00:00"]),
        ("0 0 30 2 ? *", []),
        ("0 0 1 1 ? 2020-2025", []),
        ("0 0 1 1 ? 2026/2", ["2026-01-01T00:00", "2028-01-01T00:00", "2030-01-01T00:00"]),
        ("59 23 31 12 ? 2199", ["2199-12-31T23:59"]),
        ("0-10/5 0 1 1 ? *", ["2026-01-01T00:00", "2026-01-01T00:05", "2026-01-01T00:10"]),
        ("50/5,3 0 1 1 ? *", ["2026-01-01T00:03", "2026-01-01T00:50", "2026-01-01T00:55"]),
        ("  0   10  * \t * ? *  ", ["2026-01-01T10:00", "2026-01-02T10:00", "2026-01-03T10:00"]),
    ],
)
def test_times(text: str, expected: list[str]) -> None:
    assert expected == first(text, START)


@pytest.mark.parametrize(
    ("text", "field", "problem"),
    [
        ("60 * * * ? *", "Minutes '60'", "out of range. It takes 0-59 and the signs"),
        ("0 24 * * ? *", "Hours '24'", "out of range. It takes 0-23"),
        ("0 0 0 * ? *", "Day-of-month '0'", "It takes 1-31"),
        ("0 0 * 13 ? *", "Month '13'", "It takes 1-12 or JAN-DEC"),
        ("0 0 ? * 0 *", "Day-of-week '0'", "It takes 1-7 or SUN-SAT"),
        ("0 0 ? * 8 *", "Day-of-week '8'", "out of range"),
        ("0 0 * * ? 1969", "Year '1969'", "It takes 1970-2199"),
        ("0 0 * * ? 2030-2020", "Year '2030-2020'", "goes backwards"),
        ("0 0 * MONTH ? *", "Month 'MONTH'", "'MONTH' is no value"),
        ("? 0 * * ? *", "Minutes '?'", "'?' is no value"),
        ("0 0 1,L * ? *", "Day-of-month '1,L'", "stand alone"),
        ("0 0 1-5W * ? *", "Day-of-month '1-5W'", "'1-5' is no value"),
        ("0 0 L-31 * ? *", "Day-of-month 'L-31'", "1 to 30 days back"),
        ("0 0 ? * 3#6 *", "Day-of-week '3#6'", "1 to 5"),
        ("0 0 ? * 3#1,6#3 *", "Day-of-week '3#1,6#3'", "1 to 5, and nothing else"),
        ("0/0 0 * * ? *", "Minutes '0/0'", "'0' is no step"),
        ("0/x 0 * * ? *", "Minutes '0/x'", "'x' is no step"),
        ("1- 0 * * ? *", "Minutes '1-'", "a value is missing"),
        ("1,,2 0 * * ? *", "Minutes '1,,2'", "a value is missing"),
        ("-1 0 * * ? *", "Minutes '-1'", "a value is missing"),
        ("٣ 0 * * ? *", "Minutes '٣'", "is no value"),
        (
            "0 0 * * *",
            "cron(0 0 * * *) has 5 fields, not six",
            "Minutes, Hours, Day-of-month, Month, Day-of-week, Year",
        ),
        ("0 0 * * * *", "cron(0 0 * * * *)", "neither is '?'"),
        ("0 0 1 * MON *", "cron(0 0 1 * MON *)", "the other has to be '?'"),
        ("0 0 ? * ? *", "cron(0 0 ? * ? *)", "both are '?'"),
    ],
)
def test_an_error_names_the_field_and_says_what_is_allowed(text: str, field: str, problem: str) -> None:
    with pytest.raises(InvalidSchedule) as raised:
        cron.parse(text)
    assert str(raised.value).startswith(field)
    assert problem in str(raised.value)


def parts(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high)
    ranges = st.tuples(number, number).map(sorted).map(lambda ends: f"{ends[0]}-{ends[1]}")
    steps = st.tuples(st.one_of(st.just("*"), number.map(str), ranges), st.integers(1, 20)).map(
        lambda both: f"{both[0]}/{both[1]}"
    )
    return st.one_of(st.just("*"), number.map(str), ranges, steps)


def lists(low: int, high: int) -> st.SearchStrategy[str]:
    plain = st.lists(st.integers(low, high), min_size=1, max_size=3).map(lambda some: ",".join(map(str, some)))
    return st.one_of(parts(low, high), plain)


OF_MONTH = st.one_of(
    lists(1, 31), st.just("L"), st.integers(1, 28).map(lambda day: f"{day}W"), st.integers(1, 5).map("L-{}".format)
)
OF_WEEK = st.one_of(
    lists(1, 7),
    st.integers(1, 7).map("{}L".format),
    st.tuples(st.integers(1, 7), st.integers(1, 5)).map(lambda both: f"{both[0]}#{both[1]}"),
)
EXPRESSIONS = st.one_of(
    st.tuples(
        lists(0, 59), lists(0, 23), OF_MONTH, lists(1, 12), st.just("?"), st.one_of(st.just("*"), parts(2020, 2050))
    ),
    st.tuples(
        lists(0, 59), lists(0, 23), st.just("?"), lists(1, 12), OF_WEEK, st.one_of(st.just("*"), parts(2020, 2050))
    ),
).map(" ".join)
MOMENTS = st.datetimes(datetime(2020, 1, 1), datetime(2040, 1, 1)).map(lambda one: one.replace(second=0, microsecond=0))


@given(EXPRESSIONS, MOMENTS)
def test_pyawscron_agrees(text: str, moment: datetime) -> None:
    try:
        theirs = AWSCron(text).occurrence(moment.replace(tzinfo=UTC)).next()
    except Exception as error:
        if "iter" not in str(error):
            raise
        return  # it gives up after ten leaps over months, and that is no answer
    ours = next(cron.parse(text).times(moment + timedelta(minutes=1)), None)
    assert (theirs and theirs.replace(tzinfo=None)) == ours


def names_it(text: str, moment: datetime) -> bool:
    """Whether an expression names a minute, read field by field from the guide's table and counting days one by one."""
    minute, hour, of_month, month, of_week, year = text.split()
    values = [
        (minute, moment.minute, 0, 59),
        (hour, moment.hour, 0, 23),
        (month, moment.month, 1, 12),
        (year, moment.year, 1970, 2199),
    ]
    if not all(holds(field, value, low, high) for field, value, low, high in values):
        return False
    length = calendar.monthrange(moment.year, moment.month)[1]
    aws_day = moment.isoweekday() % 7 + 1
    if of_week == "?":
        if of_month.startswith("L"):
            return moment.day == length - int(of_month[2:] or 0)
        if of_month.endswith("W"):
            wanted = int(of_month[:-1])
            workdays = [day for day in range(1, length + 1) if date(moment.year, moment.month, day).isoweekday() < 6]
            return wanted <= length and moment.day == min(workdays, key=lambda day: (abs(day - wanted), day))
        return holds(of_month, moment.day, 1, 31)
    if of_week.endswith("L"):
        return aws_day == int(of_week[:-1]) and moment.day + 7 > length
    if "#" in of_week:
        day, nth = map(int, of_week.split("#"))
        return aws_day == day and (moment.day + 6) // 7 == nth
    return holds(of_week, aws_day, 1, 7)


def holds(field: str, value: int, low: int, high: int) -> bool:
    for part in field.split(","):
        body, _, step = part.partition("/")
        start, end = low, high
        if body != "*":
            start, _, last = body.partition("-")  # type: ignore[assignment]
            start, end = int(start), int(last) if last else (high if step else int(body.partition("-")[0]))
        if start <= value <= end and (value - start) % int(step or 1) == 0:
            return True
    return False


@given(EXPRESSIONS, MOMENTS)
@settings(max_examples=60, deadline=None)
def test_no_minute_is_left_out_and_none_is_invented(text: str, moment: datetime) -> None:
    """Against a walk over the minutes of two days, and over the days up to the first one that is named."""
    parsed = cron.parse(text)
    found = next(parsed.times(moment), None)
    assert found is None or (found >= moment and names_it(text, found))
    end = moment + timedelta(days=2)
    walked = [one for one in (moment + timedelta(minutes=ahead) for ahead in range(2 * 24 * 60)) if names_it(text, one)]
    times = parsed.times(moment)
    ours = []
    while (one := next(times, None)) is not None and one < end:
        ours.append(one)
    assert walked == ours
