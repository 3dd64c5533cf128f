"""Which occurrences of schedules to fire now: a pure decision from schedules, what is settled of each, and the time.

An occurrence is *settled* once it was fired or passed over. Of each schedule one moment is remembered (and persisted by
the caller): everything up to it is settled. The rules, in order:

1. An occurrence is due from `Schedule.due` on, which is its own time unless there is a flexible window.
2. Of several that are due at one look, because the node was stopped or slept, only the **latest** is fired, and only if
   it is no older than the schedule's MaximumEventAgeInSeconds. The others are counted as missed, and so is the latest
   where it is too old. A schedule never makes up for a stop with a burst. (AWS has no stops to have a policy for; the
   age is what it gives a delivery that it could not make at once.)
3. The remembered moment only grows. A clock that is set back fires nothing until it has come past that moment again,
   so nothing fires twice.
4. A schedule without a further occurrence is done: its ActionAfterCompletion applies, also when its last was missed.

The caller persists ``settled`` in the transaction that enqueues ``fire``, or uses `Firing.key` to enqueue each once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final

from .schedule import Schedule

MISSED_COUNTED: Final = 1000
"""Missed occurrences of one schedule that are counted one by one; beyond, the count says "at least"."""


@dataclass(frozen=True, slots=True)
class Firing:
    """One occurrence to fire. ``occurrence`` is the scheduled time in UTC, the `time` of the event that is sent."""

    name: str
    occurrence: datetime
    late: bool
    """Whether other occurrences of the schedule were missed before this one."""

    @property
    def key(self) -> str:
        """What no other occurrence of any schedule has."""
        return f"{self.name}@{self.occurrence.isoformat()}"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now."""

    fire: tuple[Firing, ...] = ()
    settled: Mapping[str, datetime] = field(default_factory=dict)
    """The remembered moments that change, by schedule."""
    missed: Mapping[str, int] = field(default_factory=dict)
    """Occurrences that were passed over at this look, by schedule; none are 0."""
    done: tuple[str, ...] = ()
    """Schedules that never run again."""
    delete: tuple[str, ...] = ()
    """Those of ``done`` that are to be deleted."""
    next: Mapping[str, datetime] = field(default_factory=dict)
    """When each schedule that is not done is due next: until then there is no need to pass it."""


def plan(schedules: Iterable[Schedule], settled: Mapping[str, datetime], now: datetime) -> Plan:
    """Decide what is due at ``now``. ``schedules`` are the enabled ones; whoever enables one settles what is past."""
    fire: list[Firing] = []
    moments: dict[str, datetime] = {}
    missed: dict[str, int] = {}
    done: list[Schedule] = []
    following: dict[str, datetime] = {}
    for schedule in schedules:
        before = settled.get(schedule.name, schedule.origin)
        look = _look(schedule, before, now)
        if look.settled != before:
            moments[schedule.name] = look.settled
        passed = look.due
        if look.latest is not None and now - schedule.due(look.latest) <= timedelta(seconds=schedule.max_age_s):
            passed -= 1
            fire.append(Firing(schedule.name, look.latest, late=passed > 0))
        if passed:
            missed[schedule.name] = passed
        if look.following is None:
            done.append(schedule)
        else:
            following[schedule.name] = schedule.due(look.following)
    return Plan(
        fire=tuple(sorted(fire, key=lambda one: (one.occurrence, one.name))),
        settled=moments,
        missed=missed,
        done=tuple(one.name for one in done),
        delete=tuple(one.name for one in done if one.delete_when_done),
        next=following,
    )


@dataclass(frozen=True, slots=True)
class _Look:
    """The occurrences after a moment: how many are due, the latest of those, the one that follows, what is settled."""

    due: int
    latest: datetime | None
    following: datetime | None
    settled: datetime


def _look(schedule: Schedule, before: datetime, now: datetime) -> _Look:
    """Walk over what is due. Work is bounded: at most ``MISSED_COUNTED`` steps, then those of one age and window."""
    latest: datetime | None = None
    moment, due = before, 0
    horizon = now - timedelta(seconds=schedule.max_age_s + schedule.window_s)
    while (following := schedule.next_after(moment)) is not None and schedule.due(following) <= now:
        latest = moment = following
        due += 1
        if due == MISSED_COUNTED and horizon > moment:  # what lies between is too old to fire, and too much to count
            moment, latest = horizon, None
    return _Look(due, latest, following, moment)
