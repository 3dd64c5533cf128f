"""Stored → remote: whose weights may leave this machine, in which order, and which of their files nobody else needs.

Pure functions of plain values, as ``scaler``: functions share files by digest, so what a function may drop depends on
all others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from glowplug.runtime.invocation import Tier


@dataclass(frozen=True, slots=True)
class Holding:
    """One revision as this module sees it. ``blobs`` are the digests of its models' files; ``cold``: nothing of it runs
    or is about to; ``used_s`` is how long ago it last had a request, in seconds."""

    revision: str
    function: str
    tier: Tier
    cold: bool
    used_s: float
    blobs: frozenset[str]

    @property
    def needs(self) -> bool:
        """Whether its files have to stay for it. Those of a remote function that happen to be here need not."""
        return self.tier != "remote" or not self.cold


def unshared(holding: Holding, holdings: Collection[Holding], *, wanted: str = "") -> frozenset[str]:
    """Return the digests that only ``holding`` needs here.

    ``wanted`` is a revision that is being fetched: it needs its files, wherever it stands.
    """
    others = (one for one in holdings if one.revision != holding.revision and (one.needs or one.revision == wanted))
    return holding.blobs.difference(*(one.blobs for one in others))


def sharers(holding: Holding, holdings: Collection[Holding]) -> list[str]:
    """Return the names of the other functions that keep a file of ``holding`` here."""
    others = (one for one in holdings if one.revision != holding.revision and one.needs)
    return sorted({one.function for one in others if one.blobs & holding.blobs} - {holding.function})


def sinkable(holdings: Sequence[Holding], *, wanted: str = "") -> list[Holding]:
    """Return who may sink to remote to make room for ``wanted``, the longest unused first.

    1. Only what is stored: nothing that is hot, parked, starting, or remote already.
    2. Never ``wanted`` itself.
    3. Nobody whose files others need as well: that would free nothing.
    """
    candidates = (one for one in holdings if one.tier == "stored" and one.cold and one.revision != wanted)
    giving = (one for one in candidates if unshared(one, holdings, wanted=wanted))
    return sorted(giving, key=lambda one: (-one.used_s, one.revision))
