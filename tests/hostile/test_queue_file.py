"""A queue's file that is damaged, or on a disk that is full: nothing is promised falsely, and what can be read is saved."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import shutil
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.errors import StateError
from glowplug.runtime.queue.model import QueueSettings, Record
from glowplug.runtime.queue.salvage import opened
from glowplug.runtime.queue.steps import Count, CreateQueue, InsertRecord, Peek, Receive, ScanRecords, Send, Sweep
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing.clock import HandClock

DISK_SIZE = "4m"
PAGE = 4096
MESSAGES = 2_000


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file with messages of two queues and records, closed."""
    path = tmp_path / "queue.db"
    engine = opened(path, HandClock())
    engine.run([(CreateQueue("plain", QueueSettings()),), (CreateQueue("o.fifo", QueueSettings(fifo=True)),)])
    engine.run([(Send("plain", b"m%d" % number + bytes(100)),) for number in range(MESSAGES)])
    engine.run([(Send("o.fifo", b"o", group=f"g{number % 7}", deduplication=str(number)),) for number in range(200)])
    engine.run([(InsertRecord(Record(number.to_bytes(16, "big"), "f", 1, number)),) for number in range(500)])
    engine.close()
    return path


def damage(path: Path, pages: list[int]) -> None:
    with path.open("r+b") as file:
        for page in pages:
            file.seek(page * PAGE)
            file.write(os.urandom(PAGE))


@pytest.mark.parametrize("seed", range(8))
def test_what_is_readable_of_a_damaged_file_is_saved(full: Path, seed: int, caplog: pytest.LogCaptureFixture) -> None:
    numbers = random.Random(seed)
    pages = full.stat().st_size // PAGE
    damage(full, numbers.sample(range(24, pages), 3))  # behind the roots of the tables, without which nothing is found
    with caplog.at_level(logging.ERROR):
        engine = opened(full, HandClock())
    assert "was damaged: saved" in caplog.text
    aside = [part for part in full.parent.iterdir() if ".damaged-" in part.name]
    assert [pages * PAGE] == [part.stat().st_size for part in aside]
    (counts,), (kept,), (records,) = engine.run(  # type: ignore[misc]
        [(Count(),), (Peek("plain", MESSAGES),), (ScanRecords("f", limit=1_000),)]
    ).outcomes
    assert MESSAGES - 150 < counts["plain"].total == len(kept)  # a page holds about 25
    assert all(message.body == b"m%d" % (message.sequence - 1) + bytes(100) for message in kept)
    assert 500 - 250 < len(records) <= 500
    outcomes = engine.run([(Receive("o.fifo", 10),), (Send("plain", b"new"),)]).outcomes
    assert all(isinstance(outcome, list) for outcome in outcomes)
    assert outcomes[1][0].sequence > MESSAGES  # type: ignore[index]
    engine.close()
    opened(full, HandClock()).close()  # and it is whole now


@pytest.mark.parametrize("seed", range(24))
def test_bits_that_changed_cost_what_they_are_in_and_hold_nothing_up(full: Path, seed: int) -> None:
    """In a value or an index, which SQLite does not look at unless it is asked to, as in what it trips over."""
    numbers = random.Random(seed)
    data = bytearray(full.read_bytes())
    for _ in range(10):
        data[numbers.randrange(24 * PAGE, len(data))] ^= 1 << numbers.randrange(8)
    full.write_bytes(data)
    engine = opened(full, HandClock())
    found = 0
    for queue in engine.queues:
        (received,) = engine.run([(Receive(queue.name, MESSAGES),)]).outcomes
        assert isinstance(received, list)
        found += len(received[0])
    assert MESSAGES - 300 < found
    (swept, scanned, counted) = engine.run([(Sweep(),), (ScanRecords("f", limit=1_000),), (Count(),)]).outcomes
    assert all(isinstance(one, list) for one in (swept, scanned, counted))
    engine.close()


def test_the_settings_of_a_queue_that_are_damaged_are_the_defaults_and_its_name_is_kept(full: Path) -> None:
    full.write_bytes(full.read_bytes().replace(b'"extra":', b'"extrb":'))
    engine = opened(full, HandClock())
    assert {"plain": False, "o.fifo": True} == {queue.name: queue.settings.fifo for queue in engine.queues}
    (received,) = engine.run([(Receive("o.fifo", 300),)]).outcomes
    assert isinstance(received, list)
    assert 200 == len(received[0])
    engine.close()


def test_a_file_of_which_nothing_can_be_read_is_left_alone(full: Path) -> None:
    damage(full, list(range(full.stat().st_size // PAGE)))
    before = full.read_bytes()
    with pytest.raises(StateError, match=r"queue\.db: .*move it away"):
        opened(full, HandClock())
    assert before == full.read_bytes()


def test_a_node_killed_between_the_renames_ends_the_rescue_at_its_next_start(full: Path) -> None:
    shutil.copy(full, full.with_name("queue.db.saved"))
    full.rename(full.with_name("queue.db.damaged-1"))
    engine = opened(full, HandClock())
    (outcome,) = engine.run([(Count("plain"),)]).outcomes
    assert MESSAGES == outcome[0].total  # type: ignore[index]
    engine.close()
    assert not full.with_name("queue.db.saved").exists()


async def test_a_full_disk_fails_the_send_and_loses_nothing_that_was_promised(small_disk: Path, fill: Any) -> None:
    path = small_disk / "queue.db"
    async with await QueueStore.open(path) as store:
        await store.create("jobs", QueueSettings())
        await store.apply(Send("jobs", bytes(20_000)))
        filler = fill(small_disk)
        for _ in range(2):
            with pytest.raises(StateError, match="the disk is full") as refused:
                await store.apply(Send("jobs", bytes(200_000)))
            assert (500, "ServiceException") == (refused.value.status, refused.value.code)
        results = await asyncio.gather(
            *(store.apply(Send("jobs", bytes(200_000))) for _ in range(5)), return_exceptions=True
        )
        assert all(isinstance(result, StateError) for result in results)
        assert 1 == (await store.counts("jobs")).total
        filler.unlink()
        await store.apply(Send("jobs", bytes(20_000)))
        fill(small_disk)
    async with await QueueStore.open(path) as store:  # there is no room for moving the log into the file
        assert 2 == (await store.counts("jobs")).total
