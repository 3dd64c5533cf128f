"""Work that several want at once and that is done once: it ends when the last who wants it has gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

Result = TypeVar("Result")
Progress = TypeVar("Progress")


@dataclass(slots=True, eq=False)
class _Flight(Generic[Result, Progress]):
    task: asyncio.Task[Result]
    waiting: int = 0
    listeners: list[Callable[[Progress], None]] = field(default_factory=list)


class Flights(Generic[Result, Progress]):
    """What is under way, by key."""

    def __init__(self) -> None:
        self._flights: dict[Hashable, _Flight[Result, Progress]] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __repr__(self) -> str:
        return f"Flights({sorted(flight.task.get_name() for flight in self._flights.values())})"

    async def join(
        self,
        key: Hashable,
        work: Callable[[Callable[[Progress], None]], Awaitable[Result]],
        *,
        name: str,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> Result:
        """Return the result of the work under ``key``, begun if it is not under way; raises what it raises.

        ``work`` gets a function to report progress with, which reaches everybody who waits. Cancelled: the work goes on
        for the others; with nobody left it is cancelled, and has ended when this returns.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = self._begin(key, work, name)
        if on_progress is not None:
            flight.listeners.append(on_progress)
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
            if on_progress is not None:
                flight.listeners.remove(on_progress)
            if not flight.waiting and not flight.task.done():
                self._flights.pop(key, None)  # who comes now begins anew: this one is ending
                flight.task.cancel()
                await asyncio.wait((flight.task,))

    def _begin(
        self, key: Hashable, work: Callable[[Callable[[Progress], None]], Awaitable[Result]], name: str
    ) -> _Flight[Result, Progress]:
        def tell(progress: Progress) -> None:
            for listener in list(flight.listeners):
                listener(progress)

        async def fly() -> Result:
            return await work(tell)

        def landed(task: asyncio.Task[Result]) -> None:
            if self._flights.get(key) is flight:
                del self._flights[key]
            if not task.cancelled():
                task.exception()  # whoever waits has it; with nobody left, nobody is to be told

        flight = _Flight[Result, Progress](asyncio.create_task(fly(), name=name))
        flight.task.add_done_callback(landed)
        return flight
