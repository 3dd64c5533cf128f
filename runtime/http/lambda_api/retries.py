"""Repeated POSTs of one invocation: a client that gave up waiting asks again, and gets what it asked for first.

boto3 and the other SDKs retry an Invoke whose answer did not come in time (60 s by default), with the same
``amz-sdk-invocation-id``. AWS runs the function again. Here the retry joins the invocation that is still running: a
model that needs longer than the client's patience is not run three times over.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import FunctionFault
from glowplug.runtime.invocation import Outcome

RETRY_WAIT_S = 25.0
"""How long an invocation that nobody waits for any more goes on, and its result is kept: the longest pause that boto3
makes before a retry is 20 s."""

KEPT_BYTES = 64 * 1024 * 1024


@dataclass(slots=True, eq=False)
class _Run:
    task: asyncio.Task[Outcome]
    size_bytes: int
    waiting: int = 0
    alarm: Alarm | None = None


class Retries:
    """Invocations that may be asked for again, by what makes two requests the same.

    One that nobody waits for is ended after ``wait_s``. Results that nobody has taken, ``kept_bytes`` of them at most,
    the oldest go first, are forgotten then too.
    """

    def __init__(self, clock: Clock, *, wait_s: float = RETRY_WAIT_S, kept_bytes: int = KEPT_BYTES) -> None:
        self._clock = clock
        self._wait_s = wait_s
        self._room_bytes = kept_bytes
        self._runs: dict[Hashable, _Run] = {}

    def __len__(self) -> int:
        return len(self._runs)

    def __repr__(self) -> str:
        return f"<Retries {len(self._runs)} invocations>"

    async def join(self, key: Hashable, work: Callable[[], Awaitable[Outcome]], *, event_bytes: int = 0) -> Outcome:
        """Return the outcome of the invocation under ``key``, begun with ``work`` unless it is there already.

        ``event_bytes`` is what the key holds in memory.
        Raises what ``work`` raises. Cancelled: the invocation goes on, for ``wait_s`` unless it is joined again.
        """
        run = self._runs.get(key)
        if run is None:
            run = self._begin(key, work, event_bytes)
        run.waiting += 1
        if run.alarm is not None:
            run.alarm.cancel()
            run.alarm = None
        try:
            outcome = await asyncio.shield(run.task)
        except asyncio.CancelledError:
            self._left(key, run)
            raise
        except BaseException:
            self._taken(key, run)
            raise
        self._taken(key, run)
        return outcome

    async def close(self) -> None:
        """End what nobody waits for; the requests that are waited for have ended before."""
        runs = [self._forget(key) for key in list(self._runs)]
        for run in runs:
            run.task.cancel()
        for run in runs:
            with suppress(Exception, asyncio.CancelledError):
                await run.task

    def _begin(self, key: Hashable, work: Callable[[], Awaitable[Outcome]], event_bytes: int) -> _Run:
        async def begun() -> Outcome:
            return await work()

        run = self._runs[key] = _Run(asyncio.create_task(begun(), name="invocation"), event_bytes)
        run.task.add_done_callback(lambda task: self._ended(key, run, task))
        return run

    def _taken(self, key: Hashable, run: _Run) -> None:
        run.waiting -= 1
        if not run.waiting and self._runs.get(key) is run:
            del self._runs[key]

    def _left(self, key: Hashable, run: _Run) -> None:
        run.waiting -= 1
        if not run.waiting and self._runs.get(key) is run:
            run.alarm = self._clock.call_later(self._wait_s, lambda: self._give_up(key, run))

    def _ended(self, key: Hashable, run: _Run, task: asyncio.Task[Outcome]) -> None:
        """Keep a result that nobody takes now. An error of ours is none: the retry may do better."""
        error = None if task.cancelled() else task.exception()
        if run.waiting or self._runs.get(key) is not run:
            return
        if task.cancelled() or (error is not None and not isinstance(error, FunctionFault)):
            self._forget(key)
            return
        run.size_bytes += len(task.result().payload) if error is None else 0
        kept = [(other, one) for other, one in self._runs.items() if one.task.done() and not one.waiting]
        size = sum(one.size_bytes for _, one in kept)
        for other, one in kept:
            if size <= self._room_bytes:
                break
            size -= one.size_bytes
            self._forget(other)

    def _give_up(self, key: Hashable, run: _Run) -> None:
        if self._runs.get(key) is run and not run.waiting:
            self._forget(key)
            run.task.cancel()

    def _forget(self, key: Hashable) -> _Run:
        run = self._runs.pop(key)
        if run.alarm is not None:
            run.alarm.cancel()
        return run
