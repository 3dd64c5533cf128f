"""Comparing listings of buckets: what is an event, for whom, and what is remembered through failures and stops."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import FunctionNotFound, Throttled
from glowplug.runtime.events.accepting import Accepted, NewEvent
from glowplug.runtime.events.bucketchanges import Listing, Object, changes, listed_directory
from glowplug.runtime.events.bucketwatch import BucketWatch
from glowplug.runtime.events.delivery import Delivery
from glowplug.runtime.events.deployed import DeployedTriggers
from glowplug.runtime.events.envelopes import Home
from glowplug.runtime.queue.steps import PutRecord, ScanRecords, Step
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.testing.clock import ManualClock

HOME = Home("000000000000", "us-east-1")
FULL = Throttled("full", reason="", retry_after_s=1)


def item(key: str, etag: str = "e1", at: str = "2026-01-01T00:00:00+00:00") -> Object:
    return Object(key, 3, etag, f"{at}/{etag}")


def listing(*objects: Object) -> dict[str, Object]:
    return {one.key: one for one in objects}


class Bench:
    """A bucket that tests write to, and watches over one queue's file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.bucket: dict[str, Object] = {}
        self.directory: Path | None = None
        self.events: list[NewEvent] = []
        self.refused: dict[str, Exception] = {}
        self.targets: list[dict[str, Any]] = [{"FunctionName": "work", "Events": ["s3:ObjectCreated:*"]}]
        self.watch: BucketWatch
        self.store: QueueStore

    @property
    def catalog(self) -> Catalog:
        document = {"Type": "AWS::S3::Bucket", "Name": "inbox", "Targets": self.targets}
        return Catalog(documents={"trigger/main/Inbox": document} if self.targets else {})

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        if event.function in self.refused:
            raise self.refused[event.function]
        if also:
            await self.store.apply(*also)
        self.events.append(event)
        return Accepted("new")

    async def listed(self, bucket: str) -> Listing:
        return dict(self.bucket)

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[BucketWatch]:
        clock = ManualClock()
        async with await QueueStore.open(self.path, clock) as self.store:
            self.delivery = Delivery(self, self.store, HOME)
            self.watch = BucketWatch(
                DeployedTriggers(self), self.delivery, self.store, HOME, clock, listed=self.listed,
                directories={} if self.directory is None else {"inbox": self.directory}, every_s=30,
            )  # fmt: skip
            await self.watch.load()
            yield self.watch

    async def look(self) -> list[str]:
        """Look once; return what was told of, as name and key."""
        before = len(self.events)
        await self.watch.look("inbox")
        records = [json.loads(event.payload)["Records"][0] for event in self.events[before:]]
        return [f"{one['eventName']} {one['s3']['object']['key']}" for one in records]


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path / "queue.db")


async def test_what_was_there_before_makes_no_events_and_what_comes_does(bench: Bench) -> None:
    bench.bucket = listing(item("old"))
    async with bench.watching():
        assert [] == await bench.look()
        bench.bucket |= listing(item("a b"), item("old", "e2"))
        assert ["ObjectCreated:Put a+b", "ObjectCreated:Put old"] == await bench.look()
        assert [] == await bench.look()
        record = json.loads(bench.events[0].payload)["Records"][0]
        assert ("inbox", "e1", 3) == (record["s3"]["bucket"]["name"], record["s3"]["object"]["eTag"],
                                      record["s3"]["object"]["size"])  # fmt: skip
        assert "2026-01-01T00:00:00.000Z" == record["eventTime"]


async def test_objects_whose_records_are_damaged_are_told_of_once_more_and_the_others_are_not(bench: Bench) -> None:
    bench.bucket = listing(item("whole"), item("damaged"))
    async with bench.watching():
        await bench.look()
        records = await bench.store.records(ScanRecords("s3:inbox"))
        damaged = next(one for one in records if one.attributes["k"] == "damaged")
        await bench.store.apply(PutRecord(replace(damaged, attributes={})))
    async with bench.watching():
        assert ["ObjectCreated:Put damaged"] == await bench.look()
        assert [] == await bench.look()


async def test_a_bucket_whose_record_is_damaged_begins_anew(bench: Bench) -> None:
    bench.bucket = listing(item("old"))
    async with bench.watching():
        await bench.look()
        (record,) = await bench.store.records(ScanRecords("s3"))
        await bench.store.apply(PutRecord(replace(record, attributes={})))
    async with bench.watching():
        assert [] == await bench.look()
        bench.bucket |= listing(item("new"))
        assert ["ObjectCreated:Put new"] == await bench.look()


async def test_what_changes_while_the_node_is_down_is_told_of_after_it(bench: Bench) -> None:
    bench.bucket = listing(item("kept"), item("gone"))
    bench.targets[0]["Events"].append("s3:ObjectRemoved:*")
    async with bench.watching():
        await bench.look()
    bench.bucket = listing(item("kept"), item("new", "abc-2"))
    async with bench.watching():
        assert ["ObjectRemoved:Delete gone", "ObjectCreated:CompleteMultipartUpload new"] == await bench.look()
    async with bench.watching():
        assert [] == await bench.look()


