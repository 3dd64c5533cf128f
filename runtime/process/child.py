"""A child process as the node sees it: one control channel, one output pipe, one pidfd, one death.

``Child`` is what workers and function zygotes have in common. Whoever is the parent of the process says when it is dead
(see ``death``); everything that waits for an answer of the process then fails with ``WorkerDied``.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from glowplug.runtime.errors import LoadFailed, StartError

from . import wire
from .channel import Channel, ChannelClosed
from .death import Exit, PidWatch, WorkerDied, reap, send_signal
from .output import OutputPipe
from .view import forget_scratch

HINT_S = 1.0
"""How long after end of file on its control channel a process may take to be reported dead, before it is killed."""

_log = logging.getLogger(__name__)

Answer = TypeVar("Answer", bound=wire.Message)


class Child:
    """One process below the node, forked or exec'ed. Use ``workers.Worker`` or ``zygotes.FunctionZygote``.

    ``exited`` is done when the process is dead and reaped; await it through ``asyncio.shield``. ``killed_for`` is the
    reason first given to ``kill``, empty when nobody killed it. Owns ``control``, ``output`` and ``pidfd``.
    """

    def __init__(
        self,
        child_id: str,
        pid: int,
        pidfd: int,
        control: socket.socket,
        output: int,
        *,
        forked: bool = True,
        on_output: Callable[[], None] | None = None,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._id = child_id
        self.pid = pid
        self.forked = forked
        self.killed_for = ""
        self.exited: asyncio.Future[Exit] = self._loop.create_future()
        self._exit: Exit | None = None
        self._pidfd = pidfd
        self._control = Channel(control, on_message=self._on_control, on_closed=self._on_closed)
        self._output = OutputPipe(output, on_output)
        self._waiting: tuple[type[wire.Message], asyncio.Future[Any]] | None = None
        self._hint: asyncio.TimerHandle | None = None
        self._zygote_alive = forked
        self._watch = None if forked else PidWatch(self._loop, pidfd, self._pid_is_dead)

    def __repr__(self) -> str:
        state = "alive" if self._exit is None else self._exit.describe()
        return f"{type(self).__name__}({self._id}, pid={self.pid}, {state})"

    @property
    def alive(self) -> bool:
        """Whether it is not known to be dead."""
        return self._exit is None

    def take_log(self) -> bytes:
        """Return what the process wrote to descriptors 1 and 2 since the last call, without waiting."""
        return self._output.take()

    def kill(self, reason: str) -> None:
        """Send SIGKILL; its zygote, or the node, then kills the group. A second call, or one too late, does nothing."""
        if self._exit is None and not self.killed_for:
            self.killed_for = reason
            send_signal(self._pidfd, signal.SIGKILL)
            self._expect_death()

    async def stop(self, grace_s: float) -> Exit:
        """Let it finish what is in flight, for ``grace_s`` seconds at most, then kill it; returns how it ended."""
        if self._exit is None and not self.killed_for:
            with contextlib.suppress(ChannelClosed):
                self._control.post(wire.Stop(grace_s))
            await asyncio.wait([self.exited], timeout=grace_s)
            self.kill("did not stop in time")
        return await asyncio.shield(self.exited)

    def died(self, ended: Exit) -> None:
        """Record the death. Called by the parent of the process: its zygote's ``Spawner``, or the pidfd watch."""
        if self._exit is not None:
            return
        self._exit = ended
        if self._hint is not None:
            self._hint.cancel()
        if self._watch is not None:
            self._watch.close()
        self._release()
        self._fail_pending()
        if not self.exited.done():
            self.exited.set_result(ended)

    def zygote_died(self) -> None:
        """Say that nobody will report this process any more: its pidfd is watched from here on."""
        self._zygote_alive = False
        self._watch_pid()

    # --- what subclasses add to -------------------------------------------------------------------------------------

    def _release(self) -> None:
        """Close what belongs to the process. The output that is left stays readable through ``take_log``."""
        self._control.close()
        self._output.close()
        os.close(self._pidfd)

    def _fail_pending(self) -> None:
        if self._waiting is not None:
            _, future = self._waiting
            self._waiting = None
            if not future.done():
                future.set_exception(self._death())
                future.exception()  # marks it as seen: an exec'ed process may die before anybody awaits its Hello

    def _death(self, *, sent: bool = True) -> WorkerDied:
        """Return the error of the death, a new one for everybody who gets it: a traceback belongs to one raise."""
        return WorkerDied(self._id, self._exit or Exit(None), killed_for=self.killed_for, sent=sent)

    def _on_control(self, message: wire.Message, descriptors: list[int]) -> None:
        expected, future = self._waiting or (None, None)
        if future is None or expected is None or not isinstance(message, expected | wire.Failed):
            for descriptor in descriptors:
                os.close(descriptor)
            raise wire.WireError(f"{type(message).__name__} was not asked for")
        self._waiting = None
        if not future.done():
            future.set_result(message)

    # --- steps ------------------------------------------------------------------------------------------------------

    async def _step(
        self, message: wire.Message, expected: type[Answer], fault: Callable[[wire.Failed], StartError]
    ) -> Answer:
        """Ask for one step and return its answer. Raises what ``fault`` makes of ``Failed``, or ``WorkerDied``."""
        if self._exit is not None:
            raise self._death(sent=False)
        if self._waiting is not None:
            raise RuntimeError(f"{self._id}: {type(message).__name__} was asked for while another step is under way")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting = (expected, future)  # stays when this call is cancelled: the answer may still come
        try:
            self._control.post(message)  # one step at a time: its answer is all the back-pressure there can be
        except ChannelClosed:
            pass  # the process is gone or going: its death is the answer
        except ValueError:
            self._waiting = None
            raise
        answer = await future
        if isinstance(answer, wire.Failed):
            raise fault(answer)
        return answer  # type: ignore[no-any-return]

    # --- death ------------------------------------------------------------------------------------------------------

    def _on_closed(self, error: Exception | None) -> None:
        if isinstance(error, wire.WireError):
            _log.warning("%s broke the protocol and is killed: %s", self._id, error)
            self.kill(f"protocol error: {error}")
        elif self._exit is None and self._hint is None:
            self._hint = self._loop.call_later(HINT_S, self._hint_passed)

    def _hint_passed(self) -> None:
        self.kill("closed its channel without exiting")
        self._watch_pid()

    def _expect_death(self) -> None:
        """After SIGKILL: watch the pidfd too, should the zygote be too stuck to report."""
        if self._hint is None:
            self._hint = self._loop.call_later(HINT_S, self._watch_pid)

    def _watch_pid(self) -> None:
        if self._exit is None and self._watch is None:
            self._watch = PidWatch(self._loop, self._pidfd, self._pid_is_dead)

    def _pid_is_dead(self) -> None:
        ended = reap(self._pidfd, self.pid)
        if ended is None and self._zygote_alive:  # the zygote reaps it: its report has the status and is on its way
            self._hint = self._loop.call_later(HINT_S, self.died, Exit(None))
        else:
            if not self._zygote_alive:
                self._loop.run_in_executor(None, forget_scratch, self.pid)
            self.died(ended or Exit(None))


def load_fault(failed: wire.Failed) -> StartError:
    """Return what a failed load or start raises: Lambda's error body of the import."""
    return LoadFailed(failed.error_type, failed.error_message, failed.stack_trace)
