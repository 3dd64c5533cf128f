"""Workers and zygotes that exist only in memory."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from glowplug.runtime.errors import StartError
from glowplug.runtime.interpreters import Interpreter
from glowplug.runtime.process import wire
from glowplug.runtime.process.death import Exit, WorkerDied
from glowplug.runtime.process.view import Place
from glowplug.runtime.responsestream import ResponseStream

from .clock import ManualClock

Handler = Callable[[wire.Invoke], Awaitable[bytes]]
Streaming = Callable[[wire.Invoke], AsyncIterator[bytes]]


async def echo(invoke: wire.Invoke) -> bytes:
    """Answer with the event."""
    return invoke.events[0]


@dataclass(slots=True)
class Script:
    """How the processes of a function behave. Durations in seconds of the test's clock; ``math.inf`` hangs.

    ``bind_errors``, ``check_errors`` and ``start_errors`` are by engine. ``load_exit`` is a status that the import ends
    the process with. ``calls`` are the rows of every outcome; where there are rows of ``verified``, a check follows,
    of ``verify_s``. ``streaming`` takes the place of ``handler`` for who takes a stream. ``obstacle`` is in processes
    that are to be parked, ``brought`` in every forked one.
    """

    handler: Handler = echo
    streaming: Streaming | None = None
    fork_s: float = 0.0
    import_s: float = 0.0
    start_s: float = 0.0
    obstacle: str = ""
    bound_obstacle: str = ""
    brought: str = ""
    recorded: bool = True
    load_error: StartError | None = None
    load_exit: int | None = None
    bind_errors: dict[str, StartError] = field(default_factory=dict)
    check_errors: dict[str, StartError] = field(default_factory=dict)
    start_error: StartError | None = None
    start_errors: dict[str, StartError] = field(default_factory=dict)
    prints: bytes = b""
    calls: list[list[Any]] = field(default_factory=list)
    verified: list[list[Any]] = field(default_factory=list)
    verify_s: float = 0.0
    reads: list[list[Any]] = field(default_factory=lambda: [["/code/f.py", 0, 100]])


class FakeProcess:
    """What fake workers and zygotes have in common: steps that take time, and one death."""

    _pids = itertools.count(10_001)

    def __init__(self, process_id: str, script: Script, clock: ManualClock, *, forked: bool = True) -> None:
        self.pid = next(self._pids)
        self.forked = forked
        self.exited: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()
        self.killed_for = ""
        self.script = script
        self.loads: list[wire.Load] = []
        self.engines: dict[str, str] = {}
        self.observed = False
        self._id = process_id
        self._clock = clock
        self._log = b""

    def __repr__(self) -> str:
        state = "alive" if self.alive else self.exited.result().describe()
        return f"<{type(self).__name__} {self._id} {state}>"

    @property
    def alive(self) -> bool:
        """Whether it is not dead."""
        return not self.exited.done()

    async def load(self, message: wire.Load) -> wire.Loaded:
        """Import, as the script says."""
        self.loads.append(message)
        self.observed = message.observe
        self._log += self.script.prints
        await self._step(self.script.import_s)
        if self.script.load_exit is not None:
            self.die(self.script.load_exit << 8)
            raise self._death()
        if self.script.load_error is not None:
            self.die(wire.ExitCode.LOAD_FAILED << 8)
            raise self.script.load_error
        names = [model["name"] for model in message.models]
        brought = self.script.brought if self.forked else ""
        obstacle = brought or (self.script.obstacle if message.parked else "")
        return wire.Loaded(self.script.import_s * 1e3, obstacle, names, shadowed=bool(brought))

    async def bind(self, message: wire.Bind) -> wire.Bound:
        """Bind, as the script says."""
        await self._step(0.0)
        self.engines = {plan["name"]: plan["engine"] for plan in message.plans}
        for engine in self.engines.values():
            if engine in self.script.bind_errors:
                self.die(wire.ExitCode.BIND_FAILED << 8)
                raise self.script.bind_errors[engine]
        return wire.Bound(0.0, self.engines, 90_000_000, self.script.bound_obstacle)

    def take_log(self) -> bytes:
        """Return what was printed since the last call."""
        taken, self._log = self._log, b""
        return taken

    def kill(self, reason: str) -> None:
        """Die of SIGKILL, one turn of the event loop later."""
        if self.alive and not self.killed_for:
            self.killed_for = reason
            asyncio.get_running_loop().call_soon(self.die, int(signal.SIGKILL))

    def die(self, status: int) -> None:
        """End with a wait status (``3 << 8`` is exit status 3, ``9`` is SIGKILL)."""
        if self.alive:
            self.exited.set_result(Exit(status))

    async def _step(self, seconds: float) -> None:
        """Take ``seconds``; raise ``WorkerDied`` when the process dies first."""
        if not self.alive:
            raise self._death(sent=False)
        sleeping = asyncio.ensure_future(self._clock.sleep(seconds))
        try:
            await _first_of(sleeping, self.exited)
        finally:
            sleeping.cancel()
        if not self.alive:
            raise self._death()

    def _death(self, *, sent: bool = True) -> WorkerDied:
        return WorkerDied(self._id, self.exited.result(), killed_for=self.killed_for, sent=sent)


class FakeWorker(FakeProcess):
    """A worker that calls ``script.handler`` in the test's own event loop."""

    def __init__(self, worker_id: str, script: Script, clock: ManualClock, *, forked: bool = True) -> None:
        super().__init__(worker_id, script, clock, forked=forked)
        self.starts: list[wire.Start] = []
        self.invokes: list[wire.Invoke] = []
        self.checks = 0
        self.adopted: list[wire.Adopt] = []
        self.granted: list[tuple[str, int]] = []
        self.cancelled: list[str] = []
        self._in_flight: set[asyncio.Future[wire.Outcome]] = set()

    @property
    def worker_id(self) -> str:
        """The id it was asked for by."""
        return self._id

    @property
    def busy(self) -> bool:
        """Whether an invocation is in flight."""
        return bool(self._in_flight)

    async def adopt(self, message: wire.Adopt) -> wire.Adopted:
        """Become a function's."""
        await self._step(0.0)
        self.adopted.append(message)
        return wire.Adopted(0.0)

    async def check(self, message: wire.Check) -> wire.Checked:
        """Check, as the script says."""
        await self._step(0.0)
        self.checks += 1
        for engine in self.engines.values():
            if engine in self.script.check_errors:
                self.die(wire.ExitCode.CHECK_FAILED << 8)
                raise self.script.check_errors[engine]
        reads = self.script.reads if self.observed else []
        return wire.Checked(0.0, 1e-6, recorded=self.script.recorded, reads=reads)

    async def start(self, message: wire.Start) -> wire.Ready:
        """Become an instance."""
        await self._step(self.script.start_s)
        if self.script.start_error is not None:
            self.die(wire.ExitCode.AFTER_RESTORE_FAILED << 8)
            raise self.script.start_error
        for engine in self.engines.values():
            if engine in self.script.start_errors:
                self.die(wire.ExitCode.BIND_FAILED << 8)
                raise self.script.start_errors[engine]
        self.starts.append(message)
        return wire.Ready(0.0, 0)

    async def invoke(self, message: wire.Invoke, stream: ResponseStream | None = None, /) -> wire.Outcome:
        """Call the handler. One that raises fails; the worker is busy until it returns, whoever waits or not."""
        if not self.alive:
            raise self._death(sent=False)
        self.invokes.append(message)
        running = asyncio.ensure_future(self._call(message, stream))
        self._in_flight.add(running)
        running.add_done_callback(self._in_flight.discard)
        await _first_of(running, self.exited)
        if running.done() and not running.cancelled():
            return running.result()
        running.cancel()
        raise self._death()

    def grant(self, invocation_id: str, size_bytes: int, /) -> None:
        """Note it: what a script streams is small."""
        self.granted.append((invocation_id, size_bytes))

    def cancel(self, invocation_id: str, /) -> None:
        """Let the script's stream end at its next chunk."""
        self.cancelled.append(invocation_id)

    async def verified(self, invocation_id: str, /) -> wire.Verified:
        """Check, as the script says."""
        await self._step(self.script.verify_s)
        return wire.Verified(invocation_id, self.script.verified)

    async def stop(self, grace_s: float) -> Exit:
        """End after what is in flight, or after ``grace_s``."""
        if self._in_flight:
            grace = asyncio.ensure_future(self._clock.sleep(grace_s))
            await _first_of(*self._in_flight, grace, self.exited)
            grace.cancel()
        if self._in_flight:
            self.kill("did not stop in time")
        else:
            self.die(0)
        return await asyncio.shield(self.exited)

    def die(self, status: int) -> None:
        """End, and what runs with it."""
        super().die(status)
        for running in self._in_flight:
            running.cancel()

    async def _call(self, message: wire.Invoke, stream: ResponseStream | None) -> wire.Outcome:
        script, results, error_type = self.script, list[bytes](), ""
        try:
            if stream is not None and script.streaming is not None:
                await self._stream(script.streaming(message), stream, message.invocation_id)
            else:
                results = [await script.handler(message)]
        except Exception as error:
            error_type = type(error).__name__
            results = [f'{{"errorMessage":"{error}","errorType":"{error_type}"}}'.encode()]
        return wire.Outcome(
            *(message.invocation_id, results, bool(error_type), error_type, 0.0),
            models=[[name, self.engines.get(name, engine), *row] for name, engine, *row in script.calls],
            checking=bool(script.verified),
        )

    async def _stream(self, chunks: AsyncIterator[bytes], stream: ResponseStream, invocation_id: str) -> None:
        async for chunk in chunks:
            if invocation_id in self.cancelled:
                break
            stream.feed(chunk, "application/octet-stream")


