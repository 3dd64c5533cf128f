"""What the model of ``test_queue_machine.py`` does not say: records, limits, restarts, clocks, schemas."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.errors import (
    GlowplugError,
    InvalidParameter,
    QueueExists,
    QueueFull,
    RecordExists,
    RequestTooLarge,
    StaleLease,
    StateError,
)
from glowplug.runtime.queue.engine import Engine
from glowplug.runtime.queue.model import Lease, QueueSettings, Record
from glowplug.runtime.queue.salvage import opened
from glowplug.runtime.queue.steps import (
    ChangeQueue,
    Count,
    CreateQueue,
    Delete,
    DeleteQueue,
    DeleteRecord,
    GetRecord,
    InsertRecord,
    Move,
    Peek,
    PutRecord,
    Receive,
    Release,
    ScanRecords,
    Send,
    Step,
    Sweep,
)
from glowplug.runtime.testing.clock import HandClock


class Held:
    """An engine and what it is on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.clock = HandClock()
        self.engine = Engine.open(path, self.clock)

    def do(self, *steps: Step) -> list[Any]:
        """Carry out one unit; raise what it is refused for."""
        (outcome,) = self.engine.run([steps]).outcomes
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    def one(self, step: Step) -> Any:
        return self.do(step)[0]

    def reopen(self) -> None:
        self.engine.close()
        self.engine = opened(self.path, self.clock)

    @property
    def now_ms(self) -> int:
        return round(self.clock.time() * 1000)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Held]:
    made = Held(tmp_path / "queue.db")
    made.one(CreateQueue("jobs", QueueSettings()))
    yield made
    made.engine.close()


def key(number: int) -> bytes:
    return number.to_bytes(16, "big")


def record(number: int, state: int = 0, **others: Any) -> Record:
    return Record(key(number), others.pop("owner", "embed"), state, created_ms=number, **others)


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_first_record_of_an_id_stays_and_comes_with_the_refusal(held: Held) -> None:
    first = record(1, body=b"first", attributes={"a": [1, "x"]})
    held.one(InsertRecord(first))
    with pytest.raises(RecordExists) as refused:
        held.do(InsertRecord(record(1, body=b"second")), Send("jobs", b"never"))
    assert first == refused.value.record == held.one(GetRecord(key(1)))
    assert 0 == held.one(Count("jobs")).total


def test_a_record_is_replaced_and_deleted(held: Held) -> None:
    held.one(PutRecord(record(1, state=0, attributes={"n": 1})))
    held.one(PutRecord(record(1, state=2, owner="other", body=b"42", expires_ms=99)))
    assert record(1, state=2, owner="other", body=b"42", expires_ms=99) == held.one(GetRecord(key(1)))
    assert [True, False] == held.do(DeleteRecord(key(1)), DeleteRecord(key(1)))
    assert None is held.one(GetRecord(key(1)))


def test_records_are_found_by_owner_and_state_in_the_order_of_their_making(held: Held) -> None:
    held.do(*(PutRecord(record(number, state=number % 3)) for number in range(9)), PutRecord(record(9, owner="other")))
    held.reopen()

    def found(**scan: Any) -> list[int]:
        return [one.created_ms for one in held.one(ScanRecords("embed", **scan))]

    assert [0, 3, 6] == found(states=(0,))
    assert [8, 7, 5, 4] == found(states=(1, 2), limit=4, newest_first=True)
    assert [0, 1, 2] == found(limit=3)
    assert [] == held.one(ScanRecords("nobody"))


def test_expired_records_are_swept(held: Held) -> None:
    held.do(*(PutRecord(record(number, expires_ms=held.now_ms + number * 1000)) for number in range(1, 4)))
    held.clock.pass_s(2)
    assert 2 == held.one(Sweep())
    assert [3] == [one.created_ms for one in held.one(ScanRecords("embed"))]


def test_an_owner_whose_unit_was_refused_is_not_believed_in(held: Held) -> None:
    held.one(InsertRecord(record(1)))
    with pytest.raises(RecordExists):
        held.do(PutRecord(record(2, owner="new")), InsertRecord(record(1)))
    held.one(PutRecord(record(3, owner="new")))
    held.reopen()
    assert "new" == held.one(GetRecord(key(3))).owner


