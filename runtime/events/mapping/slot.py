"""The messages of one batch while they are ours: they stay invisible to others until all is said about them."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.queue.ports import MessageQueue

from .pace import pause_s

_RENEWED = 2 / 3  # of the visibility, after which it is asked for again
_PATIENCE_S = 60.0  # with a queue that does not take a deletion: as long as a server may take to start again
_LONGEST_PAUSE_S = 5.0
_log = logging.getLogger(__name__)


class Slot:
    """Messages that were received for one batch. Their leases are renewed until ``end``, but for a time while
    ``renewing`` is off; ``until_s`` is when they run out (monotonic)."""

    def __init__(self, queue: MessageQueue, visibility_s: int, clock: Clock) -> None:
        self._queue = queue
        self._visibility_s = visibility_s
        self._clock = clock
        self._handles: dict[str, None] = {}
        self._renewal: asyncio.Task[None] | None = None
        self.until_s = 0.0
        self.renewing = True

    def hold(self, handles: Iterable[str], received_s: float) -> None:
        """Keep more messages; they were asked for at ``received_s``."""
        new = dict.fromkeys(handles)
        if not self._handles:
            self.until_s = received_s + self._visibility_s
        self._handles |= new
        if new and self._renewal is None:
            self._renewal = asyncio.create_task(self._renew(), name="lease renewal")

    def let_go(self, handles: Iterable[str]) -> None:
        """Renew these no longer: they become visible when their leases run out."""
        for handle in handles:
            self._handles.pop(handle, None)

    async def delete(self, handles: list[str]) -> int:
        """Acknowledge messages; return how many that were. A queue that cannot be reached is asked again, and their
        leases are renewed meanwhile; what it has after that comes again."""
        given_up_s, failures = self._clock.monotonic() + _PATIENCE_S, 0
        try:
            while True:
                try:
                    stale = await self._queue.delete(handles)
                except GlowplugError as error:
                    failures += 1
                    left_s = min(pause_s(failures), _LONGEST_PAUSE_S)
                    if self._clock.monotonic() + left_s > given_up_s:
                        _log.warning("%d messages were processed and not deleted: %s", len(handles), error)
                        return 0
                    await self._clock.sleep(left_s)
                else:
                    if stale:
                        _log.info("%d messages were received again before they were deleted", len(stale))
                    return len(handles) - len(stale)
        finally:
            self.let_go(handles)

    async def end(self) -> None:
        """Renew nothing any more."""
        self._handles.clear()
        if self._renewal is not None:
            self._renewal.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._renewal
            self._renewal = None

    async def _renew(self) -> None:
        failures = 0
        while True:
            ahead_s = self.until_s - self._visibility_s * (1 - _RENEWED) - self._clock.monotonic()
            await self._clock.sleep(max(ahead_s, 0.05))
            if not self.renewing or not self._handles:
                continue
            asked_s = self._clock.monotonic()
            try:
                stale = await self._queue.extend(list(self._handles), self._visibility_s)
            except GlowplugError as error:
                _log.warning("leases of %d messages were not renewed: %s", len(self._handles), error)
                failures += 1
                await self._clock.sleep(min(pause_s(failures), self._visibility_s / 3))
            else:
                failures = 0
                self.until_s = asked_s + self._visibility_s
                self.let_go(stale)
