"""Functions' code: uploaded as a zip by its digest, checked, unpacked once, never changed afterwards.

    S/code/<sha256>.zip     as uploaded, 0444
    S/code/<sha256>/        unpacked: directories 0755, files 0444, 0555 where the archive says executable
    S/code/opt-<sha256>/    several layers in one directory, by the list of their digests (``merging.py``)
    S/code/.incoming-*      being received or unpacked; deleted when the store is opened

A layer is code like any other. A directory appears by rename, after everything in it has reached the disk: it is there
completely or not at all. What an archive may hold is decided by ``archive.py`` before a byte is unpacked.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
import re
import secrets
import shutil
import time
import zipfile
from collections.abc import AsyncGenerator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .archive import Member, copy_member, inspect
from .bytecode import ByteCompiler
from .config import Limits
from .errors import InvalidParameter
from .merging import merge, merged_name
from .state import unusable

PRUNE_GRACE_S = 7200.0
"""How long code stays after the last function that names it is gone. The longest Timeout (5400 s) bounds a drain; a
client deploys within seconds of its upload."""

_PIECE_BYTES = 1024 * 1024
_DIGEST = re.compile(r"[0-9a-f]{64}")
_MERGED = re.compile(r"opt-[0-9a-f]{64}")


class CodeStore:
    """The unpacked code of one node's functions, by the SHA-256 (hex) of its zip.

    The node owns the directory alone, so opening the store deletes what an earlier node left half-done.
    Raises ``StateError`` when the directory cannot be used.
    """

    def __init__(self, directory: Path, limits: Limits | None = None, *, now: Callable[[], float] = time.time) -> None:
        self._directory = directory
        self._limits = limits or Limits()
        self._now = now
        self._compiler = ByteCompiler()
        self._unzipped: dict[str, int] = {}
        try:
            directory.mkdir(mode=0o755, parents=True, exist_ok=True)
            for leftover in [*directory.glob(".incoming-*"), *directory.glob(".discarded-*")]:
                _delete(leftover)
            # A function may have run it until just now, and the first prune may be that of the deploy that replaces it.
            self._named = frozenset(self._kept())
        except OSError as error:
            raise unusable(directory, error) from None

    def __repr__(self) -> str:
        return f"<CodeStore {self._directory} {len(self.digests())} archives>"

    def path(self, digest: str) -> Path:
        """Return the directory of unpacked code. Raises ``InvalidParameter`` for what is no digest or is not stored."""
        if not self.has(digest):
            raise InvalidParameter(f"code {digest} has not been uploaded to this node")
        return self._directory / digest

    def has(self, digest: str) -> bool:
        """Return whether the code is here, unpacked. Raises ``InvalidParameter`` for what is no digest."""
        return (self._directory / _checked(digest)).is_dir()

    def size(self, digest: str) -> int:
        """Return the bytes of the zip with this digest. Raises ``InvalidParameter`` when it is not here."""
        self.path(digest)
        try:
            return (self._directory / f"{digest}.zip").stat().st_size
        except OSError as error:
            raise unusable(self._directory, error) from error

    async def read(self, digest: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the zip with this digest. Raises ``InvalidParameter`` when it is not here, ``StateError``
        when it cannot be read."""
        self.path(digest)
        try:
            with (self._directory / f"{digest}.zip").open("rb") as file:
                while piece := await asyncio.to_thread(file.read, _PIECE_BYTES):
                    yield piece
        except OSError as error:
            raise unusable(self._directory, error) from error

    def digests(self) -> list[str]:
        """Return what is stored, sorted."""
        return sorted(entry.name for entry in self._directory.iterdir() if _DIGEST.fullmatch(entry.name))

    def opt(self, digests: Sequence[str]) -> Path | None:
        """Return the directory that layers with these digests make together, the later over the earlier; None when it
        has not been prepared, or there are none. Raises ``InvalidParameter`` for what is no digest."""
        if not digests:
            return None
        own = self._directory / (_checked(digests[0]) if len(digests) == 1 else merged_name(digests))
        return own if own.is_dir() else None

    async def prepare_opt(self, digests: Sequence[str], *, code: str | None = None) -> Path | None:
        """Make the directory of ``opt`` and return it: once per list of layers, whoever names it.

        Any number may run at once. Raises ``InvalidParameter`` for layers that are not here, or that are over the limit
        together with the function's ``code``, and ``StateError`` when it cannot be written.
        """
        if not digests:
            return None
        return await asyncio.to_thread(self._prepare, tuple(digests), code)

    async def put(self, digest: str, archive: bytes) -> Path:
        """Store a zip and return the directory of its contents. Code that is here already is not unpacked again.

        Any number may run at once, for the same digest too. Raises ``InvalidParameter`` when the bytes are not those of
        ``digest``, or the archive is over the limit or holds what a function's code may not (the message names the
        entry), ``StateError`` when it cannot be written. Nothing is stored then.
        """
        return await asyncio.to_thread(self._put, _checked(digest), archive)

    @contextmanager
    def incoming(self) -> Iterator[BinaryIO]:
        """A file for a zip that is too large for memory, for ``put_file``; gone after the block, unless stored.

        An ``OSError`` of the block is the disk's and becomes ``StateError``.
        """
        path = self._directory / f".incoming-zip-{secrets.token_hex(8)}"
        try:
            with path.open("xb") as file:
                yield file
        except OSError as error:
            raise unusable(self._directory, error) from error
        finally:
            path.unlink(missing_ok=True)

    async def put_file(self, digest: str, file: Path) -> Path:
        """Store the zip in a file from ``incoming``, which is the store's from then on. ``digest`` is what the file's
        writer has made of its bytes. Otherwise as ``put``."""
        return await asyncio.to_thread(self._put_file, _checked(digest), file)

    async def prune(
        self, keep: Iterable[str], layers: Iterable[Sequence[str]] = (), *, grace_s: float = PRUNE_GRACE_S
    ) -> list[str]:
        """Delete code that no digest in ``keep`` names, and return the digests deleted. What several layers make
        together goes when no list in ``layers`` names them in that order.

        They are ``Catalog.code_digests()`` and ``Catalog.layer_lists()``. Code stays for ``grace_s`` seconds after it
        was uploaded or last kept (after the first call, for what was here when the store was opened): instances of a
        replaced revision still import from it, and a deploy uploads before it names. Raises ``StateError``.
        """
        merged = {merged_name(digests) for digests in layers if len(digests) > 1}
        return await asyncio.to_thread(self._prune, frozenset(keep) | merged, grace_s)

    def _put(self, digest: str, archive: bytes) -> Path:
        actual = hashlib.sha256(archive).hexdigest()
        if actual != digest:
            raise InvalidParameter(f"the uploaded code has SHA-256 {actual}, not {digest}")
        with io.BytesIO(archive) as source:
            return self._publish(digest, source, lambda path: _write_file(path, archive, 0o444))

    def _put_file(self, digest: str, file: Path) -> Path:
        def move(path: Path) -> None:
            file.chmod(0o444)
            _sync(file, os.O_RDONLY)
            file.rename(path)

        try:
            with file.open("rb") as source:
                return self._publish(digest, source, move)
        except OSError as error:
            raise unusable(self._directory, error) from error
        finally:
            file.unlink(missing_ok=True)

    def _publish(self, digest: str, archive: BinaryIO, bring: Callable[[Path], None]) -> Path:
        """Unpack an archive and give it its name; ``bring`` puts the archive itself, on disk, at a path."""
        target = self._directory / digest
        incoming = self._directory / f".incoming-{digest[:16]}-{secrets.token_hex(4)}"
        try:
            if target.is_dir():
                self._touch(target)  # or a prune under way could take it before the deploy names it
                return target
            with inspect(archive, self._limits) as contents:
                incoming.mkdir(mode=0o755)
                unpacked = incoming / "code"
                _unpack(contents.file, contents.members, unpacked)
            for path in self._compiler.compile_tree(unpacked, target):
                _sync(path, os.O_RDONLY)
            bring(incoming / "zip")
            (incoming / "zip").rename(self._directory / f"{digest}.zip")
            try:
                unpacked.rename(target)
            except OSError:
                if not target.is_dir():  # else another put of the same digest was first, with the same contents
                    raise
            self._touch(target)
            _sync_directory(self._directory)
        except OSError as error:
            raise unusable(self._directory, error) from error
        finally:
            _delete(incoming)
        return target

    def _prepare(self, digests: tuple[str, ...], code: str | None) -> Path:
        layers = [self.path(digest) for digest in digests]
        size, limit = sum(map(self._size_of, digests if code is None else (*digests, code))), self._limits
        if size > limit.code_unzipped_bytes:
            raise InvalidParameter(
                f"Function code combined with layers exceeds the maximum allowed size of {limit.code_unzipped_bytes} "
                f"bytes. The actual size is {size} bytes."
            )
        if len(layers) == 1:
            return layers[0]
        name = merged_name(digests)
        target = self._directory / name
        incoming = self._directory / f".incoming-{name[:20]}-{secrets.token_hex(4)}"
        try:
            if not target.is_dir():
                merge(layers, incoming)
                try:
                    incoming.rename(target)
                except OSError:
                    if not target.is_dir():  # else another one was first, with the same contents
                        raise
                _sync_directory(self._directory)
            self._touch(target)  # or a prune under way could take it before the deploy names it
        except OSError as error:
            raise unusable(self._directory, error) from error
        finally:
            _delete(incoming)
        return target

    def _size_of(self, digest: str) -> int:
        """Return the bytes of a zip's contents: as declared, which ``put`` has held them to."""
        if digest not in self._unzipped:
            try:
                with zipfile.ZipFile(self._directory / f"{digest}.zip") as file:
                    self._unzipped[digest] = sum(entry.file_size for entry in file.infolist())
            except OSError as error:
                raise unusable(self._directory, error) from error
        return self._unzipped[digest]

    def _kept(self) -> list[str]:
        """Return the names of all directories of code."""
        return sorted(
            entry.name
            for entry in self._directory.iterdir()
            if _DIGEST.fullmatch(entry.name) or _MERGED.fullmatch(entry.name)
        )

    def _touch(self, target: Path) -> None:
        # A directory's time says when it was last uploaded or known to be named; nothing else changes it.
        now = self._now()
        os.utime(target, (now, now))

    def _prune(self, keep: frozenset[str], grace_s: float) -> list[str]:
        recent, self._named = keep | self._named, keep  # what was named until now begins its grace now
        pruned: list[str] = []
        try:
            for name in self._kept():
                target = self._directory / name
                if name in recent:
                    self._touch(target)
                elif self._now() - target.stat().st_mtime >= grace_s:
                    discarded = self._directory / f".discarded-{name[:20]}-{secrets.token_hex(4)}"
                    target.rename(discarded)  # gone in one step: nobody imports from half a directory
                    (self._directory / f"{name}.zip").unlink(missing_ok=True)
                    _delete(discarded)
                    if _DIGEST.fullmatch(name):
                        pruned.append(name)
        except OSError as error:
            raise unusable(self._directory, error) from error
        return pruned


