"""Holds: a shared flock on each blob that this process uses, so that no eviction takes it.

An eviction locks a blob exclusively before it unlinks it. The kernel frees a hold when its process dies, whatever it
dies of, so nothing has to be cleaned up after anybody. A process has one descriptor per blob however many holds name
it, close-on-exec; a fork would share it, so only the process that took a hold gives the lock back.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import resource
import stat
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING

from .errors import BlobMissing, StoreError
from .files import store_errors

if TYPE_CHECKING:
    from .store import Blob

_UNMARKABLE = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})


class Hold:
    """Keeps blobs from eviction until it is closed. A context manager; made by ``BlobStore.hold``."""

    def __init__(self, blobs: tuple[Blob, ...], paths: Mapping[str, Path], release: Callable[[Iterable[str]], None]):
        self.paths: Mapping[str, Path] = MappingProxyType(dict(paths))
        """Where each blob is, by digest."""
        self.size_bytes = sum(blob.size for blob in blobs)
        self._release = release
        self._lock = threading.Lock()
        self._closed = False

    def __repr__(self) -> str:
        return f"Hold({len(self)} blobs, {self.size_bytes} bytes{', closed' if self._closed else ''})"

    def __len__(self) -> int:
        return len(self.paths)

    def __enter__(self) -> Hold:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let the blobs go, as far as no other hold of this process names them. Again: does nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self._release(self.paths)


class Holds:
    """The blobs that one ``BlobStore`` of one process holds, with how many holds name each."""

    def __init__(self, path: Callable[[str], Path]) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._process = os.getpid()
        self._held: dict[str, _Held] = {}

    def __len__(self) -> int:
        return len(self._held)

    def take(self, blobs: Iterable[Blob]) -> Hold:
        """Hold ``blobs``, all or none, and mark them used now. About 20 µs each.

        Raises ``BlobMissing`` naming the first that is not there as a whole, ``SourceInvalid`` for a digest that is
        none, ``StoreError`` when this process may not open as many files.
        """
        distinct = tuple(dict.fromkeys(blobs))
        taken: list[str] = []
        with self._lock:
            try:
                for blob in distinct:
                    self._take(blob)
                    taken.append(blob.sha256)
            except BaseException:
                self._drop(taken)
                raise
        return Hold(distinct, {blob.sha256: self._path(blob.sha256) for blob in distinct}, self._release)

    def _take(self, blob: Blob) -> None:
        held = self._held.get(blob.sha256)
        if held is None:
            descriptor = _locked(self._path(blob.sha256), blob, len(self._held))
            held = self._held[blob.sha256] = _Held(descriptor, blob.size)
        elif held.size != blob.size:
            raise _missing(self._path(blob.sha256), blob)
        held.count += 1
        mark_used(held.descriptor)

    def _release(self, digests: Iterable[str]) -> None:
        with self._lock:
            self._drop(digests)

    def _drop(self, digests: Iterable[str]) -> None:
        for digest in digests:
            held = self._held[digest]
            held.count -= 1
            if held.count == 0:
                del self._held[digest]
                if os.getpid() == self._process:
                    fcntl.flock(held.descriptor, fcntl.LOCK_UN)  # a fork may have a copy, which would keep the lock
                os.close(held.descriptor)


class _Held:
    """One blob's descriptor, its size in bytes, and how many holds name it."""

    __slots__ = ("count", "descriptor", "size")

    def __init__(self, descriptor: int, size: int) -> None:
        self.descriptor = descriptor
        self.size = size
        self.count = 0


@contextlib.contextmanager
def unheld(path: Path) -> Iterator[os.stat_result | None]:
    """Have the lock of the blob at ``path`` that an eviction needs while the block runs; give the blob's status, None
    when a process holds it.

    Never waits. Whoever wants to hold the blob meanwhile waits for the block to end. Raises ``OSError`` when it cannot
    be opened.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    try:
        status: os.stat_result | None = None
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            status = os.fstat(descriptor)
        yield status
    finally:
        os.close(descriptor)


def mark_used(file: int | Path) -> bool:
    """Set the time of last use of a blob to now; return whether there is one. Raises ``StoreError``.

    On a read-only disk and in a store of somebody else it stays as it is: the blob can be used all the same.
    """
    try:
        os.utime(file)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno not in _UNMARKABLE:
            raise StoreError(f"{file}: {error.strerror}") from error
    return True


def _locked(path: Path, blob: Blob, held: int) -> int:
    """Return a descriptor that holds the blob at ``path``."""
    while True:
        with store_errors(path):
            try:
                descriptor = _open(path, held)
            except FileNotFoundError:
                raise _missing(path, blob) from None
        try:
            with store_errors(path):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
                status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_size != blob.size:
                raise _missing(path, blob)
        except BaseException:
            os.close(descriptor)
            raise
        if status.st_nlink:
            return descriptor
        os.close(descriptor)  # evicted between open and flock; it may have been fetched again


def _open(path: Path, held: int) -> int:
    """Open a blob. Raises ``OSError``, and ``StoreError`` at the limit of open files."""
    while True:
        try:
            # O_NONBLOCK: something that is no blob (a FIFO) must not hang the caller
            return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError as error:
            if error.errno == errno.EMFILE and raise_file_limit():
                continue
            if error.errno not in (errno.EMFILE, errno.ENFILE):
                raise
            raise StoreError(
                f"{path}: cannot be held on top of {held} other blobs: {error.strerror}; raise the limit "
                f"(here {resource.getrlimit(resource.RLIMIT_NOFILE)[0]}; ulimit -n, LimitNOFILE= of a systemd unit)"
            ) from error


def raise_file_limit() -> bool:
    """Raise this process's soft limit of open files to the hard one; return whether there was anything to raise.

    This is the one place that does: a node, which calls it when it starts, holds every blob of every warm function, and
    1,024 is what most systems allow by default. Code that uses ``select(2)`` on descriptors above 1,023 breaks with it;
    glowplug uses epoll.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return False
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except ValueError:
        return False  # the kernel's own limit (fs.nr_open) has been lowered below the hard one
    return True


def _missing(path: Path, blob: Blob) -> BlobMissing:
    return BlobMissing(f"{path}: no complete blob of {blob.size} bytes")
