"""Whether a start fits into the device's memory: a pure decision, and the waiting that it asks for.

What is free is asked of the driver, before each start and never remembered; what starts under way were promised is
taken off, because they have not allocated it yet. A start that does not fit asks for room: idle contexts of the pool
go first, which cost nobody anything, then idle instances, the longest unused first, and only as many as are needed.
Nothing is stopped in vain: where all that is idle would not be enough, the start waits for what is busy.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import DeviceFull
from glowplug.snapshot.cuda.devices import Gpu

from .ports import Contexts
from .scaler import Action, PoolState

LOOK_S = 0.25
"""Pause between two looks of a start that waits."""

LEAVING_S = 5.0
"""How long memory counts as on its way after something was stopped for it: a process ends, then the driver frees."""


@dataclass(frozen=True, slots=True)
class Idle:
    """An idle instance on the device, with what it was admitted with."""

    action: Action
    unused_s: float
    mib: int


@dataclass(frozen=True, slots=True)
class Room:
    """``fits``, or what to stop for it: ``contexts`` of the pool and instances; neither means to wait."""

    fits: bool = False
    contexts: int = 0
    stop: tuple[Idle, ...] = ()


def decide(
    needed_mib: int, *, free_mib: int, promised_mib: int, leaving_mib: int, contexts: int, each_mib: int,
    idle: Sequence[Idle],
) -> Room:  # fmt: skip
    """Return what to do about a start that needs ``needed_mib`` of a device.

    ``promised_mib`` belongs to starts under way, ``leaving_mib`` to what has been stopped and is not free yet.
    """
    short_mib = needed_mib - (free_mib - promised_mib)
    if short_mib <= 0:
        return Room(fits=True)
    short_mib -= leaving_mib
    if short_mib <= 0:
        return Room()
    dropped = min(contexts, -(-short_mib // each_mib))
    short_mib -= dropped * each_mib
    stop: list[Idle] = []
    for one in sorted(idle, key=lambda one: -one.unused_s):
        if short_mib <= 0:
            break
        stop.append(one)
        short_mib -= one.mib
    return Room() if short_mib > 0 else Room(contexts=dropped, stop=tuple(stop))


class DeviceMemory:
    """The memory of one device. ``ask`` returns the device as it is now and raises ``DeviceError``; ``pools`` are the
    router's, ``perform`` does what is decided about them."""

    def __init__(
        self,
        ask: Callable[[], Awaitable[Gpu]],
        contexts: Contexts,
        clock: Clock,
        *,
        pools: Callable[[], Sequence[PoolState]],
        perform: Callable[[Action], None],
    ) -> None:
        self._ask = ask
        self._contexts = contexts
        self._clock = clock
        self._pools = pools
        self._perform = perform
        self._promised: dict[object, int] = {}
        self._leaving: list[tuple[float, int]] = []
        self._sizes: dict[str, int] = {}

    def __repr__(self) -> str:
        return f"<DeviceMemory promised={sum(self._promised.values())} MiB>"

    async def admit(self, revision: str, needed_mib: int, *, within_s: float) -> Callable[[], None]:
        """Wait until an instance of ``revision`` fits, and promise it the memory until the returned function is called.

        Raises ``DeviceFull`` with the numbers when it does not within ``within_s`` seconds, or never can;
        ``DeviceError`` when the device cannot be asked.
        """
        deadline_s = self._clock.monotonic() + within_s
        while True:
            gpu = await self._ask()
            if gpu.free_mib is None or gpu.total_mib is None:
                return lambda: None  # unified memory: the machine's own, which is watched elsewhere
            room = self._look(revision, needed_mib, gpu.free_mib)
            if room.fits:
                self._sizes[revision] = needed_mib
                promise = object()
                self._promised[promise] = needed_mib
                return lambda: self._release(promise)
            left_s = deadline_s - self._clock.monotonic()
            if needed_mib > gpu.total_mib or left_s <= 0:
                raise DeviceFull(_words(needed_mib, gpu, sum(self._promised.values()), within_s))
            self._make_room(room)
            await self._clock.sleep(min(LOOK_S, left_s))

    def _release(self, promise: object) -> None:
        self._promised.pop(promise, None)

    def _look(self, revision: str, needed_mib: int, free_mib: int) -> Room:
        now_s = self._clock.monotonic()
        self._leaving = [(until_s, mib) for until_s, mib in self._leaving if until_s > now_s]
        return decide(
            needed_mib,
            free_mib=free_mib,
            promised_mib=sum(self._promised.values()),
            leaving_mib=sum(mib for _, mib in self._leaving),
            contexts=self._contexts.idle,
            each_mib=self._contexts.each_mib,
            idle=list(self._idle(except_for=revision)),
        )

    def _idle(self, *, except_for: str) -> Iterator[Idle]:
        for pool in self._pools():
            mib = self._sizes.get(pool.revision)
            if mib is not None and pool.revision != except_for:
                for one in pool.idle:
                    action = Action("stop", pool.revision, "device memory", one.instance_id)
                    yield Idle(action, one.idle_s, mib)

    def _make_room(self, room: Room) -> None:
        until_s = self._clock.monotonic() + LEAVING_S
        if room.contexts:
            self._contexts.drop(room.contexts, "their device memory is needed")
            self._leaving.append((until_s, room.contexts * self._contexts.each_mib))
        for one in room.stop:
            self._perform(one.action)
            self._leaving.append((until_s, one.mib))


@contextmanager
def promised(release: Callable[[], None]) -> Iterator[None]:
    """Keep a promise of ``admit`` for the length of a block."""
    try:
        yield
    finally:
        release()


def _words(needed_mib: int, gpu: Gpu, promised_mib: int, within_s: float) -> str:
    if gpu.total_mib is not None and needed_mib > gpu.total_mib:
        return f"an instance needs {needed_mib} MiB of device memory; {gpu.name} has {gpu.total_mib} MiB in all"
    return (
        f"an instance needs {needed_mib} MiB of device memory; of the {gpu.total_mib} MiB of {gpu.name} {gpu.free_mib} "
        f"are free, {promised_mib} of them promised to starts under way, and that did not change in {within_s:.0f} s"
    )
