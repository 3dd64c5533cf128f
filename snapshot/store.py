"""Snapshots on disk: published by rename, signed by the node, verified before each load.

Layout below the root (``snapshots`` in the state directory; all directories 0755, all files 0444 and the node's):

    <key>/manifest.json      the manifest, byte for byte as the baker wrote it (fields: ``manifest.py``)
    <key>/manifest.hmac      hex HMAC-SHA256 over exactly those bytes, with the node's key
    <key>/<artefact> …       the files that the manifest lists with digest and size, and nothing else
    .staging-<random>/       a snapshot on its way in; swept at start
    .retired-<key>-<random>/ one that is not trusted any more, for whoever wants to know why; swept at start

Rules, and why:

- An engine is code. It is loaded only after the manifest's HMAC and every artefact's digest have been checked, so that
  neither a flipped bit nor a file that somebody else put there runs in a worker. The key is readable by the node alone.
- ``publish`` copies. The staging directory was written by a process that runs an author's code and may still have it
  open; what is signed must be bytes that nobody else can write any more.
- Only the key of the directory's name is accepted from inside the manifest: an authentic snapshot under another key
  would be another model's engine.
- The verdict on a directory is kept for as long as inode, size, mtime and ctime of each of its files stay what they
  were, because a parked function's rebuild must not wait for digests. A write that restores the mtime still moves the
  ctime, which only the kernel sets.
- The signature says that the node published these bytes, not that they do what their key says. The key is computed by
  the bake, which runs an author's code: authors whose functions have the same weights trust each other's bakes. The
  node's check (``runtime.judging``) keeps them from publishing for other weights or another machine.
- Which snapshot serves a function is kept elsewhere (``assignments.py``): a pointer needs no signature, since all it
  can do is to name a snapshot that has one.

Everything here blocks on the disk; the node calls it in a thread.
"""

from __future__ import annotations

import contextlib
import hmac
import json
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glowplug.cache.digest import CHUNK_BYTES, Streaming, is_digest
from glowplug.cache.errors import CacheError, SourceInvalid
from glowplug.cache.files import make_directory, store_errors, sync_directory
from glowplug.cache.sources.listing import checked_name

from .errors import SnapshotCorrupt, SnapshotMissing, SnapshotStoreFailed

MANIFEST = "manifest.json"
SIGNATURE = "manifest.hmac"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024
"""A weight map of 50,000 constants x 200 bytes is 10 MB; a manifest larger than this is not one."""

_KEY = re.compile(r"[0-9a-f]{16,64}")
_SIGNED = b"glowplug snapshot manifest\0"  # sets these signatures apart from whatever else the key may sign one day


@dataclass(frozen=True, slots=True)
class SnapshotRef:
    """A snapshot by its key. ``reused``: an equal one was there already and has been kept."""

    key: str
    reused: bool


@dataclass(frozen=True, slots=True)
class VerifiedSnapshot:
    """A snapshot whose signature and digests are right. ``manifest`` holds the verified bytes."""

    key: str
    directory: Path
    manifest: bytes


@dataclass(frozen=True, slots=True)
class StoredFile:
    """One file that a manifest lists, by name; ``size`` in bytes."""

    name: str
    sha256: str
    size: int


@dataclass(frozen=True, slots=True)
class _Verdict:
    marks: tuple[tuple[int, ...], ...]
    snapshot: VerifiedSnapshot
    names: tuple[str, ...]


