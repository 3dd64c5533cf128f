"""What a revision has on this node from one start to the next: its zygote, and what is known about forking it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field

from glowplug.runtime.spec import FunctionSpec

from .ports import FunctionZygote, Loadable, Weights, Worker


class NotForkable(Exception):
    """The import or the engine left something in the zygote that a fork would break; the message says what."""


class Shadowed(NotForkable):
    """The code brings modules that base zygotes have loaded: it can be forked, but from none of them."""


@dataclass(slots=True, eq=False)
class Parked:
    """A revision's own zygote, bound and checked, with what is worth telling about it.

    ``start_id`` is the start that built it, ``built_at_s`` monotonic.
    """

    zygote: FunctionZygote
    start_id: str
    built_at_s: float
    init_ms: float
    engine: str = ""
    engine_reason: str = ""
    warmup: str = ""
    looked_at_s: float = 0.0  # when it was last asked for pages that have left memory; when it was built, that is
    epoch: int = 0  # the home's, as its engines were planned
    engines: Mapping[str, str] = field(default_factory=dict)  # by model, those better than eager

    @property
    def process(self) -> Loadable:
        """The zygote."""
        return self.zygote


@dataclass(slots=True, eq=False)
class Home:
    """What a revision has on this node from one start to the next.

    ``exec_reason`` says why it must not be forked, once that is known, ``shadowed`` why only from a zygote that was
    started for it alone, ``context_obstacle`` why it cannot have a worker
    that held a CUDA context before; ``building`` makes sure that it gets one zygote however many starts want it.
    ``epoch`` counts the engines that turned out wrong while they served: what was planned in an earlier one must not
    serve. ``weights`` are held from the start that asked for them until ``let_go``, which belongs to whoever sees that
    the revision runs nowhere any more.
    """

    spec: FunctionSpec
    exec_reason: str = ""
    shadowed: str = ""
    epoch: int = 0
    context_obstacle: str = ""
    parked: Parked | None = None
    weights: Weights | None = None
    building: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def forkable(self) -> bool:
        """Whether it may have a zygote of its own, as far as is known."""
        return self.spec.parking and not self.exec_reason

    def keep(self, weights: Weights) -> None:
        """Hold ``weights``, in place of what was held before."""
        before, self.weights = self.weights, weights
        if before is not None:
            before.close()

    def let_go(self) -> None:
        """Give the weights up: others may evict them. Nothing happens when none are held."""
        weights, self.weights = self.weights, None
        if weights is not None:
            weights.close()

    @property
    def unparkable_reason(self) -> str:
        """Why it cannot be parked; empty when it can."""
        return self.exec_reason or ("" if self.spec.parking else "Parking is off")


@dataclass(frozen=True, slots=True)
class Started:
    """A worker that is ready. ``init_ms`` is set when this start imported the handler, ``restore_ms`` when it forked
    one that was parked before."""

    worker: Worker
    parked: Parked | None
    init_ms: float | None
    restore_ms: float | None

    @property
    def process(self) -> Loadable:
        """The worker."""
        return self.worker
