"""The router: what runs where.

A request goes ``invoke`` → ``lease`` → ``Instance.invoke``; a ready instance costs it no task, no lock and no wait.
What else the router does is keep the pools (one per revision) as large as their requests want: ``place`` decides,
``StartQueue`` gives starts their turn, ``coldstart`` makes them. Warming and cooling are in ``tiers``.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import (
    FunctionFault,
    FunctionNotFound,
    InternalError,
    Throttled,
)
from glowplug.runtime.invocation import Invocation, Outcome, Tier
from glowplug.runtime.process.death import WorkerDied
from glowplug.runtime.spec import FunctionSpec

from . import placement
from .allotment import Allotment, Quota
from .coldstart import Starter
from .instance import Instance, State
from .launches import Launches
from .lease import Lease
from .ledger import Ledger
from .occupancy import Occupancy
from .placement import Placement
from .pool import Pool
from .ports import Cache, EngineWatch, Logs, Memory
from .records import RequestRecord
from .scaler import Action, PoolState
from .status import FunctionStatus
from .tasks import first_of
from .tiers import Tiers
from .waiter import Waiter

UNSENT_ATTEMPTS = 3
"""How often a request is given to another instance because it certainly never reached the one that died."""


class Router:
    """Owns every instance, zygote and start of the node. ``available_bytes`` tells how much memory is free."""

    def __init__(
        self,
        *,
        config: NodeConfig,
        starter: Starter,
        cache: Cache,
        ledger: Ledger,
        logs: Logs,
        memory: Memory,
        clock: Clock,
        available_bytes: Callable[[], int],
        engines: EngineWatch,
    ) -> None:
        self._config = config
        self._cache = cache
        self._ledger = ledger
        self._clock = clock
        self._pools: dict[str, Pool] = {}
        self._current: dict[tuple[str, str], Pool] = {}
        self._allotments: dict[str, Allotment] = {}
        self._occupancy = Occupancy(config.cores, available_bytes)
        self._launches = Launches(
            config=config,
            starter=starter,
            ledger=ledger,
            logs=logs,
            memory=memory,
            clock=clock,
            forget=self._forget,
            engines=engines,
        )
        self._tiers = Tiers(self._pools.values, launches=self._launches, cache=cache, clock=clock)

    def __repr__(self) -> str:
        return f"<Router {list(self._pools.values())} {self._launches}>"

    # --- the request path -------------------------------------------------------------------------------------------

    async def invoke(self, invocation: Invocation) -> Outcome:
        """Run an invocation and return its outcome; a function that fails has one too (``function_error``).

        Raises ``FunctionNotFound``, ``Throttled`` or ``HoldTimeout``: then nothing was run.
        """
        for _ in range(UNSENT_ATTEMPTS):
            lease, why = self.lease(invocation), ""
            try:
                async with lease as instance:
                    outcome = await instance.invoke(
                        invocation, threads=self._occupancy.threads, tier=lease.tier, waited=lease.waited
                    )
                    why = instance.why if instance.state is State.FAILED else ""
            except WorkerDied:
                continue  # an instance that died unnoticed; the request never reached it
            except FunctionFault as fault:
                outcome = self._refused(invocation, lease, fault)
            self._note(invocation, lease, outcome, why)
            return outcome
        raise InternalError(f"{invocation.function}: {UNSENT_ATTEMPTS} instances died before the request reached them")

    def cancel(self, request_id: str) -> bool:
        """End the instance that runs a request, as its Timeout would; return whether one does.

        False for a request that is held, or that has its instance and has not begun: then the task that waits for it
        can simply be cancelled. A request that has its answer runs nowhere, and who has its instance now is safe.
        """
        for instance in self.instances():
            if instance.running == request_id:
                instance.cancel()
                return True
        return False

    def lease(self, invocation: Invocation) -> Lease:
        """Return the lease of an instance for ``invocation``, for ``async with``. Raises ``FunctionNotFound``."""
        pool = self._current.get((invocation.function, invocation.version))
        if pool is None:
            arn = invocation.function_arn.removesuffix(f":{invocation.version}")
            raise FunctionNotFound(f"Function not found: {arn}:{invocation.version}")
        return Lease(pool, invocation, self, self._clock)

    def room(self, name: str, version: str) -> int:
        """Return how many more requests of a version instances could take, if all were started that may be; 0 for a
        version that is not deployed. Changes nothing."""
        pool = self._current.get((name, version))
        if pool is None:
            return 0
        most = placement.most(pool.demand()) * pool.spec.concurrency
        return max(0, most - pool.busy - pool.held)

    def hold(self, pool: Pool, invocation: Invocation) -> Waiter:
        """Hold a request that found no ready instance. Raises ``Throttled`` when no more may be held."""
        spec = pool.spec
        if placement.place(pool.demand()) is Placement.SHED:
            reserved = "" if pool.allotment.quota.reserved is None else "ReservedFunction"
            reason = f"{reserved}ConcurrentInvocationLimitExceeded"
            retry_after_s = pool.retry_after_s(self._ledger.estimate_start_s(spec.name))
            raise Throttled("Rate Exceeded.", reason=reason, retry_after_s=retry_after_s)
        hold_s = spec.hold_timeout_s if invocation.hold_s is None else invocation.hold_s
        waiter = pool.hold(invocation.request_id, hold_s)
        self._launches.want(pool)
        return waiter

    def check(self, pool: Pool, instance: Instance) -> None:
        """Give an instance back once the check that its last answer announced is over."""
        self._launches.check(pool, instance)

    def _refused(self, invocation: Invocation, lease: Lease, fault: FunctionFault) -> Outcome:
        """Return the outcome of a request whose function could not be started."""
        return Outcome(
            request_id=invocation.request_id,
            payload=fault.body(),
            executed_version=lease.pool.spec.version,
            tier=lease.tier,
            function_error="Unhandled",
            phases=lease.waited,
        )

    def _note(self, invocation: Invocation, lease: Lease, outcome: Outcome, why: str) -> None:
        pool = lease.pool
        pool.typical_s += 0.1 * (outcome.duration_ms / 1e3 - pool.typical_s)
        self._ledger.add_request(
            RequestRecord(
                invocation.request_id,
                invocation.function,
                lease.tier,
                lease.held_ms,
                outcome.duration_ms,
                lease.start_id,
                outcome.function_error is not None,
                why,
            )
        )

    # --- what is deployed -------------------------------------------------------------------------------------------

    def place(self, spec: FunctionSpec) -> None:
        """Make ``spec`` the current revision of its function and version; the one before drains.

        New requests go to it at once, and so do those that the old revision holds. The old one's unfinished starts are
        discarded, its instances finish what they have, its zygote goes after them.
        """
        key = (spec.name, spec.version)
        old = self._current.get(key)
        if old is not None and old.revision == spec.revision:
            return
        pool = Pool(
            spec,
            clock=self._clock,
            occupancy=self._occupancy,
            on_drained=self._launches.stop,
            on_lost=self._lost,
            present=self._cache.present,
            allotment=self._allotments.setdefault(spec.name, Allotment()),
        )
        pool.allotment.pools.add(pool)
        self._current[key] = self._pools[pool.revision] = pool
        if old is not None:
            old.hand_over(pool)
            self._supersede(old, "a new revision took over")
        self._launches.want(pool)

    replace = place

    def remove(self, name: str, version: str | None = None) -> None:
        """Take a function, or one version of it, out of service; who is held gets ``FunctionNotFound``."""
        for key in [key for key in self._current if key[0] == name and version in (None, key[1])]:
            pool = self._current.pop(key)
            pool.fail_held(FunctionNotFound(f"Function not found: {name} was deleted"))
            self._supersede(pool, "the function was deleted")

    def allot(self, name: str, quota: Quota) -> None:
        """Say how many instances the versions of a function may have and keep, from now on."""
        allotment = self._allotments.setdefault(name, Allotment())
        allotment.quota = quota
        for pool in [pool for pool in self._pools.values() if pool.spec.name == name and pool.current]:
            if (most := allotment.allowed(pool.version)) is not None and pool.live > most:
                pool.withdraw("its reserved concurrency was lowered", pool.ready[: pool.live - most])
            self._launches.want(pool)

    def rebind(self, revision: str) -> None:
        """A bake of this revision is done: build its zygote with the new engine in the background, then switch."""
        pool = self._pools.get(revision)
        if pool is not None:
            self._launches.renew(pool, "bake")

    def keep(self, revision: str, reason: str) -> None:
        """A bake of this revision ended without a better engine: later starts say ``reason``, not how far it was."""
        pool = self._pools.get(revision)
        if pool is not None:
            self._launches.keep(pool, reason)

    def given_up(self, revision: str, why: str, *, at_once: bool) -> None:
        """An engine of this revision was given up while it served: move to the next. ``at_once``: its answers are
        wrong, so nothing that has it serves any more; else what has it serves until the next is ready."""
        pool = self._pools.get(revision)
        if pool is None:
            return
        if at_once:
            self._launches.abandon(pool, why)
        else:
            self._launches.renew(pool, "distrust")

    def _supersede(self, pool: Pool, why: str) -> None:
        pool.current = False
        self._launches.discard_starts(pool)
        pool.withdraw(why)
        self._launches.settle(pool)

    def _lost(self, pool: Pool) -> None:
        self._launches.settle(pool)
        self._launches.want(pool)

    def _forget(self, pool: Pool) -> None:
        pool.allotment.pools.discard(pool)
        if self._pools.get(pool.revision) is pool:
            del self._pools[pool.revision]
        if not pool.allotment.pools and (pool.spec.name, pool.version) not in self._current:
            self._allotments.pop(pool.spec.name, None)

    # --- tiers ------------------------------------------------------------------------------------------------------

    async def prepare(self, name: str, version: str) -> None:
        """Make and check what instances of a version are forked from: see ``Tiers.prepare``."""
        pool = self._current.get((name, version))
        if pool is None:
            raise FunctionNotFound(f"Function not found: {name}:{version}")
        await self._tiers.prepare(pool)

    async def warm(self, name: str) -> Tier:
        """Lift a function to hot and return its tier then. Raises what its start raises, or ``Conflict``."""
        return await self._tiers.warm(self._latest(name))

    async def cool(self, name: str, to: Tier) -> Tier:
        """Let a function sink to ``parked``, ``stored`` or ``remote`` and return its tier then: see ``Tiers.cool``."""
        return await self._tiers.cool(self._latest(name), to)

    async def relieve(self, wanted: str) -> str:
        """Sink one stored function to remote, for a full disk; return its name, or nothing: see ``Tiers.relieve``."""
        return await self._tiers.relieve(wanted)

    def states(self) -> list[PoolState]:
        """Return every current revision as ``scaler.sink`` sees it."""
        return [pool.state() for pool in self._current.values()]

    def perform(self, action: Action) -> None:
        """Do what ``scaler.sink`` decided, as far as it is still possible: a lease taken since then wins."""
        pool = self._pools.get(action.revision)
        if pool is None or not pool.current:
            return
        if action.kind == "stop":
            pool.withdraw(action.why, [one for one in pool.ready if one.instance_id == action.instance_id])
        elif action.kind == "rebuild":
            self._launches.renew(pool, "age")
        else:
            self._launches.store(pool)

    def _latest(self, name: str) -> Pool:
        pool = self._current.get((name, "$LATEST"))
        if pool is None:
            raise FunctionNotFound(f"Function not found: {name}")
        return pool

    # --- what there is ----------------------------------------------------------------------------------------------

    def describe(self) -> list[FunctionStatus]:
        """Return every function at its current revision, by name."""
        draining: Counter[tuple[str, str]] = Counter()
        for pool in self._pools.values():
            key = (pool.spec.name, pool.spec.version)
            draining[key] += sum(one.state is State.DRAINING for one in pool.instances)
        return [
            FunctionStatus(
                name=name,
                version=version,
                revision=pool.revision,
                tier=pool.tier,
                instances=pool.live,
                busy=pool.busy,
                starting=pool.starting + pool.queued,
                draining=draining[name, version],
                held=pool.held,
                unparkable_reason=pool.home.unparkable_reason,
                last_start=pool.last_start,
                last_error=pool.last_error,
            )
            for (name, version), pool in sorted(self._current.items())
        ]

    def instances(self) -> Iterator[Instance]:
        """Iterate over all live instances (the memory sampler looks at the busy ones)."""
        for pool in self._pools.values():
            yield from pool.instances

    async def close(self) -> None:
        """End everything: held requests at once, running ones after ``drain_s`` seconds at most, zygotes last."""
        pools = list(self._pools.values())
        self._current.clear()
        for pool in pools:
            pool.fail_held(InternalError("the node is stopping"))
            self._supersede(pool, "the node is stopping")
        leaving = asyncio.gather(*(pool.gone(set(pool.instances)) for pool in pools))
        await first_of(leaving, self._clock.sleep(self._config.drain_s))
        for instance in self.instances():
            if instance.worker is not None:
                instance.worker.kill("the node is stopping")
        await self._launches.close()
