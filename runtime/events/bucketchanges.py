"""What differs between two listings of a bucket, and which targets hear of it; listing one that is a directory."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from .triggers import Target


@dataclass(frozen=True, slots=True)
class Object:
    """An object as a listing shows it. ``version`` differs for whatever was written another time, which it
    begins with, in ISO 8601."""

    key: str
    size: int
    etag: str
    version: str


Listing = Mapping[str, Object]
List = Callable[[str], Awaitable[Listing]]
"""Lists a bucket. Raises ``OSError``, or whatever its client raises, where it cannot be looked at."""


@dataclass(frozen=True, slots=True)
class Change:
    """An object that was written (``now``) or deleted."""

    name: str
    key: str
    now: Object | None
    before: Object | None

    @property
    def version(self) -> str:
        """The version that was written, or that was there before."""
        one = self.now or self.before
        return "" if one is None else one.version

    @property
    def id(self) -> str:
        """What no other change of the object has."""
        return f"{self.name} {self.version}"


def changes(before: Listing, after: Listing) -> list[Change]:
    """Return what differs between two listings, by key."""
    found = []
    for key in sorted(before.keys() | after.keys()):
        old, new = before.get(key), after.get(key)
        if new is None:
            found.append(Change("ObjectRemoved:Delete", key, None, old))
        elif old is None or old.version != new.version:
            kind = "CompleteMultipartUpload" if "-" in new.etag else "Put"
            found.append(Change(f"ObjectCreated:{kind}", key, new, old))
    return found


def wants(target: Target, change: Change) -> bool:
    """Return whether a target is notified of a change."""
    family = f"{change.name.partition(':')[0]}:*"
    named = change.name in target.events or family in target.events
    return named and change.key.startswith(target.prefix) and change.key.endswith(target.suffix)


def listed_directory(root: Path) -> dict[str, Object]:
    """Return the files below a directory as objects. Raises ``OSError`` where it cannot be read."""
    found = {}
    for directory, names, files in os.walk(root, onerror=_raise):
        names[:] = sorted(name for name in names if not name.startswith("."))
        for name in files:
            path = Path(directory, name)
            if name.startswith("."):
                continue
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                written = datetime.fromtimestamp(status.st_mtime, UTC).isoformat()
                version = f"{written}/{status.st_mtime_ns:x}-{status.st_size:x}-{status.st_ino:x}"
                etag = hashlib.md5(version.encode(), usedforsecurity=False).hexdigest()
                key = path.relative_to(root).as_posix()
                if not _is_text(key):
                    continue  # no object has such a key
                found[key] = Object(key, status.st_size, etag, version)
    return found


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # the file's name is not UTF-8
        return False
    return True


def _raise(error: OSError) -> None:
    raise error
