"""Model sources as the node uses them: resolved once at deploy, local and held files at each start.

What runs, parks or starts holds its files (``cache/holds.py``: the kernel frees a hold with the process), so no
eviction by anybody takes them. What is merely stored holds nothing: its files may go when the disk gets full, and the
function is ``remote`` from then on. Whether they are there is looked up, and remembered for ``FRESH_S``: other
processes evict as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from types import MappingProxyType
from urllib.parse import urlsplit

from glowplug.cache.errors import BlobMissing, StoreFull
from glowplug.cache.room import remove
from glowplug.cache.store import Blob, BlobStore

from .clock import Clock, SystemClock
from .config import NodeConfig
from .fetching import Fetcher, FetchProgress, FetchResult, OnProgress
from .flights import Flights
from .routing.ports import Weights
from .routing.records import Fetch
from .spec import FunctionSpec, ModelSpec, SourceFile
from .weightpins import WeightPins

FRESH_S = 1.0
"""How long the presence of a revision's files is believed without looking again: a listing of a thousand functions
then costs no more than that many lookups a second."""

ATTEMPTS = 3
"""How often files are fetched for one start: they may be evicted between the fetch and the hold."""

_log = logging.getLogger(__name__)


async def _nobody(wanted: str) -> str:
    return ""


class Sources:
    """Resolves source URLs and keeps the files of revisions present. ``environ`` is the operator's environment.

    ``relieve`` is asked, with the revision that is fetched, when the disk is full: it sinks a function to remote and
    returns its name, or nothing when none can.
    """

    def __init__(
        self,
        config: NodeConfig,
        *,
        environ: Mapping[str, str] = MappingProxyType({}),
        relieve: Callable[[str], Awaitable[str]] = _nobody,
        clock: Clock | None = None,
    ) -> None:
        self.store = BlobStore(config.cache)
        self.pins = WeightPins(config.cache, config.state / "snapshots")
        self.counts = FetchCounts()
        self._fetcher = Fetcher(config, environ)
        self._relieve = relieve
        self._clock = clock or SystemClock()
        self._flights: Flights[FetchResult, FetchProgress] = Flights()
        self._seen: dict[str, tuple[float, bool]] = {}

    def __repr__(self) -> str:
        return f"Sources({self.store!r}, fetching={len(self._flights)})"

    async def resolve(self, url: str, on_progress: OnProgress | None = None) -> tuple[SourceFile, ...]:
        """Bring everything at ``url`` into the store and return what it is, ordered by name.

        Raises ``CacheError`` subclasses that name the URL. Cancelling ends the fetch; what it stored stays.
        """
        return (await self._fetch(url, None, wanted="", on_progress=on_progress)).files

    async def files(self, spec: FunctionSpec) -> Weights:
        """Fetch what is missing, then hold all files of all models of ``spec`` and return them.

        With everything present this waits for nothing and costs an ``flock`` and a few more calls per file. Raises
        ``SourceChanged`` when a source no longer has what the revision pins (both digests in the message), and other
        ``CacheError`` subclasses. Cancelled: a fetch goes on for others that want the same.
        """
        blobs = [Blob(file.sha256, file.size) for model in spec.models for file in model.files]
        began_s, brought = self._clock.monotonic(), list[tuple[str, FetchResult]]()
        for attempt in range(ATTEMPTS):
            try:
                hold = self.store.hold(blobs)
                break
            except BlobMissing:
                if attempt == ATTEMPTS - 1:
                    raise
                brought += [await self._bring(spec.revision, model) for model in spec.models if self._lacks(model)]
        return Weights(  # nothing is awaited since the hold was taken: it cannot get lost
            paths={
                model.name: {file.name: str(hold.paths[file.sha256]) for file in model.files} for model in spec.models
            },
            close=lambda: self._release(spec.revision, hold.close),
            fetch=_summary(brought, self._clock.monotonic() - began_s) if brought else None,
        )

    def present(self, spec: FunctionSpec) -> bool:
        """Return whether all files of ``spec`` are in the store, as of ``FRESH_S`` seconds ago at most."""
        if not spec.models:
            return True
        now_s, revision = self._clock.monotonic(), spec.revision
        looked_s, known = self._seen.get(revision, (float("-inf"), False))
        if now_s - looked_s >= FRESH_S:
            known = not any(self._lacks(model) for model in spec.models)
            self._seen[revision] = (now_s, known)
        return known

    async def discard(self, digests: Collection[str]) -> dict[str, str]:
        """Delete blobs and the pins of this node's snapshots on them.

        Returns those that stay, by digest, with the reason: a process has it open, or somebody else has pinned it.
        Raises ``StoreError``.
        """
        try:
            return await asyncio.to_thread(self._discard, frozenset(digests))
        finally:
            self._seen.clear()

    def _discard(self, digests: frozenset[str]) -> dict[str, str]:
        self.pins.drop(digests)
        removal = remove(self.store, digests)
        self.counts.evicted += len(removal.freed.victims)
        self.counts.evicted_bytes += removal.freed.freed_bytes
        return dict(removal.kept)

    def _release(self, revision: str, close: Callable[[], None]) -> None:
        self._seen.pop(revision, None)  # from here on anybody may evict them
        close()

    def _lacks(self, model: ModelSpec) -> bool:
        return not all(self.store.has(file.sha256, file.size) for file in model.files)

    async def _bring(self, revision: str, model: ModelSpec) -> tuple[str, FetchResult]:
        return model.source, await self._fetch(model.source, model.files, wanted=revision)

    async def _fetch(
        self, url: str, pinned: Sequence[SourceFile] | None, *, wanted: str, on_progress: OnProgress | None = None
    ) -> FetchResult:
        """Fetch ``url``, together with whoever else in this node wants the same."""

        async def work(tell: OnProgress) -> FetchResult:
            return await self._make_room_and_fetch(url, pinned, wanted, tell)

        key = (url, None if pinned is None else tuple(pinned))
        return await self._flights.join(key, work, name=f"fetch {origin(url)}", on_progress=on_progress)

    async def _make_room_and_fetch(
        self, url: str, pinned: Sequence[SourceFile] | None, wanted: str, tell: OnProgress
    ) -> FetchResult:
        """Fetch; as long as the disk is full, let one function after the other sink to remote and try again."""
        while True:
            try:
                result = await self._fetcher.fetch(url, pinned, tell)
            except StoreFull as full:
                self.counts.full += 1
                sunk = await self._relieve(wanted)
                if not sunk:
                    raise StoreFull(f"{full}; no stored function is left whose weights could go") from full
                _log.warning("%s: %s; %s went to remote to make room", origin(url), full, sunk)
            else:
                self.counts.add(result)
                self._seen.clear()
                return result


class FetchCounts:
    """What this node has fetched and removed since it started, for metrics. ``evicted`` counts blobs that went to make
    room for a fetch or with a function that sank to remote, ``full`` how often there was no room."""

    def __init__(self) -> None:
        self.fetches = 0
        self.full = 0
        self.evicted = 0
        self.evicted_bytes = 0
        self.bytes = 0
        self.retries = 0
        self.seconds = 0.0

    def add(self, result: FetchResult) -> None:
        """Count a fetch that succeeded."""
        self.fetches += 1
        self.bytes += result.fetched_bytes
        self.retries += result.retries
        self.seconds += result.took_s
        self.evicted += result.evicted_blobs
        self.evicted_bytes += result.evicted_bytes


def origin(url: str) -> str:
    """Return scheme and host of a source's URL: neither credentials nor what a signed URL has in its query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}"


def _summary(brought: Sequence[tuple[str, FetchResult]], took_s: float) -> Fetch:
    return Fetch(
        source=", ".join(dict.fromkeys(origin(url) for url, _ in brought)),
        transferred_bytes=sum(result.fetched_bytes for _, result in brought),
        took_s=took_s,
        retries=sum(result.retries for _, result in brought),
    )