async def test_targets_get_what_they_asked_for(bench: Bench) -> None:
    bench.targets = [
        {"Id": "images", "FunctionName": "images", "Events": ["s3:ObjectCreated:Put"], "Prefix": "in/", "Suffix": ".png"},
        {"Id": "gone", "FunctionName": "gone", "Events": ["s3:ObjectRemoved:Delete"]},
    ]  # fmt: skip
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(item("in/a.png"), item("in/a.txt"), item("out/a.png"))
        assert ["ObjectCreated:Put in/a.png"] == await bench.look()
        bench.bucket = listing(item("in/a.txt"))
        await bench.look()
        assert ["images", "gone", "gone"] == [event.function for event in bench.events]


def two_targets(*events: str) -> list[dict[str, Any]]:
    return [{"Id": name, "FunctionName": name, "Events": list(events)} for name in ("first", "second")]


@pytest.mark.parametrize(
    ("before", "after"),
    [((), ("a",)), (("a",), ())],
    ids=["written", "removed"],
)
@pytest.mark.parametrize("killed", [True, False])
async def test_a_change_that_one_target_could_not_be_given_is_told_again_to_that_one_alone(
    bench: Bench, before: tuple[str, ...], after: tuple[str, ...], killed: bool
) -> None:
    bench.targets = two_targets("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    bench.bucket = listing(*map(item, before))
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(*map(item, after))
        bench.refused["second"] = FULL
        with pytest.raises(Throttled):
            await bench.look()
        bench.refused.clear()
        if not killed:
            await bench.look()
    async with bench.watching():
        await bench.look()
        await bench.look()
        assert ["first", "second"] == [event.function for event in bench.events]


async def test_a_target_that_is_gone_is_given_up_once_while_another_is_tried_again(bench: Bench) -> None:
    """Not once for each look; and should it be there again by then, nothing runs that was told of as lost."""
    bench.targets = two_targets("s3:ObjectCreated:*")
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(item("a"))
        bench.refused |= {"first": FunctionNotFound("gone"), "second": FULL}
        for _ in range(2):
            with pytest.raises(Throttled):
                await bench.look()
        bench.refused.clear()
        await bench.look()
        assert (["second"], {"main/Inbox": 1}) == ([event.function for event in bench.events], bench.delivery.failed)


async def test_an_object_that_goes_before_all_were_told_of_it_is_told_of_as_removed(bench: Bench) -> None:
    bench.targets = two_targets("s3:ObjectCreated:*", "s3:ObjectRemoved:*")
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(item("a"))
        bench.refused["second"] = FULL
        with pytest.raises(Throttled):
            await bench.look()
        bench.refused.clear()
        bench.bucket = {}
        assert ["ObjectRemoved:Delete a"] * 2 == await bench.look()
    async with bench.watching():
        assert [] == await bench.look()


async def test_an_object_that_comes_back_as_it_was_is_told_of_again(bench: Bench) -> None:
    async with bench.watching():
        await bench.look()
        for _ in range(2):
            bench.bucket = listing(item("a"))
            assert ["ObjectCreated:Put a"] == await bench.look()
            bench.bucket = {}
            await bench.look()


async def test_the_same_contents_written_again_are_a_new_event(bench: Bench) -> None:
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(item("a"))
        assert 1 == len(await bench.look())
        bench.bucket = {}
        assert [] == await bench.look()
        bench.bucket = listing(item("a", at="2026-01-02T00:00:00+00:00"))
        assert ["ObjectCreated:Put a"] == await bench.look()


async def test_a_bucket_without_notifications_is_forgotten(bench: Bench) -> None:
    async with bench.watching():
        await bench.look()
        bench.bucket = listing(item("a"))
        targets, bench.targets = bench.targets, []
        await bench.look()
        bench.targets = targets
        assert [] == await bench.look()
        bench.bucket |= listing(item("b"))
        assert ["ObjectCreated:Put b"] == await bench.look()


async def test_a_file_is_told_of_once_it_has_not_changed_between_two_looks(bench: Bench, tmp_path: Path) -> None:
    bench.directory = tmp_path / "inbox"
    (bench.directory / "deep").mkdir(parents=True)
    async with bench.watching():
        await bench.look()
        file = bench.directory / "deep" / "a.txt"
        file.write_text("half")
        (bench.directory / ".hidden").write_text("never")
        assert [] == await bench.look()
        file.write_text("half, and the rest")
        assert [] == await bench.look()
        assert ["ObjectCreated:Put deep/a.txt"] == await bench.look()
        (bench.directory / ".b").write_text("whole")
        os.rename(bench.directory / ".b", bench.directory / "b")
        assert ([], ["ObjectCreated:Put b"]) == (await bench.look(), await bench.look())


def test_a_directory_that_is_not_there_is_an_error_and_not_an_empty_bucket(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        listed_directory(tmp_path / "none")


_listings = st.dictionaries(st.sampled_from("abcde"), st.sampled_from(["e1", "e2", "e3-2"])).map(
    lambda found: listing(*(item(key, etag) for key, etag in found.items()))
)


@given(_listings, _listings)
def test_applying_the_changes_to_the_first_listing_gives_the_second(before: Listing, after: Listing) -> None:
    made = dict(before)
    for change in changes(before, after):
        if change.now is None:
            assert change.name == "ObjectRemoved:Delete"
            del made[change.key]
        else:
            assert change.name.startswith("ObjectCreated:")
            assert made.get(change.key) != change.now
            made[change.key] = change.now
    assert dict(after) == made
