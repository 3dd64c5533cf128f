"""Bring a source into the store. Runs in a process of its own, so that no download ever holds up the node's loop:

    python -m glowplug.cache.fetch URL --store DIRECTORY [--file-root DIRECTORY]… [--pinned]

Standard output is JSON, one object a line:

    {"event": "progress", "file": "model.safetensors", "done_bytes": 33554432, "total_bytes": 91735043}
    {"event": "manifest", "files": [["config.json", 612, "<sha256 hex>"], …]}            last line on success, exit 0
    {"event": "error", "error_type": "SourceNotFound", "message": "…"}                   last line on failure, exit 1

With ``--pinned`` standard input holds such a list of files (a revision's), and exactly those are brought back: blobs
that are there are not read again, and a file that is no longer the pinned one is ``SourceChanged`` with both digests.

One process at a time fetches a URL into a store: it holds a flock, on a close-on-exec descriptor that the kernel frees
when the process dies. Whoever waited then finds the first one's record (``records.py``) and transfers nothing. Lock
files stay: removing one that somebody has just opened would let two in.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from .digest import CHUNK_BYTES, bytes_digest, checked_digest
from .errors import CacheError, DigestMismatch, SourceChanged, SourceInvalid
from .manifests import RecordedFile, read_record, write_record
from .sources.filesystem import remote_errors
from .sources.listing import ListedFile, checked_name
from .sources.table import open_source
from .store import Blob, BlobStore, make_directory, store_errors

PROGRESS_S = 0.1
"""Least time between two progress lines of one file."""

Report = Callable[[str, int, int], None]
"""Called with (file, bytes done of all, bytes of all as far as known)."""


@dataclass(frozen=True, slots=True)
class FetchedFile:
    """One file of a fetched source: name, size in bytes, hex digest."""

    name: str
    size: int
    sha256: str


def fetch(
    url: str,
    store: BlobStore,
    *,
    file_roots: Sequence[Path] = (),
    pinned: Sequence[FetchedFile] | None = None,
    report: Report = lambda file, done, total: None,
) -> tuple[FetchedFile, ...]:
    """Make sure that every file of ``url`` is a blob in ``store``; return them, ordered by name.

    ``pinned`` is what they must be; files that it does not name are left alone. Raises ``SourceError`` and
    ``StoreError`` subclasses; what was stored before the error stays, and the next fetch starts from there.
    """
    with _only_fetcher(store, url):
        if pinned is not None and all(store.has(file.sha256, file.size) for file in pinned):
            return tuple(pinned)
        listed = open_source(url, file_roots=file_roots)
        wanted = {file.name: file for file in pinned} if pinned is not None else None
        if wanted is not None:
            listed = _only_pinned(url, listed, wanted)
        total = sum(file.size or 0 for file in listed)
        report("", 0, total)
        known, read, done = read_record(store.root, url), [], 0
        try:
            for file in listed:
                pin = wanted[file.name] if wanted is not None else None
                blob = _blob_of(url, store, file, pin, known.get(file.name), _offset(report, file.name, done, total))
                done += blob.size
                report(file.name, done, total)
                read.append(RecordedFile(file.name, blob.size, file.version, blob.sha256))
        finally:
            kept = {**known, **{file.name: file for file in read if file.version}}
            if kept != known:
                write_record(store.root, url, [kept[name] for name in sorted(kept)])
        return tuple(FetchedFile(file.name, file.size, file.sha256) for file in read)


def _only_pinned(url: str, listed: Sequence[ListedFile], wanted: dict[str, FetchedFile]) -> tuple[ListedFile, ...]:
    found = tuple(file for file in listed if file.name in wanted)
    gone = sorted(set(wanted) - {file.name for file in found})
    if gone:
        pin = wanted[gone[0]]
        raise SourceChanged(f"{url}: {pin.name} (sha256 {pin.sha256}) is not there any more")
    return found


def _blob_of(
    url: str,
    store: BlobStore,
    file: ListedFile,
    pin: FetchedFile | None,
    known: RecordedFile | None,
    report: Callable[[int], None],
) -> Blob:
    """Return the blob of one listed file, transferring it only when the store cannot have it yet."""
    if pin is not None and store.has(pin.sha256, pin.size):
        return Blob(pin.sha256, pin.size)
    same = known is not None and file.version and known.version == file.version
    if pin is None and known is not None and same and store.has(known.sha256, known.size):
        return known.blob
    with store.writing() as writer:
        for chunk in _chunks(url, file):
            writer.write(chunk)
            report(writer.size)
        try:
            return writer.commit(size=file.size, expected=pin.sha256 if pin is not None else "")
        except DigestMismatch as error:
            if pin is None:
                raise SourceChanged(f"{url}: {file.name} changed while it was read: {error}") from error
            raise SourceChanged(f"{url}: {file.name} is not what was deployed: {error}") from error


def _chunks(url: str, file: ListedFile) -> Iterator[bytes]:
    with remote_errors(f"{url}: {file.name}"):
        stream = file.open()
    with stream:
        while True:
            with remote_errors(f"{url}: {file.name}"):
                chunk = stream.read(CHUNK_BYTES)
            if not chunk:
                return
            yield chunk


def _offset(report: Report, name: str, done: int, total: int) -> Callable[[int], None]:
    return lambda size: report(name, done + size, total)


@contextlib.contextmanager
def _only_fetcher(store: BlobStore, url: str) -> Iterator[None]:
    path = store.root / "locks" / bytes_digest(url.encode())
    with store_errors(path):
        make_directory(path.parent)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line in the module's docstring; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m glowplug.cache.fetch", description="Bring a source into a store.")
    parser.add_argument("url")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--file-root", type=Path, action="append", default=[])
    parser.add_argument("--pinned", action="store_true")
    given = parser.parse_args(arguments)
    store = BlobStore(given.store)
    try:
        pinned = _read_pinned(sys.stdin.read()) if given.pinned else None
        store.sweep()
        files = fetch(given.url, store, file_roots=given.file_root, pinned=pinned, report=_Progress())
    except CacheError as error:
        _say(event="error", error_type=type(error).__name__, message=str(error))
        return 1
    _say(event="manifest", files=[[file.name, file.size, file.sha256] for file in files])
    return 0


def _read_pinned(text: str) -> list[FetchedFile]:
    try:
        rows = [FetchedFile(*row) for row in json.loads(text)]
    except (ValueError, TypeError) as error:
        raise SourceInvalid(f"standard input holds no list of [name, size, sha256]: {error}") from error
    for row in rows:
        checked_name(row.name)
        checked_digest(row.sha256)
    return rows


class _Progress:
    """Prints progress lines, not more often than every ``PROGRESS_S`` per file."""

    def __init__(self) -> None:
        self._file = ""
        self._last_s = float("-inf")

    def __call__(self, file: str, done: int, total: int) -> None:
        now = time.monotonic()
        if file == self._file and now - self._last_s < PROGRESS_S and done != total:
            return
        self._file, self._last_s = file, now
        _say(event="progress", file=file, done_bytes=done, total_bytes=total)


def _say(**fields: object) -> None:
    print(json.dumps(fields), flush=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BrokenPipeError:
        os._exit(1)  # the node is gone: nobody to fetch for, and flushing at exit would raise once more
