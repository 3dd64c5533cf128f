"""How many instances the versions of a function may have between them, and how many each keeps.

Lambda's order (spec 1.4): a request takes one of the instances that are provisioned for its version, then one of what
the function has reserved beyond all that is provisioned, then any. ``allowed`` is that rule as a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Quota:
    """What a function is allowed. ``reserved`` of None: no limit. ``provisioned`` and ``bounds`` (least and most
    instances, None: no bound) are by version."""

    reserved: int | None = None
    provisioned: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, tuple[int | None, int | None]] = field(default_factory=dict)

    def least(self, version: str) -> int:
        """Return how many instances of a version are kept although nobody asks for them."""
        return max(self.provisioned.get(version, 0), self.bounds.get(version, (None, None))[0] or 0)

    def most(self, version: str) -> int | None:
        """Return how many instances of a version there may be; None: as many as the node allows."""
        return self.bounds.get(version, (None, None))[1]


def allowed(quota: Quota, version: str, in_use: Mapping[str, int]) -> int | None:
    """Return how many instances ``version`` may have; None: as many as it wants.

    ``in_use`` counts the instances of each version that work or are being started.
    """
    if quota.reserved is None:
        return None
    own = quota.provisioned.get(version, 0)
    shared = quota.reserved - sum(quota.provisioned.values())
    taken = sum(max(0, count - quota.provisioned.get(other, 0)) for other, count in in_use.items() if other != version)
    return own + max(0, shared - taken)


class Sibling(Protocol):
    """A pool of the same function, as the others see it."""

    @property
    def version(self) -> str:
        """Its version."""

    @property
    def in_use(self) -> int:
        """How many of its instances work or are being started."""

    @property
    def live(self) -> int:
        """How many instances it has, idle ones included."""

    def spare(self) -> bool:
        """Stop its longest idle instance if it has more than it keeps; return whether it did."""


class Allotment:
    """The quota of one function, and the pools that share it."""

    def __init__(self, quota: Quota | None = None) -> None:
        self.quota = quota or Quota()
        self.pools: set[Sibling] = set()

    def __repr__(self) -> str:
        return f"<Allotment {self.quota} pools={len(self.pools)}>"

    def allowed(self, version: str) -> int | None:
        """Return how many instances a version may have now."""
        if self.quota.reserved is None:
            return None
        in_use: dict[str, int] = {}
        for pool in self.pools:
            in_use[pool.version] = in_use.get(pool.version, 0) + pool.in_use
        return allowed(self.quota, version, in_use)

    def make_room(self, version: str, live: int) -> None:
        """Stop idle instances of other versions that hold what ``version``, with ``live`` instances, may have."""
        if self.quota.reserved is None:
            return
        others = [pool for pool in self.pools if pool.version != version]
        over = live + sum(pool.live for pool in others) - self.quota.reserved
        for pool in others:
            while over > 0 and pool.spare():
                over -= 1
