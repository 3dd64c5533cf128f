"""How many batches of one mapping may run at once, and when to look again after a failure. Pure but for its own state.

Lambda begins with 5 batches at a time and adds 300 a minute while there is more to do; functions that fail or are
throttled get fewer (developer guide, "Configuring scaling behavior for SQS event source mappings"). Here it is 5 more
each second, half as many after a failure, and a pause that doubles. Batches that were under way when one failed say
nothing new when they fail as well.
"""

from __future__ import annotations

FIRST = 5
MOST = 1000
"""The most batches of one mapping that run at once (Lambda's own limit)."""
_STEP = 5
_STEP_S = 1.0
_PAUSE_S = 0.2
_LONGEST_PAUSE_S = 30.0


class Pace:
    """The pace of one mapping. Times are monotonic seconds."""

    def __init__(self) -> None:
        self.limit = FIRST
        self.paused_until_s = 0.0
        self._failures = 0
        self._cut_s = self._grown_s = float("-inf")

    def succeeded(self, now_s: float, *, running: int) -> None:
        """A batch went well while ``running`` were under way, itself included."""
        self._failures = 0
        if running >= self.limit and now_s - self._grown_s >= _STEP_S:
            self.limit = min(self.limit + _STEP, MOST)
            self._grown_s = now_s

    def failed(self, now_s: float, *, began_s: float) -> None:
        """A batch that began at ``began_s`` failed as a whole, or was throttled."""
        if began_s < self._cut_s:
            return
        self._failures += 1
        self.limit = max(1, self.limit // 2)
        self._cut_s = self._grown_s = now_s
        self.paused_until_s = now_s + pause_s(self._failures)

    def idle(self) -> None:
        """Nothing is under way, and the queue is empty: the next burst begins as the first one did."""
        if not self._failures:
            self.limit = FIRST


def pause_s(failures: int) -> float:
    """Return how long to wait after so many failures in a row."""
    return float(min(_PAUSE_S * 2 ** min(failures - 1, 20), _LONGEST_PAUSE_S)) if failures else 0.0
