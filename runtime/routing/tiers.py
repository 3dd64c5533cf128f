"""Moving functions between tiers on request, and for want of disk; ``scaler.sink`` moves them on timers."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import Conflict, InvalidParameter
from glowplug.runtime.invocation import Tier

from .home import NotForkable
from .launches import Launches
from .pool import Pool
from .ports import Cache
from .remote import Holding, sharers, sinkable, unshared

log = logging.getLogger(__name__)


class Tiers:
    """Warms and cools. ``pools`` returns every pool there is, draining ones included."""

    def __init__(self, pools: Callable[[], Iterable[Pool]], *, launches: Launches, cache: Cache, clock: Clock) -> None:
        self._pools = pools
        self._launches = launches
        self._cache = cache
        self._clock = clock

    async def warm(self, pool: Pool) -> Tier:
        """Lift a function to hot and return its tier then. Raises what its start raises, or ``Conflict``."""
        if pool.allotment.allowed(pool.version) == 0:
            raise Conflict(f"{pool.spec.name} may not run: its ReservedConcurrentExecutions leaves it no instance")
        if pool.tier != "hot":
            waiter = pool.hold(None, pool.spec.init_timeout_s)
            self._launches.want(pool)
            instance = await waiter.wait()
            waiter.pool.give_back(instance)
        return pool.tier

    async def prepare(self, pool: Pool) -> None:
        """Build the zygote of a version that has none and check it; where it cannot be forked, start an instance.

        Raises what that raises.
        """
        if not pool.home.unparkable_reason:
            try:
                await self._launches.park(pool)
            except NotForkable:
                log.info("%s version %s has no parked tier: an instance proves it", pool.spec.name, pool.version)
            else:
                return
        await self.warm(pool)

    async def cool(self, pool: Pool, to: Tier) -> Tier:
        """Let a function sink to ``to``, wait until it has, and return its tier then.

        What its instances have begun is finished first. A request that comes meanwhile lifts it again. At ``remote``
        its weights are gone from this machine, except for files that other functions need; its snapshots stay: an
        engine without weights is small and takes a minute to make. Raises ``InvalidParameter`` where there is nothing
        to drop, ``Conflict`` with the reason when it cannot be at that tier.
        """
        name = pool.spec.name
        if to == "hot":
            raise InvalidParameter("hot is not cooler than any tier; use warm")
        if to == "remote" and not pool.spec.models:
            raise InvalidParameter(f"{name} has no model: there is nothing to drop, stored is as cold as it gets")
        if to == "parked" and pool.home.unparkable_reason:
            raise Conflict(f"{name} cannot be parked: {pool.home.unparkable_reason}")
        await self._launches.renewed(pool)
        await pool.gone(pool.withdraw("cooled"))
        if to == "parked":
            try:
                await self._launches.park(pool)
            except NotForkable as obstacle:
                raise Conflict(f"{name} cannot be parked: {obstacle}") from None
            return pool.tier
        async with pool.home.building:  # a zygote that is being built would come back to life after this
            retiring = self._launches.store(pool)
        if retiring is not None:
            await asyncio.shield(retiring)
        if to == "remote" and pool.cold:
            await self._drop(pool)
        return pool.tier

    async def relieve(self, wanted: str = "") -> str:
        """Sink one stored function to remote, the longest unused; return its name, or nothing when none can.

        For a disk that is full. ``wanted`` is the revision that needs the room.
        """
        holdings = self._holdings()
        for holding in sinkable(holdings, wanted=wanted):
            blobs = unshared(holding, holdings, wanted=wanted)
            kept = await self._cache.discard(blobs)
            if len(kept) < len(blobs):
                log.warning("%s sinks to remote: the disk is full", holding.function)
                return holding.function
        return ""

    async def _drop(self, pool: Pool) -> None:
        """Raises ``Conflict`` when all of its files have to stay; it is stored then."""
        holdings = self._holdings()
        [holding] = (one for one in holdings if one.revision == pool.revision)
        blobs = unshared(holding, holdings)
        kept = await self._cache.discard(blobs)
        if pool.tier == "stored" and pool.cold:
            names = ", ".join(sharers(holding, holdings))
            reasons = [f"{names} need the same files"] if names else []
            reasons += sorted(set(kept.values()))
            raise Conflict(f"{pool.spec.name} is stored, and its weights stay: {'; '.join(reasons)}")

    def _holdings(self) -> list[Holding]:
        now_s = self._clock.monotonic()
        return [
            Holding(
                revision=pool.revision,
                function=pool.spec.name,
                tier=pool.tier,
                cold=pool.cold,
                used_s=now_s - pool.used_at_s,
                blobs=frozenset(file.sha256 for model in pool.spec.models for file in model.files),
            )
            for pool in self._pools()
            if pool.spec.models
        ]
