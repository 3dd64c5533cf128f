"""What routing needs from its neighbours, as Protocols: processes, the cache, snapshots, code and logs.

Nothing here is implemented in this package. ``runtime.process`` gives workers and zygotes, ``runtime.modelpath`` the
model path, ``runtime.codestore`` the unpacked code, ``runtime.logs`` the functions' logs; ``runtime.testing`` has an
honest double of each. ``runtime/node.py`` puts the real ones together.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from glowplug.runtime.interpreters import Interpreter
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import Exit
from glowplug.runtime.process.view import Place
from glowplug.runtime.responsestream import ResponseStream
from glowplug.runtime.spec import FunctionSpec

from .distrust import Kind
from .records import Fetch, ReadAhead, StartRecord

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

    async def adopt(self, message: wire.Adopt, /) -> wire.Adopted:
        """Let one that holds a CUDA context belong to a function; its first step. Raises ``StartError``."""

    async def check(self, message: wire.Check, /) -> wire.Checked:
        """Run the engine check. Raises ``CheckFailed`` or ``WorkerExited``."""

    async def start(self, message: wire.Start, /) -> wire.Ready:
        """Become an instance. Raises ``LoadFailed`` (an after-restore hook) or ``WorkerExited``."""

    async def invoke(self, message: wire.Invoke, stream: ResponseStream | None = None, /) -> wire.Outcome:
        """Call the handler; what it streams goes into ``stream``. Raises ``WorkerDied`` when the process ends first."""

    def grant(self, invocation_id: str, size_bytes: int, /) -> None:
        """Let it send so many bytes more of a stream."""

    def cancel(self, invocation_id: str, /) -> None:
        """Ask it to end a stream; the invocation still has its outcome."""

    async def verified(self, invocation_id: str, /) -> wire.Verified:
        """Return what came of the check that an outcome has announced. Raises ``WorkerDied``."""

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

    async def function_zygote(self, zygote_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> FunctionZygote:
        """Fork an empty function zygote from a base zygote; waits while that is rebuilt."""

    async def own_zygote(self, zygote_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> FunctionZygote:
        """Start an empty function zygote as a program, for code that brings what base zygotes have loaded."""

    async def worker(self, worker_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> Worker:
        """Fork an empty worker from a base zygote (``Parking: off``)."""

    async def execute(
        self,
        worker_id: str,
        *,
        environment: Mapping[str, str],
        uid: int,
        gid: int,
        place: Place,
        interpreter: Interpreter | None,
    ) -> Worker:
        """Start an empty worker by exec; ``environment`` is added to the allow-listed one.

        ``interpreter`` is another Python than the node's own.
        """


class Contexts(Protocol):
    """Workers that hold a CUDA context and have no function (``runtime/process/contextpool.py``)."""

    @property
    def idle(self) -> int:
        """How many there are."""

    @property
    def each_mib(self) -> int:
        """What each takes of the device's memory, in MiB."""

    def take(self) -> Worker | None:
        """Hand one over; None when there is none."""

    def drop(self, count: int, why: str) -> None:
        """End up to ``count`` of them."""


class Accelerator(Protocol):
    """The GPU of a node that has one (``runtime/accelerator.py``)."""

    @property
    def contexts(self) -> Contexts:
        """The pool."""

    def obstacle(self, spec: FunctionSpec, /) -> str:
        """Return why no context of the pool is for ``spec``; empty when one is."""

    async def welcome(self, spec: FunctionSpec, /) -> None:
        """Return when a process of ``spec`` may make a context. Raises ``MpsUnavailable``."""


class Memory(Protocol):
    """Watches workers' memory, and kills with ``policy.MEMORY`` those that add too much after their start."""

    def admit(self, worker: Worker, limit_bytes: int, /) -> None:
        """Begin to watch a worker that is ready."""

    def peak_bytes(self, worker: Worker, /) -> int:
        """Return the most that it was seen to use; cheap enough for every invocation."""


# --- the model path (runtime/snapshots.py, sources.py, readahead.py) --------------------------------------------------


@dataclass(frozen=True, slots=True)
class EnginePlan:
    """Which engine a model gets at this start, and why not a better one.

    ``engine`` is ``eager`` or an engine's label; ``snapshot_dir`` and ``manifest_bytes`` (verified) are empty for
    eager. ``reason`` is a short sentence for the ledger, empty when the engine asked for is the one that serves.
    """

    model_name: str
    engine: str
    snapshot_dir: str
    manifest_bytes: bytes
    reason: str

    @classmethod
    def eager(cls, model_name: str, reason: str) -> EnginePlan:
        """Return the plan that is always possible."""
        return cls(model_name, "eager", "", b"", reason)


