"""SHA-256, the only digest there is: of bytes as they stream by, and of files."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from .errors import SourceInvalid

CHUNK_BYTES = 4 * 1024 * 1024
"""How much is read at a time: large enough that a network file system's round trip does not dominate, small enough
that a fetch of several files at once stays within tens of megabytes."""

_HEX = re.compile(r"[0-9a-f]{64}")


class Streaming:
    """Counts and digests bytes as they pass."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.size = 0

    def update(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        self._hash.update(chunk)
        self.size += len(chunk)

    def hexdigest(self) -> str:
        """Return the digest of everything so far, 64 hex digits."""
        return self._hash.hexdigest()


def is_digest(text: object) -> bool:
    """Return whether ``text`` is 64 lower-case hex digits."""
    return isinstance(text, str) and _HEX.fullmatch(text) is not None


def checked_digest(text: object) -> str:
    """Return ``text`` if it is a digest. Raises ``SourceInvalid``: a digest becomes a path, so nothing else may."""
    if not is_digest(text):
        raise SourceInvalid(f"{text!r} is not a SHA-256 digest (64 lower-case hex digits)")
    return str(text)


def bytes_digest(data: bytes) -> str:
    """Return the digest of ``data``."""
    return hashlib.sha256(data).hexdigest()


def file_digest(path: Path) -> str:
    """Return the digest of a file's bytes. Raises ``OSError``."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
