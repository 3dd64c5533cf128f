"""Brings accepted events to functions: one feed for each function that has a queue.

Start: what a node that was killed had begun is made visible again, because its attempts ended with it (``resume``).
Stop: no new receive (``stop``), what runs may end (``drained``), what does not is given back (``close``).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import GlowplugError, StaleLease
from glowplug.runtime.queue.model import END_OF_MS, Lease, Message, Place
from glowplug.runtime.queue.steps import Release
from glowplug.runtime.queue.store import QueueStore

from .attempts import Neighbours
from .feed import Feed
from .figures import Book
from .settling import Settler
from .stored import cut_off, function_of, queue_of

_BEAT_S = 15.0
_PAGE = 1_000
_FLUSH_S = 5.0

log = logging.getLogger(__name__)


class Dispatcher:
    """All feeds of a node."""

    def __init__(self, neighbours: Neighbours, settler: Settler, figures: Book) -> None:
        self._n = neighbours
        self._store: QueueStore = neighbours.store
        self._clock: Clock = neighbours.clock
        self._settler = settler
        self._figures = figures
        self._feeds: dict[str, Feed] = {}
        self._beat: Alarm | None = None
        self._beating: asyncio.Task[None] | None = None
        self._resumed = False
        self._stopped = False

    def __repr__(self) -> str:
        return f"<Dispatcher {list(self._feeds.values())}>"

    async def resume(self) -> None:
        """Go on with what is in the queues."""
        functions = [name for queue in self._store.queues if (name := function_of(queue.name)) is not None]
        for function in functions:
            await self._release_cut_off(function)
        self._resumed = True
        for function in functions:
            self.opened(function)
        self._beat = self._clock.call_later(_BEAT_S, self._beats)

    async def _release_cut_off(self, function: str) -> None:
        """Make visible what the node before this one had begun: nobody runs it any more."""
        queue, now_ms = queue_of(function), int(self._clock.time() * 1000)
        found: list[Message] = []
        place: Place = (now_ms, END_OF_MS, 0)  # those up to there are visible
        while page := await self._store.peek(queue, _PAGE, bodies=False, beyond=place):
            found += [one for one in page if cut_off(one, now_ms)]
            place = page[-1].place
        for start in range(0, len(found), _PAGE):
            steps = (
                Release(Lease(queue, one.sequence, one.receives, one.visible_ms))
                for one in found[start : start + _PAGE]
            )
            try:
                await self._store.apply(*steps)
            except StaleLease as error:
                log.warning("%s: some events wait until their leases run out: %s", function, error)
        if found:
            log.warning("%s: %d events had been begun when the node ended, and run again", function, len(found))

    def opened(self, function: str) -> None:
        """Go on with, or begin, the queue of a function."""
        feed = self._feeds.get(function)
        if self._resumed and not self._stopped and (feed is None or feed.ended):
            self._feeds[function] = Feed(function, self._n, self._figures)

    def changed(self) -> None:
        """Something was deployed: a function may be back, or may have other limits."""
        for feed in tuple(self._feeds.values()):
            feed.pump()

    def feed(self, function: str) -> Feed | None:
        """Return the feed of a function, None where it never had an event."""
        return self._feeds.get(function)

    # --- heartbeats ---------------------------------------------------------------------------------------------------

    def _beats(self) -> None:
        self._beating = asyncio.create_task(self._extend(), name="extend leases of events")
        self._beat = self._clock.call_later(_BEAT_S, self._beats)

    async def _extend(self) -> None:
        for feed in tuple(self._feeds.values()):
            try:
                await feed.attempts.beat()
            except GlowplugError as error:
                log.warning("leases of %s were not extended: %s", feed.function, error)

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Receive nothing more."""
        self._stopped = True
        if self._beat is not None:
            self._beat.cancel()
        for feed in self._feeds.values():
            feed.stop()

    async def drained(self) -> None:
        """Return when nothing is under way any more."""
        while tasks := self._tasks():
            await asyncio.wait(tasks)

    async def close(self) -> None:
        """End what is under way, and write down what has ended."""
        self.stop()
        tasks = self._tasks()
        for task in tasks:
            if task.get_name().startswith("events of "):
                task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_FLUSH_S)
        if self._beating is not None:
            await asyncio.wait((self._beating,), timeout=_FLUSH_S)
        await self._settler.close(_FLUSH_S)

    def _tasks(self) -> set[asyncio.Task[None]]:
        return _union(feed.busy for feed in self._feeds.values())


def _union(sets: Iterable[set[asyncio.Task[None]]]) -> set[asyncio.Task[None]]:
    return {task for one in sets for task in one}
