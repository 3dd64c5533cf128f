"""Holds, the remote tier, and room on a full disk: with a router whose neighbours are all in memory."""

from __future__ import annotations

import asyncio

import pytest

from glowplug.cache.errors import SourceUnreachable
from glowplug.runtime import errors
from glowplug.runtime.invocation import Tier
from glowplug.runtime.routing.records import Fetch
from glowplug.runtime.spec import FunctionSpec, ModelSpec, SourceFile
from glowplug.runtime.testing import Rig, a_spec, gated, settle


def with_files(name: str, blobs: str, **fields: object) -> FunctionSpec:
    files = tuple(SourceFile(blob, 10, blob * 64) for blob in blobs)
    return a_spec(name, models=(ModelSpec("", "s3://bucket/m", files=files),), **fields)


def blobs(text: str) -> set[str]:
    return {blob * 64 for blob in text}


def tier(rig: Rig, name: str = "f") -> Tier:
    return next(status.tier for status in rig.router.describe() if status.name == name)


# --- holds ------------------------------------------------------------------------------------------------------------


async def test_weights_are_held_from_the_start_until_the_function_is_stored() -> None:
    rig = Rig(with_files("f", "ab", idle_timeout_s=60, park_timeout_s=600))
    assert set() == rig.models.held()
    await rig.call()
    assert blobs("ab") == rig.models.held()
    await rig.tick(60)
    assert ("parked", blobs("ab")) == (tier(rig), rig.models.held())
    await rig.tick(600)
    assert ("stored", set()) == (tier(rig), rig.models.held())


async def test_without_parking_they_are_let_go_with_the_last_instance() -> None:
    rig = Rig(with_files("f", "a", parking=False, idle_timeout_s=60))
    await rig.call()
    await rig.tick(60)
    assert ("stored", set()) == (tier(rig), rig.models.held())


async def test_a_start_that_fails_leaves_no_hold() -> None:
    rig = Rig(with_files("f", "a"))
    rig.script().load_error = errors.LoadFailed("ImportError", "no", [])
    await rig.call()
    assert set() == rig.models.held()


async def test_a_start_that_is_discarded_while_it_fetches_leaves_no_hold() -> None:
    rig = Rig(with_files("f", "a"))
    rig.models.missing, rig.models.fetch_s = blobs("a"), 10.0
    call = rig.call()
    await rig.clock.advance(5)
    rig.router.remove("f")
    with pytest.raises(errors.FunctionNotFound):
        await call
    await rig.clock.advance(10)
    assert (set(), "discarded") == (rig.models.held(), rig.ledger.recent(1)[0].outcome)


async def test_a_replaced_revision_holds_its_weights_until_it_has_drained() -> None:
    rig, gate = gated(with_files("f", "ab"))
    await rig.calls(1)
    rig.router.replace(with_files("f", "bc"))
    await rig.calls(1)
    assert blobs("abc") == rig.models.held()
    await gate.let_go(2)
    assert blobs("bc") == rig.models.held()


async def test_a_function_that_is_deleted_and_deployed_again_keeps_its_own_hold() -> None:
    """Both have one revision: the draining one must not let go for the new one."""
    rig, gate = gated(with_files("f", "a"))
    await rig.calls(1)
    rig.router.remove("f")
    rig.router.place(with_files("f", "a"))
    await rig.calls(1)
    await gate.let_go(1)
    assert blobs("a") == rig.models.held()
    await gate.let_go(1)
    assert blobs("a") == rig.models.held()


async def test_a_zygote_that_dies_while_nothing_runs_lets_its_weights_go() -> None:
    rig = Rig(with_files("f", "a"))
    await rig.router.cool("f", "parked")
    rig.zygotes.zygotes[0].die(9)
    await settle()
    assert ("stored", set()) == (tier(rig), rig.models.held())


async def test_a_rebuilt_zygote_holds_once() -> None:
    rig = Rig(with_files("f", "a", max_parked_age_s=100, park_timeout_s=1000, idle_timeout_s=1000))
    await rig.router.cool("f", "parked")
    await rig.tick(100)
    await rig.tick(0)
    assert 2 == len(rig.zygotes.zygotes)
    await rig.router.cool("f", "stored")
    assert (set(), 0) == (rig.models.held(), sum(rig.models.holds.values()))


# --- remote -----------------------------------------------------------------------------------------------------------


async def test_cool_to_remote_drops_the_weights_and_the_next_request_fetches_them() -> None:
    rig = Rig(with_files("f", "ab"))
    await rig.call()
    assert "remote" == await rig.router.cool("f", "remote")
    assert (blobs("ab"), "remote") == (rig.models.missing, tier(rig))
    rig.models.fetch_s = 2.0
    call = rig.call()
    await rig.clock.advance(2)
    assert "remote" == (await call).tier
    record = rig.ledger.recent(1)[0]
    assert ("remote", "park and fork", Fetch("s3://bucket", 1_000_000, 2.0)) == (record.tier, record.way, record.fetch)
    assert "hot" == tier(rig)
    assert "Fetched 1.0 MB from s3://bucket at 0.5 MB/s." in rig.ledger.explain("r2")


async def test_files_that_another_function_needs_stay_when_one_goes_remote() -> None:
    rig = Rig(with_files("f", "ab"), with_files("g", "bc"))
    assert "remote" == await rig.router.cool("f", "remote")
    assert (blobs("a"), "stored") == (rig.models.missing, tier(rig, "g"))


async def test_a_function_whose_files_are_all_needed_stays_stored_and_says_for_whom() -> None:
    rig = Rig(with_files("f", "a"), with_files("g", "ab"))
    with pytest.raises(errors.Conflict, match="f is stored, and its weights stay: g need the same files"):
        await rig.router.cool("f", "remote")
    assert (set(), "stored") == (rig.models.missing, tier(rig))


