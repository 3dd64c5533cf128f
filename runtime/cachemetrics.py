"""Prometheus metrics of the cache: what is stored, what was fetched, what was read ahead.

Counters are this node's since it started; the store's size is that of the store, whoever else uses it. It is asked of
the index before a scrape (``refresh``), in a thread: an index that is missing is made by scanning, which may take
seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from glowplug.cache.errors import StoreError

from .config import NodeConfig
from .readahead import Pages
from .sources import Sources

log = logging.getLogger(__name__)


class CacheMetrics(Collector):
    """The cache's families."""

    def __init__(self, config: NodeConfig, sources: Sources, pages: Pages) -> None:
        self._budget_bytes = config.cache_bytes
        self._sources = sources
        self._pages = pages
        self._blobs = self._bytes = 0

    def __repr__(self) -> str:
        return f"<CacheMetrics blobs={self._blobs} bytes={self._bytes}>"

    async def refresh(self) -> None:
        """Ask the store how large it is; what cannot be asked stays as it was."""
        try:
            self._blobs, self._bytes = await asyncio.to_thread(self._sources.store.index.totals)
        except StoreError as error:
            log.warning("the size of the cache is not known: %s", error)

    def collect(self) -> Iterator[Metric]:
        """Yield every family (called by prometheus-client)."""
        yield GaugeMetricFamily("glowplug_cache_bytes", "Bytes of the blobs in the cache", value=self._bytes)
        yield GaugeMetricFamily("glowplug_cache_blobs", "Blobs in the cache", value=self._blobs)
        if self._budget_bytes is not None:
            yield GaugeMetricFamily(
                "glowplug_cache_budget_bytes",
                "What the cache may take (GLOWPLUG_CACHE_BYTES)",
                value=self._budget_bytes,
            )
        counts, pages = self._sources.counts, self._pages
        for name, what, value in (
            ("fetches", "Fetches that succeeded", counts.fetches),
            ("fetch_bytes", "Bytes that fetches transferred", counts.bytes),
            ("fetch_seconds", "Seconds that fetches took", counts.seconds),
            ("fetch_retries", "Streams of fetches that were opened again after a fault", counts.retries),
            ("full", "Fetches that found no room, nor anything that could be evicted for them", counts.full),
            ("evictions", "Blobs that went for want of room, or with a function that sank to remote", counts.evicted),
            ("evicted_bytes", "Bytes of those", counts.evicted_bytes),
            ("read_ahead_bytes", "Bytes read from disk ahead of their use in starts", pages.read_bytes),
            ("read_ahead_seconds", "Seconds that reading them took", pages.seconds),
        ):
            yield CounterMetricFamily(f"glowplug_cache_{name}", what, value=value)
