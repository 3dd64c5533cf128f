"""One function's events: from its queue to instances, and what follows each attempt back to the queue.

Events are received only as instances can take them: as many as ``lanes``, each of which makes one attempt after the
other, and as many more as the lanes will have begun by the time the next receive is back (none, for a handler that
takes long). There are few lanes at first; they double while all of them are busy for long and there is room, so a queue
of events that take a millisecond is worked off by two instances, and one of events that take a second by all there may
be. Nothing polls: the queue calls when it has messages.

An event that is held here and is received once more, because its lease ran out, is not run once more: its attempt goes
on under the new lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from glowplug.runtime.catalog import LATEST, Function, Version
from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.errors import (
    FunctionFault,
    FunctionNotFound,
    GlowplugError,
    InternalError,
    QueueNotFound,
    ResourceNotReady,
    StaleLease,
    StateError,
    Throttled,
)
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.queue.model import (
    LONGEST_LEASE_S,
    Delete,
    Extend,
    Lease,
    Message,
    Receive,
    Received,
    Release,
    Step,
)
from glowplug.runtime.queue.store import QueueStore

from .ending import GONE, Ending, Endings, Rules, rules_of
from .figures import Book, EventFigures
from .intake import Deployed
from .retrying import Attempt as Ended
from .retrying import Delays, Finished, Retry, overdue, settle
from .settling import Settlement, Settler
from .stored import StoredEvent, new_trace_id, put_back, queue_of, stored
from .watching import Watchers

_AHEAD_S = 0.02  # about what a receive takes while the disk is busy
_MOST_AHEAD = 100
_BUSY_S = 0.05
_ROOM_S = 0.05  # how soon to look again where others have all instances
_MARGIN_S = 60.0
_PAUSE_S = 1.0
_GONE_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What feeds share. ``room`` tells how many more requests a version's instances could take."""

    store: QueueStore
    deployed: Deployed
    invoke: Callable[[Invocation], Awaitable[Outcome]]
    room: Callable[[str, str], int]
    settler: Settler
    endings: Endings
    watchers: Watchers
    clock: Clock
    delays: Delays
    arn_prefix: str
    lanes: int


@dataclass(slots=True, eq=False)
class Attempt:
    """An event that is held here. ``lease`` is replaced when it was received again."""

    event: StoredEvent
    message: Message
    lease: Lease
    began_s: float = 0.0
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    over: bool = False


