"""The store's own files on the disk: typed errors, durable names, locks between processes, small JSON documents.

Everything that the cache writes goes through here or through ``store.py``, so the rules are in one place:

- An ``OSError`` leaves as a ``StoreError`` that names the path (``store_errors``).
- A lock is an flock on a file of its own, on a close-on-exec descriptor: the kernel frees it when its holder dies, and
  no child inherits it by exec. Lock files stay: removing one that somebody has just opened would let two in.
- A file appears by rename from ``partial/``, where its writer holds it flocked: what a dead writer leaves is known by
  its free flock and is swept (``BlobStore.sweep``).
- A document that is read is taken for hostile: regular files only (a FIFO would hang the reader), no links, bounded.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .errors import CacheError, StoreError, StoreFull, StoreUnwritable

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
"""A manifest of 10,000 files with names of 1,024 characters, each escaped in six, is 62 MB."""

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")  # random(4)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_UNWRITABLE = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


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
    """Make the names in a directory durable. Raises ``OSError``."""
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


@contextlib.contextmanager
def locked(root: Path, name: str, *, shared: bool = False) -> Iterator[None]:
    """Hold ``locks/<name>`` while the block runs; waits for whoever has it.

    ``shared`` holders keep only exclusive ones out. Raises ``StoreError`` subclasses when there can be no lock file.
    """
    descriptor = open_lock(root / "locks" / name)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked_if_free(root: Path, name: str) -> Iterator[bool]:
    """Hold ``locks/<name>`` exclusively while the block runs, if nobody has it; gives whether it does.

    Raises ``StoreError`` subclasses when there can be no lock file.
    """
    descriptor = open_lock(root / "locks" / name)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def open_lock(path: Path) -> int:
    """Open a lock file, making it if need be; return a close-on-exec descriptor. Raises ``StoreError`` subclasses."""
    with store_errors(path):
        make_directory(path.parent)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def new_partial(root: Path) -> tuple[Path, int]:
    """Create a file in ``partial/`` and return its path and a writable descriptor that holds it flocked.

    Raises ``OSError``. The caller renames or unlinks the file and closes the descriptor.
    """
    directory = root / "partial"
    make_directory(directory)
    while True:
        path = directory / f"{secrets.token_hex(12)}.part"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        if path.exists():
            return path, descriptor
        os.close(descriptor)  # a sweep came between open and flock and took the file for a dead writer's


def write_json(root: Path, path: Path, value: Any) -> None:
    """Replace the document at ``path``, below ``root``, by ``value``: as a whole or not at all, and durably.

    Raises ``StoreError`` subclasses.
    """
    with store_errors(path):
        make_directory(path.parent)
        partial, descriptor = new_partial(root)
        try:
            view = memoryview(json.dumps(value, separators=(",", ":")).encode())
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
            partial.rename(path)
            sync_directory(path.parent)
        finally:
            partial.unlink(missing_ok=True)
            os.close(descriptor)


def read_json(path: Path) -> Any:
    """Return the document at ``path``. Raises ``OSError`` when it cannot be read (``ELOOP``: it is a link), and
    ``ValueError`` when it is not a regular file of JSON of at most ``MAX_DOCUMENT_BYTES``."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("not a regular file")
        if status.st_size > MAX_DOCUMENT_BYTES:
            raise ValueError(f"{status.st_size} bytes; limit {MAX_DOCUMENT_BYTES}")
        try:
            return json.loads(file.read(MAX_DOCUMENT_BYTES))
        except RecursionError:
            raise ValueError("nested too deeply") from None


def boot_id() -> str:
    """Return what names this boot of the machine; empty where the kernel does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""
