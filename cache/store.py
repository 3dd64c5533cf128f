"""Blobs by digest on the local disk.

Layout below the store's root (``GLOWPLUG_CACHE``, else ``cache`` in the state directory):

    blobs/<aa>/<sha256 hex>             the bytes; ``aa`` is the digest's first two digits; mode 0444, never written
                                        again; the modification time is when it was last used (``holds.py``)
    partial/<random>.part               a file on its way in; flocked by its writer for as long as that one lives
    partial/<sha256 of URL>/            resumable downloads, written under the URL's lock (``partial.py``)
    manifests/<sha256 of URL>           what a URL held when it was last read (``manifests.py``)
    pins/<sha256 of owner>              blobs that somebody wants kept (``pins.py``)
    locks/<sha256 of URL>, <digest>     flocked by the one process that fetches it (``flight.py``)
    locks/store                         flocked while something is evicted or a pin is written (``room.py``)
    locks/index                         flocked while a row and its blob have to stay together (``index.py``)
    index.db, index.db-wal, index.db-shm   SQLite: size and last use of each blob, made anew from ``blobs/`` at need
    disk.json                           how fast this disk reads (``disk.py``)

Rules, and why:

- A blob appears by rename, after its bytes and before its directory entry are on disk (fsync of both). A reader
  therefore never sees half a blob, not even after a power cut.
- The digest is computed while the bytes stream in. What was announced with another digest or size is never renamed.
- A blob that is already there stays: replacing it by an equal file would give it a new inode, and processes that have
  the old one mapped would stop sharing their pages with those that map the new one.
- A partial file whose flock is free belongs to a writer that has died; ``sweep`` removes those and no others, so
  several nodes may share a store. A resumable download whose URL's lock is free is kept for ``ABANDONED_S``: the next
  fetch continues it.
- Who uses a blob holds a shared flock on it (``hold``); who evicts one needs the exclusive flock, and unlinks while he
  has it. The kernel frees the lock of whoever dies. After the flock a holder looks whether the file still has a name.
- When a blob was last used is in the blob's own modification time: it survives the loss of the index, costs no write
  to a database at each use, and nothing else depends on it.
- The index is never an authority: it may be deleted at any time and no fetch fails for it.
- Directories are 0755 and blobs 0444: functions run under users of their own and map the same pages. Nothing in a store
  is secret from them; who may reach the store at all is decided by the directory above it.
- Bytes are not digested again when they are read: a start would have to read all of a model. Size is checked
  (``path_of``, ``hold``), ``verify`` reads everything.
- A store belongs to one machine and, below it, to one user: flock and SQLite's shared memory do not reach further.
- Foreign files are left alone and never counted.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from .digest import Streaming, checked_digest, file_digest, is_digest
from .errors import BlobMissing, DigestMismatch
from .evict import Entry
from .files import locked_if_free, make_directory, new_partial, store_errors, sync_directory
from .holds import Hold, Holds, mark_used
from .index import Index, blob_path

ABANDONED_S = 24 * 3600.0
"""How long a resumable download that nobody works on is kept: long enough for a machine that was off overnight, short
enough that what no function wants any more does not fill the disk."""


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

    def write(self, chunk: bytes | memoryview) -> None:
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
        self._store.publish(self._descriptor, self._path, blob)
        return blob


class BlobStore:
    """A directory of blobs; any number of processes may use one at once. Threads may share a ``BlobStore``.

    ``index`` is the store's index. What a ``BlobStore`` itself has is what it holds: one open file per held blob.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.index = Index(root)
        self._partial = root / "partial"
        self._holds = Holds(self.path)

    def __repr__(self) -> str:
        return f"BlobStore({str(self.root)!r}, held={len(self._holds)})"

    def path(self, digest: str) -> Path:
        """Return where the blob of ``digest`` is or would be. Raises ``SourceInvalid`` for anything but a digest."""
        return blob_path(self.root, checked_digest(digest))

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

    def hold(self, blobs: Iterable[Blob]) -> Hold:
        """Keep ``blobs``, all or none, from eviction until the hold is closed, and mark them used now.

        Waits only for an eviction that is just removing one of them. Raises ``BlobMissing`` naming the first that is
        not there as a whole, ``SourceInvalid`` for a digest that is none, ``StoreError`` at the limit of open files.
        """
        return self._holds.take(blobs)

    @contextlib.contextmanager
    def writing(self) -> Iterator[BlobWriter]:
        """Give a writer for one blob; whatever it did not commit is gone when the block ends.

        Raises ``StoreFull``, ``StoreUnwritable``, ``StoreError``.
        """
        with store_errors(self._partial):
            path, descriptor = new_partial(self.root)
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

    def publish(self, descriptor: int, path: Path, blob: Blob) -> None:
        """Make the file at ``path`` the blob that its bytes are; ``path`` is gone afterwards.

        ``descriptor`` is open on it; an flock that it holds is released. The caller has computed the digest. When the
        store has the whole blob already, that one stays. Raises ``StoreError`` subclasses; then nothing was published.
        """
        final = self.path(blob.sha256)
        with store_errors(final):
            if self.has(blob.sha256, blob.size) and mark_used(final):
                path.unlink(missing_ok=True)
                return
            os.fchmod(descriptor, 0o444)
            os.utime(descriptor)
            os.fsync(descriptor)
            make_directory(final.parent)
            with self.index.publishing(Entry(blob.sha256, blob.size, os.fstat(descriptor).st_mtime)):
                path.rename(final)
            sync_directory(final.parent)
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # nobody writes any more, and others may hold it

    def verify(self, blob: Blob) -> None:
        """Read the blob and compare. Raises ``BlobMissing``, or ``DigestMismatch`` with both digests."""
        path = self.path_of(blob)
        try:
            actual = file_digest(path)
        except OSError as error:
            raise BlobMissing(f"{path}: {error.strerror}") from error
        if actual != blob.sha256:
            raise DigestMismatch(f"{path}: content has sha256 {actual}")

    def discard(self, digest: str) -> None:
        """Remove a blob, held or not; processes that have it open keep it until they close it."""
        path = self.path(digest)
        with store_errors(path):
            path.unlink(missing_ok=True)
        self.index.drop([digest])

    def sweep(self, *, abandoned_s: float = ABANDONED_S) -> int:
        """Remove what dead writers left in ``partial/``: files that nobody can continue, and resumable downloads that
        nobody has worked on for ``abandoned_s``; return how many files. Raises ``StoreError`` subclasses."""
        removed = 0
        with store_errors(self._partial):
            for path in self._partial.glob("*.part"):
                with contextlib.suppress(FileNotFoundError, BlockingIOError):
                    removed += _sweep_file(path)
            for path in self._partial.glob("*/"):
                if is_digest(path.name) and time.time() - _last_written_s(path) >= abandoned_s:
                    with locked_if_free(self.root, path.name) as free:
                        # looked at again: a fetch may have come and gone since
                        if free and time.time() - _last_written_s(path) >= abandoned_s:
                            removed += len(list(path.iterdir()))
                            shutil.rmtree(path)
        return removed

    def partial_bytes(self) -> int:
        """Return how much of the disk downloads under way and dead ones take."""
        total = 0
        for directory, _, names in os.walk(self._partial):
            for name in names:
                with contextlib.suppress(FileNotFoundError):
                    total += os.lstat(os.path.join(directory, name)).st_blocks * 512
        return total


def _sweep_file(path: Path) -> int:
    """Remove a partial file. Raises ``BlockingIOError`` when its writer lives."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
    finally:
        os.close(descriptor)
    return 1


def _last_written_s(directory: Path) -> float:
    """Return when anything in a resumable download's directory was last written; for ever ago when it is gone."""
    newest = float("-inf")
    with contextlib.suppress(FileNotFoundError):
        newest = directory.stat().st_mtime
        for path in directory.iterdir():
            newest = max(newest, path.stat().st_mtime)
    return newest
