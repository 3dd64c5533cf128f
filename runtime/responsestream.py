"""A streamed answer on its way through the node: from the channel of its worker to the edge that serves its client.

    worker ─ Chunk ─▶ feed ─▶ [ at most a window ] ─▶ next ─▶ client
           ◀─ Credit ─────────────────────────────────┘

The worker may be a window of bytes ahead of the client and no more; what it is ahead is joined, so that a slow client
gets it in few pieces. A worker that sends more than it was asked for breaks the protocol. Whoever reads says so by the
next ``next``: what that returned before has been passed on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import NamedTuple

WINDOW_BYTES = 512 * 1024
"""What one stream may hold of the node's memory: two frames of the largest chunk, so that one is on its way while the
other is written, and less than half a GB when a thousand slow clients read at once."""


class Origin(NamedTuple):
    """Where a stream comes from: the tier that its request found, what that waited for, by name and in milliseconds,
    and the monotonic clock when its handler was called."""

    tier: str
    waited: tuple[tuple[str, float], ...]
    began_s: float


class WindowExceeded(Exception):
    """More came than was asked for."""


class ResponseStream:
    """One answer. It begins without a worker; ``attach`` comes with the lease of an instance.

    ``content_type`` is the stream's, once ``size_bytes`` (all that came) is more than 0. ``overflowed``: it came to
    more than ``limit_bytes``; what is over is not passed on.
    """

    __slots__ = (
        *("origin", "content_type", "size_bytes", "overflowed", "abandoned", "window_bytes", "_limit_bytes", "_buffer"),
        *("_asked_bytes", "_read_bytes", "_grant", "_stop", "_waiter", "_ended"),
    )

    def __init__(self, limit_bytes: int, window_bytes: int = WINDOW_BYTES) -> None:
        self.origin: Origin | None = None
        self.content_type = ""
        self.size_bytes = 0
        self.overflowed = False
        self.abandoned = False
        self.window_bytes = window_bytes
        self._limit_bytes = limit_bytes
        self._buffer = bytearray()
        self._asked_bytes = window_bytes  # what the worker may still send
        self._read_bytes = 0  # taken by the client and not asked for again
        self._grant: Callable[[int], None] | None = None
        self._stop: Callable[[], None] | None = None
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False

    def __repr__(self) -> str:
        state = "ended" if self._ended else "abandoned" if self.abandoned else "open"
        return f"<ResponseStream {state}, size_bytes={self.size_bytes}, buffered={len(self._buffer)}>"

    # --- the worker's side ------------------------------------------------------------------------------------------

    def attach(self, origin: Origin, *, grant: Callable[[int], None], stop: Callable[[], None]) -> None:
        """Give the stream a worker: ``grant`` asks it for so many bytes more, ``stop`` tells it that nobody reads."""
        self.origin = origin
        self._grant, self._stop = grant, stop
        if self.abandoned:  # in the next turn, as what the worker is asked to end must have been sent to it before
            asyncio.get_running_loop().call_soon(stop)

    def feed(self, data: bytes, content_type: str) -> None:
        """Take what the worker has sent. Raises ``WindowExceeded`` for what nobody asked for, or for nothing."""
        if not data or len(data) > self._asked_bytes:
            raise WindowExceeded(f"chunk of {len(data)} bytes, {self._asked_bytes} were asked for")
        self._asked_bytes -= len(data)
        if self.abandoned or self.overflowed:
            return
        if not self.size_bytes:
            self.content_type = content_type
        room = self._limit_bytes - self.size_bytes
        self.size_bytes += min(len(data), room)
        self._buffer += data if len(data) <= room else data[:room]
        if len(data) > room:
            self.overflowed = True
            self._stop_worker()
        self._wake()

    def end(self) -> None:
        """Nothing more comes: there is an outcome, or there never will be one."""
        self._ended = True
        self._grant = self._stop = None
        self._wake()

    # --- the client's side ------------------------------------------------------------------------------------------

    async def next(self) -> bytes | None:
        """Return what has come, as soon as there is any; None at the end. One caller at a time."""
        if self._read_bytes * 2 >= self.window_bytes and self._grant is not None:
            self._grant(self._read_bytes)
            self._asked_bytes += self._read_bytes
            self._read_bytes = 0
        while not self._buffer:
            if self._ended:
                return None
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = bytes(self._buffer)
        self._buffer.clear()
        self._read_bytes += len(data)
        return data

    def abandon(self) -> bool:
        """Nobody reads any more: tell the worker. Returns False when no worker has begun, so that none needs to."""
        self.abandoned = True
        self._buffer.clear()
        return self._stop_worker()

    def _stop_worker(self) -> bool:
        if self._stop is None:
            return False
        self._stop()
        return True

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
