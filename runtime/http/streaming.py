"""Streamed answers at the edge: opened by a request, read as they come, abandoned when their client goes.

An invocation with a stream runs in a task of its own, which nobody cancels once an instance has it: a client that goes
away only tells the handler to end, and the invocation is logged, counted and accounted for like any other.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import GlowplugError, InternalError
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.responsestream import ResponseStream
from glowplug.runtime.routing.tasks import OwnedTasks

from .messages import StreamCut
from .pace import Pace


class Streams:
    """Runs invocations whose callers take a stream. ``tasks`` outlive the requests that began them."""

    def __init__(
        self,
        invoke: Callable[[Invocation], Awaitable[Outcome]],
        tasks: OwnedTasks,
        *,
        clock: Clock,
        limits: Limits,
    ) -> None:
        self._invoke = invoke
        self._tasks = tasks
        self._clock = clock
        self._limits = limits

    async def open(self, invocation: Invocation) -> Live:
        """Return the answer once there is a first part of it, or all.

        Raises what ``Router.invoke`` raises: then there is no answer. Whoever gets one closes it (``Live.aclose``).
        """
        limits = self._limits
        stream = ResponseStream(limits.stream_response_bytes)
        pace = Pace(limits.stream_bytes_per_second, limits.stream_burst_bytes, self._clock)
        live = Live(stream, pace, self._clock)
        live.task = self._tasks.spawn(self._run(live, invocation._replace(stream=stream)), "streamed invocation")
        try:
            await live.opened()
        except BaseException:
            await live.aclose()
            raise
        return live

    async def _run(self, live: Live, invocation: Invocation) -> None:
        try:
            live.outcome = await self._invoke(invocation)
        except GlowplugError as error:
            live.error = error
        except Exception:
            live.error = InternalError("Internal error; the node's log says more")
            raise  # OwnedTasks logs it
        finally:
            live.stream.end()


class Live:
    """One streamed answer: an asynchronous iterator over its parts, which raises ``StreamCut`` where it breaks off.

    ``outcome`` is there once the parts are over, also for an answer that came whole or failed before its first part;
    those have no parts.
    """

    def __init__(self, stream: ResponseStream, pace: Pace, clock: Clock) -> None:
        self.stream = stream
        self.outcome: Outcome | None = None
        self.error: GlowplugError | None = None
        self.on_closed: Callable[[], None] | None = None
        self.task: asyncio.Task[None] | None = None
        self._pace = pace
        self._clock = clock
        self._first: bytes | None = None
        self._first_ms = 0.0

    def __repr__(self) -> str:
        return f"<Live {self.stream!r}, outcome={'none yet' if self.outcome is None else 'there'}>"

    async def opened(self) -> None:
        """Wait for the first part, or for the end. Raises what ended the invocation without an outcome."""
        self._first = await self.stream.next()
        if self._first is None and self.error is not None:
            raise self.error
        if self.stream.origin is not None:
            self._first_ms = (self._clock.monotonic() - self.stream.origin.began_s) * 1e3

    @property
    def streamed(self) -> bool:
        """Whether the answer has parts."""
        return self.stream.size_bytes > 0

    @property
    def phases(self) -> tuple[tuple[str, float], ...]:
        """What the request waited for until the first part, by name, in milliseconds."""
        origin = self.stream.origin
        return (*(origin.waited if origin is not None else ()), ("first-chunk", self._first_ms))

    async def part(self) -> bytes | None:
        """Return the next part, None after the last. Raises ``StreamCut`` where the invocation failed instead."""
        data, self._first = self._first, None
        if data is None:
            data = await self.stream.next()
        if data is None:
            self._check()
            return None
        await self._pace.take(len(data))
        return data

    def put_back(self, data: bytes) -> None:
        """Let ``part`` return this next."""
        self._first = data or None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        data = await self.part()
        if data is None:
            raise StopAsyncIteration
        return data

    async def aclose(self) -> None:
        """Nobody reads on: end the handler, unless it has ended, or the wait for an instance. Never waits."""
        if self.task is not None and not self.task.done() and not self.stream.abandon():
            self.task.cancel()
        if self.on_closed is not None:
            on_closed, self.on_closed = self.on_closed, None
            on_closed()

    def _check(self) -> None:
        if self.error is not None:
            raise StreamCut(f"the stream ends early: {self.error}")
        if self.outcome is not None and self.outcome.function_error is not None:
            raise StreamCut("the stream ends early: the function failed")
