"""Where a request goes: one pure decision over counts."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from .scaler import wanted


@dataclass(frozen=True, slots=True)
class Demand:
    """A pool in numbers, without the request that is to be placed.

    ``ready`` + ``busy`` + ``starting`` are its instances (``starting`` counts starts that wait for their turn too).
    """

    ready: int
    busy: int
    starting: int
    held: int
    max_held: int
    concurrency: int
    models: bool
    cores: int
    max_instances: int | None
    reserved: int | None
    admitted: int
    least: int = 0


class Placement(enum.Enum):
    """What happens to a request."""

    REUSE = "reuse"  # it gets a ready instance now
    START = "start"  # it is held, and an instance is started
    HOLD = "hold"  # it is held; what runs or starts already will serve it
    SHED = "shed"  # it is refused


def place(demand: Demand) -> Placement:
    """Decide on one request.

    1. The version may have no instance (ReservedConcurrentExecutions is 0, or other versions have all of it): shed.
    2. An instance is ready: reuse it. Nobody is held then: a released instance goes to the oldest held request.
    3. As many are held as may be: shed.
    4. With this request there are fewer instances, counting those under way, than wanted: start one.
    5. Otherwise hold: the first instance that gets free serves it, whichever start it caused.
    """
    if demand.reserved == 0:
        return Placement.SHED
    if demand.ready:
        return Placement.REUSE
    if demand.held >= demand.max_held:
        return Placement.SHED
    if shortfall(demand, arriving=1) > 0:
        return Placement.START
    return Placement.HOLD


def shortfall(demand: Demand, *, arriving: int = 0) -> int:
    """Return how many more starts the demand asks for; negative when starts under way are no longer wanted."""
    target = _target(demand, demand.busy, demand.held + arriving)
    return target - demand.ready - demand.busy - demand.starting


def most(demand: Demand) -> int:
    """Return how many instances there would be if requests never ended."""
    return _target(demand, _ENDLESS, 0)


_ENDLESS = 10**9


def _target(demand: Demand, running: int, held: int) -> int:
    return wanted(
        running=running,
        held=held,
        concurrency=demand.concurrency,
        models=demand.models,
        cores=demand.cores,
        max_instances=demand.max_instances,
        reserved=demand.reserved,
        admitted=demand.admitted,
        least=demand.least,
    )
