"""What became of an event: looked up, waited for, listed, cancelled."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import Conflict, InvalidParameter, ResourceNotFound, StaleLease
from glowplug.runtime.queue.model import Message, Record
from glowplug.runtime.queue.steps import Find, GetRecord, ScanRecords, Step, Withdraw
from glowplug.runtime.queue.store import QueueStore

from .dispatcher import Dispatcher
from .ending import Endings, rules_of
from .figures import Book
from .records import CANCELLED, STATES, shown, waiting
from .stored import function_of, key_of, queue_of, stored
from .watching import Watchers

WAITING = ("queued", "running", "retrying")
_LONGEST_WAIT_S = 900.0
_CANCEL_S, _CANCEL_ROUNDS = 1.0, 30

Start = Callable[[str], Mapping[str, Any]]
"""Returns what a function's cold start is at: tier, starts under way with their phases."""


@dataclass(frozen=True, slots=True)
class Found:
    """An event: its record if it is over, else its message and in which state it is."""

    record: Record | None
    message: Message | None = None
    state: str = ""


class Results:
    """Answers questions about events."""

    def __init__(
        self,
        store: QueueStore,
        dispatcher: Dispatcher,
        watchers: Watchers,
        figures: Book,
        clock: Clock,
        *,
        endings: Endings,
        start: Start,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._watchers = watchers
        self._figures = figures
        self._clock = clock
        self._start = start
        self._endings = endings

    async def find(self, request_id: str) -> Found:
        """Return an event. Raises ``ResourceNotFound`` for one that never was, or whose record is forgotten."""
        key = key_of(request_id)
        if key is not None:
            # One unit: an event that ends between two looks would be in neither.
            record, *found = await self._store.apply(GetRecord(key), *self._looks(key))
            if record is not None and function_of(record.owner) is not None:
                return Found(record)
            for message in found:
                if message is not None:
                    return Found(None, message, self._state(message))
        raise ResourceNotFound(f"No event of request {request_id} is known: it never was, or its record is too old")

    def _looks(self, key: bytes) -> list[Step]:
        return [Find(queue.name, key) for queue in self._store.queues if function_of(queue.name) is not None]

    def _state(self, message: Message) -> str:
        event = stored(message)
        feed = self._dispatcher.feed(event.function)
        attempt = None if feed is None else feed.attempts.held.get(message.id)
        if attempt is not None and (attempt.task is not None or attempt.over):
            return "running"
        return "retrying" if event.progress.runs or event.progress.requeues else "queued"

    def show(self, found: Found, *, result: bool = True) -> dict[str, Any]:
        """Return an event as JSON."""
        if found.record is not None:
            return shown(found.record, result=result)
        assert found.message is not None  # noqa: S101 - the one or the other
        out = waiting(found.message, found.state, self._clock.time())
        if result:
            out["start"] = dict(self._start(out["function"]))
        return out

    async def wait(self, request_id: str, seconds: float) -> Found:
        """Return an event once it is over, or as it is after ``seconds``. Raises ``ResourceNotFound``."""
        key = key_of(request_id)
        if key is None or seconds <= 0:
            return await self.find(request_id)
        deadline_s = self._clock.monotonic() + min(seconds, _LONGEST_WAIT_S)
        with self._watchers.watching(key) as changed:
            while True:
                changed.clear()
                found = await self.find(request_id)
                left_s = deadline_s - self._clock.monotonic()
                if found.record is not None or left_s <= 0:
                    return found
                await self._change(changed, left_s)

    async def follow(self, request_id: str, pause_s: float) -> AsyncGenerator[dict[str, Any], None]:
        """Yield an event whenever something of it has changed, at least every ``pause_s``, until it is over."""
        key = key_of(request_id) or b""
        with self._watchers.watching(key) as changed:
            while True:
                changed.clear()
                found = await self.find(request_id)
                yield self.show(found)
                if found.record is not None:
                    return
                await self._change(changed, pause_s)

    async def _change(self, changed: asyncio.Event, seconds: float) -> None:
        alarm = self._clock.call_later(seconds, changed.set)
        try:
            await changed.wait()
        finally:
            alarm.cancel()

    async def cancel(self, request_id: str) -> Found:
        """End an event as cancelled. What runs ends with its process, before this returns.

        Raises ``ResourceNotFound``, and ``Conflict`` when it is over, or its process does not end.
        """
        asked = False
        for _ in range(_CANCEL_ROUNDS):
            found = await self.find(request_id)
            message = found.message
            if message is None:
                if asked and found.record is not None and found.record.state == CANCELLED:
                    return found
                break
            event = stored(message)
            feed = self._dispatcher.feed(event.function)
            if feed is not None and event.key in feed.attempts.held:
                with self._watchers.watching(event.key) as changed:
                    asked = feed.attempts.cancel(event.key) or asked
                    await self._change(changed, _CANCEL_S)
                continue
            ending = self._endings.of(event, None, None, rules_of(None, event), status=200)
            try:
                await self._store.apply(Withdraw(message.queue, message.sequence, message.receives), *ending.steps)
            except StaleLease:  # an attempt has begun meanwhile
                continue
            self._figures.of(event.function).cancelled += 1
            self._watchers.tell(event.key)
            return Found(ending.record)
        else:
            raise Conflict(f"Event {request_id} is being cancelled, and has not ended yet")
        raise Conflict(f"Event {request_id} is over already")

    async def listing(self, functions: list[str], state: str, limit: int) -> list[dict[str, Any]]:
        """Return events of functions, newest first; ``state`` empty for all. Raises ``InvalidParameter``."""
        if state and state not in WAITING and state not in STATES:
            raise InvalidParameter(f"state: {state!r} is not one of {', '.join((*WAITING, *STATES))}")
        found: list[Found] = []
        for function in functions:
            owner = queue_of(function)
            if state in STATES or not state:
                states = (STATES[state],) if state else ()
                scan = ScanRecords(owner, states, limit=limit, newest_first=True)
                found += [Found(record) for record in await self._store.records(scan)]
            if state not in STATES and self._store.known(owner):
                counted = [Found(None, one, self._state(one)) for one in await self._messages(function, state, limit)]
                found += [one for one in counted if state in ("", one.state)]
        found.sort(key=_accepted_ms, reverse=True)
        return [self.show(one, result=False) for one in found[:limit]]

    async def _messages(self, function: str, state: str, limit: int) -> list[Message]:
        """Return messages that may be in ``state``. What is held, and what waits for another attempt, is invisible, and
        a queue has these last: behind as many as there may be."""
        queue, feed = queue_of(function), self._dispatcher.feed(function)
        messages = {} if feed is None else {key: one.message for key, one in feed.attempts.held.items()}
        if state != "running":
            after = (await self._store.counts(queue)).visible if state == "retrying" else 0
            messages |= {one.id: one for one in await self._store.peek(queue, limit, after, bodies=False)}
        return list(messages.values())


def _accepted_ms(found: Found) -> int:
    if found.record is not None:
        return found.record.created_ms
    return 0 if found.message is None else found.message.sent_ms
