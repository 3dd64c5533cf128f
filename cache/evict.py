"""Which blobs go when room is needed: a pure function of what there is, what must stay, and how much is short.

Cases, in this order:

1. Nothing is needed: nothing goes.
2. What is pinned never goes.
3. The least recently used go first, as many as it takes (equal times: by digest, so that two processes with the same
   index choose the same).
4. The last one taken is often much larger than what was still short. Whatever that makes unnecessary stays, the most
   recently used first: no victim can be spared.
5. All that may go is not enough: everything that may go is named, and exactly how much is short. Whether it is then
   worth evicting is the caller's decision (``room.py``: an admission no, a prune yes).
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One blob: hex digest, size in bytes, and when it was last used (seconds since 1970)."""

    sha256: str
    size: int
    used_s: float


@dataclass(frozen=True, slots=True)
class Eviction:
    """What goes, least recently used first. ``short_bytes`` of 0: ``freed_bytes`` is enough."""

    victims: tuple[Entry, ...]
    freed_bytes: int
    short_bytes: int


NOTHING = Eviction((), 0, 0)


def evict(entries: Iterable[Entry], *, pinned: Set[str], need_bytes: int) -> Eviction:
    """Return what to evict to free ``need_bytes``. ``pinned`` are digests; the cases are in the module's docstring."""
    if need_bytes <= 0:
        return NOTHING
    chosen: list[Entry] = []
    freed = 0
    for entry in sorted(entries, key=lambda entry: (entry.used_s, entry.sha256)):
        if freed >= need_bytes:
            break
        if entry.sha256 not in pinned and entry.size > 0:  # an empty blob frees nothing
            chosen.append(entry)
            freed += entry.size
    spare = freed - need_bytes
    victims: list[Entry] = []
    for entry in reversed(chosen):
        if entry.size <= spare:
            spare -= entry.size
        else:
            victims.append(entry)
    victims.reverse()
    freed = sum(entry.size for entry in victims)
    return Eviction(tuple(victims), freed, max(0, need_bytes - freed))
