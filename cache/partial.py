"""Downloads that survive the process that began them.

While a URL is being fetched (its lock is held, ``flight.py``), ``partial/<sha256 of URL>/`` has two files for each
large file of the source, named by a key:

    <key>.part    the file, preallocated to its full size; pieces arrive in any order
    <key>.done    HEADER_BYTES of JSON padded with spaces, then one byte per piece: 0 missing, 1 there

The key is the SHA-256 of (URL, name, version, size), with the expected digest in place of a version that the source
does not have: bytes of another version are never continued, and where there is neither, nothing is kept.

The header has the size, the piece size and the kernel's boot id, and must match. Nothing is synced while it arrives:
after ``kill -9`` the page cache has everything that was written, but after a power cut the marks may be on the disk and
the bytes not. So another boot starts over.

Once the whole file is a blob, ``<key>.part`` has moved to ``blobs/`` and the header of ``<key>.done`` says which one it
is: a source of twenty files whose fetch died at the eleventh does not read ten of them again to learn their digests.
When the last file of the source is in, its manifest says the same, and the directory goes away.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

from .digest import bytes_digest, is_digest
from .files import boot_id, make_directory, store_errors
from .sources.listing import ListedFile
from .store import Blob, BlobStore

PIECE_BYTES = 8 * 1024 * 1024
"""What is lost at most per connection when a download dies, and what one ranged request of several asks for: long
enough that the round trip before it does not matter, and the same as boto3's ``multipart_chunksize``."""

HEADER_BYTES = 4096
"""Of a ``.done`` file: a block, so that marking a piece never shares a block with the header."""


def url_key(url: str) -> str:
    """Return what a URL's lock and its directory of partial files are named by."""
    return bytes_digest(url.encode(errors="surrogatepass"))


class Partials:
    """The partial files of one URL. Whoever uses this holds the URL's lock."""

    def __init__(self, store: BlobStore, url: str) -> None:
        self._store = store
        self._url = url
        self.directory = store.root / "partial" / url_key(url)

    def __repr__(self) -> str:
        return f"Partials({str(self.directory)!r})"

    def key(self, file: ListedFile, expected: str) -> str | None:
        """Return the key of ``file``, None when nothing could tell whether its bytes are still the same next time."""
        version = file.version or expected
        return bytes_digest(json.dumps([self._url, file.name, version, file.size]).encode()) if version else None

    def open(self, key: str, size: int, *, piece_bytes: int = PIECE_BYTES) -> Partial:
        """Open the partial file of ``key``, continuing what is there. Raises ``StoreFull``, ``StoreError``."""
        with store_errors(self.directory):
            make_directory(self.directory)
        return Partial(self._store, self.directory / f"{key}.part", size, piece_bytes)

    def allocated_bytes(self, key: str) -> int:
        """Return how much of the disk the partial file of ``key`` has already."""
        try:
            return (self.directory / f"{key}.part").stat().st_blocks * 512
        except FileNotFoundError:
            return 0

    def finished(self, key: str) -> Blob | None:
        """Return the blob that an earlier fetch made of this file, if it is still there."""
        header = _read_header(self.directory / f"{key}.done")
        digest, size = header.get("sha256"), header.get("size")
        if isinstance(digest, str) and is_digest(digest) and isinstance(size, int) and self._store.has(digest, size):
            return Blob(digest, size)
        return None

    def finish(self, key: str, blob: Blob) -> None:
        """Record that the file of ``key`` is ``blob``. Raises ``StoreError`` subclasses."""
        path = self.directory / f"{key}.done"
        fresh = path.with_suffix(".new")
        with store_errors(path):
            make_directory(self.directory)
            fresh.write_bytes(_header(size=blob.size, sha256=blob.sha256))
            fresh.replace(path)

    def keep(self, keys: Collection[str]) -> None:
        """Remove everything that belongs to none of ``keys``: other versions, other leftovers."""
        with store_errors(self.directory), contextlib.suppress(FileNotFoundError):
            for path in list(self.directory.iterdir()):
                if path.stem not in keys or path.suffix not in (".part", ".done"):
                    path.unlink()

    def clear(self) -> None:
        """Remove the directory and all in it."""
        with store_errors(self.directory), contextlib.suppress(FileNotFoundError):
            shutil.rmtree(self.directory)


