"""Polls one queue for one mapping.

A *receiver* waits until the function has room for one more batch, receives its messages, and gives them to a task that
runs them; so nothing is received that cannot run. A batch's messages are hidden from others until the function has
answered; those that it processed are deleted, the others become visible when their leases run out, never earlier.

What is written here in the order in which it happens: ``_receive_for_ever``, ``Gathering.collect`` (``gathering.py``),
``_work``, ``_run``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import FunctionFault, GlowplugError, HoldTimeout, QueueNotFound, Throttled
from glowplug.runtime.events.sqsbatch import failed_items, with_followers
from glowplug.runtime.invocation import Invocation, Outcome

from .batches import Item, event_of, split
from .figures import MappingFigures
from .functions import Functions
from .gathering import Gathering
from .pace import Pace, pause_s
from .settings import MappingSettings
from .slot import Slot
from .sources import OpenSource, Source

LOOK_AGAIN_S = 0.25
"""How often a receiver without room looks whether others have left some; a batch of its own that ends tells it."""
_FLUSH_S = 5.0  # for deletions at the end of a node
_LONGEST_PAUSE_S = 10.0  # between attempts at a queue that does not answer
_NO_RECORDS, _OK, _FAILED = "No records processed", "OK", "PROBLEM: Function call failed"
_log = logging.getLogger(__name__)

T = TypeVar("T")


class Poller:
    """One mapping at work. ``settings`` may be replaced at any time, as long as ``source`` stays."""

    def __init__(self, settings: MappingSettings, functions: Functions, open_source: OpenSource, clock: Clock) -> None:
        self.settings = settings
        self.last_result = _NO_RECORDS
        self.problem = ""
        """Why it does not receive, empty while it does."""
        self.figures = MappingFigures()
        self._functions = functions
        self._open_source = open_source
        self._clock = clock
        self._source: Source | None = None
        self._pace = Pace()
        self._collecting = self._running = 0
        self._unsent: set[Slot] = set()  # with a batch that the node does not count yet, or not at the moment
        # Groups of a FIFO queue with messages in flight; the future says whether one of them failed.
        self._groups: dict[str, asyncio.Future[bool]] = {}
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()
        self._gathering = Gathering(
            functions, clock, self._stopping, self.figures,
            settings=lambda: self.settings, trouble=self._trouble, spawn=self._spawn,
        )  # fmt: skip
        self._receivers: set[asyncio.Task[None]] = set()
        self._tasks: set[asyncio.Task[Any]] = set()

    def __repr__(self) -> str:
        return (
            f"<Poller {self.settings.source} to {self.settings.function_arn} receivers={len(self._receivers)} "
            f"running={self._running} {self.problem}>"
        )

    # --- its life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to receive."""
        self._add_receiver()

    def stop(self) -> None:
        """Receive no more; what was received is still run."""
        self._stopping.set()
        self._changed.set()

    async def finished(self) -> None:
        """Return when it was stopped and nothing is under way."""
        while pending := self._receivers | self._tasks:
            await asyncio.wait(pending)
        if self._source is not None:
            self._source.close()
            self._source = None

    async def abandon(self) -> None:
        """Stop, and end what is under way: its messages become visible again. Deletions are waited for, a little."""
        self.stop()
        for task in self._receivers | self._tasks:
            if not task.get_name().startswith("delete"):
                task.cancel()
        alarm = self._clock.call_later(_FLUSH_S, self._give_up)
        try:
            await self.finished()
        finally:
            alarm.cancel()

    def _give_up(self) -> None:
        _log.warning("mapping %s: %s: what was processed is not deleted in time", self.settings.uuid, self)
        for task in self._tasks:
            task.cancel()

    # --- receiving ----------------------------------------------------------------------------------------------------

    def _add_receiver(self) -> None:
        task = asyncio.create_task(self._receive_for_ever(), name=f"receiver {self.settings.uuid}")
        self._receivers.add(task)
        task.add_done_callback(self._receivers.discard)
        task.add_done_callback(_report)

    async def _receive_for_ever(self) -> None:
        """Fill slots, one after the other. Beside the first, a receiver ends as soon as the queue has nothing."""
        failures = 0
        while not self._stopping.is_set():
            if not await self._room():
                continue
            self._collecting += 1
            try:
                source = self._opened()
                gathered = await self._gathering.collect(source)
            except Exception as error:  # whatever it is, it must not end a mapping that others rely on
                failures += 1
                self._trouble(error)
                await self._wait(min(pause_s(failures), _LONGEST_PAUSE_S))
                continue
            finally:
                self._collecting -= 1
            failures, self.problem = 0, ""
            if gathered.items:
                self._running += 1
                self._unsent.add(gathered.slot)
                self._spawn(self._work(gathered.slot, gathered.items), "batch")
            else:
                await gathered.slot.end()
                if not self._running and not gathered.found:
                    self._pace.idle()
            if gathered.found >= source.batch and len(self._receivers) < source.receivers and not self.settings.fifo:
                self._add_receiver()
            elif not gathered.found and len(self._receivers) > 1:
                return

    def _opened(self) -> Source:
        if self._source is None:
            self._source = self._open_source(self.settings.source)
        return self._source

    def _trouble(self, error: Exception) -> None:
        if str(error) != self.problem:
            fault = None if isinstance(error, GlowplugError) else error
            _log.warning("mapping %s: %s", self.settings.uuid, error, exc_info=fault)
        self.problem = str(error)
        if isinstance(error, QueueNotFound) and self._source is not None and not self._running:
            self._source.close()  # one of that name that is made later may be another's
            self._source = None

    async def _room(self) -> bool:
        """Return whether one more batch may be received; wait a little where it may not."""
        left_s = self._pace.paused_until_s - self._clock.monotonic()
        if left_s > 0:
            await self._wait(left_s)
            return False
        try:
            version = self._functions.target(self.settings.function, self.settings.qualifier)
        except GlowplugError as error:
            self._trouble(error)
            await self._wait(1.0)
            return False
        most = min(self._pace.limit, self.settings.max_concurrency or self._pace.limit) - self._running
        room = self._functions.room(version.spec.name, version.number) - len(self._unsent)
        if min(most, room) > self._collecting:
            return True
        await self._wait(LOOK_AGAIN_S)
        return False

    async def _wait(self, seconds: float) -> None:
        """Wait until a batch ends or the mapping is stopped, for ``seconds`` at most."""
        self._changed.clear()
        alarm = self._clock.call_later(seconds, self._changed.set)
        try:
            if not self._stopping.is_set():
                await self._changed.wait()
        finally:
            alarm.cancel()

    # --- running ------------------------------------------------------------------------------------------------------

    async def _work(self, slot: Slot, items: list[Item]) -> None:
        """Run what was received for one slot: one batch, or, where their event would be too long, several in turn.

        Of a FIFO queue, messages of a group wait for those that are in flight, and are not run when one of them failed.
        """
        began_s, blocked = self._clock.monotonic(), set[str]()
        own: dict[str, asyncio.Future[bool]] = {}
        try:
            for group in {item.group: None for item in items if item.group}:
                while group in self._groups:  # its lease was lost, or is being given up at this moment
                    if await asyncio.shield(self._groups[group]):
                        blocked.add(group)
                own[group] = self._groups[group] = asyncio.get_running_loop().create_future()
            for batch in split(items, self.settings.batch_size, self._functions.event_bytes):
                runnable = [item for item in batch if item.group not in blocked]
                failed = await self._run(slot, runnable, began_s) if runnable else set()
                self.figures.failed += len(failed)
                left = [item for item in batch if item not in runnable or item.id in failed]
                blocked |= {item.group for item in left if item.group}
                slot.let_go(item.handle for item in left)
                done = [item.handle for item in runnable if item.id not in failed]
                if done:
                    deletion = self._spawn(slot.delete(done), "delete")
                    # What was processed is deleted even when this is abandoned.
                    self.figures.deleted += await asyncio.shield(deletion)
        except BaseException:
            blocked |= own.keys()
            raise
        finally:
            for group, outcome in own.items():
                del self._groups[group]
                outcome.set_result(group in blocked)
            self._running -= 1
            self._unsent.discard(slot)
            self._changed.set()
            await slot.end()

    async def _run(self, slot: Slot, batch: list[Item], began_s: float) -> set[str]:
        """Run one batch and return the ids of its messages that failed."""
        everything = {item.id for item in batch}
        event = event_of(batch)
        if len(event) > self._functions.event_bytes:
            _log.warning(
                "mapping %s: message %s makes an event of %d bytes", self.settings.uuid, batch[0].id, len(event)
            )
            self.last_result = _FAILED
            return everything
        try:
            outcome = await self._invoke(slot, event, batch[0].trace)
        except GlowplugError as error:
            if isinstance(error, FunctionFault):
                self.figures.invoked += len(batch)
            else:
                _log.info("mapping %s: a batch was not run: %s", self.settings.uuid, error)
            failed, whole = everything, True
        else:
            self.figures.invoked += len(batch)
            failed, whole = self._judge(outcome, batch)
        now_s = self._clock.monotonic()
        if whole:
            self._pace.failed(now_s, began_s=began_s)
        else:
            self._pace.succeeded(now_s, running=self._running)
        self.last_result = _FAILED if whole else _OK
        return failed

    def _judge(self, outcome: Outcome, batch: list[Item]) -> tuple[set[str], bool]:
        """Return which messages failed, and whether that is because the batch failed as a whole."""
        ids = [item.id for item in batch]
        if outcome.function_error is not None:
            return set(ids), True
        if not self.settings.report_failures:
            return set(), False
        failed = failed_items(outcome.payload, ids)
        if failed.problem:
            _log.warning("mapping %s: %s: the batch failed: %s", self.settings.uuid, outcome.request_id, failed.problem)
        if self.settings.fifo:
            failed = with_followers(failed, {item.id: item.group for item in batch}, ids)
        return set(failed.ids), bool(failed.problem)

    async def _invoke(self, slot: Slot, event: bytes, trace: str) -> Outcome:
        """Invoke the function. While it is throttled it is asked again until the messages' leases, which are then not
        renewed, run out; what was throttled has not run. Raises what the last attempt raised."""
        began_s, throttles = self._clock.monotonic(), 0
        while True:
            settings = self.settings
            version = self._functions.target(settings.function, settings.qualifier)
            slot.renewing = True
            self._unsent.discard(slot)  # the call counts it before anybody else runs
            try:
                return await self._functions.invoke(
                    Invocation(
                        request_id=self._functions.new_request_id(),
                        function=settings.function,
                        version=version.number,
                        function_arn=settings.function_arn,
                        payload=event,
                        arrived_s=self._clock.monotonic(),
                        trace_id=trace or self._functions.new_trace_id(),
                        hold_s=version.spec.init_timeout_s,  # a batch can wait for as long as a start takes
                    )
                )
            except (Throttled, HoldTimeout):
                throttles += 1
                self._pace.failed(self._clock.monotonic(), began_s=began_s)
                slot.renewing = False
                self._unsent.add(slot)
                again_s = self._clock.monotonic() + pause_s(throttles)
                if again_s >= slot.until_s or self._stopping.is_set():
                    raise
                await self._clock.sleep(pause_s(throttles))

    def _spawn(self, work: Coroutine[Any, Any, T], name: str) -> asyncio.Task[T]:
        task = asyncio.create_task(work, name=f"{name} {self.settings.uuid}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_report)
        return task


def _report(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.error("%s ended", task.get_name(), exc_info=error)
