"""A base zygote on the node's side: exec'ed, waited for, rebuilt when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence

from glowplug.runtime.errors import StartError

from . import wire
from .child import Child
from .death import Exit, WorkerDied, reap_strays
from .execute import FIRST_FD, execute, python
from .roster import Roster
from .spawner import Spawner

FIRST_DELAY_S = 0.1
MAX_DELAY_S = 30.0
HEALTHY_S = 30.0
"""A base zygote that lived this long died of something new: the next one starts without delay."""

_log = logging.getLogger(__name__)


class BaseProcess(Child):
    """One incarnation of a base zygote. ``hello`` is done when it has imported its preloads."""

    def __init__(
        self,
        name: str,
        pid: int,
        pidfd: int,
        control: socket.socket,
        output: int,
        *,
        roster: Roster,
        on_output: Callable[[], None],
    ) -> None:
        super().__init__(name, pid, pidfd, control, output, forked=False, on_output=on_output)
        self.spawner = Spawner(name, pid, self._control, roster)
        self.hello: asyncio.Future[wire.Hello] = self._loop.create_future()
        self._waiting = (wire.Hello, self.hello)

    def close_channel(self) -> None:
        """Close the control channel, on which a zygote kills its children and exits."""
        self._control.close()

    def _on_control(self, message: wire.Message, descriptors: list[int]) -> None:
        if isinstance(message, wire.Hello) and message.protocol != wire.PROTOCOL:
            raise wire.WireError(f"{self._id} speaks protocol {message.protocol}, the node {wire.PROTOCOL}")
        if not self.spawner.handle(message, descriptors):
            super()._on_control(message, descriptors)

    def _fail_pending(self) -> None:
        super()._fail_pending()
        self.spawner.zygote_died(self._exit or Exit(None))


class BaseZygote:
    """Keeps one base zygote running: when it dies, another is started, after a delay that doubles up to 30 s.

    ``kind`` is ``lean`` or ``torch``. ``on_output`` gets (name, bytes) of whatever it writes to 1 and 2.
    """

    def __init__(
        self,
        kind: str,
        *,
        environment: Mapping[str, str],
        expose: Sequence[str],
        roster: Roster,
        on_output: Callable[[str, bytes], None],
    ) -> None:
        self.kind = kind
        self._environment = environment
        self._arguments = ["--control-fd", str(FIRST_FD), "--preload", kind]
        for path in expose:
            self._arguments += ["--expose", path]
        self._roster = roster
        self._on_output = on_output
        self._process: BaseProcess | None = None
        self._up = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False
        self.restarts = 0

    def __repr__(self) -> str:
        up = self._up.is_set() and not self._closed
        return f"BaseZygote({self.kind}, {self._process}, up={up}, restarts={self.restarts})"

    @property
    def process(self) -> BaseProcess | None:
        """The incarnation that runs or starts, None before ``start`` and between two."""
        return self._process

    def start(self) -> None:
        """Begin to keep one running. Returns at once; a second call does nothing."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._keep(), name=f"base zygote {self.kind}")
            self._task.add_done_callback(self._keeper_ended)

    async def ready(self) -> BaseProcess:
        """Return a base zygote that said Hello; wait while one starts. Raises ``StartError`` when the node stops."""
        self.start()
        while self._closed or self._process is None or not self._process.alive or not self._up.is_set():
            if self._closed:
                raise StartError(f"base zygote {self.kind} is stopping with the node")
            await self._up.wait()
            await asyncio.sleep(0)  # it may have died since: _keep clears the event one turn of the loop later
        return self._process

    async def close(self, grace_s: float) -> None:
        """End it and everything below it; SIGKILL after ``grace_s`` seconds. It is dead when this returns."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        self._up.set()  # whoever waits in ready() learns that there will be none
        process = self._process
        if process is not None and process.alive:
            process.close_channel()
            await asyncio.wait([process.exited], timeout=grace_s)
            process.kill("did not stop in time")
            await asyncio.shield(process.exited)

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        delay_s = 0.0
        while True:
            started_s = loop.time()
            try:
                self._process = process = self._launch()
                hello = await asyncio.shield(process.hello)
                _log.info(
                    "base zygote %s is up: %d modules in %.0f ms", self.kind, len(hello.preloaded), hello.import_ms
                )
                self._up.set()
                why = (await asyncio.shield(process.exited)).describe()
            except (OSError, WorkerDied) as error:
                why = str(error)
            self._up.clear()
            reap_strays()
            delay_s = 0.0 if loop.time() - started_s >= HEALTHY_S else min(MAX_DELAY_S, delay_s * 2 or FIRST_DELAY_S)
            self.restarts += 1
            _log.error("base zygote %s ended (%s); the next is started in %.1f s", self.kind, why, delay_s)
            await asyncio.sleep(delay_s)

    def _keeper_ended(self, task: asyncio.Task[None]) -> None:
        """A keeper only ends by being cancelled. One that raised is a fault of ours: say so, and have another."""
        if not task.cancelled() and task.exception() is not None:
            _log.critical("the keeper of base zygote %s failed", self.kind, exc_info=task.exception())
            self._task = None
            asyncio.get_running_loop().call_later(MAX_DELAY_S, self.start)

    def _launch(self) -> BaseProcess:
        control, theirs = socket.socketpair()
        output, their_output = os.pipe()
        try:
            pid, pidfd = execute(
                python("glowplug.runtime.process.zygote", self._arguments),
                environment=self._environment,
                inherited=[theirs.fileno()],
                output=their_output,
            )
        except BaseException:
            control.close()
            os.close(output)
            raise
        finally:
            theirs.close()
            os.close(their_output)
        process = BaseProcess(
            f"base-{self.kind}",
            pid,
            pidfd,
            control,
            output,
            roster=self._roster,
            on_output=lambda: self._on_output(f"base-{self.kind}", process.take_log()),
        )
        self._roster.add(process, "base")
        return process
