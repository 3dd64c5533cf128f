"""The GPU of a node: found once, at the start, and then everything that only a node with one has.

Without a GPU this is three attributes and no process: ``nvidia-smi`` is not even run where neither it nor the driver is
there. With one it is the pool of contexts, the memory of the device, and MPS where the operator wants it.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from glowplug.snapshot.cuda import devices, mps
from glowplug.snapshot.cuda.devices import Gpu
from glowplug.snapshot.errors import DeviceError, MpsUnavailable

from .clock import Clock
from .config import NodeConfig
from .devices import CUDA, context_obstacle, device_of
from .errors import StartError
from .process.contextpool import ContextPool, Pacing
from .process.workers import Worker
from .process.zygotes import Zygotes
from .spec import FunctionSpec

MPS_LOOK_S = 2.0
"""How often the MPS daemon is looked at: three short-lived processes each time."""

MPS_WAIT_S = 30.0
"""How long a start waits for an MPS server that takes no clients."""

log = logging.getLogger(__name__)


class Client(Protocol):
    """A process that may be a client of MPS."""

    @property
    def pid(self) -> int:
        """Its process id."""

    def kill(self, reason: str) -> None:
        """End it."""


async def find(environ: Mapping[str, str], driver: Path = devices.DRIVER) -> tuple[str, str]:
    """Return where ``nvidia-smi`` is and why there is no GPU; the latter is empty where there is one."""
    tool = devices.tool(environ.get("PATH"))
    why = devices.obstacle(tool, driver)
    if why:
        return tool, why
    try:
        found = await asyncio.to_thread(devices.listing, tool)
    except DeviceError as error:
        return tool, str(error)
    log.info("GPU: %s", found[0].describe())
    if len(found) > 1:
        log.warning("there are %d GPUs; only the first is used", len(found))
    return tool, ""


class Accelerator:
    """The GPU of this node; ``why_none`` is empty where there is one. ``tool`` is ``nvidia-smi``."""

    def __init__(self, config: NodeConfig, zygotes: Zygotes, clock: Clock, *, tool: str, why_none: str) -> None:
        self.why_none = why_none
        self._auto = config.device
        self._tool = tool
        self._zygotes = zygotes
        self._clock = clock
        self._clients: Callable[[], Iterable[tuple[FunctionSpec, Client]]] = tuple
        self._mps: mps.Mps | None = None
        self._watching: asyncio.Task[None] | None = None
        self._place = _mps_directory(config.state)
        pacing = Pacing(floor=0 if why_none else config.context_pool, budget_mib=config.context_pool_mib)
        self.contexts = ContextPool(self._make_context, pacing, clock)

    def __repr__(self) -> str:
        return f"<Accelerator {self.why_none or self.contexts!r} {self._mps or ''}>"

    @property
    def present(self) -> bool:
        """Whether there is a GPU."""
        return not self.why_none

    # --- what a function gets ---------------------------------------------------------------------------------------

    def device_of(self, spec: FunctionSpec) -> str:
        """Return where a function's models run: ``cpu`` or ``cuda:0``."""
        return device_of(spec, present=self.present, auto=self._auto)

    def refusal(self, spec: FunctionSpec) -> str:
        """Return why the function cannot be deployed here; empty when it can."""
        return f"cuda: {self.why_none}" if spec.gpu.device == "cuda" and self.why_none else ""

    def environment(self, spec: FunctionSpec) -> dict[str, str]:
        """Return what a function on the GPU has in its environment for that; nothing for others."""
        if self.device_of(spec) != CUDA:
            return {}
        limits = mps.Limits(spec.gpu.thread_percent, spec.gpu.vram_mib)
        shared = self._mps.environment(limits) if self._mps is not None and spec.gpu.mps else {}
        return {**devices.ORDER, **shared}

    def obstacle(self, spec: FunctionSpec) -> str:
        """Return why no context of the pool is for ``spec``: under MPS its limits are read when a context is made."""
        if self._mps is None:
            return ""
        if not spec.gpu.mps:
            return "Mps is off for the function, and those of the pool are MPS clients"
        limited = spec.gpu.thread_percent is not None or spec.gpu.vram_mib is not None
        return "its limits under MPS are read when a context is made" if limited else ""

    async def welcome(self, spec: FunctionSpec) -> None:
        """Return when a process of ``spec`` may make a context. Raises ``MpsUnavailable`` after ``MPS_WAIT_S``."""
        if spec.gpu.mps:
            await self._mps_welcome()

    async def ask(self) -> Gpu:
        """Return the device as it is now. Raises ``DeviceError``."""
        return (await asyncio.to_thread(devices.listing, self._tool))[0]

    # --- what there is ----------------------------------------------------------------------------------------------

    async def start(
        self,
        config: NodeConfig,
        environ: Mapping[str, str],
        clients: Callable[[], Iterable[tuple[FunctionSpec, Client]]],
    ) -> None:
        """Start MPS where the operator wants it. ``clients`` are the processes of all instances."""
        self._clients = clients
        if not config.mps or self.why_none:
            return
        program = mps.program(environ.get("PATH"))
        if not program:
            log.warning("GLOWPLUG_MPS: %s is not on the PATH; functions take turns on the GPU", mps.PROGRAM)
            return
        base = {"PATH": environ.get("PATH", ""), **devices.ORDER}
        control = mps.Control(program, self._place, base, multiuser=os.geteuid() == 0)
        loop = asyncio.get_running_loop()
        ended = self._end_clients
        self._mps = mps.Mps(control, end_clients=lambda pids: _in_loop(loop, ended, pids))
        await asyncio.to_thread(self._mps.start, self._clock.monotonic())
        self._watching = asyncio.create_task(self._watch(self._mps), name="mps")

    async def changed(self, specs: Sequence[FunctionSpec]) -> None:
        """Say what is deployed: contexts are kept while a function can use one."""
        self.contexts.want(any(self.device_of(spec) == CUDA and not context_obstacle(spec) for spec in specs))

    async def close(self) -> None:
        """End the contexts and MPS."""
        await self.contexts.close()
        if self._watching is not None:
            self._watching.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watching
        if self._mps is not None:
            await asyncio.to_thread(self._mps.stop)

    async def _make_context(self, name: str) -> Worker:
        environment = dict(devices.ORDER)
        if self._mps is not None:
            if not self._mps.welcome:
                raise StartError(f"MPS is {self._mps.phase.value}: {self._mps.why}")
            environment |= self._mps.environment(mps.Limits())
        return await self._zygotes.context(name, device=CUDA, environment=environment)

    async def _mps_welcome(self) -> None:
        deadline_s = self._clock.monotonic() + MPS_WAIT_S
        while self._mps is not None and not self._mps.welcome:
            if self._clock.monotonic() >= deadline_s:
                raise MpsUnavailable(f"MPS is {self._mps.phase.value}: {self._mps.why}")
            await self._clock.sleep(0.25)

    async def _watch(self, supervised: mps.Mps) -> None:
        while True:
            await self._clock.sleep(MPS_LOOK_S)
            action = await asyncio.to_thread(supervised.look, self._clock.monotonic())
            if action is not mps.Action.NOTHING:
                log.warning("MPS is %s: %s", supervised.phase.value, supervised.why)

    def _end_clients(self, pids: tuple[int, ...] | None) -> None:
        """Kill MPS clients: a fault has taken the GPU from all of them, and the server waits for their end."""
        self.contexts.drop(self.contexts.idle, "the MPS server takes no clients until they have gone")
        for spec, client in self._clients():
            if spec.gpu.mps and self.device_of(spec) == CUDA and (pids is None or client.pid in pids):
                client.kill("a fatal fault on the GPU, or the end of its MPS server")


def _in_loop(
    loop: asyncio.AbstractEventLoop, call: Callable[[tuple[int, ...] | None], None], pids: tuple[int, ...] | None
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop is closed: the node is gone, and its processes with it
        loop.call_soon_threadsafe(call, pids)


def _mps_directory(state: Path) -> Path:
    """Return where the daemon's sockets are: where functions of all users reach them, and a name that a restarted node
    finds again. ``Control.start`` refuses it when somebody else has made it."""
    return Path("/tmp") / f"glowplug-mps-{hashlib.sha256(os.fsencode(state)).hexdigest()[:12]}"
