"""Batch jobs: lines of input, each of which is one event, and their results in the order of the lines.

A client sends a job in pieces. A line's idempotency key is the job and its index, so a piece that is sent again, after
whatever was killed, runs nothing again that ran: it gets the results. A job gives way to everybody else: a line goes
into the function's queue only while

1. fewer than the job's ``concurrency`` lines are out,
2. nothing but lines of jobs waits in the function's queue, and
3. an instance is free for it, or may be started.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glowplug.runtime.catalog import LATEST
from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import InvalidParameter, QueueNotFound, RequestTooLarge, Throttled
from glowplug.runtime.queue.store import QueueStore

from .accepting import Acceptor, NewEvent
from .records import SUCCEEDED
from .results import Results
from .stored import queue_of

CALLER: Final = "map"
_LOOK_S: Final = 0.1
_WAIT_S: Final = 900.0


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a job: ``lines`` as they stand in the input, the first of which has the index ``first``."""

    job: str
    function: str
    qualifier: str
    first: int
    lines: Sequence[bytes]
    concurrency: int
    retries: int | None = None


class Jobs:
    """Runs pieces. ``room`` tells how many more requests a function's instances could take."""

    def __init__(
        self, acceptor: Acceptor, results: Results, store: QueueStore, room: Callable[[str, str], int], clock: Clock
    ) -> None:
        self._acceptor = acceptor
        self._results = results
        self._store = store
        self._room = room
        self._clock = clock
        self._out: Counter[tuple[str, str]] = Counter()
        self._ended = asyncio.Event()

    async def run(self, piece: Piece) -> AsyncGenerator[dict[str, Any], None]:
        """Yield ``{"index", "output"}`` or ``{"index", "error"}`` for each line, in their order.

        Raises ``FunctionNotFound`` and ``StateError``; what was accepted by then goes on.
        """
        turn = asyncio.Lock()  # lines of a piece go out in their order
        tasks = [
            asyncio.create_task(self._line(piece, piece.first + number, line, turn))
            for number, line in enumerate(piece.lines)
        ]
        try:
            for task in tasks:
                yield await task
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _line(self, piece: Piece, index: int, line: bytes, turn: asyncio.Lock) -> dict[str, Any]:
        if (problem := _problem(line)) is not None:
            return {"index": index, "error": {"errorType": "Glowplug.InvalidInput", "errorMessage": problem}}
        key = (piece.function, piece.job)
        async with turn:
            await self._turn(piece, key)
            self._out[key] += 1
        try:
            request_id = await self._accepted(piece, index, line)
            found = await self._results.wait(request_id, _WAIT_S)
            while found.record is None:
                found = await self._results.wait(request_id, _WAIT_S)
        except (RequestTooLarge, InvalidParameter) as error:
            return {"index": index, "error": {"errorType": type(error).__name__, "errorMessage": str(error)}}
        finally:
            self._out[key] -= 1
            if not self._out[key]:
                del self._out[key]
            self._ended.set()
        shown = self._results.show(found)
        if found.record.state == SUCCEEDED:
            return {"index": index, "output": shown["result"]}
        return {"index": index, "error": shown["error"]}

    async def _accepted(self, piece: Piece, index: int, line: bytes) -> str:
        event = NewEvent(
            function=piece.function,
            qualifier=piece.qualifier,
            payload=line,
            idempotency_key=f"{piece.job}/{index}",
            caller=CALLER,
            retries=piece.retries,
            source=f"map:{piece.job}",
        )
        while True:
            try:
                return (await self._acceptor.accept(event)).request_id
            except Throttled as error:
                await self._clock.sleep(error.retry_after_s)

    async def _turn(self, piece: Piece, key: tuple[str, str]) -> None:
        """Return when a line may go out."""
        while self._out[key] >= piece.concurrency or not await self._gives_way(piece):
            self._ended.clear()
            alarm = self._clock.call_later(_LOOK_S, self._ended.set)
            try:
                await self._ended.wait()
            finally:
                alarm.cancel()

    async def _gives_way(self, piece: Piece) -> bool:
        ours = sum(count for (function, _), count in self._out.items() if function == piece.function)
        if ours and self._room(piece.function, piece.qualifier or LATEST) <= 0:
            return False
        try:
            counts = await self._store.counts(queue_of(piece.function))
        except QueueNotFound:  # it never had an event
            return True
        return counts.visible <= ours  # others are running, or are delayed until their next attempt


def _problem(line: bytes) -> str | None:
    """Return why a line is no input; None where it is one."""
    if not line.strip():
        return "The line is empty; an input is one JSON value"
    try:
        json.loads(line.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return f"The line is not JSON: {error}"
    return None


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON number")
