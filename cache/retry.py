"""When to try again, and when to stop trying.

Full jitter: the wait after failure n is drawn evenly from zero up to ``base_s * 2 ** (n - 1)``, at most ``cap_s``.
Clients that a server lost at the same moment then do not all come back at the same moment
(https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/). A server that says how long to wait
(``SourceUnreachable.retry_after_s``) is not asked sooner, and one that says too long is not asked again.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass

from .errors import SourceUnreachable

PROGRESS_BYTES = 256 * 1024
"""What must arrive before earlier failures are forgotten: a server that cuts each connection after a few bytes would
otherwise be tried for ever."""


@dataclass(frozen=True, slots=True)
class Backoff:
    """How often and how long. ``attempts`` counts the first one; ``patience_s`` bounds what a server may ask for."""

    base_s: float = 0.2
    cap_s: float = 10.0
    attempts: int = 6
    patience_s: float = 60.0

    def wait_s(self, failures: int, *, asked_s: float | None, chance: float) -> float | None:
        """Return the seconds to wait after ``failures`` failures in a row, None to give up.

        ``asked_s`` is what the server asked for, ``chance`` a number from 0 to 1.
        """
        if failures >= self.attempts or (asked_s is not None and asked_s > self.patience_s):
            return None
        ceiling = min(self.cap_s, self.base_s * 2.0 ** min(failures - 1, 60))
        return max(asked_s or 0.0, ceiling * chance)


class Retries:
    """Counts the failures of one piece of work and waits between its attempts.

    ``sleep`` waits so many seconds; ``chance`` gives a number from 0 to 1.
    """

    def __init__(
        self, backoff: Backoff, *, sleep: Callable[[float], object], chance: Callable[[], float] = random.random
    ) -> None:
        self._backoff = backoff
        self._sleep = sleep
        self._chance = chance
        self._in_a_row = 0
        self._arrived_bytes = 0
        self.total = 0

    def __repr__(self) -> str:
        return f"Retries(total={self.total}, in_a_row={self._in_a_row})"

    def arrived(self, size: int) -> None:
        """Take note of ``size`` bytes that arrived; enough of them and the source counts as well again."""
        self._arrived_bytes += size
        if self._arrived_bytes >= PROGRESS_BYTES:
            self._in_a_row = 0

    def failed(self, error: SourceUnreachable) -> None:
        """Wait until the next attempt is due. Raises ``error`` when there should be none."""
        self._in_a_row += 1
        self._arrived_bytes = 0
        wait_s = self._backoff.wait_s(self._in_a_row, asked_s=error.retry_after_s, chance=self._chance())
        if wait_s is None:
            raise error
        self.total += 1
        self._sleep(wait_s)
