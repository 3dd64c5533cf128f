"""The instances of one revision, and the requests that are held for them. Synchronous: nothing here waits.

The mutable state is the set of instances, the stack of those that are ready (the last used is used first, so that the
others get idle) and the queue of held requests, oldest first. Whoever changes one of them leaves all of them true.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import GlowplugError, HoldTimeout
from glowplug.runtime.invocation import Tier
from glowplug.runtime.spec import FunctionSpec

from .allotment import Allotment
from .home import Home, Parked
from .instance import Instance, State
from .occupancy import MEMORY_FLOOR_BYTES, Occupancy
from .placement import Demand, shortfall
from .policy import CRASHES_FORGIVEN, backoff_s, start_fault
from .scaler import IdleInstance, PoolState
from .waiter import Waiter

if TYPE_CHECKING:
    from .records import StartRecord


class Pool:
    """One revision. ``on_drained`` is called with an instance that is to be stopped, ``on_lost`` when one is gone;
    ``present`` tells whether a revision's files are on this machine."""

    def __init__(
        self,
        spec: FunctionSpec,
        *,
        clock: Clock,
        occupancy: Occupancy,
        on_drained: Callable[[Pool, Instance], None],
        on_lost: Callable[[Pool], None],
        present: Callable[[FunctionSpec], bool] = lambda spec: True,
        allotment: Allotment | None = None,
    ) -> None:
        self.spec = spec
        self.revision = spec.revision
        self.home = Home(spec, exec_reason=spec.exec_reason)
        self.current = True
        self.instances: set[Instance] = set()
        self.outgoing: list[Parked] = []  # replaced zygotes that still have instances
        self.renewals: set[asyncio.Task[Any]] = set()  # moves to another zygote that are under way
        self.queued = 0
        self.starting = 0
        self.busy = 0
        self.failures = 0
        self.crashes = 0
        self.retry_at_s = 0.0
        self.retry_alarm: Alarm | None = None
        self.rebuild_at_s = 0.0
        self.typical_s = 0.0
        self.last_start: StartRecord | None = None
        self.last_error = ""
        self.used_at_s = self.quiet_since_s = clock.monotonic()
        self._ready: list[Instance] = []
        self._held: dict[Waiter, None] = {}
        self._gone: list[tuple[set[Instance], asyncio.Future[None]]] = []
        self._clock = clock
        self._occupancy = occupancy
        self._on_drained = on_drained
        self._on_lost = on_lost
        self._present = present
        self.allotment = allotment or Allotment()

    def __repr__(self) -> str:
        return (
            f"<Pool {self.spec.name} {self.revision[:8]} {self.tier} ready={len(self._ready)} busy={self.busy} "
            f"starting={self.starting} queued={self.queued} held={len(self._held)} current={self.current}>"
        )

    # --- what it is -------------------------------------------------------------------------------------------------

    @property
    def tier(self) -> Tier:
        """How warm the revision is now."""
        if self._ready or self.busy:
            return "hot"
        if self.home.parked is not None:
            return "parked"
        return "stored" if self.home.weights is not None or self._present(self.spec) else "remote"

    @property
    def cold(self) -> bool:
        """Whether nothing of it runs, and nothing is under way that will."""
        return not (self.instances or self.starting or self.outgoing or self.home.parked or self.home.building.locked())

    @property
    def version(self) -> str:
        """``$LATEST``, or the number of a published version."""
        return self.spec.version

    @property
    def least(self) -> int:
        """How many instances are kept although nobody asks for them."""
        return self.allotment.quota.least(self.version) if self.current else 0

    @property
    def in_use(self) -> int:
        """How many instances work or are being started."""
        return self.busy + self.starting + self.queued

    @property
    def live(self) -> int:
        """How many instances there are, idle ones and starts that wait for their turn included."""
        return len(self.instances) + self.queued

    @property
    def held(self) -> int:
        """How many requests are held."""
        return len(self._held)

    @property
    def ready(self) -> tuple[Instance, ...]:
        """The instances that may be chosen, the longest idle first."""
        return tuple(self._ready)

    def demand(self) -> Demand:
        """Return the pool in numbers, for ``place``."""
        spec, live = self.spec, len(self._ready) + self.busy + self.starting
        free = max(0, self._occupancy.available_bytes() - MEMORY_FLOOR_BYTES)
        return Demand(
            ready=len(self._ready),
            busy=self.busy,
            starting=self.starting + self.queued,
            held=len(self._held),
            max_held=spec.max_held,
            concurrency=spec.concurrency,
            models=bool(spec.models),
            cores=self._occupancy.cores,
            max_instances=_least_of(spec.max_instances, self.allotment.quota.most(self.version)),
            reserved=self.allotment.allowed(self.version),
            least=self.least,
            admitted=live + free // (spec.memory_mb * 1024 * 1024),
        )

    def missing_starts(self) -> int:
        """Return how many more starts to ask for now.

        One at a time until there is a zygote: the first start builds it, the others fork from it. None during a
        back-off.
        """
        if not self.current or self._clock.monotonic() < self.retry_at_s:
            return 0
        missing = shortfall(self.demand())
        if self.home.forkable and self.home.parked is None:
            missing = min(missing, 1 - self.starting - self.queued)
        return max(0, missing)

    def state(self) -> PoolState:
        """Return what ``scaler.sink`` looks at."""
        now_s, parked = self._clock.monotonic(), self.home.parked
        settling = self.home.building.locked() or now_s < self.rebuild_at_s
        return PoolState(
            revision=self.revision,
            idle=tuple(IdleInstance(one.instance_id, now_s - one.idle_since_s) for one in self._ready),
            live=len(self.instances) + self.queued,
            parked_age_s=None if parked is None else now_s - parked.built_at_s,
            parked_s=now_s - self.quiet_since_s,
            used_s=now_s - self.used_at_s,
            idle_timeout_s=self.spec.idle_timeout_s,
            park_timeout_s=self.spec.park_timeout_s,
            max_parked_age_s=self.spec.max_parked_age_s,
            settling=settling or bool(self.starting or self.queued or self._held),
            least=self.least,
        )

    # --- requests ---------------------------------------------------------------------------------------------------

    def take(self) -> Instance | None:
        """Choose a ready instance and own it, in one step; None when there is none."""
        if not self._ready:
            return None
        instance = self._ready.pop()
        instance.reserve()
        self._count_busy(1)
        return instance

    def hold(self, request_id: str | None, hold_s: float) -> Waiter:
        """Queue a request for at most ``hold_s`` seconds. ``warm`` is one without an id."""
        waiter = Waiter(self, request_id)
        self._held[waiter] = None
        waiter.alarm = self._clock.call_later(hold_s, lambda: waiter.pool._expire(waiter, hold_s))
        return waiter

    def give_back(self, instance: Instance) -> None:
        """End a lease: the oldest held request gets the instance in this very step, or it is ready."""
        if instance.state is State.BUSY:
            self.crashes = 0
            instance.release()
            self.used_at_s = instance.idle_since_s
            self._count_busy(-1)
            self._offer(instance)
        elif instance.state is State.DRAINING:
            self._count_busy(-1)
            self._on_drained(self, instance)
        else:
            self._count_busy(-1)
            self._crashed(instance)
            self.discard(instance)

    def forget(self, waiter: Waiter) -> None:
        """Drop a held request whose caller is gone."""
        self._held.pop(waiter, None)

    def next_cause(self) -> str | None:
        """Return the id of the oldest held request that has not caused a start yet, and note that it has now."""
        for waiter in self._held:
            if not waiter.caused and waiter.request_id is not None:
                waiter.caused = True
                return waiter.request_id
        return None

    def hand_over(self, heir: Pool) -> None:
        """Move the held requests to the revision that replaces this one."""
        for waiter in self._held:
            waiter.pool, waiter.caused = heir, False
            heir._held[waiter] = None
        self._held.clear()

    def fail_held(self, error: GlowplugError) -> None:
        """End every held request with ``error``, in the words of its own request id."""
        held, self._held = self._held, {}
        for waiter in held:
            if not waiter.future.done():
                waiter.future.set_exception(start_fault(waiter.request_id or "", error))

    def _offer(self, instance: Instance) -> None:
        while self._held:
            waiter = next(iter(self._held))
            del self._held[waiter]
            if not waiter.future.done():  # cancelled, and has not been scheduled yet to say so
                instance.reserve()
                self._count_busy(1)
                waiter.future.set_result(instance)
                return
        self._ready.append(instance)

    def _expire(self, waiter: Waiter, hold_s: float) -> None:
        self._held.pop(waiter, None)
        if not waiter.future.done():
            problem = f"{self.spec.name}: no instance was ready within {hold_s:g} seconds"
            waiter.future.set_exception(HoldTimeout(problem))

    def _count_busy(self, step: int) -> None:
        self.busy += step
        if self.spec.models:
            self._occupancy.busy_models += step

    # --- instances --------------------------------------------------------------------------------------------------

    def started(self, instance: Instance) -> None:
        """Take a new ready instance into service."""
        self.failures = 0
        self.used_at_s = self._clock.monotonic()
        self._offer(instance)

    def start_failed(self, error: GlowplugError) -> None:
        """Back off. Who is held gets the error, unless an instance or another start may still serve them."""
        self.failures += 1
        self.last_error = f"{type(error).__name__}: {error}"
        self.retry_at_s = self._clock.monotonic() + backoff_s(self.failures)
        if not (self.busy or self._ready or self.starting):
            self.fail_held(error)

    def zygote_died(self, parked: Parked) -> None:
        """The zygote is gone: the next start builds another. Instances go on serving."""
        if self.home.parked is parked:
            self.home.parked = None
            self.crashes += 1
            self._back_off_after_crashes()

    def withdraw(self, why: str, instances: Iterable[Instance] | None = None) -> set[Instance]:
        """Stop choosing instances (all, unless given): idle ones go now, busy ones when their lease ends.

        Returns those that are on their way out.
        """
        leaving = set(self.instances if instances is None else instances)
        for instance in leaving:
            if instance.state is State.READY:
                self._ready.remove(instance)
                instance.drain(why)
                self._on_drained(self, instance)
            elif instance.state is State.BUSY:
                instance.drain(why)
        return {one for one in leaving if one.state is State.DRAINING}

    def spare(self) -> bool:
        """Stop the longest idle instance if there are more than are kept; return whether one was."""
        if not self._ready or self.live <= self.least:
            return False
        self.withdraw("another version needs its place", self._ready[:1])
        return True

    def died_idle(self, instance: Instance) -> None:
        """The process of an instance that nobody leased has ended by itself."""
        if instance.state is State.READY:
            self._ready.remove(instance)
            instance.failed("its process ended while it was idle")
            self._crashed(instance)
            self.discard(instance)

    def discard(self, instance: Instance) -> None:
        """Forget an instance that is stopped or failed."""
        self.instances.discard(instance)
        if not self.instances:
            self.quiet_since_s = self._clock.monotonic()
        for remaining, gone in self._gone:
            remaining.discard(instance)
            if not remaining and not gone.done():
                gone.set_result(None)
        self._gone = [(remaining, gone) for remaining, gone in self._gone if not gone.done()]
        self._on_lost(self)

    def gone(self, instances: set[Instance]) -> asyncio.Future[None]:
        """Return a future that is done when all of ``instances`` are gone."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        remaining = instances & self.instances
        if remaining:
            self._gone.append((remaining, future))
        else:
            future.set_result(None)
        return future

    def _crashed(self, instance: Instance) -> None:
        if instance.worker is None or not instance.worker.killed_for:  # what the node killed did not crash
            self.crashes += 1
            self._back_off_after_crashes()

    def _back_off_after_crashes(self) -> None:
        pause_s = backoff_s(self.crashes - CRASHES_FORGIVEN)
        if pause_s:
            self.retry_at_s = max(self.retry_at_s, self._clock.monotonic() + pause_s)

    def retry_after_s(self, estimate_start_s: float) -> float:
        """Return when a refused request may be worth repeating: the held ones' share of work, or of one start."""
        serving = len(self._ready) + self.busy
        if serving and self.typical_s:
            return (len(self._held) + 1) * self.typical_s / serving
        return math.ceil(estimate_start_s * 10) / 10


def _least_of(one: int | None, other: int | None) -> int | None:
    given = [bound for bound in (one, other) if bound is not None]
    return min(given) if given else None
