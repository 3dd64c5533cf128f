"""How many instances are wanted, where a request goes, and what sinks: pure functions."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.routing.placement import Demand, Placement, place, shortfall
from glowplug.runtime.routing.scaler import Action, IdleInstance, PoolState, sink, wanted

COUNT = st.integers(0, 300)
DEMANDS = st.builds(
    Demand,
    ready=COUNT, busy=COUNT, starting=COUNT, held=COUNT,
    max_held=COUNT,
    concurrency=st.integers(1, 4),
    models=st.booleans(),
    cores=st.integers(1, 64),
    max_instances=st.none() | st.integers(1, 300),
    reserved=st.none() | COUNT,
    admitted=COUNT,
)  # fmt: skip
EMPTY = Demand(
    ready=0, busy=0, starting=0, held=0, max_held=100, concurrency=1, models=False, cores=2, max_instances=None,
    reserved=None, admitted=1000,
)  # fmt: skip


def how_many(**fields: int | bool | None) -> int:
    given_fields: dict[str, int | bool | None] = {
        "running": 0, "held": 0, "concurrency": 1, "models": False, "cores": 2, "max_instances": None,
        "reserved": None, "admitted": 1000, **fields,
    }  # fmt: skip
    return wanted(**given_fields)  # type: ignore[arg-type]


def test_wanted_follows_the_formula_of_the_design() -> None:
    """Each bound in turn is the smallest."""
    assert 0 == how_many()
    assert 1 == how_many(held=1)
    assert 2 == how_many(running=1, held=1)
    assert 2 == how_many(running=1, held=2, concurrency=2)
    assert 100 == how_many(held=500)
    assert 2 == how_many(held=500, models=True)
    assert 7 == how_many(held=500, models=True, max_instances=7)
    assert 3 == how_many(held=500, reserved=3)
    assert 5 == how_many(held=500, admitted=5)


def test_memory_never_refuses_the_first_instance() -> None:
    """A request is not refused because memory looks short."""
    assert 1 == how_many(held=3, admitted=0)


def test_reserved_zero_wants_nothing() -> None:
    """ReservedConcurrentExecutions 0 switches a function off."""
    assert 0 == how_many(held=3, reserved=0)


@given(DEMANDS)
def test_wanted_never_passes_a_bound(demand: Demand) -> None:
    """Neither requests nor limits are exceeded, whatever the numbers."""
    number = shortfall(demand) + demand.ready + demand.busy + demand.starting
    assert 0 <= number <= max(0, demand.busy + demand.held)
    assert number <= (demand.max_instances or (demand.cores if demand.models else 100))
    assert demand.reserved is None or number <= demand.reserved
    assert number <= max(1, demand.admitted)


@given(DEMANDS)
def test_place_reuses_before_it_starts_and_starts_before_it_holds(demand: Demand) -> None:
    """The cases of the docstring, from the outside."""
    placement = place(demand)
    if demand.reserved == 0:
        assert Placement.SHED is placement
    elif demand.ready:
        assert Placement.REUSE is placement
    elif demand.held >= demand.max_held:
        assert Placement.SHED is placement
    elif demand.starting == demand.busy == 0:
        assert Placement.START is placement  # a request is never left with nothing that could serve it
    else:
        assert placement in (Placement.START, Placement.HOLD)


@given(DEMANDS)
def test_one_more_start_makes_a_start_less_wanted(demand: Demand) -> None:
    """No thundering herd: a start under way counts."""
    assert shortfall(demand) - 1 == shortfall(replace(demand, starting=demand.starting + 1))


def test_a_start_under_way_is_waited_for() -> None:
    """One request, one start; the second request at one of two cores gets its own, the third waits."""
    model = replace(EMPTY, models=True)
    assert Placement.START is place(model)
    assert Placement.START is place(replace(model, held=1, starting=1))
    assert Placement.HOLD is place(replace(model, held=2, starting=2))


# --- sinking ----------------------------------------------------------------------------------------------------------

HOT = PoolState(
    revision="a", idle=(IdleInstance("i1", 10.0), IdleInstance("i2", 1.0)), live=2, parked_age_s=100.0, parked_s=0.0,
    used_s=1.0, idle_timeout_s=10.0, park_timeout_s=50.0, max_parked_age_s=1000.0, settling=False,
)  # fmt: skip
PARKED = replace(HOT, idle=(), live=0, parked_s=50.0, used_s=60.0)


def test_idle_instances_stop_one_by_one() -> None:
    """Only the one that reached its timeout."""
    assert [Action("stop", "a", "idle", "i1")] == sink([HOT], pressure=False)


def test_a_parked_function_is_stored_after_its_park_timeout() -> None:
    """Not a moment before, and not while anything lives on the zygote."""
    assert [Action("store", "a", "parked")] == sink([PARKED], pressure=False)
    assert [] == sink([replace(PARKED, parked_s=49.9)], pressure=False)
    assert [] == sink([replace(PARKED, live=1)], pressure=False)


def test_an_old_zygote_is_rebuilt_even_while_it_serves() -> None:
    """MaxParkedAgeSeconds counts from its building."""
    old = replace(HOT, idle=(), parked_age_s=1000.0)
    assert [Action("rebuild", "a", "age")] == sink([old], pressure=False)
    assert [] == sink([replace(old, settling=True)], pressure=False)


def test_memory_pressure_sinks_the_coldest_first_one_step_at_a_time() -> None:
    """Idle instances before zygotes, and never somebody who serves."""
    busy = replace(HOT, revision="b", idle=(), live=1, used_s=500.0)
    warm = replace(HOT, revision="c", idle=(IdleInstance("i3", 1.0),), used_s=1.0)
    parked = replace(PARKED, revision="d", parked_s=5.0, used_s=70.0)
    assert [Action("store", "d", "memory")] == sink([busy, warm, parked], pressure=True)
    assert [Action("stop", "c", "memory", "i3")] == sink([busy, warm], pressure=True)
    assert [] == sink([busy], pressure=True)


def test_pressure_waits_for_what_the_timers_free_anyway() -> None:
    """One step per look."""
    assert [Action("stop", "a", "idle", "i1")] == sink([HOT], pressure=True)


@given(st.lists(st.floats(0, 100), max_size=5), st.booleans())
def test_sink_only_names_idle_instances(idle_s: list[float], pressure: bool) -> None:
    """Never one that holds a lease: those are not in ``idle``."""
    idle = tuple(IdleInstance(f"i{number}", seconds) for number, seconds in enumerate(idle_s))
    actions = sink([replace(HOT, idle=idle)], pressure=pressure)
    assert {action.instance_id for action in actions if action.kind == "stop"} <= {one.instance_id for one in idle}