@pytest.mark.parametrize(
    "second",
    [
        PutRecord(Record(b"short", "embed", 0, 0)),
        Send("none", b""),
        Send("jobs", b"x" * 2_000_000),
        InsertRecord(record(1)),
        Delete(Lease("jobs", 999, 1, 0)),
    ],
    ids=lambda step: type(step).__name__,
)
def test_nothing_of_a_unit_is_kept_whichever_later_step_is_refused(held: Held, second: Step) -> None:
    with pytest.raises(GlowplugError):
        held.do(PutRecord(record(1, owner="new")), Send("jobs", b"x"), second)
    assert (None, 0) == (held.one(GetRecord(key(1))), held.one(Count("jobs")).total)
    assert 0 == len(held.one(Peek("jobs")))


# --- queues -----------------------------------------------------------------------------------------------------------


def test_a_queue_is_made_once_and_changed_on_purpose(held: Held) -> None:
    there = held.engine.queue("jobs")
    assert there == held.one(CreateQueue("jobs", QueueSettings()))
    with pytest.raises(QueueExists):
        held.one(CreateQueue("jobs", QueueSettings(delay_s=1)))
    assert 1 == held.one(CreateQueue("jobs", QueueSettings(delay_s=1), replace=True)).settings.delay_s
    with pytest.raises(InvalidParameter, match="FIFO cannot be changed"):
        held.one(ChangeQueue("jobs", QueueSettings(fifo=True)))
    held.reopen()
    assert QueueSettings(delay_s=1) == held.engine.queue("jobs").settings


def test_a_queue_that_is_made_again_has_none_of_the_old_messages(held: Held) -> None:
    held.do(*(Send("jobs", b"old") for _ in range(5)))
    (received,) = held.one(Receive("jobs"))
    held.one(DeleteQueue("jobs"))
    held.one(CreateQueue("jobs", QueueSettings()))
    assert (0, []) == (held.one(Count("jobs")).total, held.one(Receive("jobs", 10)))
    assert 5 == held.one(Sweep())
    with pytest.raises(GlowplugError):
        held.one(Delete(received.lease))


def test_a_full_queue_takes_no_more_and_again_when_there_is_room(held: Held) -> None:
    held.one(ChangeQueue("jobs", QueueSettings(capacity=3)))
    outcomes = held.engine.run([(Send("jobs", b"x"),)] * 5).outcomes
    assert [True, True, True, False, False] == [isinstance(outcome, list) for outcome in outcomes]
    with pytest.raises(QueueFull, match=r"full \(3 messages\)") as refused:
        held.do(Send("jobs", b"x"))
    assert (429, True) == (refused.value.status, refused.value.retryable)
    (received,) = held.one(Receive("jobs"))
    held.do(Delete(received.lease), Send("jobs", b"x"))
    assert 3 == held.one(Count("jobs")).total


def test_a_message_over_the_limit_is_refused(held: Held) -> None:
    held.one(ChangeQueue("jobs", QueueSettings(max_message_bytes=10)))
    held.one(Send("jobs", b"x" * 10))
    with pytest.raises(RequestTooLarge, match="at most 10 bytes, not 11"):
        held.one(Send("jobs", b"x" * 11))


def test_release_keeps_a_note_and_other_attributes(held: Held) -> None:
    held.one(Send("jobs", b"x", attributes={"attempt": 1}))
    (received,) = held.one(Receive("jobs"))
    held.one(Release(received.lease, delay_s=60, attributes={"attempt": 2}))
    assert [] == held.one(Receive("jobs"))
    held.clock.pass_s(60)
    (received,) = held.one(Receive("jobs"))
    assert {"attempt": 2} == received.message.attributes
    held.one(Release(received.lease))
    (shown,) = held.one(Peek("jobs"))
    assert ({"attempt": 2}, 2) == (shown.attributes, shown.receives)
    (without,) = held.one(Peek("jobs", bodies=False))
    assert replace(shown, body=b"") == without


# --- restarts, clocks, schemas ----------------------------------------------------------------------------------------


DAMAGED = [b"\x81\xa1a", b"\x81\xa1\xffa", b"\x93\x01\x02\x03", b"\x81\xa1a\x07", b"\xc1", b"\x81\x81\x01\x02\x03"]


