"""Make sure that all files of a source are in the store.

``fetch`` goes through these steps; most calls end early:

1. Pinned files that are all in the store: nothing else happens, no lock is taken.
2. The URL's lock (``flight.py``). Whoever had to wait for it reports the leader's progress meanwhile, and usually finds
   afterwards that the leader has done the work: pinned files are there, or the manifest was written while it waited.
3. List the source. A file is in the store already if its pin is, or if the manifest of the last fetch names the same
   version; such blobs are held from here on, so that making room for the others cannot evict them.
4. Make room for what is missing, all at once: a fetch that does not fit fails before a byte is transferred.
5. Transfer the missing files in order of name (``transfer.py``). Where the digest is known beforehand, that blob's lock
   is taken too, because another URL may be bringing the same bytes. Locks are taken in this order only, URL before
   blob and one blob at a time, so that no two fetches can wait for each other.
6. Write the manifest, then drop what was kept for resuming.

Killed at any point, the next fetch of the URL goes on from the pieces that are there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from .errors import BlobMissing, DigestMismatch, SourceChanged, SourceUnreachable
from .flight import Lead, Line, alone
from .manifests import Manifest, ManifestFile, read_manifest, write_manifest
from .partial import PIECE_BYTES, url_key
from .progress import Progress as Progress
from .progress import Report, Reports
from .retry import Backoff, Retries
from .room import Budget, make_room
from .sources.listing import ListedFile
from .sources.table import open_source
from .store import Blob, BlobStore
from .transfer import Transfer

_LISTING_ATTEMPTS = 3  # of reading a source's list of files; the pieces of its files have more


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a fetch brought: the manifest, the bytes that this call moved over the network, those that an earlier
    process had left, how often a stream was opened again, what was evicted to make room, and seconds: behind
    other processes, and in all."""

    manifest: Manifest
    fetched_bytes: int = 0
    resumed_bytes: int = 0
    retries: int = 0
    evicted_blobs: int = 0
    evicted_bytes: int = 0
    waited_s: float = 0.0
    took_s: float = 0.0


def fetch(
    url: str,
    store: BlobStore,
    *,
    file_roots: Sequence[Path] = (),
    pinned: Sequence[ManifestFile] | None = None,
    budget: Budget = Budget(),  # noqa: B008  (frozen)
    report: Report = lambda progress: None,
    backoff: Backoff = Backoff(),  # noqa: B008  (frozen)
) -> Fetched:
    """Make sure that every file of ``url`` is a blob in ``store``; return which.

    ``pinned`` is what they must be; files that it does not name are left alone. ``file_roots`` are the directories that
    ``file://`` may read. Blobs are not held when this returns. Raises ``SourceError`` and ``StoreError`` subclasses;
    what was stored before stays, and the next fetch starts from there.
    """
    began_s = time.monotonic()
    pins = None if pinned is None else Manifest(url, tuple(sorted(pinned, key=lambda pin: pin.name)))
    if pins is not None and _present(store, pins):
        return Fetched(pins, took_s=time.monotonic() - began_s)
    work = _Fetch(url, store, budget, report, backoff)
    before = _written(store, url)
    with alone(store.root / "locks" / url_key(url), follow=work.follow) as lead:
        work.led_by(lead)
        found = pins
        if pins is None and _written(store, url) != before:
            found = read_manifest(store.root, url)
        if found is None or not _present(store, found):
            found = work.run(file_roots, pins)
    return replace(work.counted, manifest=found, took_s=time.monotonic() - began_s)


def _present(store: BlobStore, manifest: Manifest) -> bool:
    return all(store.has(file.sha256, file.size) for file in manifest.files)


def _written(store: BlobStore, url: str) -> tuple[int, int] | None:
    """Return what changes whenever the manifest of ``url`` is written; it is replaced by rename."""
    try:
        status = os.stat(store.root / "manifests" / url_key(url))
    except FileNotFoundError:
        return None
    return status.st_ino, status.st_mtime_ns


