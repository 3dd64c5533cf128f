"""Schedules: rates, one-time runs, time zones and their changes of the clock, dates and windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime.errors import InvalidSchedule
from glowplug.runtime.events.schedule import Dialect, Schedule, parse, zone

MADE = datetime(2026, 1, 1, 12, 0, 30, tzinfo=UTC)


def schedule(text: str, dialect: Dialect = Dialect.SCHEDULER, **settings: Any) -> Schedule:
    return Schedule("nightly", parse(text, dialect), **{"created": MADE, "dialect": dialect, **settings})


def runs(one: Schedule, after: datetime, count: int = 3) -> list[str]:
    found: list[str] = []
    moment = one.next_after(after)
    while len(found) < count and moment is not None:
        found.append(moment.isoformat())
        moment = one.next_after(moment)
    return found


def test_a_rule_s_rate_first_runs_one_period_after_the_rule_was_made() -> None:
    one = schedule("rate(5 minutes)", Dialect.RULE)
    assert ["2026-01-01T12:05:30+00:00", "2026-01-01T12:10:30+00:00"] == runs(one, one.origin, 2)


def test_a_schedule_s_rate_runs_at_once_or_at_its_start_date() -> None:
    one = schedule("rate(1 hour)")
    assert "2026-01-01T12:00:30+00:00" == runs(one, one.origin, 1)[0]
    later = schedule("rate(1 hour)", starts=datetime(2026, 3, 1, 8, 15, tzinfo=UTC))
    assert ["2026-03-01T08:15:00+00:00", "2026-03-01T09:15:00+00:00"] == runs(later, later.origin, 2)


def test_a_day_of_a_rate_is_24_hours_where_the_clock_changes() -> None:
    one = schedule("rate(1 day)", zone=ZoneInfo("Europe/Berlin"), starts=datetime(2026, 3, 28, 11, tzinfo=UTC))
    assert ["2026-03-28T11:00:00+00:00", "2026-03-29T11:00:00+00:00"] == runs(one, one.origin, 2)


def test_start_and_end_date_are_both_included() -> None:
    one = schedule("cron(0 0 * * ? *)", starts=datetime(2026, 2, 1, tzinfo=UTC), ends=datetime(2026, 2, 3, tzinfo=UTC))
    assert [f"2026-02-0{day}T00:00:00+00:00" for day in (1, 2, 3)] == runs(one, one.origin, 9)


def test_at_runs_once_in_its_zone_and_knows_no_dates() -> None:
    one = schedule("at(2026-07-01T09:30:15)", zone=ZoneInfo("America/New_York"), ends=MADE)
    assert ["2026-07-01T13:30:15+00:00"] == runs(one, one.origin)


NEW_YORK = ZoneInfo("America/New_York")


def test_a_time_in_the_gap_of_spring_is_skipped() -> None:
    one = schedule("cron(30 2 * 3 ? *)", zone=NEW_YORK)
    assert ["2026-03-07T07:30:00+00:00", "2026-03-09T06:30:00+00:00"] == runs(one, datetime(2026, 3, 7, tzinfo=UTC), 2)


def test_a_time_that_autumn_repeats_runs_the_first_time_only() -> None:
    one = schedule("cron(0/30 1 1 11 ? *)", zone=NEW_YORK)
    assert ["2026-11-01T05:00:00+00:00", "2026-11-01T05:30:00+00:00"] == runs(one, datetime(2026, 10, 1, tzinfo=UTC), 2)
    in_the_second_hour = datetime(2026, 11, 1, 6, 10, tzinfo=UTC)
    assert ["2027-11-01T05:00:00+00:00"] == runs(one, in_the_second_hour, 1)


def test_an_hourly_cron_pauses_for_the_repeated_hour_and_skips_the_missing_one() -> None:
    one = schedule("cron(0 * * * ? *)", zone=NEW_YORK)
    assert ["05", "07", "08"] == [run[11:13] for run in runs(one, datetime(2026, 11, 1, 4, 30, tzinfo=UTC))]
    assert ["06", "07", "08"] == [run[11:13] for run in runs(one, datetime(2026, 3, 8, 5, 30, tzinfo=UTC))]


def test_a_cron_whose_only_times_are_gaps_never_runs() -> None:
    one = schedule("cron(30 2 8 3 ? 2026)", zone=NEW_YORK)
    assert [] == runs(one, one.origin)


def test_one_time_in_a_gap_runs_behind_it_and_in_an_overlap_the_first_time() -> None:
    assert ["2026-03-08T07:30:00+00:00"] == runs(
        schedule("at(2026-03-08T02:30:00)", zone=NEW_YORK), MADE
    )  # 03:30 there
    assert ["2026-11-01T05:30:00+00:00"] == runs(schedule("at(2026-11-01T01:30:00)", zone=NEW_YORK), MADE)


def test_zones_with_half_hours_and_a_day_that_was_left_out() -> None:
    lord_howe = schedule(
        "cron(15 2 * * ? *)", zone=ZoneInfo("Australia/Lord_Howe"), created=datetime(2025, 1, 1, tzinfo=UTC)
    )
    assert ["2025-10-03T15:45:00+00:00", "2025-10-05T15:15:00+00:00"] == runs(
        lord_howe, datetime(2025, 10, 3, tzinfo=UTC), 2
    )
    samoa = schedule("cron(0 12 * * ? *)", zone=ZoneInfo("Pacific/Apia"), created=datetime(2011, 1, 1, tzinfo=UTC))
    assert ["2011-12-29T22:00:00+00:00", "2011-12-30T22:00:00+00:00"] == runs(
        samoa, datetime(2011, 12, 29, tzinfo=UTC), 2
    )


@pytest.mark.parametrize(
    ("text", "dialect", "message"),
    [
        ("", Dialect.RULE, "no schedule expression: it has the form rate(value unit) or cron(fields)"),
        ("at(2026-01-01T00:00:00)", Dialect.RULE, "no schedule expression"),
        ("every day", Dialect.SCHEDULER, "rate(value unit), cron(fields) or at(yyyy-mm-ddThh:mm:ss)"),
        ("rate(0 minutes)", Dialect.SCHEDULER, "a positive whole number"),
        ("rate(1.5 hours)", Dialect.SCHEDULER, "a positive whole number"),
        ("rate(5 weeks)", Dialect.SCHEDULER, "minute, minutes, hour, hours, day or days"),
        ("rate(5 minute)", Dialect.RULE, "a rule's unit agrees with its value: rate(5 minutes)"),
        ("rate(1 days)", Dialect.RULE, "rate(1 day)"),
        ("at(2026-01-01)", Dialect.SCHEDULER, "the form is yyyy-mm-ddThh:mm:ss"),
        ("at(2026-01-01T00:00:00Z)", Dialect.SCHEDULER, "without a time zone"),
        ("at(2026-02-30T00:00:00)", Dialect.SCHEDULER, "day"),
        ("at(0001-02-03T00:00:00)", Dialect.SCHEDULER, "years from 1970 to 2199"),
        ("cron(0 0 * * *)", Dialect.RULE, "5 fields, not six"),
    ],
)
def test_an_expression_that_is_none_is_refused_with_what_is_allowed(text: str, dialect: Dialect, message: str) -> None:
    with pytest.raises(InvalidSchedule) as raised:
        parse(text, dialect)
    assert message in str(raised.value)


@pytest.mark.parametrize("text", ["rate(1 minutes)", "rate(5 hour)"])
def test_scheduler_takes_either_form_of_a_unit(text: str) -> None:
    assert text == str(parse(text, Dialect.SCHEDULER))


@pytest.mark.parametrize("name", ["Europe/Atlantis", "", "../../etc/passwd", "/etc/localtime", "Europe", "a\0b"])
def test_a_time_zone_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(InvalidSchedule, match="ScheduleExpressionTimezone"):
        zone(name)


def test_a_known_time_zone() -> None:
    assert ZoneInfo("Europe/Berlin") == zone("Europe/Berlin")


def test_the_place_in_a_flexible_window_is_the_schedule_s_own_and_stays() -> None:
    one = schedule("cron(0 0 * * ? *)", window_s=900)
    midnight = datetime(2026, 2, 1, tzinfo=UTC)
    assert one.due(midnight) == schedule("cron(0 0 * * ? *)", window_s=900).due(midnight)
    places = {one.due(midnight + timedelta(days=day)) - timedelta(days=day) for day in range(50)}
    assert len(places) > 25
    assert all(midnight <= place < midnight + timedelta(seconds=900) for place in places)
    assert one.due(midnight) != Schedule("other", one.expression, MADE, window_s=900).due(midnight)


def test_without_a_window_an_occurrence_is_due_at_its_time() -> None:
    assert MADE == schedule("rate(1 day)").due(MADE)


def test_a_rate_beyond_all_years_never_runs_again() -> None:
    assert [] == runs(schedule("rate(999999999 days)", Dialect.RULE), MADE)


EXPRESSIONS = st.sampled_from(
    "rate(1 minute)|rate(7 hours)|rate(3 days)|cron(* * * * ? *)|cron(0/7 1-3 ? * 1#1 *)|cron(0/7 1-3 ? * SUN *)"
    "|cron(30 0-4 * * ? *)|cron(15 2 ? 3,10,11 SUN *)|cron(0 20-2 LW * ? *)|at(2026-03-29T02:30:00)".split("|")
)
ZONES = st.sampled_from(
    "UTC America/New_York Europe/Berlin Australia/Lord_Howe Asia/Kathmandu Pacific/Apia".split()
).map(ZoneInfo)
AROUND = st.one_of(
    st.datetimes(datetime(2026, 1, 1), datetime(2027, 12, 31)),
    st.datetimes(datetime(2026, 3, 7), datetime(2026, 4, 6)),
    st.datetimes(datetime(2026, 9, 25), datetime(2026, 11, 2)),
).map(lambda moment: moment.replace(tzinfo=UTC))


@given(EXPRESSIONS, ZONES, AROUND, st.integers(0, 90_000_000))
def test_the_next_run_is_later_and_later_moments_never_have_an_earlier_one(
    text: str, zone: ZoneInfo, moment: datetime, ahead_ms: int
) -> None:
    one = schedule(text, zone=zone)
    found = one.next_after(moment)
    then = one.next_after(moment + timedelta(milliseconds=ahead_ms))
    assert found is None or found > moment
    if found is None or then is None:
        assert then is None
        return
    assert found <= then
    if found > moment + timedelta(milliseconds=ahead_ms):
        assert found == then  # nothing lies between, so both moments have the same next run


@given(ZONES, AROUND, st.integers(0, 59), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_a_daily_run_is_at_the_first_minute_that_shows_its_time(
    zone: ZoneInfo, moment: datetime, minute: int, hour: int
) -> None:
    """A walk over the minutes of three days: each local date runs at the first of them that shows the time, if any."""
    one = schedule(f"cron({minute} {hour} * * ? *)", zone=zone)
    start = moment.replace(second=0, microsecond=0)
    shown: dict[str, datetime] = {}
    for ahead in range(-24 * 60, 3 * 24 * 60):
        local = (start + timedelta(minutes=ahead)).astimezone(zone)
        if (local.hour, local.minute) == (hour, minute):
            shown.setdefault(local.date().isoformat(), start + timedelta(minutes=ahead))
    expected = [run for run in sorted(shown.values()) if moment < run][:2]
    assert [run.isoformat() for run in expected] == runs(one, moment, len(expected))


@given(EXPRESSIONS, ZONES, AROUND, st.integers(0, 200_000))
def test_due_times_keep_the_order_of_the_occurrences(
    text: str, zone: ZoneInfo, moment: datetime, window_s: int
) -> None:
    one = schedule(text, zone=zone, window_s=window_s)
    first = one.next_after(moment)
    second = None if first is None else one.next_after(first)
    if first is not None and second is not None:
        assert first <= one.due(first) < second <= one.due(second)
