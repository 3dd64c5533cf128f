"""How versions of a function share what it may have: Lambda's order, and what the router makes of it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime import errors
from glowplug.runtime.routing.allotment import Quota, allowed
from glowplug.runtime.testing import Rig, a_spec, gated, settle

COUNTS = st.dictionaries(st.sampled_from(["$LATEST", "1", "2"]), st.integers(0, 5))


@pytest.mark.parametrize(
    ("quota", "in_use", "expected"),
    [
        (Quota(), {"1": 9}, None),
        (Quota(0), {}, 0),
        (Quota(3), {"1": 2}, 1),
        (Quota(3), {"1": 5}, 0),
        (Quota(3, {"1": 3}), {}, 0),
        (Quota(3, {"1": 2}), {"1": 1}, 1),
        (Quota(3, {"$LATEST": 2}), {"1": 1}, 2),
    ],
)
def test_what_latest_may_have(quota: Quota, in_use: dict[str, int], expected: int | None) -> None:
    assert expected == allowed(quota, "$LATEST", in_use)


@given(st.integers(0, 9), COUNTS, COUNTS)
def test_nobody_may_have_less_than_is_provisioned_or_more_than_is_reserved(
    reserved: int, provisioned: dict[str, int], in_use: dict[str, int]
) -> None:
    quota = Quota(max(reserved, sum(provisioned.values())), provisioned)
    for version in ("$LATEST", "1", "2"):
        number = allowed(quota, version, in_use)
        assert number is not None
        assert provisioned.get(version, 0) <= number <= (quota.reserved or 0)


def counts(rig: Rig) -> dict[str, int]:
    return {one.version: one.instances - one.draining for one in rig.router.describe()}


async def test_provisioned_instances_come_without_a_request_and_do_not_sink() -> None:
    rig = Rig(a_spec(), a_spec(version="1"))
    rig.router.allot("f", Quota(provisioned={"1": 2}))
    await rig.clock.advance(10)
    assert {"$LATEST": 0, "1": 2} == counts(rig)
    await rig.tick(10_000)
    assert {"$LATEST": 0, "1": 2} == counts(rig)
    rig.router.allot("f", Quota())
    await rig.tick(200)
    assert {"$LATEST": 0, "1": 0} == counts(rig)


async def test_an_idle_instance_of_another_version_gives_way() -> None:
    rig = Rig(a_spec(), a_spec(version="1"))
    rig.router.allot("f", Quota(reserved=1))
    await rig.call()
    assert {"$LATEST": 1, "1": 0} == counts(rig)
    await rig.call(version="1")
    await settle()
    assert {"$LATEST": 0, "1": 1} == counts(rig)


async def test_with_all_that_is_reserved_provisioned_latest_is_throttled() -> None:
    rig = Rig(a_spec(), a_spec(version="1"))
    rig.router.allot("f", Quota(reserved=1, provisioned={"1": 1}))
    with pytest.raises(errors.Throttled):
        await rig.call()
    assert (await rig.call(version="1")).function_error is None


async def test_a_version_that_others_leave_nothing_is_throttled_until_they_are_done() -> None:
    rig, gate = gated(a_spec(), a_spec(version="1"))
    rig.router.allot("f", Quota(reserved=1))
    (running,) = await rig.calls(1)
    with pytest.raises(errors.Throttled):
        await rig.call(version="1")
    await gate.let_go()
    assert (await running).function_error is None


async def test_a_lowered_reservation_stops_idle_instances() -> None:
    rig, gate = gated(a_spec(timeout_s=60.0))
    await rig.calls(3)
    await rig.clock.advance(5)
    await gate.let_go(3)
    assert {"$LATEST": 3} == counts(rig)
    rig.router.allot("f", Quota(reserved=1))
    await rig.clock.advance(5)
    assert {"$LATEST": 1} == counts(rig)


async def test_one_version_goes_and_the_others_stay() -> None:
    rig = Rig(a_spec(), a_spec(version="1"))
    rig.router.remove("f", "1")
    with pytest.raises(errors.FunctionNotFound):
        await rig.call(version="1")
    assert (await rig.call()).function_error is None
