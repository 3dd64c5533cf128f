"""Pins that keep the weights of snapshots: an engine without weights is nothing, so what a snapshot binds stays.

A pin's owner is the snapshot's directory, so it ends by itself with the snapshot (``cache/pins.py``). It begins when
the snapshot is published or next used, and ends when the function sinks to ``remote``, or when no function that is
deployed uses the snapshot any more. Everything here blocks on the disk.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from glowplug.cache import pins


class WeightPins:
    """The pins of one node in the store at ``root``. ``snapshots`` is the directory that its snapshots are in."""

    def __init__(self, root: Path, snapshots: Path) -> None:
        self._root = root
        self._snapshots = str(snapshots)
        self._known: set[str] = set()

    def __repr__(self) -> str:
        return f"WeightPins({str(self._root)!r}, known={len(self._known)})"

    def keep(self, snapshot: Path, digests: Collection[str]) -> None:
        """Pin ``digests`` for a snapshot; costs nothing when this node has done so before. Raises ``StoreError``."""
        owner = str(snapshot)
        if owner not in self._known:
            pins.pin(self._root, owner, digests)
            self._known.add(owner)

    def drop(self, digests: Collection[str]) -> None:
        """Remove the pins that name any of ``digests``, of this node's snapshots alone. Raises ``StoreError``."""
        for owner, pinned in self._ours().items():
            if not pinned.isdisjoint(digests):
                self._unpin(owner)

    def only(self, snapshots: Collection[Path]) -> None:
        """Remove the pins of all other snapshots of this node: nobody uses them. Raises ``StoreError``."""
        wanted = {str(snapshot) for snapshot in snapshots}
        for owner in self._ours().keys() - wanted:
            self._unpin(owner)

    def _ours(self) -> dict[str, frozenset[str]]:
        return {
            owner: digests
            for owner, digests in pins.owners(self._root).items()
            if owner.startswith(f"{self._snapshots}/")
        }

    def _unpin(self, owner: str) -> None:
        self._known.discard(owner)
        pins.unpin(self._root, owner)
