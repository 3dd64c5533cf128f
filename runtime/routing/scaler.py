"""How many instances a function should have, and what should sink: pure functions of plain values.

``wanted`` is the formula of design section 9. ``sink`` looks at every function at once and returns actions; whoever
called it does them. Nothing here waits, reads a clock or knows a process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

DEFAULT_MAX_INSTANCES = 100
"""MaxInstances of a function without a model that does not set it. With a model it is the number of cores."""


def wanted(
    *,
    running: int,
    held: int,
    concurrency: int,
    models: bool,
    cores: int,
    max_instances: int | None,
    reserved: int | None,
    admitted: int,
    least: int = 0,
) -> int:
    """Return how many instances a function should have for ``running`` and ``held`` requests.

    ``admitted`` is how many of its instances fit into memory. One instance is always wanted for a request unless
    ``reserved`` is 0: a request is not refused because memory looks short. ``least`` are kept without any request.
    """
    if reserved == 0:
        return 0
    needed = max(-(-(running + held) // concurrency), least)
    most = max(least, max_instances or (cores if models else DEFAULT_MAX_INSTANCES))
    if reserved is not None:
        most = min(most, reserved)
    return min(needed, most, max(admitted, 1))


@dataclass(frozen=True, slots=True)
class IdleInstance:
    """A ready instance without a lease. ``idle_s`` counts from its last request, or from its start."""

    instance_id: str
    idle_s: float


@dataclass(frozen=True, slots=True)
class PoolState:
    """One revision as ``sink`` sees it. Times in seconds.

    ``live`` counts instances of any state and starts under way; ``parked_age_s`` is None without a zygote of its own;
    ``parked_s`` is how long it has had no instance, ``used_s`` how long ago it last had a request. ``settling`` is true
    while something is under way that will change its tier (a start, a rebuild); its zygote is left alone then.
    ``least`` instances never sink.
    """

    revision: str
    idle: tuple[IdleInstance, ...]
    live: int
    parked_age_s: float | None
    parked_s: float
    used_s: float
    idle_timeout_s: float
    park_timeout_s: float
    max_parked_age_s: float
    settling: bool
    least: int = 0


ActionKind = Literal["stop", "store", "rebuild"]


@dataclass(frozen=True, slots=True)
class Action:
    """What should happen to a revision: ``stop`` an idle instance, ``store`` (retire its zygote), or ``rebuild`` that.

    ``why`` goes to the log: ``idle``, ``parked``, ``age`` or ``memory``.
    """

    kind: ActionKind
    revision: str
    why: str
    instance_id: str = ""


def sink(pools: Sequence[PoolState], *, pressure: bool) -> list[Action]:
    """Return what should sink now. No action names an instance that holds a lease: those are not in ``idle``.

    1. An instance idle for IdleTimeoutSeconds stops; the last one leaves the function parked (or stored).
    2. A zygote that has had no instance for ParkTimeoutSeconds is retired.
    3. A zygote older than MaxParkedAgeSeconds is rebuilt; the old one serves until the new one is checked.
    4. Under memory pressure the coldest function sinks one tier, whatever its timers say; one step per call, because
       the next call sees what it freed.
    """
    actions: list[Action] = []
    for pool in pools:
        idle = [instance for instance in pool.idle if instance.idle_s >= pool.idle_timeout_s]
        actions += [
            Action("stop", pool.revision, "idle", instance.instance_id)
            for instance in idle[: max(0, pool.live - pool.least)]
        ]
        if pool.parked_age_s is None or pool.settling:
            continue
        if pool.live == 0 and pool.parked_s >= pool.park_timeout_s:
            actions.append(Action("store", pool.revision, "parked"))
        elif pool.parked_age_s >= pool.max_parked_age_s:
            actions.append(Action("rebuild", pool.revision, "age"))
    if pressure and not actions:
        actions += _relieve(pools)
    return actions


def _relieve(pools: Sequence[PoolState]) -> list[Action]:
    """The one step that costs the least: the longest unused function first, its idle instances before its zygote."""
    for pool in sorted(pools, key=lambda pool: -pool.used_s):
        if pool.idle and pool.live > pool.least:
            longest = max(pool.idle, key=lambda instance: instance.idle_s)
            return [Action("stop", pool.revision, "memory", longest.instance_id)]
        if pool.parked_age_s is not None and pool.live == 0 and not pool.settling:
            return [Action("store", pool.revision, "memory")]
    return []
