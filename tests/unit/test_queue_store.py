"""The queue as the event loop sees it: waiting, cancelling, group commit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.errors import QueueNotFound, StaleLease, StateError
from glowplug.runtime.queue import moving
from glowplug.runtime.queue.model import BEGINNING, END_OF_MS, Message, QueueSettings, Record, Sent
from glowplug.runtime.queue.steps import (
    Delete,
    Extend,
    Find,
    GetRecord,
    InsertRecord,
    PutRecord,
    Release,
    Send,
    Withdraw,
)
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing.clock import ManualClock

KEY = bytes(16)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
async def store(tmp_path: Path, clock: ManualClock) -> AsyncIterator[QueueStore]:
    async with await QueueStore.open(tmp_path / "queue.db", clock) as opened:
        await opened.create("jobs", QueueSettings())
        yield opened


async def send(store: QueueStore, queue: str, body: bytes, **given: Any) -> Sent:
    sent: Sent = (await store.apply(Send(queue, body, **given)))[0]
    return sent


async def waiting(store: QueueStore, queue: str, count: int = 1) -> None:
    """Return when ``count`` receives wait; they have looked before."""
    while store._bells.of(queue).waiting < count:  # noqa: ASYNC110 - its own loop, and no time passes
        await asyncio.sleep(0)


async def test_a_queue_is_known_from_its_making_to_its_deletion(store: QueueStore) -> None:
    assert (True, False) == (store.known("jobs"), store.known("others"))
    await store.remove("jobs")
    assert not store.known("jobs")


async def test_a_message_is_received_once_while_its_lease_lasts(store: QueueStore) -> None:
    sent = await send(store, "jobs", b"one", attributes={"n": 1})
    (received,) = await store.receive("jobs", 10)
    assert (sent.id, b"one", {"n": 1}, 1) == (
        received.message.id,
        received.message.body,
        received.message.attributes,
        received.message.receives,
    )
    assert [] == await store.receive("jobs", 10)
    await store.apply(Delete(received.lease))
    with pytest.raises(StaleLease, match="is not there any more"):
        await store.apply(Delete(received.lease))


async def test_a_lease_that_ran_out_is_refused_once_the_message_was_received_again(
    store: QueueStore, clock: ManualClock
) -> None:
    await send(store, "jobs", b"one")
    (first,) = await store.receive("jobs")
    await clock.advance(30.001)
    (second,) = await store.receive("jobs")
    for step in (Delete(first.lease), Extend(first.lease, 60), Release(first.lease)):
        with pytest.raises(StaleLease, match=r"received again since \(2 times in all\)"):
            await store.apply(step)
    await store.apply(Delete(second.lease))
    assert 0 == (await store.counts("jobs")).total


async def test_a_receive_waits_for_a_message(store: QueueStore) -> None:
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await send(store, "jobs", b"late")
    assert [b"late"] == [received.message.body for received in await receiving]


async def test_a_receive_ends_empty_when_its_time_is_over(store: QueueStore, clock: ManualClock) -> None:
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await clock.advance(20)
    assert [] == await receiving


async def test_a_receive_is_woken_by_the_end_of_a_delay(store: QueueStore, clock: ManualClock) -> None:
    await send(store, "jobs", b"later", delay_s=5)
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await clock.advance(5.002)
    assert [b"later"] == [received.message.body for received in await receiving]


async def test_a_receive_is_woken_by_the_end_of_a_lease(store: QueueStore, clock: ManualClock) -> None:
    await send(store, "jobs", b"again")
    await store.receive("jobs", visibility_s=3)
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await clock.advance(3.002)
    assert [2] == [received.message.receives for received in await receiving]


async def test_each_of_several_messages_wakes_one_that_waits(store: QueueStore) -> None:
    receiving = [asyncio.create_task(store.receive("jobs", wait_s=20)) for _ in range(3)]
    await waiting(store, "jobs", 3)
    await store.apply(*(Send("jobs", b"%d" % number) for number in range(3)))
    bodies = [received.message.body for found in await asyncio.gather(*receiving) for received in found]
    assert [b"0", b"1", b"2"] == sorted(bodies)


async def test_a_message_sent_between_the_look_and_the_wait_is_not_missed(store: QueueStore) -> None:
    bell = store._bells.of("jobs")
    rings = bell.rings
    assert [] == await store.receive("jobs")
    await send(store, "jobs", b"now")
    await bell.wait(rings, 1e9)  # returns at once


async def test_a_wake_for_one_that_is_cancelled_goes_to_the_next(store: QueueStore) -> None:
    bell = store._bells.of("jobs")
    first = asyncio.create_task(bell.wait(bell.rings, 1e9))
    second = asyncio.create_task(bell.wait(bell.rings, 1e9))
    await asyncio.sleep(0)
    bell.ring(1)
    first.cancel()
    await second
    with pytest.raises(asyncio.CancelledError):
        await first


async def test_what_a_cancelled_receive_got_is_given_back_uncounted(store: QueueStore) -> None:
    await send(store, "jobs", b"one")
    receiving = asyncio.create_task(store.receive("jobs"))
    await asyncio.sleep(0)
    receiving.cancel()
    (received,) = await store.receive("jobs", wait_s=1e9)
    assert 1 == received.message.receives


async def test_cancelling_a_send_does_not_take_it_back(store: QueueStore) -> None:
    sending = asyncio.create_task(send(store, "jobs", b"one"))
    await asyncio.sleep(0)
    sending.cancel()
    assert 1 == len(await store.receive("jobs", wait_s=1e9))


async def test_a_unit_that_is_refused_leaves_nothing_behind(store: QueueStore) -> None:
    await send(store, "jobs", b"one")
    (received,) = await store.receive("jobs")
    await store.apply(Delete(received.lease))
    record = Record(KEY, "results", 1, created_ms=0)
    with pytest.raises(StaleLease):
        await store.apply(PutRecord(record), Send("jobs", b"two"), Delete(received.lease))
    assert (None, 0) == ((await store.apply(GetRecord(KEY)))[0], (await store.counts("jobs")).total)


async def test_a_unit_that_is_refused_leaves_the_others_of_its_batch_alone(store: QueueStore) -> None:
    record = Record(KEY, "results", 1, created_ms=0)
    results = await asyncio.gather(
        send(store, "jobs", b"one"),
        store.apply(InsertRecord(record), Send("nowhere", b"x")),
        store.apply(Send("jobs", b"two"), GetRecord(KEY)),
        store.apply(Send("jobs", b"three"), Send("jobs", "not bytes")),  # type: ignore[arg-type]
        return_exceptions=True,
    )
    assert isinstance(results[1], QueueNotFound)
    assert isinstance(results[3], Exception)
    assert None is results[2][1]  # type: ignore[index]
    assert [b"one", b"two"] == [received.message.body for received in await store.receive("jobs", 10)]


async def test_what_is_asked_for_while_the_disk_works_goes_in_one_transaction(store: QueueStore) -> None:
    before = store.statistics.batches
    await asyncio.gather(*(send(store, "jobs", b"x") for _ in range(200)))
    assert 1 == store.statistics.batches - before


async def test_a_closed_store_says_so_and_those_who_wait_get_nothing(tmp_path: Path) -> None:
    store = await QueueStore.open(tmp_path / "queue.db", ManualClock())
    await store.create("jobs", QueueSettings())
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await store.close()
    assert [] == await receiving
    with pytest.raises(StateError, match="closed"):
        await send(store, "jobs", b"x")
    await store.close()


async def test_a_listener_is_called_for_what_is_there_and_for_what_comes(store: QueueStore) -> None:
    await send(store, "jobs", b"one")
    called = asyncio.Event()
    end = store.listen("jobs", called.set)
    await asyncio.wait_for(called.wait(), 5)
    called.clear()
    await send(store, "jobs", b"two")
    assert called.is_set()
    called.clear()
    end()
    await send(store, "jobs", b"three")
    assert not called.is_set()


async def test_a_queue_is_looked_through_from_place_to_place(store: QueueStore, clock: ManualClock) -> None:
    await store.apply(*(Send("jobs", b"%d" % number, delay_s=number % 3) for number in range(10)))
    found, place = list[Message](), BEGINNING
    while page := await store.peek("jobs", 3, beyond=place):
        found, place = found + page, page[-1].place
    assert [b"0369", b"147", b"258"] == [
        b"".join(one.body for one in found if one.visible_ms == ms) for ms in sorted({one.visible_ms for one in found})
    ]
    invisible = await store.peek("jobs", beyond=(round(clock.time() * 1000), END_OF_MS, 0))
    assert found[4:] == invisible


async def test_dead_letters_are_moved_back_past_any_number_that_came_from_nowhere(
    store: QueueStore, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(moving, "_LOOKED_AT", 40)
    await store.create("dead", QueueSettings())
    await store.change("jobs", QueueSettings(max_receives=1, dead_letter="dead"))
    await store.apply(*(Send("dead", b"sent here") for _ in range(100)))
    await store.apply(*(Send("jobs", b"%d" % number) for number in range(250)))
    for _ in range(2):
        await store.receive("jobs", 1_000, visibility_s=0.001)
        await clock.advance(1)
    assert 350 == (await store.counts("dead")).total
    assert 250 == await store.redrive("dead")
    assert (100, 250) == ((await store.counts("dead")).total, (await store.counts("jobs")).visible)
    assert [b"%d" % number for number in range(250)] == [one.message.body for one in await store.receive("jobs", 250)]


async def test_dead_letters_are_as_good_as_new_when_they_are_moved_back(store: QueueStore, clock: ManualClock) -> None:
    """Else one that lay there for longer than its queue keeps messages would be gone with its return."""
    await store.create("dead", QueueSettings(retention_s=1_209_600))
    await store.change("jobs", QueueSettings(retention_s=60, max_receives=1, dead_letter="dead"))
    await send(store, "jobs", b"x")
    await store.receive("jobs", visibility_s=1)
    await clock.advance(2)
    assert [] == await store.receive("jobs", wait_s=0)
    await clock.advance(3_600)
    assert 3_602 == round((await store.counts("dead")).oldest_s)  # a dead letter is as old as it was
    assert 1 == await store.redrive("dead")
    await store.sweep()
    (received,) = await store.receive("jobs", wait_s=0)
    assert (b"x", 1) == (received.message.body, received.message.receives)
    assert 0 == (await store.counts("jobs")).oldest_s


async def test_what_comes_back_while_a_queue_is_redriven_is_not_moved_again(
    store: QueueStore, clock: ManualClock
) -> None:
    await store.create("others", QueueSettings())
    await store.apply(*(Send("jobs", b"") for _ in range(6)))
    pieces = []
    async for moved in store.redriving("jobs", "others", piece=2):
        pieces.append(moved)
        await clock.advance(1)
        await store.redrive("others", "jobs")
    assert [2, 2, 2, 0] == pieces


async def test_a_message_is_found_by_an_id_that_begins_with_its_time(store: QueueStore) -> None:
    await store.create("q", QueueSettings())
    ordered, random = bytes(6) + b"\x7a" + bytes(9), bytes(6) + b"\x4a" + bytes(9)
    await send(store, "q", b"one", id=ordered)
    await send(store, "q", b"two", id=random)
    (found,) = await store.apply(Find("q", ordered))
    assert (b"one", 0) == (found.body, found.receives)
    assert [None] == await store.apply(Find("q", random))
    await store.create("other", QueueSettings())
    assert [None] == await store.apply(Find("other", ordered))


async def test_a_message_is_withdrawn_only_as_it_was_looked_at(store: QueueStore) -> None:
    await store.create("q", QueueSettings())
    sent = await send(store, "q", b"one")
    (received,) = await store.receive("q", wait_s=0)
    with pytest.raises(StaleLease):
        await store.apply(Withdraw("q", sent.sequence, 0))
    await store.apply(Withdraw("q", sent.sequence, 1))
    with pytest.raises(StaleLease):
        await store.apply(Delete(received.lease))
    assert 0 == (await store.counts("q")).total


async def test_callers_that_ask_again_share_the_next_transaction(store: QueueStore) -> None:
    """A caller that is a little earlier than the others does not make them wait for the disk twice."""
    store._commits._gather_until_s = store._loop.time() + 60
    store._commits._expected = 3
    before = store.statistics.batches
    first = asyncio.create_task(send(store, "jobs", b"1"))
    await asyncio.sleep(0.01)
    assert not first.done()
    await asyncio.gather(first, send(store, "jobs", b"2"), send(store, "jobs", b"3"))
    assert 1 == store.statistics.batches - before


async def test_a_listener_that_fails_keeps_nobody_from_his_messages(
    store: QueueStore, caplog: pytest.LogCaptureFixture
) -> None:
    def fail() -> None:
        raise ZeroDivisionError

    store._bells.of("jobs").listen(fail)
    receiving = asyncio.create_task(store.receive("jobs", wait_s=20))
    await waiting(store, "jobs")
    await send(store, "jobs", b"x")
    assert 1 == len(await receiving)
    assert "a listener of a queue failed" in caplog.text
