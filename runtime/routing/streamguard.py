"""Ends a stream early: its client has gone, or it has come to more than it may."""

from __future__ import annotations

from glowplug.runtime.clock import Alarm, Clock
from glowplug.runtime.invocation import Tier
from glowplug.runtime.responsestream import Origin, ResponseStream

from .policy import LEFT
from .ports import Worker


class StreamGuard:
    """Stands between the stream of one invocation and its worker, from ``attach`` to ``close``.

    A handler that has begun to stream has ``grace_s`` seconds to end when it is told to; then its process is killed.
    One that has not may be doing anything, with side effects: it has until its Timeout, as if somebody waited.
    """

    __slots__ = ("_alarm", "_clock", "_grace_s", "_request_id", "_stopped", "_stream", "_worker", "killed")

    def __init__(
        self, stream: ResponseStream, worker: Worker, request_id: str, *, clock: Clock, grace_s: float
    ) -> None:
        self._stream = stream
        self._worker = worker
        self._request_id = request_id
        self._clock = clock
        self._grace_s = grace_s
        self.killed = False
        self._stopped = False
        self._alarm: Alarm | None = None

    def attach(self, tier: Tier, waited: tuple[tuple[str, float], ...]) -> None:
        """Let the stream reach the worker."""
        self._stream.attach(Origin(tier, waited, self._clock.monotonic()), grant=self._grant, stop=self._stop)

    def close(self) -> None:
        """The invocation is over."""
        if self._alarm is not None:
            self._alarm.cancel()

    def _grant(self, size_bytes: int) -> None:
        self._worker.grant(self._request_id, size_bytes)

    def _stop(self) -> None:
        if self._stopped:
            return
        self._stopped = True
        self._worker.cancel(self._request_id)
        if self._stream.size_bytes:
            self._alarm = self._clock.call_later(self._grace_s, self._kill)

    def _kill(self) -> None:
        self.killed = True
        self._worker.kill(LEFT)
