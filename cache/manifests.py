"""Manifests: what a URL held when it was last read, as names, sizes and digests of blobs.

One JSON file per URL, ``manifests/<sha256 of URL>``: ``{"url", "files": [[name, size, sha256, version], …]}``, replaced
by rename. A manifest is a hint, never an authority: a fetch uses a row only while its version (ETag, commit, inode and
times) is still the listed one and its blob is still there, and losing the file costs one more read of the source. What
a revision must have is pinned by the revision itself.

The names in a manifest become paths below directories of handlers, so a file that holds an unsafe name, something that
is not a digest or another URL than the one it is filed under is ignored as a whole: somebody else wrote it.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .digest import bytes_digest, checked_digest
from .errors import SourceInvalid
from .files import read_json, store_errors, write_json
from .sources.listing import MAX_FILES, checked_name
from .store import Blob


@dataclass(frozen=True, slots=True)
class ManifestFile:
    """One file of a source: name, size in bytes, hex digest, and the source's version string (empty if it has none)."""

    name: str
    size: int
    sha256: str
    version: str = ""

    @property
    def blob(self) -> Blob:
        """The blob that holds it."""
        return Blob(self.sha256, self.size)


@dataclass(frozen=True, slots=True)
class Manifest:
    """All files of a source, ordered by name."""

    url: str
    files: tuple[ManifestFile, ...]

    @property
    def digest(self) -> str:
        """The digest of names, sizes and contents: equal for the same files, whatever URL and versions they have."""
        rows = [[file.name, file.size, file.sha256] for file in self.files]
        return bytes_digest(json.dumps(rows, separators=(",", ":")).encode())

    @property
    def size_bytes(self) -> int:
        """Bytes of all files, each counted as often as it is named."""
        return sum(file.size for file in self.files)

    @property
    def blobs(self) -> tuple[Blob, ...]:
        """The distinct blobs, in the order of the first file that needs them."""
        return tuple(dict.fromkeys(file.blob for file in self.files))

    @property
    def by_name(self) -> Mapping[str, ManifestFile]:
        """The files by name."""
        return {file.name: file for file in self.files}


def read_manifest(root: Path, url: str) -> Manifest | None:
    """Return the manifest of ``url`` in the store at ``root``; None when there is none that can be trusted."""
    manifest = _read(_path(root, url))
    return manifest if manifest is not None and manifest.url == url else None


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Replace the manifest of ``manifest.url``. Raises ``StoreError`` subclasses."""
    rows = [[file.name, file.size, file.sha256, file.version] for file in manifest.files]
    write_json(root, _path(root, manifest.url), {"url": manifest.url, "files": rows})


def manifests(root: Path) -> list[Manifest]:
    """Return every manifest of the store, ordered by URL. Raises ``StoreError`` when the directory cannot be read."""
    directory = root / "manifests"
    if not directory.is_dir():
        return []
    with store_errors(directory):
        paths = list(directory.iterdir())
    found = [(path, _read(path)) for path in paths]
    kept = [manifest for path, manifest in found if manifest is not None and path == _path(root, manifest.url)]
    return sorted(kept, key=lambda manifest: manifest.url)


def forget_manifest(root: Path, url: str) -> None:
    """Remove the manifest of ``url``, if there is one; its blobs stay. Raises ``StoreError`` subclasses."""
    path = _path(root, url)
    with store_errors(path):
        path.unlink(missing_ok=True)


def _path(root: Path, url: str) -> Path:
    return root / "manifests" / bytes_digest(url.encode(errors="surrogatepass"))


def _read(path: Path) -> Manifest | None:
    try:
        return _parse(read_json(path))
    except (OSError, ValueError, TypeError, KeyError, SourceInvalid):
        return None  # a hint that cannot be read is no hint; the source is read in full


def _parse(value: Any) -> Manifest:
    """Return the manifest in a document. Raises ``ValueError``, ``TypeError``, ``KeyError``, ``SourceInvalid``."""
    url, rows = value["url"], value["files"]
    if not isinstance(url, str) or not isinstance(rows, list) or len(rows) > MAX_FILES:
        raise ValueError("not a manifest")
    files = tuple(_file(*row) for row in rows)
    if any(before.name >= after.name for before, after in itertools.pairwise(files)):
        raise ValueError("names are not in order, or one is there twice")
    return Manifest(url, files)


def _file(name: Any, size: Any, sha256: Any, version: Any) -> ManifestFile:
    # type() rather than isinstance(): True is an int
    if type(name) is not str or type(size) is not int or size < 0 or type(version) is not str:
        raise ValueError("not a file of a manifest")
    return ManifestFile(checked_name(name), size, checked_digest(sha256), version)
