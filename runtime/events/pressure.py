"""Whether to let events wait that were accepted, so that more can be accepted. Accepting goes first.

The node is one Python process. Where clients send events faster than it can both keep and run them, each that is run
keeps a client waiting for its 202; and an event that is kept can wait, a client may give up. So while there is such a
rush, whoever runs events takes a breath after each: twice as many are accepted, and the rest runs when the rush is
over. A node that has time for both, or nothing to accept, takes none.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from glowplug.runtime.clock import Clock

BREATH_S = 0.001
"""A few attempts of a handler that does nothing."""
LOOK_S = 0.05
_BUSY = 0.85  # of a core: Python runs on one at a time
_RUSH_PER_S = 1_500  # more than half of what such a node keeps and runs


class Pressure:
    """``cpu_s`` returns the seconds that this process has worked, on all cores."""

    def __init__(self, clock: Clock, cpu_s: Callable[[], float] = time.process_time) -> None:
        self._clock = clock
        self._cpu_s = cpu_s
        self._accepted = 0
        self._high = False
        self._seen = (clock.monotonic(), cpu_s(), 0)

    def __repr__(self) -> str:
        return f"<Pressure {'high' if self._high else 'low'}>"

    def accepted(self) -> None:
        """One more event was accepted."""
        self._accepted += 1

    def high(self) -> bool:
        """Return whether there was a rush when this was last looked at, at most every ``LOOK_S``."""
        now_s = self._clock.monotonic()
        looked_s, worked_s, before = self._seen
        passed_s = now_s - looked_s
        if passed_s >= LOOK_S:
            cpu_s = self._cpu_s()
            self._high = cpu_s - worked_s > _BUSY * passed_s and self._accepted - before > _RUSH_PER_S * passed_s
            self._seen = (now_s, cpu_s, self._accepted)
        return self._high
