"""Which messages make the next batch of a mapping: received until it is full or its window is over, and filtered."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.events.sqsfilter import kept
from glowplug.runtime.queue.ports import Incoming

from .batches import Item, item_of, record_of
from .figures import MappingFigures
from .functions import Functions
from .settings import MappingSettings, visibility_s
from .slot import Slot
from .sources import Source


@dataclass(frozen=True, slots=True)
class Gathered:
    """Messages that are held by ``slot``: ``items`` passed the filters, ``found`` is how many there were in all."""

    slot: Slot
    found: int
    items: list[Item]


class Gathering:
    """Gathers batches until ``stopping`` is set. ``settings`` returns what the mapping says now, ``trouble`` is told of
    a queue that failed behind the first messages, ``spawn`` owns the deletion of what no filter keeps."""

    def __init__(
        self,
        functions: Functions,
        clock: Clock,
        stopping: asyncio.Event,
        figures: MappingFigures,
        *,
        settings: Callable[[], MappingSettings],
        trouble: Callable[[Exception], None],
        spawn: Callable[[Coroutine[Any, Any, object], str], object],
    ) -> None:
        self._functions = functions
        self._clock = clock
        self._stopping = stopping
        self._figures = figures
        self._settings = settings
        self._trouble = trouble
        self._spawn = spawn

    async def collect(self, source: Source) -> Gathered:
        """Receive the messages of a batch: those that pass the filters, and how many there were in all.

        Without a window whatever there is makes a batch; with one it grows until the window ends, counted from its
        first message, or until it is full. Raises what the queue raises, with nothing received.
        """
        settings, queue = self._settings(), source.queue
        version = self._functions.target(settings.function, settings.qualifier)
        hidden_s = visibility_s(await queue.visibility_s(), settings.window_s, version.spec.timeout_s)
        slot = Slot(queue, hidden_s, self._clock)
        try:
            found, items = await self._fill(slot, source, hidden_s)
        except BaseException:
            await slot.end()
            raise
        return Gathered(slot, found, items)

    async def _fill(self, slot: Slot, source: Source, hidden_s: int) -> tuple[int, list[Item]]:
        settings, queue = self._settings(), source.queue
        items, found, size = list[Item](), 0, 0
        wait_s, closes_s = source.wait_s, float("inf")
        while True:
            asked_s = self._clock.monotonic()
            most = min(settings.batch_size - len(items), source.batch)
            try:
                messages = await self._interruptible(queue.receive(most, wait_s=wait_s, visibility_s=hidden_s))
            except GlowplugError as error:
                if not found:
                    raise
                self._trouble(error)
                return found, items
            if messages is None:
                return found, items  # stopped
            now_s = self._clock.monotonic()
            # A wait for the first message is no part of its lease. But an answer of another host may have been long on
            # its way, and nothing in it says how long: its leases count from when it was asked for, and are renewed so.
            slot.hold((one.handle for one in messages), now_s if source.prompt else asked_s)
            if messages and not found:
                closes_s = now_s + settings.window_s
            found += len(messages)
            self._figures.polled += len(messages)
            new, dropped = _filtered(messages, self._settings())  # it may say something else than before the wait
            self._figures.filtered_out += len(dropped)
            if dropped:
                self._spawn(slot.delete(dropped), "delete")
            items += new
            size += sum(len(item.record) + 1 for item in new)
            full = len(items) >= settings.batch_size or size >= self._functions.event_bytes
            if full or now_s >= closes_s or not found or (not settings.window_s and not messages):
                return found, items
            wait_s = min(closes_s - now_s, source.wait_s) if settings.window_s else 0

    async def _interruptible(self, receive: Coroutine[Any, Any, list[Incoming]]) -> list[Incoming] | None:
        """Return what is received, or None when the mapping is stopped while it waits."""
        receiving = asyncio.ensure_future(receive)
        stopped = asyncio.ensure_future(self._stopping.wait())
        try:
            await asyncio.wait((receiving, stopped), return_when=asyncio.FIRST_COMPLETED)
            return receiving.result() if receiving.done() else None
        finally:
            stopped.cancel()
            if not receiving.done():
                receiving.cancel()
                with contextlib.suppress(asyncio.CancelledError, GlowplugError):
                    await receiving


def _filtered(messages: list[Incoming], settings: MappingSettings) -> tuple[list[Item], list[str]]:
    """Return what goes to the function, and the handles of what no filter keeps."""
    items: list[Item] = []
    dropped: list[str] = []
    for message in messages:
        record = record_of(message, settings.source)
        if kept(settings.patterns, record):
            items.append(item_of(message, record))
        else:
            dropped.append(message.handle)
    return items, dropped