class Feed:
    """The events of ``function``; ``book`` is counted into."""

    def __init__(self, function: str, neighbours: Neighbours, book: Book) -> None:
        self.function = function
        self.held: dict[bytes, Attempt] = {}
        self._n = neighbours
        self._book = book
        self._queue = queue_of(function)
        self._buffer: deque[Attempt] = deque()
        self._lanes: set[asyncio.Task[None]] = set()
        self._window = neighbours.lanes
        self._version = LATEST
        self._typical_s = 1.0
        self._more = True
        self._receiving: asyncio.Task[None] | None = None
        self._alarm: Alarm | None = None
        self._growing: Alarm | None = None
        self._stopped = False
        self._unlisten = neighbours.store.listen(self._queue, self._rung)

    def __repr__(self) -> str:
        return f"<Feed {self.function} lanes={len(self._lanes)}/{self._window} buffer={len(self._buffer)}>"

    @property
    def _figures(self) -> EventFigures:
        return self._book.of(self.function)

    # --- receiving ----------------------------------------------------------------------------------------------------

    def _rung(self) -> None:
        self._more = True
        self.pump()

    def pump(self) -> None:
        """Receive and begin what instances can take now."""
        if self._stopped:
            return
        function = self._n.deployed.catalog.functions.get(self.function)
        if function is None:
            if self._more or self._buffer:
                self._later(_GONE_S, self._look_at_orphans)
            return
        room = _MOST_AHEAD if function.reserved == 0 else self._n.room(self.function, self._version)
        room -= self._begin(room)
        if not self._more or self._receiving is not None:
            return
        ahead = min(_MOST_AHEAD, int(len(self._lanes) * _AHEAD_S / self._typical_s))
        limit = max(0, min(self._window - len(self._lanes), room)) + ahead - len(self._buffer)
        if limit > 0:
            self._more = False  # a ring from now on may be for a message that this receive does not see
            self._receiving = asyncio.create_task(self._receive(limit, function), name=f"receive {self._queue}")
        elif not self._lanes:
            self._later(_ROOM_S, self.pump)

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
        longest_s = self._n.clock.monotonic() - min((one.began_s for one in self._running()), default=0.0)
        if longest_s >= _BUSY_S and self._n.room(self.function, self._version) > 0:
            self._window *= 2
        self.pump()
        if self._growing is None and self._lanes:
            self._growing = self._n.clock.call_later(_BUSY_S, self._grow)

    def _running(self) -> list[Attempt]:
        return [one for one in self.held.values() if one.task is not None]

    async def _receive(self, limit: int, function: Function) -> None:
        try:
            step = Receive(self._queue, limit, lease_s(function.latest))
            found: list[Received] = (await self._n.store.apply(step))[0]
        except QueueNotFound:
            self._receiving = None
            return
        except StateError as error:
            if not self._stopped:
                log.warning("%s: events wait: %s", self.function, error)
                self._more = True
                self._receiving = None
                self._later(_PAUSE_S, self.pump)
            return
        self._receiving = None
        self._more = self._more or len(found) >= limit
        for received in found:
            self._take(received)
        if self._stopped:
            self._return_buffer()
        else:
            self.pump()

    def _take(self, received: Received) -> None:
        message = received.message
        known = self.held.get(message.id)
        if known is not None and known.lease.sequence == received.lease.sequence:
            log.warning("%s: the lease of %s ran out while it was held", self.function, known.event.request_id)
            known.lease, known.message = received.lease, message
            return
        attempt = Attempt(stored(message), message, received.lease)
        self.held[message.id] = attempt
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
            attempt = self._buffer.popleft()
            await self._make(attempt)
            if self._more and self._receiving is None and len(self._buffer) <= len(self._lanes):
                self.pump()

    def _left(self, lane: asyncio.Task[None]) -> None:
        self._lanes.discard(lane)
        if not lane.cancelled() and (error := lane.exception()) is not None:
            log.error("%s: a lane of events ended", self.function, exc_info=error)
        if not self._lanes and not self._buffer:
            self._window = self._n.lanes
        self.pump()

    async def _make(self, attempt: Attempt) -> None:
        """Make an attempt and settle it."""
        function = self._n.deployed.catalog.functions.get(self.function)
        rules = GONE if function is None else rules_of(function, attempt.event)
        now_s = self._n.clock.time()
        if attempt.cancelled:
            self._finish(attempt, None, None, rules)
        elif (late := overdue(attempt.event.progress, now_s, rules.limits)) is not None:
            self._finish(attempt, late, None, rules, status=200 if late.runs else 429)
        elif function is None:
            self._put_back(attempt, _GONE_S)
        elif function.reserved == 0:
            self._settle(attempt, Ended.NO_CONCURRENCY, None, rules, status=429)
        else:
            await self._run(attempt, rules)

    async def _run(self, attempt: Attempt, rules: Rules) -> None:
        event, clock = attempt.event, self._n.clock
        if event.progress.runs == 0 and event.progress.requeues == 0:
            self._figures.age_s += max(0.0, clock.time() - event.progress.accepted_s)
            self._figures.first_attempts += 1
        attempt.began_s, attempt.task = clock.monotonic(), asyncio.current_task()
        self._n.watchers.tell(event.key)
        ended, outcome, status = Ended.SYSTEM_ERROR, None, 500
        try:
            outcome = await self._n.invoke(self._invocation(event, rules))
            ended, status = Ended.SUCCESS if outcome.function_error is None else Ended.FUNCTION_ERROR, 200
        except asyncio.CancelledError:
            attempt.task = None
            if not attempt.cancelled:
                self._put_back(attempt, 0)
                raise
            task = asyncio.current_task()
            assert task is not None  # noqa: S101 - a coroutine of a task
            task.uncancel()
            self._finish(attempt, None, None, rules)
            return
        except FunctionFault as fault:
            version = "" if rules.version is None else rules.version.number
            outcome = Outcome(event.request_id, fault.body(), version, "remote", "Unhandled")
            ended, status = Ended.FUNCTION_ERROR, 200
        except Throttled as error:
            ended, status = Ended.THROTTLED, error.status
        except GlowplugError as error:
            status = error.status
            if self._stopped:
                attempt.task = None
                self._put_back(attempt, 0)
                return
            log.info("%s: event %s is put back: %s", self.function, event.request_id, error)
        except Exception:
            log.exception("%s: event %s is put back", self.function, event.request_id)
        attempt.task = None
        self._typical_s += 0.1 * (max(1e-4, clock.monotonic() - attempt.began_s) - self._typical_s)
        self._settle(attempt, ended, outcome, rules, status=status)

    def _invocation(self, event: StoredEvent, rules: Rules) -> Invocation:
        version = rules.version
        arn = f"{self._n.arn_prefix}{event.function}"
        if version is None:
            raise FunctionNotFound(f"Function not found: {arn}:{event.qualifier or LATEST}")
        if version.state == "Failed":
            raise ResourceNotReady(f"{arn}:{version.number} is in the state Failed: {version.state_reason}")
        if version.state == "Pending" and version.spec.snap_start and version.number != LATEST:
            raise InternalError(f"{arn}:{version.number} is Pending")
        self._version = version.number
        return Invocation(
            request_id=event.request_id,
            function=event.function,
            version=version.number,
            function_arn=f"{arn}:{event.qualifier}" if event.qualifier else arn,
            payload=event.payload,
            arrived_s=self._n.clock.monotonic(),
            trace_id=event.trace_id or new_trace_id(self._n.clock.time()),
            client_context=event.client_context,
            hold_s=version.spec.init_timeout_s,
        )

    # --- settling -----------------------------------------------------------------------------------------------------

    def _settle(self, attempt: Attempt, ended: Ended, outcome: Outcome | None, rules: Rules, *, status: int) -> None:
        """Carry out what follows an attempt."""
        if attempt.cancelled:
            self._finish(attempt, None, outcome, rules)
            return
        before, now_s = attempt.event.progress, self._n.clock.time()
        decided = settle(ended, before, now_s, rules.limits, self._n.delays)
        if isinstance(decided, Finished):
            self._finish(attempt, decided, outcome, rules, status=status)
            return
        if ended is Ended.FUNCTION_ERROR:
            self._figures.retries += 1
        else:
            self._figures.requeues += 1
        self._again(attempt, decided, decided.at_s - now_s)

    def _again(self, attempt: Attempt, decided: Retry, delay_s: float) -> None:
        kept = put_back(attempt.message, decided.progress)
        self._conclude(attempt, lambda: (Release(attempt.lease, delay_s, kept),), lambda: None)

    def _put_back(self, attempt: Attempt, delay_s: float) -> None:
        """Give an event back whose attempt was none."""
        kept = put_back(attempt.message, attempt.event.progress)
        self._conclude(attempt, lambda: (Release(attempt.lease, delay_s, kept),), lambda: None)

    def _finish(
        self, attempt: Attempt, finished: Finished | None, outcome: Outcome | None, rules: Rules, *, status: int = 200
    ) -> None:
        """End an event. ``finished`` of None: it was cancelled."""
        make = partial(self._n.endings.of, attempt.event, finished, outcome, rules, status=status)
        ending = make()

        def instead() -> Ending:
            nonlocal ending
            ending = make(outbox=True)
            return ending

        self._conclude(
            attempt,
            lambda: (Delete(attempt.lease), *ending.steps),
            lambda: self._count(finished, ending),
            instead=instead,
        )

    def _count(self, finished: Finished | None, ending: Ending) -> None:
        figures = self._figures
        if finished is None:
            figures.cancelled += 1
        elif finished.condition.failed:
            figures.dropped += 1
            figures.dead_letters += bool(ending.sent)
        else:
            figures.succeeded += 1
        for delivery in ending.unsent:
            log.warning("%s: nothing can deliver to %s", self.function, delivery.arn)
            if delivery.dead_letter:
                figures.dead_letter_errors += 1
            else:
                figures.delivery_failures += 1

    def _conclude(
        self,
        attempt: Attempt,
        steps: Callable[[], tuple[Step, ...]],
        count: Callable[[], None],
        *,
        instead: Callable[[], object] | None = None,
    ) -> None:
        """Write down how an attempt ended, under whatever lease it has by then."""
        attempt.over = True
        tried: list[int] = []

        def settlement() -> Settlement:
            tried.append(attempt.lease.token)
            return Settlement(steps(), done, refused)

        def done() -> None:
            self._forget(attempt)
            count()
            self._n.watchers.tell(attempt.event.key)

        def refused(error: GlowplugError) -> Settlement | None:
            if isinstance(error, StaleLease):
                if attempt.lease.token != tried[-1]:
                    return settlement()  # it was received again, and the attempt goes on under that lease
                log.warning("%s: %s is not ours any more: %s", self.function, attempt.event.request_id, error)
            elif instead is not None and len(tried) == 1:
                log.info("%s: %s goes to the outbox: %s", self.function, attempt.event.request_id, error)
                instead()
                return settlement()
            else:
                log.error("%s: %s cannot be settled: %s", self.function, attempt.event.request_id, error)
            self._forget(attempt)
            self._n.watchers.tell(attempt.event.key)
            return None

        self._n.settler.put(settlement())

    def _forget(self, attempt: Attempt) -> None:
        if self.held.get(attempt.event.key) is attempt:
            del self.held[attempt.event.key]

    # --- leases -------------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Extend the leases of what is held whose half is over."""
        function = self._n.deployed.catalog.functions.get(self.function)
        if function is None:
            return
        seconds = lease_s(function.latest)
        soon_ms = (self._n.clock.time() + seconds / 2) * 1000
        due = [one for one in self.held.values() if one.lease.until_ms < soon_ms and not one.over]
        extended = await asyncio.gather(
            *(self._n.store.apply(Extend(one.lease, seconds)) for one in due), return_exceptions=True
        )
        for attempt, result in zip(due, extended, strict=True):
            if isinstance(result, BaseException):
                log.info("%s: the lease of %s: %s", self.function, attempt.event.request_id, result)
            elif result[0].token == attempt.lease.token:
                attempt.lease = result[0]

    # --- cancelling, and events of a function that is gone ------------------------------------------------------------

    def cancel(self, key: bytes) -> bool:
        """Let an event that is held end as cancelled; return whether there was one that is not over."""
        attempt = self.held.get(key)
        if attempt is None or attempt.over:
            return False
        attempt.cancelled = True
        if attempt.task is not None:
            attempt.task.cancel()
        return True

    def _look_at_orphans(self) -> None:
        if self._receiving is None:
            self._receiving = asyncio.create_task(self._orphans(), name=f"orphans of {self._queue}")

    async def _orphans(self) -> None:
        """End what is too old; the rest waits for the function to come back."""
        store = self._n.store
        try:
            self._return_buffer()
            late = [one for one in await store.peek(self._queue, 100) if self._late(one)]
            if late:
                found: list[Received] = (await store.apply(Receive(self._queue, 100, _MARGIN_S)))[0]
                for received in found:
                    self._take(received)
                while self._buffer:
                    await self._make(self._buffer.popleft())
            elif (await store.counts(self._queue)).total == 0 and self._absent:
                self.stop()
                await store.remove(self._queue)
                return
        except GlowplugError as error:
            log.info("%s is not deployed, and its events were not looked at: %s", self.function, error)
        finally:
            self._receiving = None
        self._more = True
        self.pump()

    @property
    def _absent(self) -> bool:
        return self.function not in self._n.deployed.catalog.functions

    def _late(self, message: Message) -> bool:
        return overdue(stored(message).progress, self._n.clock.time(), GONE.limits) is not None

    # --- the end ------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Receive nothing more; what was received and has not begun is given back."""
        self._stopped = True
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
        return self._stopped

    def _return_buffer(self) -> None:
        while self._buffer:
            self._put_back(self._buffer.popleft(), 0)


def lease_s(version: Version) -> float:
    """Return how long an event is leased: for a start and a run, and some more."""
    return min(LONGEST_LEASE_S, version.spec.timeout_s + version.spec.init_timeout_s + _MARGIN_S)
