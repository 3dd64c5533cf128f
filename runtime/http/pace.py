"""How fast one response may be sent: a burst, then so many bytes a second."""

from __future__ import annotations

from glowplug.runtime.clock import Clock


class Pace:
    """A bucket that holds ``burst_bytes`` at first, and is filled up with ``bytes_per_s`` (0: no limit)."""

    __slots__ = ("_burst_bytes", "_bytes_per_s", "_clock", "_left_bytes", "_looked_s")

    def __init__(self, bytes_per_s: int, burst_bytes: int, clock: Clock) -> None:
        self._bytes_per_s = bytes_per_s
        self._burst_bytes = burst_bytes
        self._clock = clock
        self._left_bytes = float(burst_bytes)
        self._looked_s = clock.monotonic() if bytes_per_s else 0.0

    async def take(self, size_bytes: int) -> None:
        """Return when ``size_bytes`` may be sent; more than there is leaves a debt that is waited for here."""
        if not self._bytes_per_s:
            return
        now_s = self._clock.monotonic()
        filled = self._left_bytes + (now_s - self._looked_s) * self._bytes_per_s
        self._left_bytes, self._looked_s = min(filled, self._burst_bytes) - size_bytes, now_s
        if self._left_bytes < 0:
            await self._clock.sleep(-self._left_bytes / self._bytes_per_s)
