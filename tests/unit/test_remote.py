"""Who may sink to remote, in which order, and what leaves the machine with it: pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.routing.remote import Holding, sharers, sinkable, unshared


def holding(name: str, blobs: str, *, tier: str = "stored", cold: bool = True, used_s: float = 0.0) -> Holding:
    return Holding(name, name, tier, cold, used_s, frozenset(blobs))  # type: ignore[arg-type]


def test_what_another_function_needs_stays() -> None:
    a, b = holding("a", "xy"), holding("b", "yz", tier="parked", cold=False)
    assert [{"x"}, {"z"}] == [set(unshared(one, [a, b])) for one in (a, b)]
    assert ["b"] == sharers(a, [a, b])


def test_what_a_remote_function_left_behind_is_needed_by_nobody() -> None:
    a, b = holding("a", "xy"), holding("b", "yz", tier="remote")
    assert ({"x", "y"}, []) == (set(unshared(a, [a, b])), sharers(a, [a, b]))


def test_a_remote_function_that_is_starting_needs_its_files() -> None:
    a, b = holding("a", "xy"), holding("b", "yz", tier="remote", cold=False)
    assert {"x"} == unshared(a, [a, b])


def test_what_is_being_fetched_keeps_what_it_has() -> None:
    """It is remote until the fetch is over; dropping the half that is here would have it fetched again."""
    a, b = holding("a", "xy"), holding("b", "yz", tier="remote")
    assert {"x"} == unshared(a, [a, b], wanted="b")


def test_the_longest_unused_sinks_first() -> None:
    holdings = [holding("a", "x", used_s=5), holding("b", "y", used_s=50), holding("c", "z", used_s=1)]
    assert ["b", "a", "c"] == [one.function for one in sinkable(holdings)]


def test_only_what_is_stored_and_cold_sinks_and_never_who_needs_the_room() -> None:
    holdings = [
        holding("hot", "1", tier="hot", cold=False),
        holding("parked", "2", tier="parked", cold=False),
        holding("starting", "3", cold=False),
        holding("gone", "4", tier="remote"),
        holding("wanted", "5"),
        holding("stored", "6"),
    ]
    assert ["stored"] == [one.function for one in sinkable(holdings, wanted="wanted")]


def test_nobody_sinks_whose_files_others_need_as_well() -> None:
    holdings = [holding("a", "x", used_s=9), holding("b", "x", tier="parked", cold=False)]
    assert [] == sinkable(holdings)


def test_two_that_share_everything_are_not_sunk_for_nothing() -> None:
    """Neither frees a byte while the other is stored; the disk stays full, and the fetch says so."""
    assert [] == sinkable([holding("a", "x"), holding("b", "x")])


HOLDINGS = st.lists(
    st.builds(
        Holding,
        revision=st.uuids().map(str),
        function=st.sampled_from("abcdef"),
        tier=st.sampled_from(["hot", "parked", "stored", "remote"]),
        cold=st.booleans(),
        used_s=st.floats(0, 1e6),
        blobs=st.frozensets(st.sampled_from("uvwxyz")),
    ),
    max_size=8,
)


@given(HOLDINGS)
def test_what_sinks_never_takes_a_file_that_anybody_needs(holdings: list[Holding]) -> None:
    for one in sinkable(holdings):
        dropped = unshared(one, holdings)
        assert dropped
        assert not any(dropped & other.blobs for other in holdings if other is not one and other.needs)