async def test_files_that_somebody_has_open_stay_and_the_answer_says_so() -> None:
    """A bake, or another node on the same store."""
    rig = Rig(with_files("f", "a"))
    baking = await rig.models.files(with_files("f", "a"))
    with pytest.raises(errors.Conflict, match="its weights stay: a process has them open"):
        await rig.router.cool("f", "remote")
    baking.close()
    assert "remote" == await rig.router.cool("f", "remote")


async def test_what_is_remote_already_stays_so() -> None:
    rig = Rig(with_files("f", "a"))
    rig.models.missing = blobs("a")
    assert "remote" == await rig.router.cool("f", "remote")


async def test_a_request_that_comes_while_it_cools_wins() -> None:
    rig = Rig(with_files("f", "a"))
    rig.script().import_s = 1.0
    call = rig.call()
    await settle()
    cooling = asyncio.create_task(rig.router.cool("f", "remote"))
    await rig.clock.advance(5)
    assert ("parked", "stored", set()) == (await cooling, (await call).tier, rig.models.missing)
    assert "hot" == tier(rig)


async def test_a_hold_that_runs_out_leaves_the_fetch_to_the_next_request() -> None:
    """Who gave up gets his error; the start, and what it fetches, go on."""
    rig = Rig(with_files("f", "a", hold_timeout_s=3))
    rig.models.missing, rig.models.fetch_s = blobs("a"), 5.0
    first = rig.call()
    await rig.clock.advance(3)
    with pytest.raises(errors.HoldTimeout):
        await first
    second = rig.call()
    await rig.clock.advance(2)
    assert ("remote", 1) == ((await second).tier, rig.models.fetches)


async def test_a_source_that_cannot_be_read_fails_the_start_and_the_function_stays_remote() -> None:
    rig = Rig(with_files("f", "a"))
    rig.models.missing, rig.models.files_error = blobs("a"), SourceUnreachable("s3://bucket/m: refused")
    assert b"SourceUnreachable: s3://bucket/m: refused" in (await rig.call()).payload
    assert ("remote", set()) == (tier(rig), rig.models.held())


# --- a full disk ------------------------------------------------------------------------------------------------------


async def test_for_room_the_longest_unused_stored_function_sinks_one_at_a_time() -> None:
    rig = Rig(*(with_files(name, name) for name in "abcd"))
    for name in "abcd":
        await rig.call(name)
        await rig.clock.advance(10)
    for name in "bcd":
        await rig.router.cool(name, "stored")
    assert "b" == await rig.router.relieve("")
    assert ["hot", "remote", "stored", "stored"] == [tier(rig, name) for name in "abcd"]
    assert ["c", "d", ""] == [await rig.router.relieve("") for _ in range(3)]
    assert ("hot", blobs("bcd")) == (tier(rig, "a"), rig.models.missing)


async def test_who_cannot_free_anything_is_passed_over() -> None:
    """Another node has its files open: no endless loop over it."""
    rig = Rig(with_files("a", "a"), with_files("b", "b"))
    await rig.models.files(with_files("a", "a"))
    await rig.clock.advance(1)
    assert ["b", ""] == [await rig.router.relieve("") for _ in range(2)]


async def test_a_function_that_starts_while_another_needs_room_is_left_alone() -> None:
    rig = Rig(with_files("a", "a"))
    rig.script("a").import_s = 5.0
    call = rig.call("a")
    await settle()
    assert "" == await rig.router.relieve("")
    await rig.clock.advance(5)
    await call


# --- reading ahead and learning ---------------------------------------------------------------------------------------


async def test_reading_begins_before_the_process_and_the_first_good_start_tells_what_it_read() -> None:
    rig = Rig(with_files("f", "a"))
    rig.script().import_s = 5.0
    call = rig.call()
    await settle()
    assert 1 == len(rig.pages.begun)
    await rig.clock.advance(5)
    await call
    assert [("f", [["/code/f.py", 0, 100]])] == rig.pages.learnt
    await rig.router.cool("f", "stored")
    call = rig.call()
    await rig.clock.advance(5)
    await call
    assert ([True, False], 1) == ([zygote.observed for zygote in rig.zygotes.zygotes], len(rig.pages.learnt))


async def test_a_start_that_fails_ends_its_reading() -> None:
    rig = Rig(with_files("f", "a"))
    rig.pages.goes_on = True
    rig.script().load_error = errors.LoadFailed("ImportError", "no", [])
    await rig.call()
    assert [True] == [reading.cancelled for reading in rig.pages.begun]


async def test_a_good_start_does_not_wait_for_its_reading() -> None:
    rig = Rig(with_files("f", "a"))
    rig.pages.goes_on = True
    await rig.call()
    assert [False] == [reading.cancelled for reading in rig.pages.begun]


async def test_a_parked_function_is_looked_after_when_it_was_not_used_for_a_while() -> None:
    """Its pages may have left memory; in a burst only the first start asks."""
    rig = Rig(with_files("f", "a", idle_timeout_s=0.0))
    await rig.router.cool("f", "parked")
    assert 1 == len(rig.pages.begun)
    await rig.clock.advance(10)
    for _ in range(3):
        assert "parked" == (await rig.call()).tier
        await rig.tick(0)
    assert 2 == len(rig.pages.begun)


async def test_after_a_bake_what_is_read_is_learnt_again() -> None:
    """Another engine reads other files."""
    rig = Rig(with_files("f", "a"))
    await rig.call()
    rig.router.rebind(with_files("f", "a").revision)
    await settle()
    assert 2 == len(rig.pages.learnt)
