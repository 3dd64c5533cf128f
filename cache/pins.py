"""Pins: blobs that somebody wants kept although no process holds them.

One JSON file per owner, ``pins/<sha256 of owner>``: ``{"owner": str, "blobs": [digest, …]}``, written durably. Two
kinds of owner:

- an absolute path (a snapshot's directory) holds for as long as that path exists. Whoever removes the snapshot need not
  know of the cache, and a crash between the two removals leaves nothing pinned for ever;
- anything else (``operator:<URL or digest>``) holds until it is unpinned.

A pin that is there but cannot be read, or that is damaged, is an error that names it and not "no pin": an eviction that
went on would take what somebody asked to keep. Files whose name is no digest are not pins and are left alone.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .digest import bytes_digest, checked_digest, is_digest
from .errors import SourceInvalid, StoreError
from .files import locked, read_json, store_errors, write_json

EVICTION_LOCK = "store"
"""The lock held exclusively while something is evicted: a pin that is being written waits for it, so that once ``pin``
has returned no eviction that had not seen it is under way."""


def pin(root: Path, owner: str, digests: Iterable[str]) -> None:
    """Keep the blobs of ``digests`` for ``owner``, in place of those it had pinned before.

    They may be absent: the pin counts as soon as they are there. One that is there when this returns stays. Waits for
    an eviction under way. Raises ``SourceInvalid`` for anything but digests, and ``StoreError`` subclasses.
    """
    if not owner:
        raise SourceInvalid("a pin needs an owner")
    blobs = sorted({checked_digest(digest) for digest in digests})
    with locked(root, EVICTION_LOCK):
        write_json(root, _path(root, owner), {"owner": owner, "blobs": blobs})


def unpin(root: Path, owner: str) -> bool:
    """Remove the pin of ``owner``; return whether there was one. Raises ``StoreError`` subclasses."""
    path = _path(root, owner)
    with store_errors(path):
        try:
            path.unlink()
        except FileNotFoundError:
            return False
    return True


def owners(root: Path) -> dict[str, frozenset[str]]:
    """Return the digests of every pin that holds, by owner. Raises ``StoreError`` when one cannot be read."""
    directory = root / "pins"
    with store_errors(directory):
        try:
            names = sorted(os.listdir(directory))
        except FileNotFoundError:
            return {}
    found: dict[str, frozenset[str]] = {}
    for name in filter(is_digest, names):
        read = _read(directory / name)
        if read is not None and _holds(read[0]):
            found[read[0]] = read[1]
    return dict(sorted(found.items()))


def pinned(root: Path) -> dict[str, tuple[str, ...]]:
    """Return who pins what: digest -> owners, in order. Raises ``StoreError`` when a pin cannot be read."""
    found: dict[str, tuple[str, ...]] = {}
    for owner, digests in owners(root).items():
        for digest in digests:
            found[digest] = (*found.get(digest, ()), owner)
    return found


def forget_gone(root: Path, *, before_s: float) -> int:
    """Remove pins of paths that are gone and that were written before ``before_s`` (seconds since 1970); return how
    many. The age spares who pins first and publishes his directory then. Raises ``StoreError`` subclasses."""
    removed = 0
    for path in (root / "pins").glob("*"):
        read = _read(path) if is_digest(path.name) else None
        if read is not None and not _holds(read[0]):
            with store_errors(path):
                try:
                    if path.stat().st_mtime < before_s:
                        path.unlink()
                        removed += 1
                except FileNotFoundError:
                    continue  # unpinned at this moment
    return removed


def _path(root: Path, owner: str) -> Path:
    return root / "pins" / bytes_digest(owner.encode(errors="surrogatepass"))


def _holds(owner: str) -> bool:
    return not owner.startswith("/") or os.path.lexists(owner)


def _read(path: Path) -> tuple[str, frozenset[str]] | None:
    """Return a pin's owner and digests; None when it is gone. Raises ``StoreError`` when it is not one."""
    try:
        owner, digests = _parse(read_json(path))
        if path.name != bytes_digest(owner.encode(errors="surrogatepass")):
            raise ValueError("filed under another owner's name")
    except FileNotFoundError:
        return None  # unpinned since the directory was listed
    except (OSError, ValueError, TypeError, KeyError, SourceInvalid) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StoreError(
            f"{path}: a pin that cannot be read ({reason}); nothing is evicted until it is removed"
        ) from None
    return owner, digests


def _parse(value: Any) -> tuple[str, frozenset[str]]:
    owner, digests = value["owner"], value["blobs"]
    if not isinstance(owner, str) or not owner or not isinstance(digests, list):
        raise ValueError("no owner, or no list of blobs")
    return owner, frozenset(checked_digest(digest) for digest in digests)
