"""A held request: what it waits with, and what happens when its caller goes away."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from glowplug.runtime.clock import Alarm

from .instance import Instance

if TYPE_CHECKING:
    from .pool import Pool


class Waiter:
    """A held request. ``future`` gets an instance that is reserved for it already, or the error it ends with."""

    __slots__ = ("alarm", "caused", "future", "pool", "request_id")

    def __init__(self, pool: Pool, request_id: str | None) -> None:
        self.pool = pool
        self.request_id = request_id
        self.caused = False
        self.alarm: Alarm | None = None
        self.future: asyncio.Future[Instance] = asyncio.get_running_loop().create_future()

    async def wait(self) -> Instance:
        """Return the instance. Cancelled after one was handed over: it goes to the next request, never to nobody."""
        try:
            return await self.future
        except asyncio.CancelledError:
            if self.future.cancelled():
                self.pool.forget(self)
            elif self.future.exception() is None:
                self.pool.give_back(self.future.result())
            raise
        finally:
            if self.alarm is not None:
                self.alarm.cancel()
