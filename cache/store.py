"""Blobs by digest on the local disk.

Layout below the store's root (``GLOWPLUG_CACHE``, else ``cache`` in the state directory):

    blobs/<aa>/<sha256 hex>     the bytes; ``aa`` is the digest's first two digits; mode 0444, never written again
    partial/<random>.part       a blob on its way in; its writer holds an exclusive flock for as long as it lives
    sources/<sha256 of URL>     what a source held when it was last read (``records.py``)
    locks/<sha256 of URL>       flocked by the one process that fetches a source (``fetch.py``)

Rules, and why:

- A blob appears by rename, after its bytes and before its directory entry are on disk (fsync of both). A reader
  therefore never sees half a blob, not even after a power cut.
- The digest is computed while the bytes stream in. What was announced with another digest or size is never renamed.
- A blob that is already there stays: replacing it by an equal file would give it a new inode, and processes that have
  the old one mapped would stop sharing their pages with those that map the new one.
- A partial file whose flock is free belongs to a writer that has died; ``sweep`` removes those and no others, so
  several nodes may share a store.
- Directories are 0755 and blobs 0444: functions run under users of their own and map the same pages. Nothing in a store
  is secret from them; who may reach the store at all is decided by the directory above it.
- Bytes are not digested again when they are read: a start would have to read all of a model. Size is checked
  (``path_of``), ``verify`` reads everything.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import secrets
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .digest import CHUNK_BYTES, Streaming, checked_digest, file_digest
from .errors import BlobMissing, CacheError, DigestMismatch, StoreError, StoreFull, StoreUnwritable

_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@dataclass(frozen=True, slots=True)
class Blob:
    """What is in the store: hex digest and size in bytes."""

    sha256: str
    size: int


class BlobWriter:
    """Takes the bytes of one blob. Made by ``BlobStore.writing``; nothing is visible until ``commit``."""

    def __init__(self, store: BlobStore, descriptor: int, path: Path) -> None:
        self._store = store
        self._descriptor = descriptor
        self._path = path
        self._digest = Streaming()

    @property
    def size(self) -> int:
        """Bytes taken so far."""
        return self._digest.size

    def write(self, chunk: bytes) -> None:
        """Append ``chunk``. Raises ``StoreFull``, ``StoreError``."""
        self._digest.update(chunk)
        view = memoryview(chunk)
        with store_errors(self._path):
            while view:
                view = view[os.write(self._descriptor, view) :]

    def commit(self, *, expected: str = "", size: int | None = None) -> Blob:
        """Publish what was written and return it.

        Raises ``DigestMismatch`` when it is not the ``expected`` digest or not ``size`` bytes; nothing is published.
        """
        blob = Blob(self._digest.hexdigest(), self._digest.size)
        if size is not None and size != blob.size:
            raise DigestMismatch(f"expected {size} bytes, got {blob.size}")
        if expected and expected != blob.sha256:
            raise DigestMismatch(f"expected sha256 {expected}, got {blob.sha256}")
        final = self._store.path(blob.sha256)
        with store_errors(final):
            if not self._store.has(blob.sha256, blob.size):
                os.fchmod(self._descriptor, 0o444)
                os.fsync(self._descriptor)
                make_directory(final.parent)
                self._path.rename(final)
                sync_directory(final.parent)
        return blob


class BlobStore:
    """A directory of blobs. Holds no state of its own: any number of processes may use one directory at once."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._blobs = root / "blobs"
        self._partial = root / "partial"

    def __repr__(self) -> str:
        return f"BlobStore({str(self.root)!r})"

    def path(self, digest: str) -> Path:
        """Return where the blob of ``digest`` is or would be. Raises ``SourceInvalid`` for anything but a digest."""
        checked_digest(digest)
        return self._blobs / digest[:2] / digest

    def has(self, digest: str, size: int | None = None) -> bool:
        """Return whether the blob is there, and of ``size`` bytes if that is given."""
        try:
            status = self.path(digest).stat()
        except FileNotFoundError:
            return False
        return size is None or status.st_size == size

    def path_of(self, blob: Blob) -> Path:
        """Return the path of a blob that is there. Raises ``BlobMissing`` when it is not or has another size."""
        path = self.path(blob.sha256)
        if not self.has(blob.sha256, blob.size):
            raise BlobMissing(f"{path}: no complete blob of {blob.size} bytes")
        return path

    @contextlib.contextmanager
    def writing(self) -> Iterator[BlobWriter]:
        """Give a writer for one blob; whatever it did not commit is gone when the block ends.

        Raises ``StoreFull``, ``StoreUnwritable``, ``StoreError``.
        """
        with store_errors(self._partial):
            make_directory(self._blobs)
            make_directory(self._partial)
            path, descriptor = self._new_partial()
        try:
            yield BlobWriter(self, descriptor, path)
        finally:
            path.unlink(missing_ok=True)
            os.close(descriptor)

    def add(self, chunks: Iterable[bytes], *, expected: str = "", size: int | None = None) -> Blob:
        """Store the bytes of ``chunks`` and return their blob. Raises as ``writing`` and ``BlobWriter.commit``."""
        with self.writing() as writer:
            for chunk in chunks:
                writer.write(chunk)
            return writer.commit(expected=expected, size=size)

    def add_file(self, path: Path) -> Blob:
        """Store a copy of a file. Raises ``OSError`` when it cannot be read."""
        with path.open("rb") as file:
            return self.add(iter(lambda: file.read(CHUNK_BYTES), b""))

    def verify(self, blob: Blob) -> None:
        """Read the blob and compare. Raises ``BlobMissing``, or ``DigestMismatch`` with both digests."""
        path = self.path_of(blob)
        actual = file_digest(path)
        if actual != blob.sha256:
            raise DigestMismatch(f"{path}: content has sha256 {actual}")

    def discard(self, digest: str) -> None:
        """Remove a blob; processes that have it mapped keep it until they unmap it."""
        path = self.path(digest)
        with store_errors(path):
            path.unlink(missing_ok=True)

    def _new_partial(self) -> tuple[Path, int]:
        while True:
            path = self._partial / f"{secrets.token_hex(12)}.part"
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if path.exists():
                return path, descriptor
            os.close(descriptor)  # a sweep came between open and flock and took the file for a dead writer's

    def sweep(self) -> int:
        """Remove partial files whose writers have died; return how many."""
        removed = 0
        with store_errors(self._partial):
            for path in self._partial.glob("*.part"):
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                    try:
                        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                        path.unlink()
                        removed += 1
                    finally:
                        os.close(descriptor)
        return removed


@contextlib.contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Turn the ``OSError`` of a write below ``path`` into ``StoreFull``, ``StoreUnwritable`` or ``StoreError``."""
    try:
        yield
    except OSError as error:
        kind: type[CacheError] = StoreError
        if error.errno in _FULL:
            kind = StoreFull
        elif error.errno in _UNWRITABLE:
            kind = StoreUnwritable
        raise kind(f"{path}: {error.strerror}") from error


def sync_directory(path: Path) -> None:
    """Make the names in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_directory(path: Path) -> None:
    """Create a directory and its missing parents, 0755 whatever the umask is. Raises ``OSError``."""
    if not path.is_dir():
        make_directory(path.parent)
        path.mkdir(exist_ok=True)
        path.chmod(0o755)