@pytest.mark.parametrize("data", DAMAGED, ids=bytes.hex)
def test_attributes_that_are_damaged_are_left_out_and_hold_nothing_up(held: Held, data: bytes) -> None:
    """SQLite has no check sums: bytes that changed on the disk come as they are."""
    held.one(CreateQueue("others", QueueSettings()))
    held.do(Send("jobs", b"1", {"a": 1}), Send("jobs", b"2", {"b": 2}), InsertRecord(record(1, attributes={"c": 3})))
    for table, number in (("messages", "sequence"), ("records", "number")):
        held.engine._connection.execute(f"UPDATE {table} SET attributes = ? WHERE {number} = 1", (data,))
    assert [{}, {"b": 2}] == [one.attributes for one in held.one(Peek("jobs"))]
    assert 2 == held.one(Move("jobs", "others")).count
    first, second = held.one(Receive("others", 10))
    assert [(b"1", {}), (b"2", {"b": 2})] == [(one.message.body, one.message.attributes) for one in (first, second)]
    held.do(Release(first.lease, attributes={"d": 4}), Delete(second.lease))
    assert {"d": 4} == held.one(Receive("others"))[0].message.attributes
    assert held.one(GetRecord(key(1))).attributes in ({}, {"a": 7})


def test_a_number_is_not_given_twice_after_a_restart(held: Held) -> None:
    held.one(Send("jobs", b"x"))
    (received,) = held.one(Receive("jobs"))
    held.one(Delete(received.lease))
    held.reopen()
    assert held.one(Send("jobs", b"y")).sequence > received.lease.sequence


@pytest.mark.parametrize("by_s", [-86_400, 86_400], ids=["back", "forward"])
def test_a_lease_lasts_as_long_as_it_was_given_for_whatever_the_clock_does(held: Held, by_s: int) -> None:
    held.do(Send("jobs", b"x"), Send("jobs", b"later", delay_s=100))
    held.one(Receive("jobs", visibility_s=30))
    held.clock.pass_s(10)
    held.clock.set_s(by_s)
    held.clock.pass_s(19.9)
    assert [] == held.one(Receive("jobs"))
    held.clock.pass_s(0.2)
    assert [b"x"] == [received.message.body for received in held.one(Receive("jobs", visibility_s=1_000))]
    held.clock.pass_s(70)
    assert [b"later"] == [received.message.body for received in held.one(Receive("jobs"))]