class FakeZygote(FakeProcess):
    """A function zygote; workers that it forked outlive it, as real ones do when it is killed."""

    def __init__(self, zygote_id: str, script: Script, clock: ManualClock, *, forked: bool = True) -> None:
        super().__init__(zygote_id, script, clock, forked=forked)
        self.workers: list[FakeWorker] = []
        self.retired = False

    @property
    def zygote_id(self) -> str:
        """The id it was asked for by."""
        return self._id

    async def fork(self, worker_id: str, *, uid: int, gid: int) -> FakeWorker:
        """Fork a worker that knows the zygote's engines."""
        await self._step(self.script.fork_s)
        worker = FakeWorker(worker_id, self.script, self._clock)
        worker.engines, worker.observed = self.engines, self.observed
        self.workers.append(worker)
        return worker

    async def retire(self) -> None:
        """End it, and its workers first."""
        self.retired = True
        for worker in self.workers:
            worker.kill("its zygote retires")
        self.die(0)
        await asyncio.shield(self.exited)


class FakeZygotes:
    """Makes fake processes. ``scripts`` is by function name, the part of a process id before its last dash."""

    def __init__(self, clock: ManualClock, scripts: Mapping[str, Script] | None = None) -> None:
        self.scripts = dict(scripts or {})
        self.zygotes: list[FakeZygote] = []
        self.alone: list[FakeWorker] = []
        self._clock = clock

    @property
    def workers(self) -> list[FakeWorker]:
        """Every worker ever made, canaries included."""
        return [*self.alone, *(worker for zygote in self.zygotes for worker in zygote.workers)]

    def script(self, function: str) -> Script:
        """Return the script of a function, made on first use."""
        return self.scripts.setdefault(function, Script())

    async def function_zygote(self, zygote_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> FakeZygote:
        """Return an empty zygote."""
        return await self._zygote(zygote_id, forked=True)

    async def own_zygote(self, zygote_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> FakeZygote:
        """Return an empty zygote that was exec'ed."""
        return await self._zygote(zygote_id, forked=False)

    async def _zygote(self, zygote_id: str, *, forked: bool) -> FakeZygote:
        await asyncio.sleep(0)
        zygote = FakeZygote(zygote_id, self.script(zygote_id.rpartition("-")[0]), self._clock, forked=forked)
        self.zygotes.append(zygote)
        return zygote

    async def worker(self, worker_id: str, *, lean: bool, uid: int, gid: int, place: Place) -> FakeWorker:
        """Return an empty worker, forked from a base zygote."""
        return self._alone(worker_id, forked=True)

    async def execute(
        self,
        worker_id: str,
        *,
        environment: Mapping[str, str],
        uid: int,
        gid: int,
        place: Place,
        interpreter: Interpreter | None,
    ) -> FakeWorker:
        """Return an empty worker, exec'ed."""
        return self._alone(worker_id, forked=False)

    def _alone(self, worker_id: str, *, forked: bool) -> FakeWorker:
        worker = FakeWorker(worker_id, self.script(worker_id.rpartition("-")[0]), self._clock, forked=forked)
        self.alone.append(worker)
        return worker


async def _first_of(*futures: asyncio.Future[Any]) -> None:
    await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
