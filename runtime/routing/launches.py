"""Brings instances up and takes them down: the waiting that the router's decisions ask for, as owned tasks."""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import GlowplugError, InternalError

from .coldstart import Starter
from .home import NotForkable, Parked
from .instance import Instance, State
from .ledger import Ledger, Recording
from .pool import Pool
from .ports import EngineWatch, Logs, Memory
from .records import Cause
from .starts import StartQueue
from .tasks import OwnedTasks, first_of

REBUILD_RETRY_S = 60.0
"""Pause before a zygote that could not be rebuilt is tried again; the old one serves meanwhile."""

log = logging.getLogger(__name__)


class Launches:
    """Starts, stops, rebuilds. ``forget`` is called with a replaced pool that nothing is left of."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        starter: Starter,
        ledger: Ledger,
        logs: Logs,
        memory: Memory,
        clock: Clock,
        forget: Callable[[Pool], None],
        engines: EngineWatch,
    ) -> None:
        self._config = config
        self._starter = starter
        self._ledger = ledger
        self._logs = logs
        self._memory = memory
        self._clock = clock
        self._forget = forget
        self._engines = engines
        self._tasks = OwnedTasks()
        self._queue = StartQueue(config.cores, clock=clock, tasks=self._tasks)
        self._under_way: dict[Pool, set[asyncio.Task[Any]]] = {}
        self._watched: set[Parked] = set()

    def __repr__(self) -> str:
        return f"<Launches {self._queue} {self._tasks}>"

    # --- up ---------------------------------------------------------------------------------------------------------

    def want(self, pool: Pool) -> None:
        """Ask for as many starts as the pool wants and has not asked for."""
        pause_s = pool.retry_at_s - self._clock.monotonic()
        if pause_s > 0:
            if pool.retry_alarm is None and pool.current:
                pool.retry_alarm = self._clock.call_later(pause_s, lambda: self._retry(pool))
            return
        missing = pool.missing_starts()
        if missing > 0:
            pool.allotment.make_room(pool.version, pool.live + missing)
        for _ in range(missing):
            pool.queued += 1
            self._queue.put(lambda: self._turn_of(pool), name=f"start {pool.spec.name}")

    def discard_starts(self, pool: Pool) -> None:
        """End the unfinished starts of a pool."""
        for task in self._under_way.get(pool, ()):
            task.cancel()

    def _retry(self, pool: Pool) -> None:
        pool.retry_alarm = None
        self.want(pool)

    def _turn_of(self, pool: Pool) -> Coroutine[Any, Any, None] | None:
        """The turn of a start has come: begin it if it is still wanted."""
        pool.queued -= 1
        if pool.missing_starts() <= 0:
            return None
        request_id = pool.next_cause()
        return self._launch(pool, "warm" if request_id is None else "request", request_id)

    def _launch(self, pool: Pool, cause: Cause, request_id: str | None) -> Coroutine[Any, Any, None]:
        """Begin a start: the pool counts it from this very step, before its task runs for the first time."""
        spec = pool.spec
        instance = Instance(
            uuid.uuid4().hex,
            spec,
            clock=self._clock,
            log=self._logs.of(spec),
            memory=self._memory,
            limits=self._config.limits,
            engines=self._engines,
            cancel_grace_s=self._config.cancel_grace_s,
        )
        recording = self._ledger.begin(spec, request_id=request_id, cause=cause, tier=pool.tier)
        pool.instances.add(instance)
        pool.starting += 1
        return self._run(pool, instance, recording)

    async def _run(self, pool: Pool, instance: Instance, recording: Recording) -> None:
        spec, task = pool.spec, asyncio.current_task()
        under_way = self._under_way.setdefault(pool, set())
        assert task is not None  # noqa: S101 (StartQueue runs this in a task)
        under_way.add(task)
        failure: GlowplugError | None = None
        try:
            if not pool.current:
                raise asyncio.CancelledError  # replaced before its first step
            started = await self._starter.start(pool.home, instance.instance_id, recording)
        except asyncio.CancelledError:
            instance.stopped("its start was discarded")
            recording.finish("discarded")
            raise
        except Exception as error:
            failure = _failure(spec.name, error)
            instance.failed(str(failure))
            pool.last_start = recording.finish("failed", f"{type(error).__name__}: {error}")
        else:
            pool.last_start = record = recording.finish("ready")
            instance.parked = started.parked
            instance.ready(started.worker, record, init_ms=started.init_ms, restore_ms=started.restore_ms)
            self._memory.admit(started.worker, spec.memory_mb * 1024 * 1024)
            started.worker.exited.add_done_callback(lambda _: pool.died_idle(instance))
        finally:
            pool.starting -= 1
            under_way.discard(task)
            if not under_way:
                del self._under_way[pool]
            self._watch(pool)
            self._conclude(pool, instance, failure)
            self.settle(pool)

    def _conclude(self, pool: Pool, instance: Instance, failure: GlowplugError | None) -> None:
        """Put a start's result where it belongs, in one step with the end of the start."""
        stale = instance.parked is not None and instance.parked.epoch != pool.home.epoch
        if instance.state is State.READY and pool.current and not stale:
            pool.started(instance)
        elif instance.state is State.READY:  # overtaken while it started
            instance.drain("its engine was given up" if stale else "a new revision took over")
            self.stop(pool, instance)
        else:
            if failure is not None:
                pool.start_failed(failure)
            pool.discard(instance)
        self.want(pool)

    # --- down -------------------------------------------------------------------------------------------------------

    def stop(self, pool: Pool, instance: Instance) -> None:
        """End a draining instance that nobody has a lease on."""
        self._tasks.spawn(self._stop(pool, instance), f"stop {pool.spec.name} {instance.instance_id[:8]}")

    async def _stop(self, pool: Pool, instance: Instance) -> None:
        worker = instance.worker
        if worker is not None:
            left_s = instance.leave_by_s - self._clock.monotonic()  # of a handler whose caller went away
            await worker.stop(max(self._config.stop_grace_s, left_s))
            output = worker.take_log()
            if output:
                self._logs.of(pool.spec).output(output)
        instance.stopped()
        pool.discard(instance)

    def settle(self, pool: Pool) -> None:
        """Retire what no instance needs any more: replaced zygotes, all of a replaced pool, and the hold on the weights
        of one that runs nowhere.

        Called whenever something of a pool has ended, and looks at what is left rather than at what has happened: no
        order of events can leave a hold behind.
        """
        in_use = {instance.parked for instance in pool.instances}
        for parked in [] if pool.starting else [parked for parked in pool.outgoing if parked not in in_use]:
            pool.outgoing.remove(parked)
            self._retire(parked, pool)
        if not pool.current and not pool.instances and not pool.starting:
            self.store(pool)
            self._forget(pool)
        if pool.cold:
            pool.home.let_go()

    def store(self, pool: Pool) -> asyncio.Task[Any] | None:
        """Retire the zygote: parked → stored. Returns the task that waits for its end.

        Nothing happens, and None is returned, without a zygote, or when a request has lifted the function again: a
        zygote that retires takes its workers with it.
        """
        if pool.instances:
            return None
        parked, pool.home.parked = pool.home.parked, None
        if not (pool.starting or pool.outgoing):
            pool.home.let_go()
        return None if parked is None else self._retire(parked, pool)

    def _retire(self, parked: Parked, pool: Pool) -> asyncio.Task[Any]:
        return self._tasks.spawn(parked.zygote.retire(), f"retire {pool.spec.name} {parked.zygote.zygote_id}")

    # --- zygotes ----------------------------------------------------------------------------------------------------

    def _watch(self, pool: Pool) -> None:
        """Hear of the death of the pool's zygote."""
        parked = pool.home.parked
        if parked is None or parked in self._watched:
            return
        self._watched.add(parked)

        def gone(_: object) -> None:
            self._watched.discard(parked)
            if pool.home.parked is parked:
                log.warning("%s: its zygote (pid %d) ended by itself", pool.spec.name, parked.zygote.pid)
                pool.zygote_died(parked)
                self.settle(pool)

        parked.zygote.exited.add_done_callback(gone)

    async def park(self, pool: Pool) -> None:
        """Build the zygote of a pool that has none. Raises as ``Starter.park``; ``NotForkable`` is remembered."""
        if pool.home.parked is not None:
            return
        recording = self._ledger.begin(pool.spec, request_id=None, cause="cool", tier=pool.tier)
        try:
            await self._starter.park(pool.home, recording)
        except NotForkable as obstacle:
            pool.home.exec_reason = str(obstacle)
            recording.finish("failed", str(obstacle))
            raise
        except asyncio.CancelledError:
            recording.finish("discarded")
            raise
        except Exception as error:
            recording.finish("failed", f"{type(error).__name__}: {error}")
            raise
        finally:
            self.settle(pool)  # the function may have been replaced meanwhile
        self._report_init(pool)
        pool.last_start = recording.finish("ready")
        pool.quiet_since_s = self._clock.monotonic()
        self._watch(pool)

    def check(self, pool: Pool, instance: Instance) -> None:
        """Give an instance back when its last answer has been checked: until then it takes no request, which would only
        wait in its socket, with its time running."""
        self._tasks.spawn(self._check(pool, instance), f"check {pool.spec.name} {instance.instance_id[:8]}")

    async def _check(self, pool: Pool, instance: Instance) -> None:
        try:
            await instance.checked()
        finally:
            pool.give_back(instance)

    def abandon(self, pool: Pool, why: str) -> None:
        """Let nothing of the pool serve any more that has the engines it has now: they are wrong.

        Its instances go, busy ones after what they have; its zygote goes; an instance with other engines is started.
        """
        home = pool.home
        home.epoch += 1
        if home.parked is not None:
            pool.outgoing.append(home.parked)
            home.parked = None
        pool.withdraw(why)
        if pool.current:
            self._tasks.spawn(self._replace(pool), f"replace {pool.spec.name}")
        self.want(pool)
        self.settle(pool)

    async def _replace(self, pool: Pool) -> None:
        await self._queue.put(lambda: self._replacement(pool, "distrust"), name=f"replace {pool.spec.name}")

    def renew(self, pool: Pool, cause: Cause) -> None:
        """Build the pool's zygote again in the background and switch to it once it is checked.

        ``bake`` and ``distrust``: for a better engine; instances on the old one drain, after one on the new one is
        ready if there were any. ``age``: for a fresh one; instances go on.
        """
        if pool.current and not (cause == "age" and pool.home.building.locked()):
            renewal = self._tasks.spawn(self._renew(pool, cause), f"renew {pool.spec.name} ({cause})")
            pool.renewals.add(renewal)
            renewal.add_done_callback(pool.renewals.discard)

    async def renewed(self, pool: Pool) -> None:
        """Wait until nothing of the pool is on its way to another zygote: a renewal that begins before a function sinks
        would lift it again."""
        while pool.renewals:
            await asyncio.wait(pool.renewals)

    def keep(self, pool: Pool, reason: str) -> None:
        """Let starts from the pool's zygote say ``reason`` from now on: why its engine is not a better one."""
        self._tasks.spawn(self._keep(pool, reason), f"keep the engine of {pool.spec.name}")

    async def _keep(self, pool: Pool, reason: str) -> None:
        async with pool.home.building:  # a zygote that is being built may have been planned before
            if pool.home.parked is not None:
                pool.home.parked.engine_reason = reason

    async def _renew(self, pool: Pool, cause: Cause) -> None:
        async with pool.home.building:
            pass  # what is being built now may have been planned before the bake was done
        before = set(pool.instances)
        if pool.home.parked is not None and not await self._rebuild(pool, cause):
            self.settle(pool)  # the function may have been replaced, or its old zygote have died, meanwhile
            return
        if cause != "age" and pool.instances:
            await self._queue.put(
                lambda: self._replacement(pool, cause) if pool.instances else None, name=f"replace {pool.spec.name}"
            )
            parked = pool.home.parked
            stale = before if parked is None else {one for one in pool.instances if one.parked is not parked}
            why = "a better engine is ready" if cause == "bake" else "its engine was given up"
            pool.withdraw(why, stale & pool.instances)
        self.settle(pool)

    async def _rebuild(self, pool: Pool, cause: Cause) -> bool:
        """Build and switch; False when that failed, or when the function has sunk meanwhile. The replaced zygote goes
        when its last instance has gone."""
        recording = self._ledger.begin(pool.spec, request_id=None, cause=cause, tier=pool.tier)
        try:
            replaced = await self._starter.rebuild(pool.home, recording)
        except asyncio.CancelledError:
            recording.finish("discarded")
            raise
        except Exception as error:
            pool.rebuild_at_s = self._clock.monotonic() + REBUILD_RETRY_S
            recording.finish("failed", f"{type(error).__name__}: {error}")
            log.warning("%s: its zygote could not be built again (%s): %s", pool.spec.name, cause, error)
            return False
        if replaced is None:
            recording.finish("discarded")
            return False
        pool.outgoing.append(replaced)
        self._watch(pool)
        self._report_init(pool)
        recording.finish("ready")
        return True

    def _report_init(self, pool: Pool) -> None:
        """Write the end of an import that no request will have in its REPORT."""
        if pool.home.parked is not None:
            self._logs.of(pool.spec).init_report(pool.home.parked.init_ms)

    def _replacement(self, pool: Pool, cause: Cause) -> Coroutine[Any, Any, None] | None:
        return self._launch(pool, cause, None) if pool.current else None

    async def close(self) -> None:
        """Let retiring zygotes and stopping workers end, as long as a stop takes at most, then end what is left."""
        await first_of(self._tasks.ended(), self._clock.sleep(2 * self._config.stop_grace_s))
        await self._tasks.close()


def _failure(function: str, error: Exception) -> GlowplugError:
    if isinstance(error, GlowplugError):
        return error
    log.error("%s: the start failed with a fault of the runtime: %r", function, error, exc_info=error)
    return InternalError(f"{function} could not be started: {type(error).__name__}: {error}")
