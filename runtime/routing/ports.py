"""What routing needs from its neighbours, as Protocols: processes, the cache, snapshots, code and logs.

Nothing here is implemented in this package. ``runtime.process`` gives workers and zygotes, ``runtime.sources`` and
``runtime.snapshots`` the model path, ``runtime.codestore`` the unpacked code, ``runtime.logs`` the functions' logs;
``runtime.testing`` has an honest double of each. ``runtime/node.py`` puts the real ones together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from glowplug.runtime.process import wire
from glowplug.runtime.process.death import Exit
from glowplug.runtime.spec import FunctionSpec

# --- processes (runtime/process) --------------------------------------------------------------------------------------


class Loadable(Protocol):
    """A process that can be given a handler and models: a function zygote, or a worker that starts by itself."""

    @property
    def pid(self) -> int:
        """The process id."""

    @property
    def exited(self) -> asyncio.Future[Exit]:
        """Done when the process is dead and reaped."""

    async def load(self, message: wire.Load, /) -> wire.Loaded:
        """Import the handler. Raises ``LoadFailed``, or ``WorkerExited`` when the process died of it."""

    async def bind(self, message: wire.Bind, /) -> wire.Bound:
        """Give each model an engine. Raises ``RestoreFailed`` or ``WorkerExited``."""

    def take_log(self) -> bytes:
        """Return what the process wrote to its descriptors 1 and 2 since the last call, without waiting."""

    def kill(self, reason: str) -> None:
        """Send SIGKILL to it and its group; a second call changes nothing."""


class Worker(Loadable, Protocol):
    """One process that runs a handler, or a canary."""

    @property
    def worker_id(self) -> str:
        """The id it was asked for by."""

    @property
    def forked(self) -> bool:
        """False for an exec'ed one."""

    @property
    def killed_for(self) -> str:
        """The reason first given to ``kill``; empty when nobody killed it."""

    @property
    def alive(self) -> bool:
        """Whether it is not known to be dead."""

    @property
    def busy(self) -> bool:
        """Whether an invocation is in flight."""

    async def check(self, message: wire.Check, /) -> wire.Checked:
        """Run the engine check. Raises ``CheckFailed`` or ``WorkerExited``."""

    async def start(self, message: wire.Start, /) -> wire.Ready:
        """Become an instance. Raises ``LoadFailed`` (an after-restore hook) or ``WorkerExited``."""

    async def invoke(self, message: wire.Invoke, /) -> wire.Outcome:
        """Call the handler. Raises ``WorkerDied`` when the process ends first."""

    async def stop(self, grace_s: float) -> Exit:
        """Let it finish what is in flight, for ``grace_s`` seconds at most, then end it; returns how it ended."""


class FunctionZygote(Loadable, Protocol):
    """The parked form of one revision: handler imported, models bound, forked from."""

    @property
    def zygote_id(self) -> str:
        """The id it was asked for by."""

    async def fork(self, worker_id: str, *, uid: int, gid: int) -> Worker:
        """Fork a worker. Raises ``StartError`` when the fork fails, ``WorkerExited`` when the zygote is dead."""

    async def retire(self) -> None:
        """End it, even if it hangs in an import; returns when it and whatever workers it still has are gone."""


class Zygotes(Protocol):
    """Where processes come from."""

    async def function_zygote(self, zygote_id: str, *, lean: bool, uid: int, gid: int) -> FunctionZygote:
        """Fork an empty function zygote from a base zygote; waits while that is rebuilt."""

    async def worker(self, worker_id: str, *, lean: bool, uid: int, gid: int) -> Worker:
        """Fork an empty worker from a base zygote (``Parking: off``)."""

    async def execute(self, worker_id: str, *, environment: Mapping[str, str], uid: int, gid: int) -> Worker:
        """Start an empty worker by exec; ``environment`` is added to the allow-listed one."""


class Memory(Protocol):
    """Watches workers' memory, and kills with ``policy.MEMORY`` those that add too much after their start."""

    def admit(self, worker: Worker, limit_bytes: int, /) -> None:
        """Begin to watch a worker that is ready."""

    def peak_bytes(self, worker: Worker, /) -> int:
        """Return the most that it was seen to use; cheap enough for every invocation."""


# --- the model path (runtime/snapshots.py, runtime/sources.py) --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Which engine a model gets at this start, and why not a better one.

    ``engine`` is ``eager`` or an engine's name; ``snapshot_dir`` and ``manifest_bytes`` (verified) are empty for
    eager. ``reason`` is a short sentence for the ledger, empty when the engine asked for is the one that serves.
    """

    model_name: str
    engine: str
    snapshot_dir: str
    manifest_bytes: bytes
    reason: str


class Snapshots(Protocol):
    """Finds engines, forgets bad ones, bakes new ones."""

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return one plan per model of ``spec``: eager where there is no trusted snapshot. Raises ``SnapshotError``."""

    def distrust(self, spec: FunctionSpec, model_name: str, engine: str, reason: str) -> None:
        """Retire an engine: no later ``plan`` returns it, ``reason`` is counted and shown."""

    def request_bake(self, spec: FunctionSpec) -> None:
        """Ask for a bake in the background; nothing happens when one is known, under way or would not help."""


class Cache(Protocol):
    """Local files of a revision's models."""

    async def files(self, spec: FunctionSpec) -> dict[str, dict[str, str]]:
        """Return model name -> file name -> absolute path, fetching what is missing. Raises ``CacheError``."""


class Code(Protocol):
    """Unpacked code by digest."""

    def path(self, digest: str) -> Path:
        """Return the directory that holds the code, the function's task root."""


# --- logs (runtime/logs.py) -------------------------------------------------------------------------------------------


class FunctionLog(Protocol):
    """The log of one function, in Lambda's text format (spec 6.2). Every method appends; none waits."""

    def init_start(self, runtime: str) -> None:
        """Write INIT_START."""

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Write INIT_REPORT: the end of an import that no REPORT tells of."""

    def restore_start(self, runtime: str) -> None:
        """Write RESTORE_START."""

    def restore_report(self, restore_ms: float) -> None:
        """Write RESTORE_REPORT."""

    def output(self, data: bytes) -> None:
        """Write what a process printed outside of an invocation (import, hooks)."""

    def invocation(self, lines: InvocationLog, /) -> bytes:
        """Write START, the output, END and REPORT of one invocation; returns them (the tail is cut by the caller)."""


class InvocationLog(NamedTuple):
    """What one invocation writes to its function's log; the log formats it.

    Durations in milliseconds. ``init_ms`` is given once per import, ``restore_ms`` on the first invocation of a forked
    instance. ``status`` is empty, ``timeout`` or ``error``; with ``error``, ``error_type`` is Lambda's.
    ``timeout_s`` is for the line that a timeout adds.
    """

    request_id: str
    version: str
    output: bytes
    duration_ms: float
    memory_mb: int
    max_memory_mb: int
    init_ms: float | None = None
    restore_ms: float | None = None
    status: str = ""
    error_type: str = ""
    timeout_s: float = 0.0


class Logs(Protocol):
    """The logs of all functions."""

    def of(self, function: str) -> FunctionLog:
        """Return the log of one function, made on first use."""
