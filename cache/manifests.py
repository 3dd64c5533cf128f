"""What a source held when it was last read, so that reading it again can skip what has not changed.

One JSON file per URL under ``sources/``: ``{"url", "files": [[name, size, version, sha256], …]}``, replaced by rename.
A record is a hint, never an authority: it is used only for a file whose version (ETag, commit, inode and times) is
still the listed one and whose blob is still there, and losing it costs one more read.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from .digest import bytes_digest, is_digest
from .store import Blob, make_directory, store_errors


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """One file as it was read: name, size in bytes, the source's version string (not empty), hex digest."""

    name: str
    size: int
    version: str
    sha256: str

    @property
    def blob(self) -> Blob:
        """The blob that holds it."""
        return Blob(self.sha256, self.size)


def read_record(root: Path, url: str) -> dict[str, RecordedFile]:
    """Return the recorded files of ``url`` by name; nothing when there is no record or it cannot be read."""
    try:
        value = json.loads(_path(root, url).read_bytes())
        files = [RecordedFile(*file) for file in value["files"]]
        if value["url"] != url or not all(is_digest(file.sha256) for file in files):
            return {}
    except (OSError, ValueError, TypeError, KeyError):
        return {}  # a hint that cannot be read is no hint; the source is read in full
    return {file.name: file for file in files}


def write_record(root: Path, url: str, files: list[RecordedFile]) -> None:
    """Replace the record of ``url``. Raises ``StoreError`` subclasses."""
    path = _path(root, url)
    rows = [[file.name, file.size, file.version, file.sha256] for file in files]
    fresh = path.with_suffix(f".{secrets.token_hex(6)}")
    with store_errors(path):
        make_directory(path.parent)
        try:
            fresh.write_text(json.dumps({"url": url, "files": rows}, indent=1))
            os.replace(fresh, path)
        finally:
            fresh.unlink(missing_ok=True)


def _path(root: Path, url: str) -> Path:
    return root / "sources" / bytes_digest(url.encode())
