"""Eviction as a pure function: what may go, in which order, and never more than it takes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.cache.evict import NOTHING, Entry, Eviction, evict

OLD, MIDDLE, NEW = Entry("a" * 64, 10, 1.0), Entry("b" * 64, 100, 2.0), Entry("c" * 64, 1000, 3.0)
ALL = (NEW, OLD, MIDDLE)


def test_no_need_evicts_nothing() -> None:
    assert NOTHING == evict(ALL, pinned=set(), need_bytes=0)
    assert NOTHING == evict(ALL, pinned=set(), need_bytes=-5)


@pytest.mark.parametrize(
    ("need", "victims"),
    [(1, (OLD,)), (10, (OLD,)), (11, (MIDDLE,)), (100, (MIDDLE,)), (101, (OLD, MIDDLE)), (110, (OLD, MIDDLE)),
     (111, (NEW,)), (1100, (MIDDLE, NEW)), (1101, (OLD, MIDDLE, NEW)), (1110, (OLD, MIDDLE, NEW))],
)  # fmt: skip
def test_the_least_recently_used_go_and_none_that_the_last_one_makes_unnecessary(
    need: int, victims: tuple[Entry, ...]
) -> None:
    assert Eviction(victims, sum(entry.size for entry in victims), 0) == evict(ALL, pinned=set(), need_bytes=need)


def test_what_cannot_be_freed_is_said_exactly() -> None:
    assert Eviction((OLD, NEW), 1010, 990) == evict(ALL, pinned={MIDDLE.sha256}, need_bytes=2000)
    assert Eviction((), 0, 7) == evict([], pinned=set(), need_bytes=7)


def test_equal_times_are_ordered_by_digest() -> None:
    same = [Entry(letter * 64, 1, 5.0) for letter in "dbca"]
    assert ["a", "b"] == [entry.sha256[0] for entry in evict(same, pinned=set(), need_bytes=2).victims]


ENTRIES = st.lists(
    st.builds(
        Entry,
        st.text("0123456789abcdef", min_size=64, max_size=64),
        st.integers(0, 50),
        st.integers(0, 9).map(float),
    ),
    unique_by=lambda entry: entry.sha256,
    max_size=30,
)


@given(ENTRIES, st.data())
def test_pins_stay_enough_goes_and_no_victim_can_be_spared(entries: list[Entry], data: st.DataObject) -> None:
    pinned = data.draw(st.sets(st.sampled_from([entry.sha256 for entry in entries]))) if entries else set()
    need = data.draw(st.integers(-10, 1200))
    plan = evict(entries, pinned=pinned, need_bytes=need)
    free = [entry for entry in entries if entry.sha256 not in pinned]
    available = sum(entry.size for entry in free)

    assert set() == {entry.sha256 for entry in plan.victims} & pinned
    assert set() == set(plan.victims) - set(entries)
    assert len(plan.victims) == len(set(plan.victims))
    assert sum(entry.size for entry in plan.victims) == plan.freed_bytes
    assert max(0, need - available) == plan.short_bytes
    assert plan.freed_bytes + plan.short_bytes >= need
    for victim in plan.victims:
        assert plan.freed_bytes - victim.size + plan.short_bytes < need


@given(ENTRIES, st.integers(1, 1200))
def test_nothing_goes_that_is_younger_than_what_suffices_in_order_of_use(entries: list[Entry], need: int) -> None:
    plan = evict(entries, pinned=set(), need_bytes=need)
    ordered = sorted(entries, key=lambda entry: (entry.used_s, entry.sha256))
    prefix: list[Entry] = []
    while ordered and sum(entry.size for entry in prefix) < need:
        prefix.append(ordered.pop(0))
    assert set() == set(plan.victims) - set(prefix)
    assert [entry for entry in prefix if entry in plan.victims] == list(plan.victims)