def test_a_thread_that_is_stopped_between_its_looks_at_two_clocks_takes_none_for_set(
    held: Held, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    held.one(Send("jobs", b"x", delay_s=100))
    time = held.clock.time

    def stopped() -> float:
        seen_s = time()
        held.clock.pass_s(5)
        monkeypatch.setattr(held.clock, "time", time)
        return seen_s

    monkeypatch.setattr(held.clock, "time", stopped)
    assert [] == held.one(Receive("jobs"))
    assert "the clock was set" not in caplog.text
    held.clock.pass_s(95)
    assert 1 == len(held.one(Receive("jobs")))


@pytest.mark.parametrize("by_s", [-86_400, 86_400, 50 * 365 * 86_400], ids=["back", "forward", "from 1970"])
def test_nothing_is_too_old_because_the_clock_was_set(held: Held, by_s: int) -> None:
    held.one(ChangeQueue("jobs", QueueSettings(retention_s=3_600)))
    held.do(Send("jobs", b"x"), InsertRecord(record(1, expires_ms=held.now_ms + 3_600_000)))
    held.one(Receive("jobs", visibility_s=1))
    held.clock.pass_s(10)
    held.clock.set_s(by_s)
    held.one(Sweep())
    (kept,) = held.one(Receive("jobs"))
    assert (held.now_ms - 10_000, held.now_ms - 10_000) == (kept.message.sent_ms, kept.message.first_received_ms)
    assert (10, held.one(GetRecord(key(1))).expires_ms) == (
        held.one(Count("jobs")).oldest_s, held.now_ms + 3_590_000
    )  # fmt: skip
    held.clock.pass_s(3_631)  # its lease has been over for an hour too
    held.one(Sweep())
    assert (0, None) == (held.one(Count("jobs")).total, held.one(GetRecord(key(1))))


def test_a_clock_set_back_while_the_node_was_down_leaves_ages_as_they_were(held: Held) -> None:
    held.one(ChangeQueue("jobs", QueueSettings(retention_s=3_600)))
    held.one(Send("jobs", b"x"))
    held.clock.pass_s(600)
    held.one(Sweep())  # which notes what time it is
    held.engine.close()
    held.clock.set_s(-86_400)
    held.engine = opened(held.path, held.clock)
    assert 600 == held.one(Count("jobs")).oldest_s
    held.clock.pass_s(3_001)
    held.one(Sweep())
    assert 0 == held.one(Count("jobs")).total


def test_a_clock_set_back_while_the_node_was_down_holds_no_lease_for_hours(held: Held) -> None:
    held.one(Send("jobs", b"x"))
    held.one(Receive("jobs", visibility_s=30))
    held.engine.close()
    held.clock.set_s(-86_400)
    held.engine = opened(held.path, held.clock)
    held.clock.pass_s(31)
    assert 1 == len(held.one(Receive("jobs")))


@pytest.mark.parametrize("queue", ["jobs", "ordered.fifo"])
def test_a_message_delayed_for_longer_than_any_lease_keeps_its_delay_over_a_restart(held: Held, queue: str) -> None:
    held.one(CreateQueue("ordered.fifo", QueueSettings(fifo=True)))
    named: dict[str, Any] = {"group": "g", "deduplication": "1"} if queue == "ordered.fifo" else {}
    held.one(Send(queue, b"x", delay_s=20 * 3_600, **named))
    held.reopen()
    held.clock.pass_s(13 * 3_600)
    assert [] == held.one(Receive(queue))
    held.clock.pass_s(7 * 3_600)
    assert [b"x"] == [received.message.body for received in held.one(Receive(queue))]


@pytest.mark.parametrize("queue", ["jobs", "ordered.fifo"])
def test_a_lease_is_bounded_where_the_file_does_not_know_its_last_time(held: Held, queue: str) -> None:
    """As one that was saved does not. In a group, what follows a bounded lease waits no longer than for that."""
    held.one(CreateQueue("ordered.fifo", QueueSettings(fifo=True)))
    for number in ("1", "2"):
        named: dict[str, Any] = {"group": "g", "deduplication": number} if queue == "ordered.fifo" else {}
        held.one(Send(queue, number.encode(), delay_s=0 if number == "1" else 20 * 3_600, **named))
    held.one(Receive(queue, visibility_s=30))
    held.engine.close()
    connection = sqlite3.connect(held.path)
    connection.execute("DELETE FROM meta WHERE key = 'clock'")
    connection.commit()
    connection.close()
    held.clock.set_s(-86_400)
    held.engine = opened(held.path, held.clock)
    held.clock.pass_s(43_199)
    assert [] == held.one(Receive(queue))
    held.clock.pass_s(2)
    assert [(b"1", 2)] == [(one.message.body, one.message.receives) for one in held.one(Receive(queue, 10))]


def test_a_file_of_a_newer_release_is_refused_by_its_schema(held: Held) -> None:
    held.engine.close()
    connection = sqlite3.connect(held.path)
    [known] = connection.execute("PRAGMA user_version").fetchone()
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StateError, match=f"schema 99, this release knows {known}: a newer glowplug has written it"):
        opened(held.path, held.clock)
    connection = sqlite3.connect(held.path)
    connection.execute(f"PRAGMA user_version = {known}")
    connection.close()
    held.engine = opened(held.path, held.clock)


def test_a_refused_unit_takes_no_number_that_is_given_again_after_a_restart(held: Held) -> None:
    """What a unit had reserved is undone with it: the next send reserves it anew, on disk."""
    stale = Lease("jobs", 999, 1, 0)
    [refused] = held.engine.run([(Send("jobs", b"first"), Delete(stale))]).outcomes
    assert isinstance(refused, StaleLease)
    sent = held.one(Send("jobs", b"second"))
    [received] = held.one(Receive("jobs"))
    held.one(Delete(received.lease))
    held.engine.close()
    held.engine = opened(held.path, held.clock)
    assert held.one(Send("jobs", b"third")).sequence > sent.sequence


def test_a_clock_that_was_set_moves_leases_also_where_the_transaction_failed_first(held: Held) -> None:
    held.one(Send("jobs", b"x"))
    held.one(Receive("jobs", visibility_s=30))
    held.clock.set_s(-86_400)
    [failed] = held.engine.run([(Send("jobs", b"y", attributes={"no": object()}),)]).outcomes
    assert isinstance(failed, Exception)
    held.clock.pass_s(31)
    assert 1 == len(held.one(Receive("jobs")))
