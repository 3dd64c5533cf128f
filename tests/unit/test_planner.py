"""The planner: what is fired, passed over and remembered, whatever the clock and the node did meanwhile."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from glowplug.runtime.events.planner import MISSED_COUNTED, Firing, plan
from glowplug.runtime.events.schedule import Dialect, Schedule, parse

MADE = datetime(2026, 1, 1, tzinfo=UTC)


def after(**time: float) -> datetime:
    return MADE + timedelta(**time)


def schedule(text: str = "rate(10 minutes)", **settings: Any) -> Schedule:
    dialect = settings.pop("dialect", Dialect.RULE)
    return Schedule(
        settings.pop("name", "tick"), parse(text, dialect), **{"created": MADE, "dialect": dialect, **settings}
    )


def test_nothing_is_due_before_its_time_and_the_plan_says_when_to_look_again() -> None:
    planned = plan([schedule(), schedule("rate(1 hour)", name="slow")], {}, after(minutes=9))
    assert ((), {}) == (planned.fire, planned.settled)
    assert {"tick": after(minutes=10), "slow": after(hours=1)} == planned.next


def test_what_is_due_is_fired_once_and_settled() -> None:
    one = schedule()
    planned = plan([one], {}, after(minutes=10, seconds=3))
    assert (Firing("tick", after(minutes=10), late=False),) == planned.fire
    assert {"tick": after(minutes=10)} == planned.settled
    assert ({"tick": after(minutes=20)}, {}) == (planned.next, planned.missed)
    again = plan([one], planned.settled, after(minutes=10, seconds=4))
    assert () == again.fire


def test_after_a_stop_the_latest_is_fired_and_the_others_are_counted() -> None:
    planned = plan([schedule()], {"tick": after(minutes=10)}, after(minutes=65))
    assert (Firing("tick", after(minutes=60), late=True),) == planned.fire
    assert ({"tick": 4}, {"tick": after(minutes=60)}, {"tick": after(minutes=70)}) == (
        planned.missed,
        planned.settled,
        planned.next,
    )


def test_a_missed_run_that_is_older_than_its_age_is_passed_over() -> None:
    daily = schedule("cron(0 3 * * ? *)", max_age_s=3600)
    planned = plan([daily], {}, after(hours=4, seconds=1))
    assert ((), {"tick": 1}, {"tick": after(hours=3)}) == (planned.fire, planned.missed, planned.settled)
    assert (Firing("tick", after(hours=3), late=False),) == plan([daily], {}, after(hours=4)).fire


def test_a_year_s_stop_of_a_schedule_of_every_minute_is_planned_in_bounded_steps() -> None:
    planned = plan([schedule("cron(* * * * ? *)", max_age_s=600)], {}, after(days=365))
    assert (Firing("tick", after(days=365), late=True),) == planned.fire
    assert {"tick": after(days=365)} == planned.settled
    assert MISSED_COUNTED <= planned.missed["tick"] <= MISSED_COUNTED + 20


def test_what_lies_beyond_the_counted_ones_is_settled_even_if_nothing_is_young_enough() -> None:
    twice_a_day = schedule("cron(0 0,1 * * ? *)", max_age_s=60)
    planned = plan([twice_a_day], {}, after(days=900, hours=12))
    assert ((), {"tick": after(days=901)}) == (planned.fire, planned.next)
    assert () == plan([twice_a_day], planned.settled, after(days=900, hours=12)).fire
    assert {} == plan([twice_a_day], planned.settled, after(days=900, hours=12)).missed


def test_a_clock_that_is_set_back_fires_nothing_twice() -> None:
    one = schedule()
    settled = plan([one], {}, after(minutes=10)).settled
    back = plan([one], settled, after(minutes=3))
    assert ((), {}, {"tick": after(minutes=20)}) == (back.fire, back.settled, back.next)
    assert () == plan([one], settled, after(minutes=10)).fire
    assert (Firing("tick", after(minutes=20), late=False),) == plan([one], settled, after(minutes=20)).fire


def test_a_clock_that_leaps_forward_fires_one() -> None:
    assert [after(hours=5)] == [one.occurrence for one in plan([schedule()], {}, after(hours=5)).fire]


def test_a_one_time_schedule_is_done_and_deleted_where_it_says_so() -> None:
    once = schedule("at(2026-01-01T06:00:00)", dialect=Dialect.SCHEDULER, delete_when_done=True)
    assert ((), ()) == (plan([once], {}, after(hours=5)).done, plan([once], {}, after(hours=5)).delete)
    planned = plan([once], {}, after(hours=6))
    assert (1, ("tick",), ("tick",), {}) == (len(planned.fire), planned.done, planned.delete, planned.next)
    kept = plan([schedule("at(2026-01-01T06:00:00)", dialect=Dialect.SCHEDULER)], {}, after(hours=6))
    assert (("tick",), ()) == (kept.done, kept.delete)


def test_a_one_time_schedule_that_was_missed_for_too_long_is_done_as_well() -> None:
    once = schedule("at(2026-01-01T06:00:00)", dialect=Dialect.SCHEDULER, delete_when_done=True, max_age_s=60)
    planned = plan([once], {}, after(days=2))
    assert ((), {"tick": 1}, ("tick",)) == (planned.fire, planned.missed, planned.delete)


def test_a_schedule_with_an_end_date_is_deleted_after_its_last_run() -> None:
    ending = schedule("rate(1 hour)", dialect=Dialect.SCHEDULER, ends=after(hours=1), delete_when_done=True)
    first = plan([ending], {}, MADE)
    assert (1, ()) == (len(first.fire), first.delete)
    assert ("tick",) == plan([ending], first.settled, after(hours=1)).delete


def test_a_flexible_window_delays_and_does_not_lose() -> None:
    one = schedule("rate(1 hour)", window_s=1800)
    due = one.due(after(hours=1))
    assert () == plan([one], {}, due - timedelta(seconds=1)).fire
    assert (Firing("tick", after(hours=1), late=False),) == plan([one], {}, due).fire


def test_firings_are_in_the_order_of_their_times_and_have_keys_of_their_own() -> None:
    planned = plan(
        [schedule(name="b"), schedule("rate(4 minutes)", name="a"), schedule(name="c")], {}, after(minutes=10)
    )
    assert ["a", "b", "c"] == [one.name for one in planned.fire]
    assert "b@2026-01-01T00:10:00+00:00" == planned.fire[1].key


SCHEDULES = st.lists(
    st.tuples(
        st.sampled_from(
            "rate(1 minute)|rate(17 minutes)|cron(0/13 * * * ? *)|cron(0 3 * * ? *)|at(2026-01-02T00:00:00)".split("|")
        ),
        st.sampled_from([0, 300, 7200]),
        st.sampled_from([60, 900, 86_400]),
    ),
    min_size=1,
    max_size=4,
)


@given(SCHEDULES, st.lists(st.integers(-90_000, 200_000), max_size=25))
@settings(max_examples=50, deadline=None)
def test_whatever_the_clock_does_nothing_fires_twice_or_early_and_times_only_grow(
    given_ones: list[tuple[str, int, int]], leaps: list[int]
) -> None:
    ones = [
        schedule(text, name=str(index), dialect=Dialect.SCHEDULER, window_s=window_s, max_age_s=age_s)
        for index, (text, window_s, age_s) in enumerate(given_ones)
    ]
    by_name = {one.name: one for one in ones}
    settled: dict[str, datetime] = {}
    fired: dict[str, list[datetime]] = {one.name: [] for one in ones}
    now = MADE
    for leap in leaps:
        now += timedelta(seconds=leap)
        planned = plan(ones, settled, now)
        for firing in planned.fire:
            assert by_name[firing.name].due(firing.occurrence) <= now
            assert now - by_name[firing.name].due(firing.occurrence) <= timedelta(
                seconds=by_name[firing.name].max_age_s
            )
            fired[firing.name].append(firing.occurrence)
        for name, moment in planned.settled.items():
            assert settled.get(name, by_name[name].origin) < moment <= now
        settled |= planned.settled
        assert all(due > now for due in planned.next.values())
        again = plan(ones, settled, now)
        assert ((), {}, {}) == (again.fire, again.settled, again.missed)
    for occurrences in fired.values():
        assert sorted(set(occurrences)) == occurrences


@given(SCHEDULES, st.lists(st.integers(1, 59), min_size=1, max_size=40))
@settings(deadline=None)
def test_a_node_that_looks_often_enough_misses_nothing(
    given_ones: list[tuple[str, int, int]], steps: list[int]
) -> None:
    one = schedule(given_ones[0][0], dialect=Dialect.SCHEDULER)
    settled: dict[str, datetime] = {}
    fired = []
    now = MADE
    for step in steps:
        now += timedelta(seconds=step)
        planned = plan([one], settled, now)
        settled |= planned.settled
        fired += [firing.occurrence for firing in planned.fire]
        assert {} == planned.missed
    expected = []
    moment = one.next_after(one.origin)
    while moment is not None and moment <= now:
        expected.append(moment)
        moment = one.next_after(moment)
    assert expected == fired