@dataclass(frozen=True, slots=True)
class _Missing:
    """A file that has to be transferred: as listed, and its pin if it has one."""

    listed: ListedFile
    pin: ManifestFile | None
    key: str | None  # of its partial file

    @property
    def expected(self) -> str:
        return self.pin.sha256 if self.pin is not None else self.listed.sha256


class _Fetch:
    """One fetch under its URL's lock, and what it counts. Its blobs are held while it runs."""

    def __init__(self, url: str, store: BlobStore, budget: Budget, report: Report, backoff: Backoff) -> None:
        self._url = url
        self._store = store
        self._budget = budget
        self._backoff = backoff
        self._reports = Reports(report)
        self._transfer = Transfer(url, store, room=self._make_room, backoff=backoff)
        self._partials = self._transfer.partials
        self._held = contextlib.ExitStack()
        self._done_bytes = 0  # of the files that are finished
        self._total_bytes = 0
        self.counted = Fetched(Manifest(url, ()))

    def led_by(self, lead: Lead) -> None:
        """Take note of the URL's lock."""
        self._count(waited_s=lead.waited_s)
        self._reports.leads.append(lead)

    def follow(self, line: Line) -> None:
        """Report the progress of whoever has the URL's lock."""
        self._reports.follow(line)

    def run(self, file_roots: Sequence[Path], pins: Manifest | None) -> Manifest:
        """List, make room, transfer, record; return the manifest."""
        listed = self._list(file_roots)
        with self._held:
            plan = self._plan(listed) if pins is None else self._plan_pinned(listed, pins)
            self._partials.keep({file.key for file in plan if isinstance(file, _Missing) and file.key is not None})
            self._total_bytes = sum(_size(file) for file in plan)
            self._say("", 0, edge=True)
            self._make_room(sum(self._need_bytes(file) for file in plan if isinstance(file, _Missing)))
            manifest = Manifest(self._url, tuple(self._have(file) for file in plan))
        if pins is None:
            write_manifest(self._store.root, manifest)
        self._partials.clear()
        return manifest if pins is None else pins

    def _list(self, file_roots: Sequence[Path]) -> tuple[ListedFile, ...]:
        retries = Retries(replace(self._backoff, attempts=_LISTING_ATTEMPTS), sleep=time.sleep)
        while True:
            try:
                return open_source(self._url, file_roots=file_roots)
            except SourceUnreachable as error:
                retries.failed(error)
                self._count(retries=1)

    def _plan(self, listed: Sequence[ListedFile]) -> list[ManifestFile | _Missing]:
        """Return what there is of each listed file: its row when its blob is in the store, else what is missing."""
        recorded = read_manifest(self._store.root, self._url)
        known = recorded.by_name if recorded is not None else {}
        plan: list[ManifestFile | _Missing] = []
        for file in listed:
            key = self._partials.key(file, file.sha256)
            blob = self._known_blob(file, known.get(file.name), key)
            there = blob is not None and self._hold(blob)
            row = ManifestFile(file.name, blob.size, blob.sha256, file.version) if blob and there else None
            plan.append(row or _Missing(file, None, key))
        return plan

    def _plan_pinned(self, listed: Sequence[ListedFile], pins: Manifest) -> list[ManifestFile | _Missing]:
        by_name = {file.name: file for file in listed}
        plan: list[ManifestFile | _Missing] = []
        for pin in pins.files:
            if self._hold(pin.blob):
                plan.append(pin)
            else:
                file = self._checked(pin, by_name.get(pin.name))
                plan.append(_Missing(file, pin, self._partials.key(file, pin.sha256)))
        return plan

    def _known_blob(self, file: ListedFile, known: ManifestFile | None, key: str | None) -> Blob | None:
        """Return the blob that a listed file is known to be, None when only reading it can tell."""
        if known is not None and file.version and known.version == file.version:
            return known.blob
        if file.sha256 and file.size is not None:
            return Blob(file.sha256, file.size)
        left = self._partials.finished(key) if key is not None else None
        if left is not None:
            self._count(resumed_bytes=left.size)
        return left

    def _checked(self, pin: ManifestFile, file: ListedFile | None) -> ListedFile:
        """Return the listed file. Raises ``SourceChanged`` when the listing alone shows that it is another one."""
        was = f"{self._url}: {pin.name} (sha256 {pin.sha256}, {pin.size} bytes)"
        if file is None:
            raise SourceChanged(f"{was} is not there any more")
        if file.sha256 and file.sha256 != pin.sha256:
            raise SourceChanged(f"{was} is not what was deployed: the source states sha256 {file.sha256}")
        # a small file is read all the same: then the message can name its digest too
        if file.size is not None and file.size != pin.size and max(file.size, pin.size) > PIECE_BYTES:
            raise SourceChanged(f"{was} is not what was deployed: it has {file.size} bytes now")
        return file

    def _hold(self, blob: Blob) -> bool:
        """Hold ``blob`` until this fetch ends; return whether the store has it."""
        try:
            self._held.enter_context(self._store.hold([blob]))
        except BlobMissing:
            return False
        return True

    def _need_bytes(self, file: _Missing) -> int:
        """Return what will be allocated for ``file`` beyond what its partial file has already."""
        had = self._partials.allocated_bytes(file.key) if file.key is not None else 0
        return max(0, (file.listed.size or 0) - had)

    def _make_room(self, need_bytes: int) -> None:
        evicted = make_room(self._store, need_bytes, self._budget)
        if evicted.victims:
            self.counted = replace(
                self.counted,
                evicted_blobs=self.counted.evicted_blobs + len(evicted.victims),
                evicted_bytes=self.counted.evicted_bytes + evicted.freed_bytes,
            )

    def _have(self, file: ManifestFile | _Missing) -> ManifestFile:
        """Return the manifest's row of ``file`` after transferring it if need be."""
        if isinstance(file, _Missing):
            blob = self._bring_alone(file) if file.expected else self._bring(file)
            self._held.enter_context(self._store.hold([blob]))
            file = ManifestFile(file.listed.name, blob.size, blob.sha256, file.listed.version)
        self._done_bytes += file.size
        self._say(file.name, 0, edge=True)
        return file

    def _bring_alone(self, file: _Missing) -> Blob:
        """Transfer ``file`` unless another URL brings the same bytes, whose progress is followed then."""
        within = Progress(file.listed.name, self._done_bytes, self._total_bytes)
        path = self._store.root / "locks" / file.expected
        with alone(path, follow=lambda line: self._reports.follow(line, within=within)) as lead:
            self._count(waited_s=lead.waited_s)
            size = file.pin.size if file.pin is not None else file.listed.size
            if size is not None and self._store.has(file.expected, size):
                return Blob(file.expected, size)
            self._reports.leads.append(lead)
            try:
                return self._bring(file)
            finally:
                self._reports.leads.remove(lead)

    def _bring(self, file: _Missing) -> Blob:
        before = self.counted.fetched_bytes
        self._say(file.listed.name, 0, edge=True)

        def report(done: int, fetched: int) -> None:
            self.counted = replace(self.counted, fetched_bytes=before + fetched)
            self._say(file.listed.name, done)

        try:
            done = self._transfer.bring(file.listed, file.key, expected=file.expected, report=report)
        except DigestMismatch as error:
            what = "deployed" if file.pin is not None else "stated by the source"
            raise SourceChanged(f"{self._url}: {file.listed.name} is not what was {what}: {error}") from error
        self.counted = replace(self.counted, fetched_bytes=before + done.fetched_bytes)
        self._count(resumed_bytes=done.resumed_bytes, retries=done.retries)
        return done.blob

    def _count(self, *, resumed_bytes: int = 0, retries: int = 0, waited_s: float = 0.0) -> None:
        self.counted = replace(
            self.counted,
            resumed_bytes=self.counted.resumed_bytes + resumed_bytes,
            retries=self.counted.retries + retries,
            waited_s=self.counted.waited_s + waited_s,
        )

    def _say(self, name: str, file_bytes: int, *, edge: bool = False) -> None:
        done = self._done_bytes + file_bytes
        progress = Progress(name, done, self._total_bytes, self.counted.fetched_bytes)
        self._reports.say(progress, file_bytes, edge=edge)


def _size(file: ManifestFile | _Missing) -> int:
    return file.size if isinstance(file, ManifestFile) else file.listed.size or 0