class Snapshots(Protocol):
    """Finds engines, forgets bad ones, bakes new ones."""

    async def plan(self, spec: FunctionSpec) -> list[EnginePlan]:
        """Return one plan per model of ``spec``: eager where there is no trusted snapshot. Raises ``SnapshotError``."""

    def give_up(self, spec: FunctionSpec, model_name: str, engine: str, reason: str, kind: Kind) -> bool:
        """Give an engine up: no later ``plan`` returns it but the next best one; ``kind`` is counted, ``reason`` shown.
        Returns whether it was the one in use."""

    def request_bake(self, spec: FunctionSpec) -> None:
        """Ask for a bake in the background; nothing happens when one is known, under way or would not help."""


class EngineWatch(Protocol):
    """Hears how engines do while they serve (``runtime/enginewatch.py``). Rows as the worker sends them."""

    def called(self, spec: FunctionSpec, start: StartRecord, rows: Sequence[Sequence[Any]], /) -> None:
        """Note the calls of one invocation, by an instance that came of ``start``."""

    def verified(self, spec: FunctionSpec, rows: Sequence[Sequence[Any]], /) -> None:
        """Note what came of a check of calls that were answered."""


@dataclass(frozen=True, slots=True)
class Weights:
    """The files of a revision's models, held: nobody evicts them until ``close``, which may be called twice.

    ``paths`` is model name -> file name -> absolute path. ``fetch`` says what had to be brought here first, None when
    everything was there.
    """

    paths: Mapping[str, Mapping[str, str]]
    close: Callable[[], None]
    fetch: Fetch | None = None


class Cache(Protocol):
    """Local files of revisions' models."""

    async def files(self, spec: FunctionSpec) -> Weights:
        """Fetch what is missing and hold all of it. Raises ``CacheError``.

        Whoever else waits for the same source shares the transfer; it ends when the last of them is cancelled.
        """

    def present(self, spec: FunctionSpec) -> bool:
        """Return whether all files are there, from memory where that is fresh: cheap enough for a listing."""

    async def discard(self, digests: Collection[str]) -> dict[str, str]:
        """Delete blobs, and this node's pins on them. Returns those that stay, by digest: who holds or pins them."""


class Reading(Protocol):
    """Files on their way from the disk into the page cache, in threads; it never delays anybody."""

    @property
    def ended(self) -> asyncio.Future[ReadAhead | None]:
        """Done when it is over, with what it did; never fails. None when there was nothing to look at."""

    def cancel(self) -> None:
        """Stop: the start that it was for has failed."""


class Pages(Protocol):
    """Brings the files of a start into the page cache ahead of their use, and learns what starts use."""

    def begin(self, spec: FunctionSpec, weights: Weights, /, *, imported: bool = False) -> Reading:
        """Begin to read what a start of ``spec`` is known, or else supposed, to use: its weights alone where its
        handler is ``imported`` already."""

    def unknown(self, spec: FunctionSpec, /) -> bool:
        """Return whether nobody has told yet what a start of ``spec`` uses."""

    def learn(self, spec: FunctionSpec, reads: Sequence[Sequence[object]], /) -> None:
        """Keep what a process says a good start has read: rows of path, offset, length. The word of a function."""


class Code(Protocol):
    """Unpacked code by digest."""

    def path(self, digest: str) -> Path:
        """Return the directory that holds the code, the function's task root."""

    def opt(self, digests: Sequence[str]) -> Path | None:
        """Return the directory that layers with these digests make together; None when it has not been prepared."""


# --- logs (runtime/logs.py) -------------------------------------------------------------------------------------------


class FunctionLog(Protocol):
    """The log of one revision, in the format that it asks for (spec 6.2, 6.3). Every method appends; none waits."""

    def init_start(self) -> None:
        """Write INIT_START."""

    def init_report(self, init_ms: float, *, status: str = "", error_type: str = "") -> None:
        """Write INIT_REPORT: the end of an import that no REPORT tells of."""

    def restore_start(self) -> None:
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
    ``notice`` is a line of its own, for an invocation that the node ended. ``failed`` says that the caller gets an
    error, of ``produced_bytes``.
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
    notice: str = ""
    failed: bool = False
    produced_bytes: int = 0


class Logs(Protocol):
    """The logs of all functions."""

    def of(self, spec: FunctionSpec) -> FunctionLog:
        """Return the log of one revision, made on first use."""