class Partial:
    """One file on its way in, ``size`` bytes of which some are there. Writing is safe from several threads.

    ``pieces`` of ``piece_bytes`` each, the last one perhaps shorter. ``resumed_bytes``: what an earlier process left.
    ``descriptor`` is open for reading and writing.
    """

    def __init__(self, store: BlobStore, path: Path, size: int, piece_bytes: int) -> None:
        self.size = size
        self.piece_bytes = piece_bytes
        self.path = path
        self._store = store
        self._marks_path = path.with_suffix(".done")
        self.pieces = -(-size // piece_bytes)
        self._there = bytearray(self.pieces)
        with contextlib.ExitStack() as opened, store_errors(path):
            self.descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, self.descriptor)
            self._marks = os.open(self._marks_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            opened.callback(os.close, self._marks)
            opened.callback(self._unlink_if_empty)
            self._continue_or_begin()
            self._close = opened.pop_all().close
        self.resumed_bytes = sum(self.length(piece) for piece in range(self.pieces) if self._there[piece])

    def __repr__(self) -> str:
        return f"Partial({str(self.path)!r}, {sum(self._there)} of {self.pieces} pieces)"

    def length(self, piece: int) -> int:
        """Return the bytes of piece number ``piece``; the last one may be short."""
        return min(self.piece_bytes, self.size - piece * self.piece_bytes)

    def missing(self) -> list[int]:
        """Return the numbers of the pieces that are not there, in order."""
        return [piece for piece in range(self.pieces) if not self._there[piece]]

    def write(self, data: memoryview, offset: int) -> None:
        """Write ``data`` at ``offset``. Raises ``StoreFull``, ``StoreError``."""
        with store_errors(self.path):
            while data:
                written = os.pwrite(self.descriptor, data, offset)
                data, offset = data[written:], offset + written

    def read(self, buffer: memoryview, offset: int) -> int:
        """Read what was written at ``offset`` back into ``buffer``; return how much. Raises ``StoreError``."""
        with store_errors(self.path):
            return os.preadv(self.descriptor, [buffer], offset)

    def mark(self, piece: int) -> None:
        """Record that all of ``piece`` has been written. Raises ``StoreError`` subclasses."""
        with store_errors(self._marks_path):
            os.pwrite(self._marks, b"\x01", HEADER_BYTES + piece)
        self._there[piece] = 1

    def commit(self, sha256: str) -> Blob:
        """Make the file the blob of its digest ``sha256``. Raises ``StoreError`` subclasses."""
        blob = Blob(sha256, self.size)
        self._store.publish(self.descriptor, self.path, blob)
        return blob

    def discard(self) -> None:
        """Remove the file: its bytes turned out to be wrong. Close it afterwards. Raises ``StoreError`` subclasses."""
        with store_errors(self.path):
            self.path.unlink(missing_ok=True)
            self._marks_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Close the file. It stays for the next fetch if there is a whole piece in it."""
        self._close()

    def _continue_or_begin(self) -> None:
        boot = boot_id()
        expected = {"boot": boot, "size": self.size, "piece_bytes": self.piece_bytes}
        there = os.pread(self._marks, self.pieces + 1, HEADER_BYTES)
        whole = os.fstat(self.descriptor).st_size == self.size and len(there) == self.pieces
        if boot and whole and _read_header(self._marks_path) == expected and set(there) <= {0, 1}:
            self._there[:] = there
            return
        os.ftruncate(self.descriptor, 0)
        os.ftruncate(self._marks, 0)
        os.posix_fallocate(self.descriptor, 0, self.size)
        os.pwrite(self._marks, _header(**expected) + bytes(self.pieces), 0)

    def _unlink_if_empty(self) -> None:
        if not any(self._there):
            self.discard()


def _header(**fields: object) -> bytes:
    return json.dumps(fields).encode().ljust(HEADER_BYTES)


def _read_header(path: Path) -> dict[str, Any]:
    """Return what the header of a ``.done`` file says; nothing when there is none or it cannot be read."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(HEADER_BYTES))
    except (OSError, ValueError):
        return {}  # whatever it was, it cannot be continued
    return header if isinstance(header, dict) else {}
