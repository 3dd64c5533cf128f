"""The cache's metrics: what the store holds, and what this node did."""

from __future__ import annotations

from pathlib import Path

import pytest

from glowplug.cache.errors import StoreError
from glowplug.runtime.cachemetrics import CacheMetrics
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.fetching import FetchResult
from glowplug.runtime.metrics import Metrics
from glowplug.runtime.readahead import Pages
from glowplug.runtime.sources import Sources


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(state=tmp_path, cache=tmp_path / "cache", cache_bytes=1024)


def of(text: bytes) -> dict[str, float]:
    lines = (line.rpartition(" ") for line in text.decode().splitlines() if line.startswith("glowplug_cache"))
    return {name: float(value) for name, _, value in lines if not name.endswith("_created")}


async def test_every_figure_of_the_cache_is_served(config: NodeConfig, tmp_path: Path) -> None:
    sources = Sources(config)
    pages = Pages(tmp_path, config.cache, roots=lambda spec: ())
    blob = sources.store.add([b"x" * 100])
    sources.store.add([b"y"])
    result = FetchResult(
        (), 500, resumed_bytes=1, retries=2, waited_s=0.0, took_s=0.5, evicted_blobs=2, evicted_bytes=7
    )
    sources.counts.add(result)
    sources.counts.full = 3
    pages.read_bytes, pages.seconds = 1000, 0.25
    await sources.discard([blob.sha256])
    metrics = Metrics(statuses=list, cache=CacheMetrics(config, sources, pages))
    assert {
        "glowplug_cache_bytes": 1, "glowplug_cache_blobs": 1, "glowplug_cache_budget_bytes": 1024,
        "glowplug_cache_fetches_total": 1, "glowplug_cache_fetch_bytes_total": 500,
        "glowplug_cache_fetch_seconds_total": 0.5, "glowplug_cache_fetch_retries_total": 2,
        "glowplug_cache_full_total": 3,
        "glowplug_cache_evictions_total": 3, "glowplug_cache_evicted_bytes_total": 107,
        "glowplug_cache_read_ahead_bytes_total": 1000, "glowplug_cache_read_ahead_seconds_total": 0.25,
    } == of(await metrics.scrape())  # fmt: skip
    pages.close()


async def test_a_store_that_cannot_be_asked_keeps_its_last_figures(
    config: NodeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    sources = Sources(config)
    sources.store.add([b"y"])
    cache = CacheMetrics(config, sources, Pages(tmp_path, config.cache, roots=lambda spec: ()))
    await cache.refresh()

    def totals() -> tuple[int, int]:
        raise StoreError("no")

    monkeypatch.setattr(sources.store.index, "totals", totals)
    await cache.refresh()
    assert ("<CacheMetrics blobs=1 bytes=1>", True) == (
        repr(cache),
        "the size of the cache is not known: no" in caplog.text,
    )
