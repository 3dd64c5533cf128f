"""Who waits for what becomes of an event, by its id."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager


class Watchers:
    """Those who wait. Telling them costs nothing where there are none."""

    def __init__(self) -> None:
        self._events: dict[bytes, set[asyncio.Event]] = {}

    def __repr__(self) -> str:
        return f"<Watchers of {len(self._events)} events>"

    @contextmanager
    def watching(self, key: bytes) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever something of ``key`` has changed."""
        changed = asyncio.Event()
        self._events.setdefault(key, set()).add(changed)
        try:
            yield changed
        finally:
            there = self._events[key]
            there.discard(changed)
            if not there:
                del self._events[key]

    def tell(self, key: bytes) -> None:
        """Something of ``key`` has changed."""
        for changed in self._events.get(key, ()):
            changed.set()
