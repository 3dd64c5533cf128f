"""What a process counts of one model's calls, for the node to judge the engine by.

Two clock readings and a few additions per call. A handler that calls a model from several threads may lose a count:
these are figures to choose an engine by, not accounts. Import-light: standard library only.
"""

from __future__ import annotations

import os
from typing import Any

_SCALE = 1 << 32


class Calls:
    """The calls of one model since the last ``take``. ``cold`` until the first one of this process was answered;
    ``opened_s`` is what its engine took to be opened for it."""

    __slots__ = ("answered", "cold", "failed", "first_s", "opened_s", "warm_s")

    def __init__(self) -> None:
        self.begin()

    def __repr__(self) -> str:
        return f"Calls(answered={self.answered}, failed={self.failed}, cold={self.cold})"

    def begin(self) -> None:
        """Forget what was called so far: the next call is an instance's first."""
        self.cold = True
        self.opened_s = 0.0
        self._clear()

    def answer(self, took_s: float) -> None:
        """Count a call that answered."""
        self.answered += 1
        if self.cold:
            self.cold = False
            self.first_s = self.opened_s + took_s
        else:
            self.warm_s += took_s

    def take(self, name: str, engine: str) -> list[Any] | None:
        """Return the row of ``wire.Outcome.models`` and begin to count anew; None when nothing was called."""
        if not (self.answered or self.failed):
            return None
        first_ms = self.first_s * 1e3 if self.first_s >= 0 else -1.0
        row = [name, engine, self.answered, self.warm_s * 1e3, first_ms, self.failed]
        self._clear()
        return row

    def _clear(self) -> None:
        self.answered = self.failed = 0
        self.warm_s, self.first_s = 0.0, -1.0


def drawn(share: float) -> bool:
    """Return True for ``share`` (0 to 1) of the calls. ``random`` is the author's, and every fork would repeat it."""
    return int.from_bytes(os.urandom(4), "little") < share * _SCALE