def _checked(digest: str) -> str:
    """Return ``digest`` when it is one; anything else would be a path of the caller's choosing."""
    if not _DIGEST.fullmatch(digest):
        raise InvalidParameter(f"{digest!r} is not a SHA-256 digest in lower-case hex")
    return digest


def _unpack(archive: zipfile.ZipFile, members: Iterable[Member], root: Path) -> None:
    """Write ``members`` below ``root`` and wait until it is on disk. Raises ``InvalidParameter`` or ``OSError``."""
    root.mkdir(mode=0o755)
    files: list[Path] = []
    directories = {root}
    for member in members:
        path = root.joinpath(*member.parts)
        directory = path if member.is_directory else path.parent
        directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        while directory not in directories:
            directories.add(directory)
            directory = directory.parent
        if not member.is_directory:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
                copy_member(archive, member, file)
                os.fchmod(file.fileno(), 0o555 if member.executable else 0o444)
            files.append(path)
    # All writes first: by the time of the first fsync most have reached the disk, and the journal is committed once.
    for path in files:
        _sync(path, os.O_RDONLY)
    for path in directories:
        path.chmod(0o755)  # mkdir obeys the umask
        _sync_directory(path)


def _write_file(path: Path, data: bytes, mode: int) -> None:
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    _sync(path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
