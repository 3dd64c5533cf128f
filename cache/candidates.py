"""The blobs that an eviction may choose from: looked at before they are chosen for good, locked while they go.

The pure choice is in ``evict.py``, the admission around it in ``room.py``. Whoever uses this holds ``locks/store``.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Callable, Iterable

from .evict import Entry, Eviction, evict
from .files import store_errors
from .holds import unheld
from .pins import pinned
from .store import BlobStore

_LOOK_AHEAD = 64
"""How many of the least recently used are looked at when a chosen one turned out to have been used since; four times
as many each time that happens again, so that an index that is far behind costs a few rounds and not one per blob."""


class Candidates:
    """The blobs of a store, of which ``pinned`` ones (digest -> owners) and those that a process holds stay."""

    def __init__(self, store: BlobStore, entries: Iterable[Entry]) -> None:
        self._store = store
        self._entries = {entry.sha256: entry for entry in entries}
        self._gone: list[str] = []
        self._look_ahead = _LOOK_AHEAD
        self.pinned = pinned(store.root)
        self.held: set[str] = set()
        self.out_of_reach: set[str] = set()
        """Cannot be opened: other permissions, a link, a fault of the disk."""
        self.freed_bytes = 0

    def __repr__(self) -> str:
        return (
            f"Candidates({len(self._entries)} blobs, {len(self.pinned)} pinned, {len(self.held)} held, "
            f"{self.freed_bytes} bytes freed)"
        )

    @property
    def size_bytes(self) -> int:
        """Bytes of all blobs that are left."""
        return sum(entry.size for entry in self._entries.values())

    def among(self, digests: Iterable[str]) -> list[Entry]:
        """Return those of ``digests`` that are here."""
        return [self._entries[digest] for digest in digests if digest in self._entries]

    def choose(self, need: Callable[[], int]) -> Eviction:
        """Return what would go to free ``need()`` bytes, each victim looked at; removes nothing.

        ``need`` is asked again in each round: a row whose blob is gone makes ``size_bytes`` smaller. Raises
        ``StoreError`` subclasses.
        """
        while True:
            plan = evict(self._entries.values(), pinned=self._kept(), need_bytes=need())
            if self._stand(plan.victims):
                return plan

    def evict(self, need: Callable[[], int], *, partly: bool) -> Eviction:
        """Remove blobs to free ``need()`` bytes; return what was removed.

        Where all that may go is not enough, it goes if ``partly``, else no more goes. ``need()`` counts what was freed
        already (``freed_bytes``, ``size_bytes``). Raises ``StoreError`` subclasses.
        """
        removed: list[Entry] = []
        try:
            while True:
                plan = self.choose(need)
                if plan.short_bytes and not partly:
                    return Eviction(tuple(removed), self.freed_bytes, plan.short_bytes)
                before = len(removed)
                for victim in plan.victims:
                    if self._look(victim, remove=True):
                        removed.append(victim)
                if len(removed) - before == len(plan.victims):  # else somebody was quicker: others have to go
                    return Eviction(tuple(removed), self.freed_bytes, plan.short_bytes)
        finally:
            self._store.index.drop([*self._gone, *(entry.sha256 for entry in removed)])

    def _kept(self) -> set[str]:
        return self.held | self.out_of_reach | self.pinned.keys()

    def _stand(self, victims: Iterable[Entry]) -> bool:
        """Look at each of ``victims``; return whether all may go as they were chosen."""
        looked = [(victim, self._look(victim, remove=False)) for victim in victims]
        if any(not free and self._entries.get(victim.sha256, victim) != victim for victim, free in looked):
            kept = self._kept()
            free = (entry for entry in self._entries.values() if entry.sha256 not in kept)
            for entry in heapq.nsmallest(self._look_ahead, free, key=lambda entry: entry.used_s):
                self._refresh(entry)
            self._look_ahead *= 4
        return all(free for _, free in looked)

    def _look(self, victim: Entry, *, remove: bool) -> bool:
        """Return whether ``victim`` is as chosen and nobody holds it; note what is different. ``remove`` it if so."""
        path = self._store.path(victim.sha256)
        try:
            with unheld(path) as status:
                if status is None:
                    self.held.add(victim.sha256)
                    return False
                if not self._note(victim, status):
                    return False
                if remove:
                    with store_errors(path):
                        path.unlink(missing_ok=True)  # while locked: who waits to hold it sees that it has no name
                    del self._entries[victim.sha256]
                    self.freed_bytes += victim.size
                return True
        except FileNotFoundError:
            self._forget(victim)
        except OSError:  # one odd file must not keep all others from being evicted; ``StoreFull`` mentions it
            self.out_of_reach.add(victim.sha256)
        return False

    def _refresh(self, entry: Entry) -> None:
        try:
            self._note(entry, os.lstat(self._store.path(entry.sha256)))
        except FileNotFoundError:
            self._forget(entry)
        except OSError:
            self.out_of_reach.add(entry.sha256)

    def _note(self, entry: Entry, status: os.stat_result) -> bool:
        """Take over what the file itself says; return whether that is what ``entry`` says."""
        found = Entry(entry.sha256, status.st_size, status.st_mtime)
        self._entries[entry.sha256] = found
        return found == entry

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.sha256]
        self._gone.append(entry.sha256)
