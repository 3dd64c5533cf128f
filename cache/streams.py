"""Reading a source's stream so that neither a short read nor a server that drips goes unnoticed."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator
from typing import BinaryIO

from .errors import SourceUnreachable
from .sources.listing import ListedFile

BUFFER_BYTES = 1024 * 1024
"""One read at most. Larger ones fall out of the processor's cache between the read and the write."""

LEAST_BYTES_PER_S = 1024
LEAST_OVER_S = 60.0
"""A stream that brings less than this, on average over so long, is as good as dead. A server may keep a connection open
for ever with a byte now and then, and each of those bytes satisfies a read timeout."""


def arriving(
    file: ListedFile,
    start: int,
    stop: int | None,
    *,
    buffer: memoryview,
    where: str,
    clock: Callable[[], float],
) -> Generator[memoryview, None, None]:
    """Open ``file`` at ``start`` and give its bytes as they come, each time in ``buffer``, which is then used again.

    Raises what the source raises, and ``SourceUnreachable`` with the rate when the stream only drips; that one asks
    not to be tried again, because the next attempt would take as long to find out.
    """
    pace = Pace(clock)
    with file.open(start, stop) as stream:
        read = _reader(stream)
        while size := read(buffer):
            if (rate := pace.too_low(size)) is not None:
                error = SourceUnreachable(f"{where}: {rate}; a source has to bring {LEAST_BYTES_PER_S} bytes/s")
                error.retry_after_s = math.inf
                raise error
            yield buffer[:size]


class Pace:
    """Measures a stream against the least rate, window by window."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._since_s = clock()
        self._bytes = 0

    def too_low(self, size: int) -> str | None:
        """Take note of ``size`` bytes; return the rate in words when the window that they end was too slow."""
        self._bytes += size
        now_s = self._clock()
        took_s, arrived = now_s - self._since_s, self._bytes
        if took_s < LEAST_OVER_S:
            return None
        self._since_s, self._bytes = now_s, 0
        if arrived >= LEAST_BYTES_PER_S * took_s:
            return None
        return f"{arrived / took_s:.1f} bytes/s over {took_s:.0f} s"


def _reader(stream: BinaryIO) -> Callable[[memoryview], int]:
    """Return the function that reads into a buffer and returns how much, 0 at the end.

    ``readinto1`` where there is one: ``readinto`` of a buffered stream waits until the whole buffer is full, and a
    drip would not be seen before the megabyte is.
    """
    into = getattr(stream, "readinto1", None) or getattr(stream, "readinto", None)
    if into is not None:
        return lambda buffer: into(buffer) or 0

    def copying(buffer: memoryview) -> int:
        data = stream.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    return copying
