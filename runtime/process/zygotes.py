"""Where processes come from: two base zygotes, the function zygotes forked from them, and workers forked from either.

    node ── exec ──▶ base zygote (lean | torch) ── fork ──▶ function zygote ── fork ──▶ worker
      │                     └──────────────────── fork ──▶ worker          (Parking: off)
      └──── exec ──▶ worker                                                (functions that must not be forked)

The node never forks: it asks. ``Spawner`` is the asking, over the control channel of whichever zygote is asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import StartError
from glowplug.runtime.interpreters import Interpreter

from . import wire
from .base import BaseZygote
from .child import Child, load_fault
from .death import Exit, WorkerDied, become_subreaper, reap_strays
from .execute import base_environment, execute_function
from .roster import Kind, Roster
from .spawner import ChildType, Spawner
from .sweep import Records
from .view import Place
from .workers import Worker, restore_fault

FORK_ATTEMPTS = 3
"""How often a base zygote may die of, or during, one request before that request fails."""

_log = logging.getLogger(__name__)


class FunctionZygote(Child):
    """The parked form of one revision: handler imported, models bound, forked from.

    ``loaded`` and ``bound`` are the answers to those steps, None before. ``hello`` is done when one that was exec'ed is
    up.
    """

    def __init__(
        self,
        zygote_id: str,
        pid: int,
        pidfd: int,
        control: socket.socket,
        output: int,
        *,
        roster: Roster,
        forked: bool = True,
    ) -> None:
        super().__init__(zygote_id, pid, pidfd, control, output, forked=forked)
        self.hello: asyncio.Future[wire.Hello] = self._loop.create_future()
        if not forked:
            self._waiting = (wire.Hello, self.hello)
        self.loaded: wire.Loaded | None = None
        self.bound: wire.Bound | None = None
        self._spawner = Spawner(zygote_id, pid, self._control, roster)

    @property
    def zygote_id(self) -> str:
        """The id it was asked for by."""
        return self._id

    @property
    def workers(self) -> list[Child]:
        """Its forks that are not known to be dead."""
        return self._spawner.children

    async def load(self, message: wire.Load) -> wire.Loaded:
        """Import the handler. Raises ``LoadFailed``, or ``WorkerDied`` when the process died of it."""
        self.loaded = await self._step(message, wire.Loaded, load_fault)
        return self.loaded

    async def bind(self, message: wire.Bind) -> wire.Bound:
        """Give each model an engine. Raises ``RestoreFailed`` or ``WorkerDied``."""
        self.bound = await self._step(message, wire.Bound, restore_fault)
        return self.bound

    async def fork(self, worker_id: str, *, uid: int = -1, gid: int = -1) -> Worker:
        """Fork a worker that only needs ``start`` (or ``check``). Raises ``StartError`` or ``WorkerDied``."""
        if self._exit is not None:
            raise self._death(sent=False)
        return await self._spawner.worker(worker_id, uid=uid, gid=gid)

    async def retire(self, grace_s: float = 2.0) -> None:
        """End it; returns when it and all its workers are gone. After ``grace_s`` seconds whatever is left is killed.

        From the first moment on it forks no more; what its workers have in flight may finish. A zygote in the middle
        of a step (an import that hangs) is killed at once.
        """
        self._spawner.close()
        if self._waiting is not None:
            self.kill("retired in the middle of a step")
        await self._spawner.gone(grace_s)
        await self.stop(grace_s)

    def _on_control(self, message: wire.Message, descriptors: list[int]) -> None:
        if not self._spawner.handle(message, descriptors):
            super()._on_control(message, descriptors)

    def _fail_pending(self) -> None:
        super()._fail_pending()
        self._spawner.zygote_died(self._exit or Exit(None))


@dataclass(frozen=True, slots=True)
class ZygoteStatistics:
    """The processes below the node by kind, and how often a base zygote had to be started again."""

    bases: int
    function_zygotes: int
    workers: int
    restarts: int


class Zygotes:
    """Both base zygotes, and everything that is forked from them or exec'ed beside them.

    ``on_stray_log`` gets (name, bytes) of what a base zygote prints, which should be nothing. ``environ`` is the node's
    environment, of which the children get an allow-listed part.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        on_stray_log: Callable[[str, bytes], None],
        environ: Mapping[str, str] | None = None,
    ) -> None:
        self._config = config
        self._environment = base_environment(environ or {})
        self._roster = Roster(Records(config.state / "run" / "processes"))
        self._expose = [
            str(path) for path in (config.state / "code", config.cache / "blobs", config.state / "snapshots")
        ]
        self._bases = {
            kind: BaseZygote(
                kind,
                environment=self._environment,
                expose=self._expose,
                roster=self._roster,
                on_output=on_stray_log,
            )
            for kind in ("lean", "torch")
        }
        self._closed = False

    def __repr__(self) -> str:
        return f"Zygotes({self.statistics()}, closed={self._closed})"

    @property
    def users(self) -> bool:
        """Whether functions run under users of their own: only root can give them some."""
        return os.geteuid() == 0

    def statistics(self) -> ZygoteStatistics:
        """Return how many processes of each kind there are."""
        return ZygoteStatistics(
            bases=len(self._roster.of("base")),
            function_zygotes=len(self._roster.of("zygote")),
            workers=len(self._roster.of("worker")),
            restarts=sum(base.restarts for base in self._bases.values()),
        )

    async def start(self) -> None:
        """Begin to start the base zygotes; returns at once. Whoever needs one waits until it is up."""
        become_subreaper()
        self._bases["lean"].start()
        if self._config.preload_torch:
            self._bases["torch"].start()

    async def ready(self, *, lean: bool) -> None:
        """Wait until a base zygote can be forked from."""
        await self._base(lean).ready()

    async def function_zygote(
        self, zygote_id: str, *, lean: bool, uid: int = -1, gid: int = -1, place: Place | None = None
    ) -> FunctionZygote:
        """Fork an empty function zygote from a base zygote; waits while that is rebuilt.

        Raises ``StartError`` when the fork fails, ``WorkerDied`` when the base zygote dies of it.
        """

        def build(name: str, pid: int, pidfd: int, control: socket.socket, output: int) -> FunctionZygote:
            return FunctionZygote(name, pid, pidfd, control, output, roster=self._roster)

        return await self._ask(
            lean, lambda spawner: spawner.zygote(zygote_id, uid=uid, gid=gid, place=place, kind=build)
        )

    async def own_zygote(
        self, zygote_id: str, *, lean: bool, uid: int = -1, gid: int = -1, place: Place | None = None
    ) -> FunctionZygote:
        """Start an empty function zygote as a program, which preloads with its function's modules first.

        Raises ``StartError`` when the interpreter cannot be run, ``WorkerDied`` when it ends before it says Hello.
        """
        if self._closed:
            raise StartError(f"{zygote_id} cannot be started: the node is stopping")
        control, theirs = socket.socketpair()
        output, their_output = os.pipe()
        try:
            pid, pidfd = execute_function(
                "glowplug.runtime.process.zygote",
                environment=self._environment,
                function_environment={},
                expose=self._expose,
                uid=uid,
                gid=gid,
                sockets=(theirs.fileno(),),
                output=their_output,
                place=place,
                options=["--own", "--preload", "lean" if lean else "torch"],
            )
        except OSError as error:
            control.close()
            os.close(output)
            raise StartError(f"{zygote_id} cannot be started: {error}") from error
        finally:
            theirs.close()
            os.close(their_output)
        zygote = FunctionZygote(zygote_id, pid, pidfd, control, output, roster=self._roster, forked=False)
        self._roster.add(zygote, "zygote")
        zygote.exited.add_done_callback(lambda _: reap_strays())
        try:
            await asyncio.shield(zygote.hello)
        except asyncio.CancelledError:
            zygote.kill("nobody waits for it any more")
            raise
        except WorkerDied:
            _log.error("%s could not be started: %s", zygote, zygote.take_log().decode(errors="replace"))
            raise
        return zygote

    async def worker(
        self, worker_id: str, *, lean: bool, uid: int = -1, gid: int = -1, place: Place | None = None
    ) -> Worker:
        """Fork an empty worker from a base zygote (``Parking: off``). Raises as ``function_zygote``."""
        return await self._ask(lean, lambda spawner: spawner.worker(worker_id, uid=uid, gid=gid, place=place))

    async def execute(
        self,
        worker_id: str,
        *,
        environment: Mapping[str, str],
        uid: int = -1,
        gid: int = -1,
        place: Place | None = None,
        interpreter: Interpreter | None = None,
    ) -> Worker:
        """Start an empty worker by exec, on the node's own ``interpreter`` unless another is given.

        ``environment`` is added to the allow-listed one. The worker is up when this returns.

        Raises ``StartError`` when the interpreter cannot be run, ``WorkerDied`` when it ends before it says Hello.
        """
        return await self._execute(worker_id, environment, uid, gid, place=place, interpreter=interpreter)

    async def context(
        self, worker_id: str, *, device: str, environment: Mapping[str, str], options: Sequence[str] = ()
    ) -> Worker:
        """Start a worker without a function that holds a CUDA context of ``device``; it is made when this returns.

        ``options`` are further ones of ``worker.holder``. Raises as ``execute``, and ``RestoreFailed`` with what the
        driver said.
        """
        return await self._execute(worker_id, environment, -1, -1, options=["--context", device, *options])

    async def _execute(
        self,
        worker_id: str,
        environment: Mapping[str, str],
        uid: int,
        gid: int,
        *,
        place: Place | None = None,
        interpreter: Interpreter | None = None,
        options: Sequence[str] = (),
    ) -> Worker:
        if self._closed:
            raise StartError(f"{worker_id} cannot be started: the node is stopping")
        control, their_control = socket.socketpair()
        data, their_data = socket.socketpair()
        output, their_output = os.pipe()
        try:
            pid, pidfd = execute_function(
                "glowplug.runtime.worker",
                environment=self._environment,
                function_environment=environment,
                expose=self._expose,
                uid=uid,
                gid=gid,
                sockets=(their_control.fileno(), their_data.fileno()),
                output=their_output,
                place=place,
                interpreter=interpreter,
                options=options,
            )
        except OSError as error:
            control.close()
            data.close()
            os.close(output)
            raise StartError(f"{worker_id} cannot be started: {error}") from error
        finally:
            their_control.close()
            their_data.close()
            os.close(their_output)
        worker = Worker(worker_id, pid, pidfd, control, data, output, forked=False)
        self._roster.add(worker, "worker")
        worker.exited.add_done_callback(lambda _: reap_strays())
        try:
            await worker.hello()
        except asyncio.CancelledError:
            worker.kill("nobody waits for it any more")
            raise
        except StartError:  # it has said why, and ends by itself
            worker.kill("it has no context")
            raise
        except WorkerDied:
            _log.error("%s could not be started: %s", worker, worker.take_log().decode(errors="replace"))
            raise
        return worker

    async def close(self) -> None:
        """Stop everything, in order: workers, function zygotes, base zygotes. ``stop_grace_s`` in all, then SIGKILL.

        Every process is dead and reaped when this returns.
        """
        self._closed = True
        deadline_s = asyncio.get_running_loop().time() + self._config.stop_grace_s
        below_bases: tuple[Kind, ...] = ("worker", "zygote")
        for kind in below_bases:
            await self._stop(kind, deadline_s)
        left_s = deadline_s - asyncio.get_running_loop().time()
        await asyncio.gather(*(base.close(max(0.1, left_s)) for base in self._bases.values()))
        for kind in below_bases:  # forked by a request that was under way
            await self._stop(kind, deadline_s)
        strays = reap_strays()
        if strays:
            await asyncio.wait(strays, timeout=self._config.stop_grace_s)

    async def _stop(self, kind: Kind, deadline_s: float) -> None:
        grace_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
        await asyncio.gather(*(child.stop(grace_s) for child in self._roster.of(kind)))

    async def _ask(self, lean: bool, ask: Callable[[Spawner], Awaitable[ChildType]]) -> ChildType:
        """Ask a base zygote for a fork, and the next one when it dies before it has answered.

        Asking again is safe: a fork that nobody heard of is an empty process whose channels are closed, and ends.
        """
        for _ in range(FORK_ATTEMPTS - 1):
            base = await self._base(lean).ready()
            try:
                return await ask(base.spawner)
            except WorkerDied as error:
                _log.warning("a fork was asked for again: %s", error)
        return await ask((await self._base(lean).ready()).spawner)

    def _base(self, lean: bool) -> BaseZygote:
        if self._closed:
            raise StartError("the node is stopping")
        return self._bases["lean" if lean else "torch"]
