"""One function's attempts: each made, and what follows it written down.

An event that is held here and is received once more, because its lease ran out, is not run once more: its attempt goes
on under the new lease.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from glowplug.runtime.catalog import LATEST, Version
from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import (
    FunctionFault,
    FunctionNotFound,
    GlowplugError,
    InternalError,
    ResourceNotReady,
    StaleLease,
    Throttled,
)
from glowplug.runtime.identifiers import new_trace_id
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.queue.model import LONGEST_LEASE_S, Lease, Message, Received
from glowplug.runtime.queue.steps import Delete, Extend, Release, Step
from glowplug.runtime.queue.store import QueueStore

from .deployed import Deployed
from .ending import Ending, Endings, Rules, rules_of
from .figures import Book, EventFigures
from .pressure import Pressure
from .retrying import Attempt as Ended
from .retrying import Condition, Delays, Finished, Retry, overdue, settle
from .settling import Settlement, Settler
from .stored import StoredEvent, put_back, stored
from .watching import Watchers

_SLOW_MS = 20.0
_HANGING_S = 2.0  # without any answer yet: longer than most starts
_MARGIN_S = 60.0
GONE_S = 30.0
"""How soon to look again at the events of a function that is not deployed."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Neighbours:
    """What feeds share. ``room`` tells how many more requests a version's instances could take; ``cancel`` ends the
    instance that runs the request of an id, which then has an outcome, and returns whether one does."""

    store: QueueStore
    deployed: Deployed
    invoke: Callable[[Invocation], Awaitable[Outcome]]
    room: Callable[[str, str], int]
    cancel: Callable[[str], bool]
    settler: Settler
    endings: Endings
    watchers: Watchers
    clock: Clock
    delays: Delays
    pressure: Pressure
    arn_prefix: str
    lanes: int


@dataclass(slots=True, eq=False)
class Attempt:
    """An event that is held here. ``lease`` is replaced when it was received again. ``offset_s`` is that of the wall
    clock from the monotonic one when it was received: by this its age is told, whatever the clock is set to since."""

    event: StoredEvent
    message: Message
    lease: Lease
    offset_s: float
    began_s: float = 0.0
    task: asyncio.Task[None] | None = None
    cancelled: bool = False
    over: bool = False


class Attempts:
    """The attempts of ``function``; ``book`` is counted into. ``held`` are the events that were received, by id."""

    def __init__(self, function: str, neighbours: Neighbours, book: Book) -> None:
        self.function = function
        self.held: dict[bytes, Attempt] = {}
        self.version = LATEST
        """The version that the last one ran on."""
        self.typical_s = 1.0
        """How long one lasts."""
        self.stopped = False
        self._n = neighbours
        self._book = book
        self._handler_ms: float | None = None

    def __repr__(self) -> str:
        return f"<Attempts of {self.function}: {len(self.held)} held>"

    @property
    def _figures(self) -> EventFigures:
        return self._book.of(self.function)

    def take(self, received: Received) -> Attempt | None:
        """Hold what was received; None for what is held already."""
        message = received.message
        known = self.held.get(message.id)
        if known is not None and known.lease.sequence == received.lease.sequence:
            log.warning("%s: the lease of %s ran out while it was held", self.function, known.event.request_id)
            known.lease, known.message = received.lease, message
            return None
        clock = self._n.clock
        attempt = Attempt(stored(message), message, received.lease, clock.time() - clock.monotonic())
        self.held[message.id] = attempt
        return attempt

    def slow(self) -> bool:
        """Return whether handlers take so long that more of them would get more done. A short one that takes long
        because the machine is busy would only get less done, so what counts is the time in the handler."""
        if self._handler_ms is not None:
            return self._handler_ms >= _SLOW_MS
        now_s = self._n.clock.monotonic()
        return any(one.task is not None and now_s - one.began_s >= _HANGING_S for one in self.held.values())

    async def make(self, attempt: Attempt) -> None:
        """Make an attempt and settle it."""
        function = self._n.deployed.catalog.functions.get(self.function)
        rules = rules_of(function, attempt.event)
        now_s = self._now_s(attempt)
        if attempt.cancelled:
            self._finish(attempt, None, None, rules)
        elif (late := overdue(attempt.event.progress, now_s, rules.limits)) is not None:
            self._finish(attempt, late, None, rules, status=200 if late.runs else 429)
        elif rules.loops:
            log.warning("%s: event %s goes round in a loop of destinations", self.function, attempt.event.request_id)
            self._finish(
                attempt, Finished(Condition.RECURSIVE_LOOP, attempt.event.progress.runs), None, rules, status=400
            )
        elif function is None:
            self.put_back(attempt, GONE_S)
        elif function.reserved == 0:
            self._settle(attempt, Ended.NO_CONCURRENCY, None, rules, status=429)
        else:
            await self._run(attempt, rules)

    async def _run(self, attempt: Attempt, rules: Rules) -> None:
        event, clock = attempt.event, self._n.clock
        if event.progress.runs == 0 and event.progress.requeues == 0:
            self._figures.age_s += max(0.0, self._now_s(attempt) - event.progress.accepted_s)
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
                self.put_back(attempt, 0)
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
            if self.stopped:
                attempt.task = None
                self.put_back(attempt, 0)
                return
            log.info("%s: event %s is put back: %s", self.function, event.request_id, error)
        except Exception:
            log.exception("%s: event %s is put back", self.function, event.request_id)
        attempt.task = None
        self._note(outcome)
        self.typical_s += 0.1 * (max(1e-4, clock.monotonic() - attempt.began_s) - self.typical_s)
        self._settle(attempt, ended, outcome, rules, status=status)

    def _now_s(self, attempt: Attempt) -> float:
        return self._n.clock.monotonic() + attempt.offset_s

    def _note(self, outcome: Outcome | None) -> None:
        if outcome is not None and outcome.phases:
            handler_ms = outcome.phases[-1][1]
            known_ms = handler_ms if self._handler_ms is None else self._handler_ms
            self._handler_ms = known_ms + 0.1 * (handler_ms - known_ms)

    def _invocation(self, event: StoredEvent, rules: Rules) -> Invocation:
        version = rules.version
        arn = f"{self._n.arn_prefix}{event.function}"
        if version is None:
            raise FunctionNotFound(f"Function not found: {arn}:{event.qualifier or LATEST}")
        if version.state == "Failed":
            raise ResourceNotReady(f"{arn}:{version.number} is in the state Failed: {version.state_reason}")
        if version.state == "Pending" and version.spec.snap_start and version.number != LATEST:
            raise InternalError(f"{arn}:{version.number} is Pending")
        self.version = version.number
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
        before, now_s = attempt.event.progress, self._now_s(attempt)
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

    def put_back(self, attempt: Attempt, delay_s: float) -> None:
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
            figures.recursive += finished.condition is Condition.RECURSIVE_LOOP
            figures.dead_letters += bool(ending.sent)
        else:
            figures.succeeded += 1
        for follower in ending.followers:
            self._book.of(follower).received += 1
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

    def cancel(self, key: bytes) -> bool:
        """Let an event that is held end as cancelled; return whether there was one that is not over.

        What runs ends with its process, and what waits for an instance at once.
        """
        attempt = self.held.get(key)
        if attempt is None or attempt.over:
            return False
        attempt.cancelled = True
        if attempt.task is not None and not self._n.cancel(attempt.event.request_id):
            attempt.task.cancel()
        return True


def lease_s(version: Version) -> float:
    """Return how long an event is leased: for a start and a run, and some more."""
    return min(LONGEST_LEASE_S, version.spec.timeout_s + version.spec.init_timeout_s + _MARGIN_S)
