"""Notifications of buckets, by comparing listings: a look every so often, an event for each difference.

What is known of each object is a record of the queue's file, written in the unit in which the event of its change is
accepted. Of several targets each is noted in the unit of its own event, so after a kill, or where one target's queue
was full, a change is neither lost nor told twice to the others. What changes twice between two looks is one change, and
an object that comes and goes between them was never there. The first look at a bucket makes no events.

A bucket is a directory where the node is told so. There a file counts once it has not changed from one look to the
next: one that is still being written has no event. Names that begin with a dot are left out, so a file may be written
under such a name and renamed.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import StateError, Throttled
from glowplug.runtime.queue.model import Record
from glowplug.runtime.queue.steps import DeleteRecord, PutRecord, ScanRecords, Step

from .bucketchanges import Change, List, Listing, Object, changes, listed_directory, wants
from .delivery import Delivery, Store
from .deployed import DeployedTriggers
from .envelopes import Home, ObjectChange, s3_event
from .triggers import BUCKET, Target, Trigger

_BUCKETS: Final = "s3"
_MOST: Final = 10_000_000
_CHUNK: Final = 500

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Telling:
    """How far the telling of a change is: its id, and the targets that were told."""

    change: str
    told: tuple[str, ...]


class BucketWatch:
    """Looks at the buckets of triggers every ``every_s`` seconds. ``directories`` has those that are directories,
    ``listed`` lists the others."""

    def __init__(
        self,
        triggers: DeployedTriggers,
        delivery: Delivery,
        store: Store,
        home: Home,
        clock: Clock,
        *,
        listed: List,
        directories: Mapping[str, Path],
        every_s: float,
    ) -> None:
        self._triggers = triggers
        self._delivery = delivery
        self._store = store
        self._home = home
        self._clock = clock
        self._listed = listed
        self._directories = directories
        self._every_s = every_s
        self._known: dict[str, dict[str, Object]] = {}
        self._tellings: dict[tuple[str, str], Telling] = {}
        self._last: dict[str, Listing] = {}
        self._failing: set[str] = set()
        self._kick = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Read what is known, and begin to look. Raises ``StateError``."""
        await self.load()
        self._task = asyncio.create_task(self._run(), name="buckets")

    async def load(self) -> None:
        """Read what is known. Raises ``StateError``."""
        for record in await self._store.records(ScanRecords(_BUCKETS, limit=_MOST)):
            if "bucket" not in record.attributes:
                log.error("what is known of a bucket is damaged: what is there now makes no events")
                continue
            bucket = str(record.attributes["bucket"])
            found = await self._store.records(ScanRecords(_owner(bucket), limit=_MOST))
            objects = [one for one in found if {"k", "s", "e", "v"} <= one.attributes.keys()]
            if len(objects) < len(found):
                log.error("%s: what is known of some objects is damaged: they are told of once more", bucket)
            self._known[bucket] = {one.key: one for one in map(_object, objects)}
            self._tellings |= {(bucket, one.attributes["k"]): _telling(one) for one in objects if "t" in one.attributes}

    async def close(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def changed(self) -> None:
        """What is deployed has changed: look at once, so that what comes to a new bucket from now on is seen."""
        self._kick.set()

    async def _run(self) -> None:
        while True:
            self._kick.clear()
            for bucket in sorted({one.name for one in self._triggers.of_type(BUCKET)} | self._known.keys()):
                await self._looked(bucket)
            alarm: Alarm = self._clock.call_later(self._every_s, self._kick.set)
            await self._kick.wait()
            alarm.cancel()

    async def _looked(self, bucket: str) -> None:
        try:
            await self.look(bucket)
            self._failing.discard(bucket)
        except (StateError, Throttled) as error:  # what was not told of yet is a difference at the next look too
            log.warning("bucket %s: %s", bucket, error)
        except Exception as error:  # of any client; a bucket that cannot be reached may be reached later
            if bucket not in self._failing:
                log.warning("bucket %s cannot be looked at: %s: %s", bucket, type(error).__name__, error)
            self._failing.add(bucket)

    async def look(self, bucket: str) -> None:
        """Compare a bucket with what is known of it, and tell what has changed."""
        triggers = [one for one in self._triggers.of_type(BUCKET) if one.name == bucket]
        if not triggers:
            await self._forget(bucket)
            return
        listing = await self._listing(bucket)
        if bucket not in self._known:
            await self._begin(bucket, listing)
            return
        known = self._known[bucket]
        for change in changes(known, listing):
            await self._tell(bucket, triggers, change)
            if change.now is None:
                del known[change.key]
            else:
                known[change.key] = change.now

    async def _listing(self, bucket: str) -> Listing:
        root = self._directories.get(bucket)
        if root is None:
            return await self._listed(bucket)
        now = await asyncio.to_thread(listed_directory, root)
        last, self._last[bucket] = self._last.get(bucket), now
        known = self._known.get(bucket)
        if known is None:
            return now
        # What has just changed is taken as it was known: the next look tells whether it is whole.
        settled = {}
        for key, one in now.items():
            if one.version in (_version(known, key), _version(last or {}, key)):
                settled[key] = one
            elif key in known:
                settled[key] = known[key]
        return settled

    async def _tell(self, bucket: str, triggers: Iterable[Trigger], change: Change) -> None:
        """Tell those targets of a change that were not told of it yet, each in one unit with a note of that, the last
        in one with what is known then."""
        place, before = (bucket, change.key), change.before or Object(change.key, 0, "", "")
        telling = self._tellings.get(place)
        if telling is None or telling.change != change.id:
            telling = Telling(change.id, ())
        left = [
            (name, trigger, target)
            for trigger in triggers
            for target in trigger.targets
            if wants(target, change) and (name := f"{trigger.id}#{target.id}") not in telling.told
        ]
        known: Step = DeleteRecord(_key(*place)) if change.now is None else PutRecord(_record(bucket, change.now))
        if not left:
            await self._store.apply(known)
        for name, trigger, target in left:
            telling = Telling(change.id, (*telling.told, name))
            also = known if name == left[-1][0] else PutRecord(_record(bucket, before, telling))
            await self._delivery.hand(trigger, target, self._payload(trigger, target, change), also)
            self._tellings[place], self._known[bucket][change.key] = telling, before
        self._tellings.pop(place, None)

    def _payload(self, trigger: Trigger, target: Target, change: Change) -> bytes:
        """Return the event. Of what was written its time and ids come from that."""
        digest = hashlib.sha256(f"{change.name}\0{change.key}\0{change.version}".encode()).hexdigest()
        moment = _written(change.version) if change.now is not None else datetime.fromtimestamp(self._clock.time(), UTC)
        event = s3_event(
            ObjectChange(
                name=change.name,
                bucket=trigger.name,
                key=change.key,
                time=moment,
                sequencer=f"{int(moment.timestamp() * 1000):016X}",
                request_id=digest[:16].upper(),
                size=None if change.now is None else change.now.size,
                etag=None if change.now is None else change.now.etag,
            ),
            target.id,
            self._home,
        )
        return json.dumps(event, separators=(",", ":")).encode()

    async def _begin(self, bucket: str, listing: Listing) -> None:
        """Take what is there as known; the bucket's own record comes last."""
        steps: list[Step] = [PutRecord(_record(bucket, one)) for one in listing.values()]
        await self._in_chunks(steps)
        await self._store.apply(PutRecord(Record(_key(bucket, ""), _BUCKETS, 0, 0, attributes={"bucket": bucket})))
        self._known[bucket] = dict(listing)

    async def _forget(self, bucket: str) -> None:
        await self._store.apply(DeleteRecord(_key(bucket, "")))
        await self._in_chunks([DeleteRecord(_key(bucket, key)) for key in self._known.get(bucket, ())])
        self._known.pop(bucket, None)
        self._last.pop(bucket, None)
        self._tellings = {place: one for place, one in self._tellings.items() if place[0] != bucket}

    async def _in_chunks(self, steps: list[Step]) -> None:
        for start in range(0, len(steps), _CHUNK):
            await self._store.apply(*steps[start : start + _CHUNK])


def _version(listing: Listing, key: str) -> str:
    one = listing.get(key)
    return "" if one is None else one.version


def _written(version: str) -> datetime:
    """Return when an object was written, which its version begins with."""
    return datetime.fromisoformat(version.partition("/")[0])


def _owner(bucket: str) -> str:
    return f"{_BUCKETS}:{bucket}"


def _key(bucket: str, key: str) -> bytes:
    return hashlib.sha256(f"{_BUCKETS}\0{bucket}\0{key}".encode("utf-8", "surrogateescape")).digest()[:16]


def _record(bucket: str, one: Object, telling: Telling | None = None) -> Record:
    """Return the row of an object as it is known. One that is new has no version before all targets were told of it."""
    values: dict[str, Any] = {"k": one.key, "s": one.size, "e": one.etag, "v": one.version}
    if telling is not None:
        values |= {"c": telling.change, "t": list(telling.told)}
    return Record(_key(bucket, one.key), _owner(bucket), 0, 0, attributes=values)


def _object(record: Record) -> Object:
    kept = record.attributes
    return Object(kept["k"], kept["s"], kept["e"], kept["v"])


def _telling(record: Record) -> Telling:
    return Telling(record.attributes["c"], tuple(record.attributes["t"]))
