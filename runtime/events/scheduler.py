"""Runs schedules: one alarm for the time at which the next is due, `planner.plan` decides what to do then.

How far a schedule is (what of it is settled) is a record of the queue's file, written in the unit in which its event is
accepted: after a kill either both are there or neither, so no occurrence is lost and none fires twice. Of several
targets each is noted in the unit of its own event. One that has its event, or that nobody could be given it for, is not
looked at again when another's is tried again later: by then it may be too old for it, or have another input.

The alarm is monotonic and the schedules are not, so it rings at least every ``LOOK_S``: a clock that was set, or a
machine that slept, is noticed then.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import uuid
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import InvalidEntry, StateError, Throttled
from glowplug.runtime.queue.model import Record
from glowplug.runtime.queue.steps import DeleteRecord, PutRecord, ScanRecords

from . import planner
from .delivery import Delivery, Handed, Store
from .envelopes import Home, rule_event, scheduler_event, scheduler_input
from .inputs import About
from .planner import Firing
from .triggers import RULE, Target, Trigger

LOOK_S = 10.0
"""How long a change of the wall clock may go unnoticed."""
RETRY_S, LONGEST_RETRY_S = 1.0, 60.0
"""How long after an event could not be accepted (a full queue, a full disk) it is tried again; doubled each time."""

_OWNER = "schedule"
_MOST = 1_000_000
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Progress:
    """What is remembered of a schedule. Times are ISO 8601; ``settled`` is empty before the first occurrence.

    ``last`` is the time that was last fired for, ``requests`` its events' request ids, ``error`` why there are none.
    ``handed`` are the targets that are settled of it, by their ids, while others still wait for their events.
    """

    trigger: str
    created: str
    settled: str = ""
    done: bool = False
    deleted: bool = False
    fired: int = 0
    missed: int = 0
    last: str = ""
    late: bool = False
    requests: tuple[str, ...] = ()
    error: str = ""
    handed: tuple[str, ...] = ()

    @property
    def moment(self) -> datetime | None:
        """``settled`` as a time."""
        return datetime.fromisoformat(self.settled) if self.settled else None

    def record(self) -> Record:
        """Return the row that it is kept in."""
        values: dict[str, Any] = {name: getattr(self, name) for name in Progress.__slots__}
        listed = {"requests": list(self.requests), "handed": list(self.handed)}
        return Record(_key(self.trigger), _OWNER, 0, 0, attributes=values | listed)

    @classmethod
    def of(cls, record: Record) -> Progress:
        """Read a row."""
        values = {name: value for name, value in record.attributes.items() if name in cls.__slots__}
        listed = {name: tuple(values.get(name, ())) for name in ("requests", "handed")}
        return cls(**{**values, **listed})


@dataclass(frozen=True, slots=True)
class ScheduleListing:
    """One schedule as ``glowplug schedules`` shows it. Times are ISO 8601 in UTC, empty where there is none.

    ``state`` is ``ENABLED``, ``DISABLED``, ``DONE`` or ``WAITING``: the clock was set back, and nothing runs before it
    has come past ``last`` again. ``missed`` counts runs that were passed over because the node did not run.
    """

    name: str
    stack: str
    logical_id: str
    expression: str
    zone: str
    state: str
    functions: tuple[str, ...]
    next: str
    last: str
    late: bool
    requests: tuple[str, ...]
    error: str
    fired: int
    missed: int
    failed: int


class Scheduler:
    """Fires schedules. ``triggers`` returns what is deployed; ``changed`` is called when that has changed."""

    def __init__(
        self, triggers: Callable[[], Iterable[Trigger]], delivery: Delivery, store: Store, home: Home, clock: Clock
    ) -> None:
        self._triggers = triggers
        self._delivery = delivery
        self._store = store
        self._home = home
        self._clock = clock
        self._progress: dict[str, Progress] = {}
        self._next: dict[str, datetime] = {}
        self._known: dict[str, Trigger] = {}
        self._ahead: frozenset[str] = frozenset()
        self._kick = asyncio.Event()
        self._alarm: Alarm | None = None
        self._retry_s = RETRY_S
        self._task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        return f"<Scheduler of {len(self._known)} schedules>"

    async def start(self) -> None:
        """Read how far each schedule is, and begin. Raises ``StateError``."""
        for record in await self._store.records(ScanRecords(_OWNER, limit=_MOST)):
            if not {"trigger", "created"} <= record.attributes.keys():
                _log.error("how far a schedule is, is damaged: it goes on from now, or with its latest run")
                continue
            progress = Progress.of(record)
            self._progress[progress.trigger] = progress
        self.changed()
        self._task = asyncio.create_task(self._run(), name="scheduler")

    async def close(self) -> None:
        """Stop firing; what is being accepted is accepted."""
        if self._alarm is not None:
            self._alarm.cancel()
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    def changed(self) -> None:
        """Look at the catalog again."""
        self._known = {one.id: one for one in self._triggers() if one.schedule is not None}
        self._next.clear()
        self._kick.set()

    def listing(self) -> list[ScheduleListing]:
        """Return all schedules, by stack and name."""
        found = []
        for trigger_id, trigger in sorted(self._known.items()):
            progress = self._of(trigger)
            if not progress.deleted:
                found.append(self._listed(trigger_id, trigger, progress))
        return found

    def _listed(self, trigger_id: str, trigger: Trigger, progress: Progress) -> ScheduleListing:
        state = "ENABLED" if trigger.enabled else "DISABLED"
        if progress.done:
            state = "DONE"
        elif trigger.enabled and trigger_id in self._ahead:
            state = "WAITING"
        due = self._next.get(trigger_id) if state in ("ENABLED", "WAITING") else None
        return ScheduleListing(
            name=trigger.name,
            stack=trigger.stack,
            logical_id=trigger_id.partition("/")[2],
            expression=trigger.expression,
            zone="UTC" if trigger.schedule is None else str(trigger.schedule.zone),
            state=state,
            functions=tuple(_called(target) for target in trigger.targets),
            next="" if due is None else due.astimezone(UTC).isoformat(),
            last=progress.last,
            late=progress.late,
            requests=progress.requests,
            error=progress.error,
            fired=progress.fired,
            missed=progress.missed,
            failed=self._delivery.failed.get(trigger_id, 0),
        )

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            self._kick.clear()
            try:
                wait_s = await self._look()
            except Exception:  # a fault of ours must not end all schedules for good
                _log.exception("schedules wait %.0f s", LONGEST_RETRY_S)
                wait_s = LONGEST_RETRY_S
            self._alarm = self._clock.call_later(wait_s, self._kick.set)
            await self._kick.wait()
            self._alarm.cancel()

    async def _look(self) -> float:
        """Do what is due; return how long until something may be due again."""
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        enabled = [one for one in self._known.values() if one.enabled and not self._of(one).done]
        settled = {one.id: moment for one in enabled if (moment := self._of(one).moment) is not None}
        self._tell(frozenset(name for name, moment in settled.items() if moment > now))
        wanted = [trigger for trigger in enabled if self._next.get(trigger.id, now) <= now]
        plan = planner.plan([one.schedule for one in wanted if one.schedule is not None], settled, now)
        firing = {one.name: one for one in plan.fire}
        moved = [trigger for trigger in wanted if trigger.id in plan.settled or trigger.id in plan.done]
        ends = await asyncio.gather(
            self._forget(),
            *(self._advance(trigger, plan, firing.get(trigger.id), now) for trigger in moved),
            return_exceptions=True,
        )
        failed = {one.id for one, end in zip(moved, ends[1:], strict=True) if end is not None}
        for trigger in wanted:
            self._next.pop(trigger.id, None)
        self._next |= {name: due for name, due in plan.next.items() if name not in failed}
        faults = [end for end in ends if end is not None]
        for fault in faults:
            if not isinstance(fault, StateError | Throttled):
                raise fault
        if not faults:
            self._retry_s = RETRY_S
            return self._wait_s(now)
        retry_s, self._retry_s = self._retry_s, min(2 * self._retry_s, LONGEST_RETRY_S)
        _log.warning("%d schedules are tried again in %.0f s: %s", len(faults), retry_s, faults[0])
        return min(retry_s, self._wait_s(now))

    def _wait_s(self, now: datetime) -> float:
        due = min((moment for name, moment in self._next.items() if name in self._known), default=None)
        return LOOK_S if due is None else min(LOOK_S, max(0.0, (due - now).total_seconds()))

    async def _forget(self) -> None:
        """Drop what is remembered of schedules that are not deployed any more."""
        gone = self._progress.keys() - self._known.keys()
        if gone:
            await self._store.apply(*(DeleteRecord(_key(name)) for name in gone))
            for name in gone:
                del self._progress[name]

    async def _advance(self, trigger: Trigger, plan: planner.Plan, firing: Firing | None, now: datetime) -> None:
        """Fire one schedule where there is something to fire, and remember how far it is."""
        before = self._of(trigger)
        moment = plan.settled.get(trigger.id)
        after = replace(
            before,
            settled=before.settled if moment is None else moment.isoformat(),
            done=trigger.id in plan.done,
            deleted=trigger.id in plan.delete,
            missed=before.missed + plan.missed.get(trigger.id, 0),
            handed=(),
        )
        if before.missed != after.missed:
            _log.warning("%s: %d runs were missed", trigger.id, after.missed - before.missed)
        if firing is not None:
            after = replace(after, fired=before.fired + 1, last=_iso(firing.occurrence), late=firing.late)
            after = await self._fire(trigger, firing, after, now)
        await self._store.apply(PutRecord(after.record()))  # after a firing only the request ids are new
        self._progress[trigger.id] = after

    async def _fire(self, trigger: Trigger, firing: Firing, after: Progress, now: datetime) -> Progress:
        """Hand the events of the targets over that are not settled, each in one unit with a note of it, that of the
        last with ``after``; return what is known."""
        so_far = self._of(trigger)
        if so_far.last != after.last or not so_far.handed:
            so_far = replace(so_far, last=after.last, late=after.late, requests=(), error="", handed=())
        left = [target for target in trigger.targets if target.id not in so_far.handed]
        for target in left:
            noted = replace(so_far, handed=(*so_far.handed, target.id))
            also = PutRecord((after if target is left[-1] else noted).record())
            one = await self._hand(trigger, target, firing, now, also)
            requests = (*so_far.requests, one.request_id) if one.request_id else so_far.requests
            so_far = replace(noted, requests=requests, error="; ".join(filter(None, (so_far.error, one.error))))
            self._progress[trigger.id] = so_far
        return replace(after, requests=so_far.requests, error=so_far.error)

    async def _hand(self, trigger: Trigger, target: Target, firing: Firing, now: datetime, also: PutRecord) -> Handed:
        payload = b"{}"
        try:
            payload = self._payload(trigger, target, firing)
            if trigger.schedule is not None:
                _check_age(trigger.schedule.due(firing.occurrence), now, target)
        except InvalidEntry as error:
            await self._delivery.give_up(trigger, target, payload, error, also)
            return Handed(target, error=str(error))
        return await self._delivery.hand(trigger, target, payload, also)

    def _payload(self, trigger: Trigger, target: Target, firing: Firing) -> bytes:
        arn = trigger.arn(self._home)
        event_id = str(uuid.uuid5(uuid.NAMESPACE_OID, f"{firing.key}#{target.id}"))
        if trigger.type == RULE:
            event = rule_event(arn, event_id, firing.occurrence, self._home)
            return target.input.payload(event, About(arn, trigger.name, firing.occurrence))
        if target.input.constant is not None:
            return scheduler_input(target.input.constant, arn, event_id, firing.occurrence, 1).encode()
        event = scheduler_event(arn, event_id, firing.occurrence, self._home)
        return target.input.payload(event, About(arn, trigger.name, firing.occurrence))

    def _of(self, trigger: Trigger) -> Progress:
        """Return how far a schedule is; one that was given other times since begins anew."""
        assert trigger.schedule is not None  # noqa: S101  (only those are known)
        created = trigger.schedule.created.isoformat()
        progress = self._progress.get(trigger.id)
        return progress if progress is not None and progress.created == created else Progress(trigger.id, created)

    def _tell(self, ahead: frozenset[str]) -> None:
        for name in sorted(ahead - self._ahead):
            _log.warning("%s: waits, because the clock was set back to before its last run", name)
        self._ahead = ahead


def _check_age(due: datetime, now: datetime, target: Target) -> None:
    """Refuse an event that is too old for this target, where another of the schedule's takes older ones."""
    if now - due > timedelta(seconds=target.max_age_s):
        raise InvalidEntry("EVENT_AGE_EXCEEDED", f"It is older than the {target.max_age_s} s that the target takes.")


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat()


def _called(target: Target) -> str:
    return target.function if target.qualifier == "$LATEST" else f"{target.function}:{target.qualifier}"


def _key(trigger: str) -> bytes:
    return hashlib.sha256(f"{_OWNER}\0{trigger}".encode()).digest()[:16]
