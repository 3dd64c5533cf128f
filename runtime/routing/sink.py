"""The one periodic task of routing: asks ``scaler.sink`` what should sink, has it done, and flushes the ledger.

Twice a second it looks at every function (a few microseconds each) and at the free memory; on an idle node that is all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from glowplug.runtime.clock import Clock

from .ledger import Ledger
from .router import Router
from .scaler import sink

INTERVAL_S = 0.5

PRESSURE_FRACTION = 0.05
"""Memory is short when less than this fraction of it is available."""

log = logging.getLogger(__name__)


class Memory:
    """The machine's memory, from ``/proc/meminfo``; read again when the last figure is older than ``FRESH_S``."""

    FRESH_S = 0.1

    def __init__(self, clock: Clock, path: Path = Path("/proc/meminfo")) -> None:
        self._clock = clock
        self._path = path
        self._read_at_s = float("-inf")
        self._total_bytes = self._available_bytes = 0

    def __repr__(self) -> str:
        return f"<Memory {self.available_bytes() >> 20} of {self._total_bytes >> 20} MiB available>"

    def available_bytes(self) -> int:
        """Return what can be had without swapping (the kernel's MemAvailable)."""
        now_s = self._clock.monotonic()
        if now_s - self._read_at_s >= self.FRESH_S:
            fields = dict(line.split(":", 1) for line in self._path.read_text().splitlines())
            self._total_bytes = int(fields["MemTotal"].split()[0]) * 1024
            self._available_bytes = int(fields["MemAvailable"].split()[0]) * 1024
            self._read_at_s = now_s
        return self._available_bytes

    def short(self) -> bool:
        """Tell whether functions should sink for want of memory."""
        return self.available_bytes() < self._total_bytes * PRESSURE_FRACTION


class Sink:
    """Lets idle functions sink. ``pressure`` tells whether memory is short."""

    def __init__(self, router: Router, ledger: Ledger, clock: Clock, *, pressure: Callable[[], bool]) -> None:
        self._router = router
        self._ledger = ledger
        self._clock = clock
        self._pressure = pressure

    async def run(self) -> None:
        """Tick for ever. A tick that raises is a fault of the runtime and ends this task: its owner must notice."""
        while True:
            await self._clock.sleep(INTERVAL_S)
            await self.tick()

    async def tick(self) -> None:
        """Look once."""
        for action in sink(self._router.states(), pressure=self._pressure()):
            log.debug("%s", action)
            self._router.perform(action)
        await self._ledger.flush()
