"""A worker: the process that runs a handler, forked from a zygote or exec'ed; also a canary, which is only checked."""

from __future__ import annotations

import asyncio
import contextlib
import math
import os
import socket
from typing import Any

from glowplug.runtime.errors import CheckFailed, RestoreFailed, StartError
from glowplug.runtime.responsestream import ResponseStream, WindowExceeded

from . import wire
from .channel import Channel, ChannelClosed
from .child import Child, load_fault

_CALLED = (str, str, int, float, float, int)
_VERIFIED = (str, str, str, float, str)
"""The rows of ``Outcome.models`` and ``Verified.models``."""


class Worker(Child):
    """One worker. Steps come in the order load, bind, check, start; a fork of a bound zygote only needs ``start``.

    Every method that waits raises ``WorkerDied`` when the process ends first. A method that is cancelled leaves the
    process in the middle of something: kill it.
    """

    def __init__(
        self,
        worker_id: str,
        pid: int,
        pidfd: int,
        control: socket.socket,
        data: socket.socket,
        output: int,
        *,
        forked: bool = True,
    ) -> None:
        super().__init__(worker_id, pid, pidfd, control, output, forked=forked)
        self._invocations: dict[str, asyncio.Future[wire.Outcome]] = {}
        self._abandoned: set[str] = set()  # their outcomes may still come
        self._unsent: set[str] = set()
        self._streams: dict[str, ResponseStream] = {}
        self._checks: dict[str, asyncio.Future[wire.Verified]] = {}
        self._hello: asyncio.Future[wire.Hello | wire.Failed] = self._loop.create_future()
        if not forked:
            self._waiting = (wire.Hello, self._hello)
        self._data = Channel(data, on_message=self._on_data, on_closed=self._on_closed)

    @property
    def worker_id(self) -> str:
        """The id it was asked for by."""
        return self._id

    @property
    def busy(self) -> bool:
        """Whether an invocation is in flight, or one that was answered is being checked."""
        return bool(self._invocations) or any(not check.done() for check in self._checks.values())

    async def hello(self) -> wire.Hello:
        """Wait until an exec'ed worker is up; a forked one says nothing at first.

        Raises ``RestoreFailed`` when it was to make a CUDA context and could not.
        """
        answer: wire.Hello | wire.Failed = await asyncio.shield(self._hello)
        if isinstance(answer, wire.Failed):
            raise restore_fault(answer)
        return answer

    async def adopt(self, message: wire.Adopt) -> wire.Adopted:
        """Let a worker that holds a context belong to a function. Raises ``StartError``."""
        return await self._step(message, wire.Adopted, restore_fault)

    async def load(self, message: wire.Load) -> wire.Loaded:
        """Import the handler. Raises ``LoadFailed`` with Lambda's error type, message and stack trace."""
        return await self._step(message, wire.Loaded, load_fault)

    async def bind(self, message: wire.Bind) -> wire.Bound:
        """Give each model an engine. Raises ``RestoreFailed``."""
        return await self._step(message, wire.Bound, restore_fault)

    async def check(self, message: wire.Check) -> wire.Checked:
        """Run the engine check. Raises ``CheckFailed``."""
        return await self._step(message, wire.Checked, check_fault)

    async def start(self, message: wire.Start) -> wire.Ready:
        """Become an instance. Raises ``LoadFailed`` when an after-restore hook fails."""
        return await self._step(message, wire.Ready, load_fault)

    async def invoke(self, message: wire.Invoke, stream: ResponseStream | None = None) -> wire.Outcome:
        """Call the handler and return its outcome. Several may be in flight, each with its own invocation id.

        What the handler streams goes into ``stream``, for a message with a window.
        """
        invocation_id = message.invocation_id
        if self._exit is not None:
            raise self._death(sent=False)
        if invocation_id in self._invocations:
            raise ValueError(f"{self._id}: invocation {invocation_id} is in flight already")
        future: asyncio.Future[wire.Outcome] = self._loop.create_future()
        self._invocations[invocation_id] = future
        self._unsent.add(invocation_id)
        if stream is not None:
            self._streams[invocation_id] = stream
        try:
            pending = self._data.post(message)
            if pending is not None:
                await pending
            self._unsent.discard(invocation_id)
        except ChannelClosed:
            pass  # the process is gone or going: its death ends the invocation, as one that was never sent
        except BaseException:
            self._give_up(invocation_id)
            raise
        try:
            return await future
        except asyncio.CancelledError:
            self._give_up(invocation_id)
            raise

    def grant(self, invocation_id: str, size_bytes: int) -> None:
        """Let the worker send so many bytes more of a stream."""
        self._tell(wire.Credit(invocation_id, size_bytes))

    def cancel(self, invocation_id: str) -> None:
        """Ask the handler to end its stream; the invocation goes on until it has an outcome."""
        self._tell(wire.Cancel(invocation_id))

    def _tell(self, message: wire.Message) -> None:
        with contextlib.suppress(ChannelClosed):  # its death ends the invocation
            self._data.post(message)

    async def verified(self, invocation_id: str) -> wire.Verified:
        """Return what came of the check that an outcome has announced (``Outcome.checking``); to be asked once."""
        try:
            return await asyncio.shield(self._checks[invocation_id])
        finally:
            del self._checks[invocation_id]

    def _give_up(self, invocation_id: str) -> None:
        """Forget an invocation whose caller is gone; an outcome that comes all the same is no protocol error."""
        self._unsent.discard(invocation_id)
        if self._invocations.pop(invocation_id, None) is not None:
            self._abandoned.add(invocation_id)
        if self._streams.pop(invocation_id, None) is not None:
            self.cancel(invocation_id)

    def _on_data(self, message: Any, descriptors: list[int]) -> None:
        if type(message) is wire.Verified:
            self._on_verified(message)
            return
        if type(message) is wire.Chunk:
            self._on_chunk(message)
            return
        if type(message) is not wire.Outcome:
            for descriptor in descriptors:
                os.close(descriptor)
            raise wire.WireError(f"{type(message).__name__} on the data channel")
        future = self._invocations.pop(message.invocation_id, None)
        self._streams.pop(message.invocation_id, None)
        if future is None:
            if message.invocation_id not in self._abandoned:
                raise wire.WireError(f"outcome of an invocation that is not in flight: {message.invocation_id!r}")
            self._abandoned.discard(message.invocation_id)
        elif not _rows(message.models, _CALLED):
            self._invocations[message.invocation_id] = future
            raise wire.WireError("Outcome.models has a row that is none")
        elif not all(type(result) is bytes for result in message.results):
            self._invocations[message.invocation_id] = future
            raise wire.WireError("Outcome.results is not a list of bytes")
        elif not future.done():
            future.set_result(message)
        if message.checking:
            self._checks[message.invocation_id] = self._loop.create_future()

    def _on_chunk(self, message: wire.Chunk) -> None:
        stream = self._streams.get(message.invocation_id)
        if stream is not None:
            try:
                stream.feed(message.data, message.content_type)
            except WindowExceeded as error:
                raise wire.WireError(str(error)) from None
        elif message.invocation_id not in self._abandoned:
            raise wire.WireError(f"chunk of an answer that is no stream: {message.invocation_id!r}")

    def _on_verified(self, message: wire.Verified) -> None:
        check = self._checks.get(message.invocation_id)
        if check is None or check.done() or not _rows(message.models, _VERIFIED):
            raise wire.WireError(f"Verified of {message.invocation_id!r} was not announced, or has a row that is none")
        check.set_result(message)

    def _release(self) -> None:
        super()._release()
        self._data.close()

    def _fail_pending(self) -> None:
        super()._fail_pending()
        for invocation_id, future in self._invocations.items():
            if not future.done():
                future.set_exception(self._death(sent=invocation_id not in self._unsent))
        self._invocations.clear()
        self._streams.clear()
        for check in self._checks.values():
            if not check.done():
                check.set_exception(self._death())
                check.exception()  # marks it as seen: nobody may have asked for it yet


def _rows(rows: list[Any], kinds: tuple[type, ...]) -> bool:
    """Tell whether ``rows`` have values of ``kinds``, the numbers among them finite: a worker is not trusted."""
    return all(
        type(row) is list
        and len(row) == len(kinds)
        and all(type(value) is kind for value, kind in zip(row, kinds, strict=True))
        and all(math.isfinite(value) for value in row if type(value) is float)
        for row in rows
    )


def restore_fault(failed: wire.Failed) -> StartError:
    """Return what a failed bind raises."""
    return _reported(RestoreFailed(f"{failed.error_type}: {failed.error_message}"), failed)


def check_fault(failed: wire.Failed) -> StartError:
    """Return what a failed engine check raises."""
    return _reported(CheckFailed(f"{failed.error_type}: {failed.error_message}"), failed)


def _reported(error: StartError, failed: wire.Failed) -> StartError:
    error.reported_type = failed.error_type
    error.stack_trace = failed.stack_trace
    return error