class SnapshotStore:
    """The snapshots of one node. ``key`` are the bytes that sign manifests."""

    def __init__(self, root: Path, key: bytes) -> None:
        self.root = root
        self._key = key
        self._verdicts: dict[str, _Verdict] = {}

    def __repr__(self) -> str:
        return f"SnapshotStore({str(self.root)!r}, verified={len(self._verdicts)})"

    def keys(self) -> list[str]:
        """Return the keys of all published snapshots, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(entry.name for entry in self.root.iterdir() if _KEY.fullmatch(entry.name))

    def publish(self, staging: Path) -> SnapshotRef:
        """Copy a baked snapshot out of ``staging``, sign it and make it visible, all of it at once.

        Raises ``SnapshotMissing`` (a file), ``SnapshotCorrupt`` (no usable manifest, or an artefact is not what it
        says) and ``SnapshotStoreFailed`` (disk full, read-only); nothing is published then.
        """
        manifest = _read_whole(staging / MANIFEST)
        key, artefacts = contents_of(manifest, str(staging))
        if self._is_there(key, manifest):
            return SnapshotRef(key, reused=True)
        with self._fresh_directory() as fresh:
            for artefact in artefacts:
                _copy(staging / artefact.name, fresh / artefact.name, artefact)
            _write(fresh / MANIFEST, manifest)
            _write(fresh / SIGNATURE, self._sign(manifest))
            with _disk(fresh):
                sync_directory(fresh)
                fresh.chmod(0o755)
                if (self.root / key).exists():
                    self.retire(key, "replaced by a new bake")
                fresh.rename(self.root / key)
                sync_directory(self.root)
        return SnapshotRef(key, reused=False)

    def open(self, key: str) -> VerifiedSnapshot:
        """Return the snapshot of ``key`` with signature and digests checked.

        Raises ``SnapshotMissing`` or ``SnapshotCorrupt``, which name the file.
        """
        directory = self._directory(key)
        known = self._verdicts.get(key)
        if known is not None and known.marks == _marks(directory, known.names):
            return known.snapshot
        self._verdicts.pop(key, None)
        if not directory.is_dir():
            raise SnapshotMissing(f"no snapshot {key}")
        manifest = _read_whole(directory / MANIFEST)
        signature = _read_whole(directory / SIGNATURE)
        if not hmac.compare_digest(signature, self._sign(manifest)):
            raise SnapshotCorrupt(f"{directory / MANIFEST}: the signature is not this node's")
        named, artefacts = contents_of(manifest, str(directory))
        if named != key:
            raise SnapshotCorrupt(f"{directory / MANIFEST}: is the manifest of {named}")
        names = (MANIFEST, SIGNATURE, *(artefact.name for artefact in artefacts))
        before = _marks(directory, names)
        for artefact in artefacts:
            _check(directory / artefact.name, artefact)
        snapshot = VerifiedSnapshot(key, directory, manifest)
        if before is not None:  # taken before the digests: what changed meanwhile is looked at again next time
            self._verdicts[key] = _Verdict(before, snapshot, names)
        return snapshot

    def retire(self, key: str, why: str) -> None:
        """Take a snapshot out of use; it stays under another name, with ``why``, until the next start.

        Processes that have it loaded keep it. Nothing happens when there is none. Raises ``SnapshotStoreFailed``.
        """
        directory = self._directory(key)
        self._verdicts.pop(key, None)
        retired = self.root / f".retired-{key}-{secrets.token_hex(4)}"
        with _disk(directory), contextlib.suppress(FileNotFoundError):
            directory.rename(retired)
            (retired / "why").write_text(why + "\n")
            sync_directory(self.root)

    def sweep(self) -> int:
        """Remove what killed publishers and retirements left behind; return how many. Call once, at start."""
        removed = 0
        with _disk(self.root):
            for pattern in (".staging-*", ".retired-*"):
                for path in self.root.glob(pattern):
                    shutil.rmtree(path)
                    removed += 1
        return removed

    def _directory(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise SnapshotMissing(f"{key!r} is not a snapshot's key")
        return self.root / key

    def _sign(self, manifest: bytes) -> bytes:
        return hmac.new(self._key, _SIGNED + manifest, "sha256").hexdigest().encode()

    def _is_there(self, key: str, manifest: bytes) -> bool:
        try:
            return self.open(key).manifest == manifest
        except (SnapshotMissing, SnapshotCorrupt):
            return False

    @contextlib.contextmanager
    def _fresh_directory(self) -> Iterator[Path]:
        fresh = self.root / f".staging-{secrets.token_hex(8)}"
        with _disk(fresh):
            make_directory(self.root)
            fresh.mkdir(mode=0o700)
        try:
            yield fresh
        finally:
            if fresh.exists():
                shutil.rmtree(fresh)


def contents_of(manifest: bytes, where: str) -> tuple[str, tuple[StoredFile, ...]]:
    """Return key and artefacts of a manifest, by name: all that is read of one here. Raises ``SnapshotCorrupt``."""
    try:
        value: Any = json.loads(manifest)
        key = value["key"]
        artefacts = tuple(
            StoredFile(name, entry["sha256"], entry["size"]) for name, entry in sorted(value["artefacts"].items())
        )
        for artefact in artefacts:
            if "/" in checked_name(artefact.name) or artefact.name in (MANIFEST, SIGNATURE, "why"):
                raise ValueError(f"artefact name {artefact.name!r}")
            if not is_digest(artefact.sha256) or type(artefact.size) is not int or artefact.size < 0:
                raise ValueError(f"digest or size of {artefact.name}")
        if not isinstance(key, str) or not _KEY.fullmatch(key):
            raise ValueError(f"key {key!r:.80}")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, SourceInvalid) as error:
        raise SnapshotCorrupt(f"{where}/{MANIFEST}: {type(error).__name__}: {error}") from error
    return key, artefacts


def _marks(directory: Path, names: tuple[str, ...]) -> tuple[tuple[int, ...], ...] | None:
    marks = []
    for name in names:
        try:
            status = os.lstat(directory / name)
        except OSError:
            return None
        marks.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns))
    return tuple(marks)


def _open_file(path: Path) -> int:
    """Open a regular file, following no link: staging directories are written by code that is not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise SnapshotMissing(f"{path}: missing") from None
    except OSError as error:
        raise SnapshotCorrupt(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise SnapshotCorrupt(f"{path}: not a regular file")
    return descriptor


def _read_whole(path: Path) -> bytes:
    with os.fdopen(_open_file(path), "rb") as file:
        data = file.read(MAX_MANIFEST_BYTES + 1)
    if len(data) > MAX_MANIFEST_BYTES:
        raise SnapshotCorrupt(f"{path}: more than {MAX_MANIFEST_BYTES} bytes")
    return data


def chunks_of(path: Path, artefact: StoredFile) -> Iterator[bytes]:
    """Yield the bytes of an artefact; raise ``SnapshotCorrupt`` at the end when they were not the announced ones."""
    digest = Streaming()
    with os.fdopen(_open_file(path), "rb") as file:
        while digest.size <= artefact.size and (chunk := file.read(CHUNK_BYTES)):
            digest.update(chunk)
            yield chunk
    if digest.size != artefact.size:
        raise SnapshotCorrupt(f"{path}: has not the {artefact.size} bytes that the manifest says")
    if digest.hexdigest() != artefact.sha256:
        raise SnapshotCorrupt(f"{path}: sha256 {digest.hexdigest()}, the manifest says {artefact.sha256}")


def _check(path: Path, artefact: StoredFile) -> None:
    for _ in chunks_of(path, artefact):
        pass


def _copy(source: Path, target: Path, artefact: StoredFile) -> None:
    with _disk(target), target.open("xb") as file:
        for chunk in chunks_of(source, artefact):
            file.write(chunk)
        _finish(file.fileno(), file.flush)


def _write(target: Path, data: bytes) -> None:
    with _disk(target), target.open("xb") as file:
        file.write(data)
        _finish(file.fileno(), file.flush)


def _finish(descriptor: int, flush: Any) -> None:
    flush()
    os.fchmod(descriptor, 0o444)
    os.fsync(descriptor)


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        with store_errors(path):
            yield
    except CacheError as error:
        raise SnapshotStoreFailed(str(error)) from error
