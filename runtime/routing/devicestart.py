"""Starts on a GPU: the ways of ``coldstart``, and one more.

5. *context*: a worker that already holds a CUDA context is taken from the pool; it becomes the function's, imports the
   handler, binds the models and copies their weights to the device.

The other ways end in a new context too, made where the engines are opened, after the last fork: ways 1 to 3 have the
imports, and lack the context; way 5 has the context, and lacks the handler's import. Which costs less depends on the
function, so both are measured: ``choose`` goes by the medians of the ledger.

This class is used only on a node that has a GPU.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glowplug.runtime.devices import CPU, context_obstacle, needed_mib
from glowplug.runtime.process import wire
from glowplug.snapshot.errors import DeviceError

from .attempts import Suppliers, owned
from .coldstart import Starter
from .devicememory import DeviceMemory, promised
from .home import Home, NotForkable, Started
from .ledger import Recording
from .policy import to_runtime
from .ports import Accelerator, Worker
from .records import Way

EXPLORE_EVERY = 20
"""Every so many starts the way that is not the cheaper one is measured again: a machine and a function change."""

HOLD_SHARE = 0.9
"""Of HoldTimeoutSeconds a start may wait for device memory: who waits should be told the numbers, and not only 504."""


@dataclass(frozen=True, slots=True)
class Choice:
    """Whether to take a context from the pool, and why."""

    context: bool
    reason: str


def choose(other: Way, *, idle: int, obstacle: str, known: Mapping[Way, tuple[float, int]]) -> Choice:
    """Decide between a context from the pool and ``other``, the way that the function would start otherwise.

    ``idle`` contexts are in the pool, ``obstacle`` says why none of them is for this function. ``known`` has the median
    total in milliseconds and the number of starts that each way took so far. A way that was never taken is taken once,
    the pool's first.
    """
    if obstacle:
        return Choice(False, f"no context from the pool: {obstacle}")
    if not idle:
        return Choice(False, "no context from the pool: none is ready")
    pooled, alone = known.get("context"), known.get(other)
    if pooled is None:
        return Choice(True, "a context from the pool: not measured yet for this function")
    if alone is None:
        return Choice(False, f"no context from the pool, to measure {other!r} once")
    cheaper = pooled[0] <= alone[0]
    compared = f"{pooled[0]:.0f} ms against {alone[0]:.0f} ms by {other!r}"
    if (pooled[1] + alone[1]) % EXPLORE_EVERY == 0:
        return Choice(not cheaper, f"the dearer way, to measure it again: a context from the pool took {compared}")
    return Choice(cheaper, f"{'a' if cheaper else 'no'} context from the pool: {compared}")


class DeviceStarter(Starter):
    """Starts functions on a GPU, and all others as ``Starter`` does."""

    def __init__(self, suppliers: Suppliers, *, accelerator: Accelerator, memory: DeviceMemory) -> None:
        super().__init__(suppliers)
        self._accelerator = accelerator
        self._memory = memory

    async def start(self, home: Home, instance_id: str, recording: Recording) -> Started:
        """Return a worker that is ready. Raises as ``Starter.start``, and ``DeviceFull``."""
        spec = home.spec
        device = self._site.device_of(spec)
        if device == CPU:
            return await super().start(home, instance_id, recording)
        recording.device = device
        try:
            with recording.phase("memory"):
                await self._accelerator.welcome(spec)
                within_s = HOLD_SHARE * spec.hold_timeout_s
                release = await self._memory.admit(spec.revision, needed_mib(spec), within_s=within_s)
        except DeviceError as error:
            raise to_runtime(error) from error
        with promised(release):
            return await super().start(home, instance_id, recording)

    async def _begin(self, home: Home, instance_id: str, recording: Recording) -> Started:
        if self._site.device_of(home.spec) == CPU:
            return await super()._begin(home, instance_id, recording)
        contexts, other = self._accelerator.contexts, _other_way(home)
        obstacle = home.context_obstacle or context_obstacle(home.spec) or self._accelerator.obstacle(home.spec)
        choice = choose(other, idle=contexts.idle, obstacle=obstacle, known=recording.known())
        recording.notes.append(choice.reason)
        worker = contexts.take() if choice.context else None
        if worker is None:
            return await super()._begin(home, instance_id, recording)
        recording.way = "context"
        try:
            return await self._in_context(worker, home, instance_id, recording)
        except NotForkable as brought:  # what the pool's workers have imported too: never again by this way
            home.context_obstacle = str(brought)
            raise

    async def _in_context(self, worker: Worker, home: Home, instance_id: str, recording: Recording) -> Started:
        spec, user, began_s = home.spec, self._site.user_of(home.spec.name), self._clock.monotonic()
        taken = [worker]

        async def process() -> Worker:
            if not taken:  # the first one ended over its engine: the next attempt makes its own context
                return await self._alone_process(home, recording)
            async with owned(worker, self._logs.of(spec)):
                with recording.phase("adopt"):
                    await taken.pop().adopt(wire.Adopt(user, user, *self._place(spec)))
            return worker

        try:
            return await self._attempts.until_one_serves(
                home,
                recording,
                lambda material: self._import_in(process, home, instance_id, material, recording, began_s=began_s),
            )
        finally:
            if taken:
                worker.kill("its start ended before it began")


def _other_way(home: Home) -> Way:
    if home.exec_reason:
        return "exec"
    if not home.spec.parking:
        return "fork and import"
    return "fork" if home.parked is not None else "park and fork"
