"""One function's events: from its queue to instances, and what follows each attempt back to the queue.

Events are received only as instances can take them: as many as ``lanes``, each of which makes one attempt after the
other, and as many more as the lanes will have begun by the time the next receive is back (none, for a handler that
takes long). There are few lanes at first; they double while all of them are busy for long and there is room, so a queue
of events that take a millisecond is worked off by two instances, and one of events that take a second by all there may
be. Nothing polls: the queue calls when it has messages.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from glowplug.runtime.catalog import LATEST, Function
from glowplug.runtime.clock import Alarm
from glowplug.runtime.errors import GlowplugError, QueueNotFound, StateError
from glowplug.runtime.queue.model import Message, Received
from glowplug.runtime.queue.steps import Receive

from .attempts import GONE_S, Attempt, Attempts, Neighbours, lease_s
from .ending import rules_of
from .figures import Book
from .pressure import BREATH_S
from .retrying import overdue
from .stored import queue_of, stored

_AHEAD_S = 0.05  # a few times what a receive takes while the disk is busy: the next one begins at half
_MOST_AHEAD = 200
_BUSY_S = 0.05  # how often to look whether there are enough lanes
_ROOM_S = 0.05  # how soon to look again where others have all instances
_MARGIN_S = 60.0
_PAUSE_S = 1.0

log = logging.getLogger(__name__)


class Feed:
    """The events of ``function``; ``book`` is counted into."""

    def __init__(self, function: str, neighbours: Neighbours, book: Book) -> None:
        self.function = function
        self.attempts = Attempts(function, neighbours, book)
        self._n = neighbours
        self._queue = queue_of(function)
        self._buffer: deque[Attempt] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._window = neighbours.lanes
        self._more = True
        self._receiving: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._growing: Alarm | None = None
        self._stopped = self._retired = False
        self._unlisten = neighbours.store.listen(self._queue, self._rung)

    def __repr__(self) -> str:
        return f"<Feed {self.function} lanes={len(self._lanes)}/{self._window} buffer={len(self._buffer)}>"

    # --- receiving ----------------------------------------------------------------------------------------------------

    def _rung(self) -> None:
        self._more = True
        self.pump()

    def pump(self) -> None:
        """Receive and begin what instances can take now."""
        if self._stopped or self._retired:
            return
        function = self._n.deployed.catalog.functions.get(self.function)
        if function is None:
            if self._more or self._buffer:
                self._later(GONE_S, self._look_at_orphans)
            return
        room = _MOST_AHEAD if function.reserved == 0 else self._room(function)
        room -= self._begin(room)
        if not self._more or self._receiving is not None:
            return
        ahead = self._ahead()
        limit = max(0, min(self._window - len(self._lanes), room)) + ahead - len(self._buffer)
        if limit > 0:
            self._more = False  # a ring from now on may be for a message that this receive does not see
            self._receiving = asyncio.create_task(self._receive(limit, function), name=f"receive {self._queue}")
        elif not self._lanes:
            self._later(_ROOM_S, self.pump)

    def _room(self, function: Function) -> int:
        """Return how many more events instances could take: of the version that the last one ran on, as far as it is
        still there. Which one the next runs on is known when it is received."""
        version = self.attempts.version
        return self._n.room(function.name, LATEST if function.version(version) is None else version)

    def _ahead(self) -> int:
        """Return how many events to have at hand beyond those that run."""
        return min(_MOST_AHEAD, int(len(self._lanes) * _AHEAD_S / self.attempts.typical_s))

    def _begin(self, room: int) -> int:
        """Begin lanes for what is there; return how many."""
        begun = 0
        while len(self._buffer) > begun and (begun < room or not self._lanes) and len(self._lanes) < self._window:
            task = asyncio.create_task(self._lane(), name=f"events of {self.function}")
            self._lanes.add(task)
            task.add_done_callback(self._left)
            begun += 1
        if len(self._lanes) >= self._window and self._growing is None:
            self._growing = self._n.clock.call_later(_BUSY_S, self._grow)
        return begun

    def _grow(self) -> None:
        """Make more lanes where all are busy for long."""
        self._growing = None
        if self._stopped or len(self._lanes) < self._window or not (self._more or self._buffer):
            return
        function = self._n.deployed.catalog.functions.get(self.function)
        if function is not None and self.attempts.slow() and self._room(function) > 0:
            self._window *= 2
        self.pump()
        if self._growing is None and self._lanes:
            self._growing = self._n.clock.call_later(_BUSY_S, self._grow)

    async def _receive(self, limit: int, function: Function) -> None:
        try:
            step = Receive(self._queue, limit, lease_s(function.latest))
            found: list[Received] = (await self._n.store.apply(step))[0]
        except QueueNotFound:
            return
        except StateError as error:
            if not self._stopped:
                log.warning("%s: events wait: %s", self.function, error)
                self._more = True
                self._later(_PAUSE_S, self.pump)
            return
        finally:
            self._receiving = None
        # Until one comes back empty, which sets the alarm for the next that is delayed.
        self._more = self._more or bool(found)
        for received in found:
            self._take(received)
        if self._stopped:
            self._return_buffer()
        else:
            self.pump()

    def _take(self, received: Received) -> None:
        attempt = self.attempts.take(received)
        if attempt is not None:
            self._buffer.append(attempt)

    def _later(self, delay_s: float, call: Callable[[], Any]) -> None:
        def ring() -> None:
            self._alarm = None
            if not self._stopped:
                call()

        if self._alarm is not None:
            self._alarm.cancel()
        self._alarm = self._n.clock.call_later(delay_s, ring)

    # --- attempts -----------------------------------------------------------------------------------------------------

    async def _lane(self) -> None:
        while self._buffer and len(self._lanes) <= self._window:
            await self._make(self._buffer.popleft())
            if self._n.pressure.high():
                await self._n.clock.sleep(BREATH_S)
            if self._more and self._receiving is None and len(self._buffer) <= self._ahead() // 2:
                self.pump()

    async def _make(self, attempt: Attempt) -> None:
        try:
            await self.attempts.make(attempt)
        except Exception:  # a fault of ours, which must not hold the event for ever
            log.exception("%s: event %s is put back", self.function, attempt.event.request_id)
            self.attempts.put_back(attempt, GONE_S)

    def _left(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled() and (error := lane.exception()) is not None:
            log.error("%s: a lane of events ended", self.function, exc_info=error)
        if not self._lanes and not self._buffer:
            self._window = self._n.lanes
        self.pump()

    # --- cancelling, and events of a function that is gone ------------------------------------------------------------

    def _look_at_orphans(self) -> None:
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._orphans(), name=f"orphans of {self._queue}")

    async def _orphans(self) -> None:
        """End what is too old; the rest waits for the function to come back."""
        store = self._n.store
        try:
            self._return_buffer()
            late = [one for one in await store.peek(self._queue, 100, bodies=False) if self._late(one)]
            if late:
                found: list[Received] = (await store.apply(Receive(self._queue, 100, _MARGIN_S)))[0]
                for received in found:
                    self._take(received)
                while self._buffer:
                    await self._make(self._buffer.popleft())
            elif (await store.counts(self._queue)).total == 0 and self._absent and await self._retire():
                return
        except GlowplugError as error:
            log.info("%s is not deployed, and its events were not looked at: %s", self.function, error)
        finally:
            self._receiving = None
        self._more = True
        self.pump()

    async def _retire(self) -> bool:
        """Take the queue away, unless an event has come to it at this moment; return whether it is gone."""
        self._retired = True  # at once: whoever makes the queue again meanwhile makes another feed
        try:
            self._retired = await self._n.store.remove(self._queue, only_empty=True)
        except GlowplugError:
            self._retired = False
            raise
        if self._retired:
            self.stop()
        return self._retired

    @property
    def _absent(self) -> bool:
        return self.function not in self._n.deployed.catalog.functions

    def _late(self, message: Message) -> bool:
        event = stored(message)
        return overdue(event.progress, self._n.clock.time(), rules_of(None, event).limits) is not None

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Receive nothing more; what was received and has not begun is given back."""
        self._stopped = self.attempts.stopped = True
        self._unlisten()
        for alarm in (self._alarm, self._growing):
            if alarm is not None:
                alarm.cancel()
        self._return_buffer()

    @property
    def busy(self) -> set[asyncio.Task[None]]:
        """What is under way."""
        return self._lanes | ({self._receiving} if self._receiving is not None else set())

    @property
    def ended(self) -> bool:
        """Whether it receives nothing any more."""
        return self._stopped or self._retired

    def _return_buffer(self) -> None:
        while self._buffer:
            self.attempts.put_back(self._buffer.popleft(), 0)
