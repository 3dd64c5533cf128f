"""The node's side of sources: resolved in a child process, held at each start, refetched when not there."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from glowplug.cache import pins
from glowplug.cache.errors import BlobMissing, SourceChanged, StoreFull
from glowplug.cache.store import Blob, BlobStore
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.fetching import Fetcher, FetchProgress, FetchResult, OnProgress
from glowplug.runtime.sources import FRESH_S, Sources, origin
from glowplug.runtime.spec import FunctionSpec, ModelSpec, SourceFile
from glowplug.runtime.testing import ManualClock, settle


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "root" / "model"
    directory.mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"s" * 1000)
    return directory


@pytest.fixture
def config(tmp_path: Path) -> NodeConfig:
    return NodeConfig(state=tmp_path / "S", cache=tmp_path / "S" / "cache", file_roots=(tmp_path / "root",))


@pytest.fixture
def sources(config: NodeConfig) -> Sources:
    return Sources(config, environ=os.environ)


def content(path: str) -> bytes:
    return Path(path).read_bytes()


def truncate(path: str) -> None:
    Path(path).chmod(0o644)
    os.truncate(path, 1)


async def deployed(sources: Sources, model: Path) -> FunctionSpec:
    url = f"file://{model}"
    pinned = ModelSpec(name="m", source=url, files=await sources.resolve(url))
    return FunctionSpec(name="f", handler="a.b", runtime="python3.11", code_digest="0" * 64, models=(pinned,))


# --- with real children -----------------------------------------------------------------------------------------------


async def test_resolving_says_what_there_is_and_how_far_it_is(sources: Sources, model: Path) -> None:
    seen: list[FetchProgress] = []
    files = await sources.resolve(f"file://{model}", seen.append)
    assert [("config.json", 2), ("model.safetensors", 1000)] == [(file.name, file.size) for file in files]
    assert hashlib.sha256(b"{}").hexdigest() == files[0].sha256
    assert (1002, 1002) == (seen[-1].done_bytes, seen[-1].total_bytes)


async def test_a_source_that_changed_since_the_deploy_fails_with_both_digests(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    pin = spec.models[0].files[0]
    sources.store.discard(pin.sha256)
    (model / "config.json").write_text("[]")
    with pytest.raises(SourceChanged) as caught:
        await sources.files(spec)
    assert pin.sha256 in str(caught.value)
    assert hashlib.sha256(b"[]").hexdigest() in str(caught.value)


async def test_a_truncated_blob_is_replaced(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    weights = await sources.files(spec)
    weights.close()
    path = weights.paths["m"]["model.safetensors"]
    truncate(path)
    again = await sources.files(spec)
    assert (b"s" * 1000, True) == (content(path), again.fetch is not None)


async def test_what_was_dropped_is_fetched_for_the_next_start_and_counted(sources: Sources, model: Path) -> None:
    spec = await deployed(sources, model)
    digests = [file.sha256 for file in spec.models[0].files]
    assert {} == await sources.discard(digests)
    assert (False, 2, 1002) == (sources.present(spec), sources.counts.evicted, sources.counts.evicted_bytes)
    weights = await sources.files(spec)
    assert weights.fetch is not None
    assert ("file://", 1002, True) == (weights.fetch.source, weights.fetch.transferred_bytes, sources.present(spec))


# --- with a store alone -----------------------------------------------------------------------------------------------


class ScriptedFetcher(Fetcher):
    """Brings blobs at once; ``fail`` are raised first, ``gate`` keeps it waiting."""

    def __init__(self, store: BlobStore) -> None:
        self.store = store
        self.asked: list[str] = []
        self.fail: list[Exception] = []
        self.gate: asyncio.Event | None = None
        self.cancelled = 0
        self.bring = True

    async def fetch(
        self, url: str, pinned: Sequence[SourceFile] | None = None, on_progress: OnProgress | None = None
    ) -> FetchResult:
        self.asked.append(url)
        try:
            if self.gate is not None:
                await self.gate.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        if self.fail:
            raise self.fail.pop(0)
        for file in (pinned or ()) if self.bring else ():
            self.store.add([BYTES[file.sha256]])
        return FetchResult(tuple(pinned or ()), 1000, 0, 1, 0.0, 0.5)


BYTES = {hashlib.sha256(data).hexdigest(): data for data in (b"a", b"bb", b"ccc")}
A, B, C = (SourceFile(f"{len(data)}.bin", len(data), digest) for digest, data in BYTES.items())


def a_spec(*files: SourceFile, name: str = "f") -> FunctionSpec:
    source = ModelSpec("m", f"s3://key:secret@bucket/{name}?X-Amz-Signature=1", files=files)
    return FunctionSpec(name=name, handler="a.b", runtime="python3.11", code_digest="0" * 64, models=(source,))


@pytest.fixture
def scripted(sources: Sources) -> ScriptedFetcher:
    sources._fetcher = fetcher = ScriptedFetcher(sources.store)
    return fetcher


async def test_present_files_wait_for_nothing(sources: Sources, scripted: ScriptedFetcher) -> None:
    spec = a_spec(A, B)
    (await sources.files(spec)).close()
    with pytest.raises(StopIteration) as done:
        sources.files(spec).send(None)  # as the loop would: it ends without having waited once
    weights = done.value.value
    weights.close()
    assert (1, None) == (len(scripted.asked), weights.fetch)
    assert b"bb" == content(weights.paths["m"]["2.bin"])


async def test_what_is_held_is_not_discarded_until_it_is_closed(sources: Sources, scripted: ScriptedFetcher) -> None:
    weights = await sources.files(a_spec(A, B))
    assert {A.sha256: "a process has them open"} == await sources.discard([A.sha256])
    weights.close()
    weights.close()
    assert ({}, False) == (await sources.discard([A.sha256]), sources.store.has(A.sha256))


async def test_two_functions_that_share_a_file_hold_it_until_both_are_closed(
    sources: Sources, scripted: ScriptedFetcher
) -> None:
    first, second = await sources.files(a_spec(A, B)), await sources.files(a_spec(B, C, name="g"))
    first.close()
    assert {B.sha256} == set(await sources.discard([A.sha256, B.sha256]))
    second.close()
    assert {} == await sources.discard([B.sha256])


async def test_a_pin_of_the_operator_stays_and_a_snapshots_goes(sources: Sources, scripted: ScriptedFetcher) -> None:
    (await sources.files(a_spec(A, B))).close()
    pins.pin(sources.store.root, "operator:A", [A.sha256])
    snapshot = sources.store.root.parent / "snapshots" / "key"
    snapshot.mkdir(parents=True)
    sources.pins.keep(snapshot, [A.sha256, B.sha256])
    assert {A.sha256: "pinned by operator:A"} == await sources.discard([A.sha256, B.sha256])
    assert ["operator:A"] == list(pins.owners(sources.store.root))


async def test_one_fetch_serves_every_start_and_outlives_the_one_that_began_it(
    sources: Sources, scripted: ScriptedFetcher
) -> None:
    scripted.gate = asyncio.Event()
    first, second = (asyncio.create_task(sources.files(a_spec(A))) for _ in range(2))
    await settle()
    first.cancel()
    await settle()
    assert (True, 1, 0) == (first.cancelled(), len(scripted.asked), scripted.cancelled)
    scripted.gate.set()
    assert b"a" == content((await second).paths["m"]["1.bin"])


async def test_a_fetch_ends_with_the_last_start_that_wants_it_and_leaves_no_hold(
    sources: Sources, scripted: ScriptedFetcher
) -> None:
    scripted.gate = asyncio.Event()
    start = asyncio.create_task(sources.files(a_spec(A)))
    await settle()
    start.cancel()
    with pytest.raises(asyncio.CancelledError):
        await start
    assert (1, "held=0" in repr(sources)) == (scripted.cancelled, True)


async def test_what_is_evicted_again_before_it_can_be_held_is_an_error_in_the_end(
    sources: Sources, scripted: ScriptedFetcher
) -> None:
    scripted.bring = False
    with pytest.raises(BlobMissing):
        await sources.files(a_spec(A))
    assert 2 == len(scripted.asked)


async def test_the_ledger_hears_where_from_without_credentials(sources: Sources, scripted: ScriptedFetcher) -> None:
    fetch = (await sources.files(a_spec(A))).fetch
    assert fetch is not None
    assert ("s3://bucket", 1000, 1) == (fetch.source, fetch.transferred_bytes, fetch.retries)
    assert "https://host:8443" == origin("https://user:pass@host:8443/a?token=x")
    assert "package://torch" == origin("package://torch/model")


async def test_models_without_files_need_nothing(sources: Sources, scripted: ScriptedFetcher) -> None:
    spec = replace(a_spec(A), models=())
    weights = await sources.files(spec)
    assert ({}, None, True, []) == (weights.paths, weights.fetch, sources.present(spec), scripted.asked)


# --- presence ---------------------------------------------------------------------------------------------------------


async def test_presence_is_remembered_for_a_moment_and_forgotten_when_something_changes(config: NodeConfig) -> None:
    """Other processes evict as well: their work is noticed after ``FRESH_S``, our own at once."""
    clock = ManualClock()
    sources = Sources(config, clock=clock)
    sources._fetcher = ScriptedFetcher(sources.store)
    spec = a_spec(A)
    assert not sources.present(spec)
    weights = await sources.files(spec)
    assert sources.present(spec)
    weights.close()
    BlobStore(config.cache).discard(A.sha256)
    assert not sources.present(spec)  # looked at again, because nothing keeps it since it was closed
    sources.store.add([b"a"])
    assert not sources.present(spec)
    await clock.advance(FRESH_S)
    assert sources.present(spec)
    assert Blob(A.sha256, 1) in {Blob(entry.sha256, entry.size) for entry in sources.store.index.entries()}


# --- a full disk ------------------------------------------------------------------------------------------------------


async def test_a_full_disk_sinks_one_function_after_the_other_until_there_is_room(config: NodeConfig) -> None:
    asked: list[str] = []

    async def relieve(wanted: str) -> str:
        asked.append(wanted)
        return "old"

    sources, spec = Sources(config, relieve=relieve), a_spec(A)
    sources._fetcher = fetcher = ScriptedFetcher(sources.store)
    fetcher.fail = [StoreFull("no room for 1 byte"), StoreFull("no room for 1 byte")]
    (await sources.files(spec)).close()
    assert ([spec.revision] * 2, 3, 2) == (asked, len(fetcher.asked), sources.counts.full)


async def test_a_disk_that_stays_full_is_told_to_the_caller(sources: Sources, scripted: ScriptedFetcher) -> None:
    scripted.fail = [StoreFull("no room for 1 byte")]
    with pytest.raises(StoreFull, match="no room for 1 byte; no stored function is left whose weights could go"):
        await sources.files(a_spec(A))


async def test_a_deploy_makes_room_as_well(config: NodeConfig) -> None:
    asked: list[str] = []

    async def relieve(wanted: str) -> str:
        asked.append(wanted)
        return "old"

    sources = Sources(config, relieve=relieve)
    sources._fetcher = fetcher = ScriptedFetcher(sources.store)
    fetcher.fail = [StoreFull("full")]
    await sources.resolve("s3://bucket/new")
    assert [""] == asked
