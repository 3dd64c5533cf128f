"""Sources and fetching: what is listed, what is refused, what is transferred."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import fsspec
import pytest

from glowplug.cache import fetch as fetching
from glowplug.cache.__main__ import main
from glowplug.cache.errors import (
    CacheError,
    PickledWeights,
    SourceChanged,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
    StoreFull,
    named,
)
from glowplug.cache.fetch import Fetched, Progress, fetch
from glowplug.cache.manifests import ManifestFile, read_manifest
from glowplug.cache.retry import Backoff
from glowplug.cache.room import Budget
from glowplug.cache.sources.listing import ListedFile, checked_name, select
from glowplug.cache.sources.table import open_source
from glowplug.cache.store import BlobStore

AT_ONCE = Backoff(base_s=0.0)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model's directory below a file root."""
    directory = tmp_path / "root" / "model"
    (directory / "1_Pooling").mkdir(parents=True)
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"s" * 100)
    (directory / "pytorch_model.bin").write_bytes(b"p" * 100)
    (directory / "1_Pooling" / "config.json").write_text('{"pool": 1}')
    (directory / ".gitattributes").write_text("*")
    return directory


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An importable package whose import would be noticed."""
    root = tmp_path / "site"
    (root / "shipped_model" / "data").mkdir(parents=True)
    (root / "shipped_model" / "__init__.py").write_text("raise AssertionError('imported')")
    (root / "shipped_model" / "data" / "config.json").write_text("{}")
    dist = root / "shipped_dist-1.0.dist-info"
    dist.mkdir()
    (dist / "METADATA").write_text("Metadata-Version: 2.1\nName: shipped-dist\nVersion: 1.0\n")
    (dist / "RECORD").write_text("shipped_model/__init__.py,,\nshipped_model/data/config.json,,\n")
    monkeypatch.syspath_prepend(str(root))
    yield "shipped_model"
    assert "shipped_model" not in sys.modules


def names(files: tuple[ListedFile, ...]) -> list[str]:
    return [file.name for file in files]


def root_of(model: Path) -> list[Path]:
    return [model.parent]


# --- listing ----------------------------------------------------------------------------------------------------------


def test_a_directory_lists_what_is_worth_having(model: Path) -> None:
    files = open_source(f"file://{model}", file_roots=root_of(model))
    assert ["1_Pooling/config.json", "config.json", "model.safetensors"] == names(files)


def test_a_url_may_name_one_file(model: Path) -> None:
    (file,) = open_source(f"file://{model}/config.json", file_roots=root_of(model))
    assert ("config.json", 2) == (file.name, file.size)
    with file.open() as stream:
        assert b"{}" == stream.read()


def test_pickled_weights_alone_are_refused_with_the_command_that_converts_them(model: Path) -> None:
    (model / "model.safetensors").unlink()
    with pytest.raises(PickledWeights, match=r"runs code(.|\n)*save_file(.|\n)*pytorch_model\.bin model\.safetensors"):
        open_source(f"file://{model}", file_roots=root_of(model))


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "a//b", "./a", "a\\b", "a\nb", "a\x00b", "x" * 256, "a/" * 600 + "b"],
)
def test_names_that_leave_their_directory_are_refused(name: str) -> None:
    with pytest.raises(SourceInvalid):
        checked_name(name)


def test_a_doubled_name_is_refused() -> None:
    file = file_of(b"1")
    with pytest.raises(SourceInvalid, match="twice"):
        select([file, file], "memory://x")


@pytest.mark.parametrize(
    "url",
    ["model", "local:///etc/passwd", "dir:///etc", "simplecache::file:///etc/passwd", "zip://x::file:///a.zip",
     "reference://x", "data:text/plain,hi", "s3::file:///etc/passwd", "s3://a::file:///etc/passwd"],
)  # fmt: skip
def test_urls_that_could_walk_around_the_file_roots_are_refused(url: str) -> None:
    with pytest.raises(SourceInvalid):
        open_source(url)


# --- file:// ----------------------------------------------------------------------------------------------------------


def test_files_outside_the_roots_are_forbidden(model: Path, tmp_path: Path) -> None:
    with pytest.raises(SourceForbidden, match="GLOWPLUG_FILE_ROOTS"):
        open_source(f"file://{model}")
    with pytest.raises(SourceForbidden, match=str(tmp_path / "other")):
        open_source(f"file://{model}", file_roots=[tmp_path / "other"])
    with pytest.raises(SourceForbidden):
        open_source(f"file://{model.parent}/model/../../site", file_roots=root_of(model))


def test_a_link_that_leaves_the_roots_is_forbidden(model: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_text("s")
    (model / "leak.json").symlink_to(secret)
    (file,) = (f for f in open_source(f"file://{model}", file_roots=root_of(model)) if f.name == "leak.json")
    with pytest.raises(SourceForbidden, match=r"secret\.json"):
        file.open()


def test_a_file_swapped_for_a_link_after_the_listing_is_forbidden(model: Path, tmp_path: Path) -> None:
    (file,) = open_source(f"file://{model}/config.json", file_roots=root_of(model))
    (tmp_path / "secret").write_text("s")
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceForbidden):
        file.open()


def test_a_pipe_is_not_a_source(model: Path) -> None:
    os.mkfifo(model / "pipe")
    with pytest.raises(SourceInvalid, match="not a regular file"):
        open_source(f"file://{model}", file_roots=root_of(model))


def test_nothing_there_is_said_so(model: Path) -> None:
    with pytest.raises(SourceNotFound):
        open_source(f"file://{model}/absent", file_roots=root_of(model))
    with pytest.raises(SourceInvalid, match="file:///absolute/path"):
        open_source("file://host/path", file_roots=root_of(model))


# --- package:// -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["shipped_model", "shipped-dist"])
def test_a_package_is_located_without_importing_it(package: str, name: str) -> None:
    assert ["config.json"] == names(open_source(f"package://{name}/data"))


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("package://no_such_package/data", SourceNotFound),
        ("package://shipped_model/absent", SourceNotFound),
        ("package://shipped_model/../../etc", SourceInvalid),
        ("package:///data", SourceInvalid),
        ("package://sys/x", SourceNotFound),
    ],
)
def test_packages_that_have_no_such_files(package: str, url: str, kind: type[CacheError]) -> None:
    with pytest.raises(kind):
        open_source(url)


# --- through fsspec ---------------------------------------------------------------------------------------------------


@pytest.fixture
def memory() -> Iterator[fsspec.AbstractFileSystem]:
    filesystem = fsspec.filesystem("memory")
    filesystem.store.clear()
    yield filesystem
    filesystem.store.clear()


def test_a_remote_directory_and_a_remote_file(memory: fsspec.AbstractFileSystem, store: BlobStore) -> None:
    memory.pipe({"/bucket/m/config.json": b"{}", "/bucket/m/sub/x.safetensors": b"w" * 10, "/bucket/mm/no": b"n"})
    assert ["config.json", "sub/x.safetensors"] == [
        file.name for file in fetch("memory://bucket/m", store).manifest.files
    ]
    assert ["config.json"] == [file.name for file in fetch("memory://bucket/m/config.json", store).manifest.files]
    with pytest.raises(SourceNotFound):
        fetch("memory://bucket/absent", store)


def test_whatever_an_implementation_raises_becomes_a_source_error(
    memory: fsspec.AbstractFileSystem, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory.pipe({"/bucket/m/config.json": b"{}"})
    for raised, kind in ((RuntimeError("reset"), SourceUnreachable), (PermissionError("no"), SourceForbidden)):
        with monkeypatch.context() as patch:

            def fail(*args: object, error: Exception = raised, **kwargs: object) -> None:
                raise error

            patch.setattr(type(memory), "open", fail)
            with pytest.raises(kind, match=r"memory://bucket/m: config\.json"):
                fetch("memory://bucket/m", store, backoff=AT_ONCE)


# --- fetching ---------------------------------------------------------------------------------------------------------


class Counted:
    """Stands for ``open_source``: lists what the real one lists, and remembers each stream that is opened."""

    def __init__(self) -> None:
        self.listings = 0
        self.opened: list[str] = []
        self.before_reading: Callable[[], object] = lambda: None

    def __call__(self, url: str, file_roots: Sequence[Path] = ()) -> tuple[ListedFile, ...]:
        self.listings += 1
        return tuple(self._counted(file) for file in open_source(url, file_roots=file_roots))

    def _counted(self, file: ListedFile) -> ListedFile:
        def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
            self.opened.append(file.name)
            self.before_reading()
            return file.open(start, stop)

        return replace(file, open=opener)


@pytest.fixture
def source(monkeypatch: pytest.MonkeyPatch) -> Counted:
    counted = Counted()
    monkeypatch.setattr(fetching, "open_source", counted)
    return counted


def fetched(model: Path, store: BlobStore, pinned: Sequence[ManifestFile] | None = None) -> Fetched:
    return fetch(f"file://{model}", store, file_roots=root_of(model), pinned=pinned, backoff=AT_ONCE)


def listing(monkeypatch: pytest.MonkeyPatch, *files: ListedFile) -> None:
    monkeypatch.setattr(fetching, "open_source", lambda url, file_roots: files)


def file_of(data: bytes, *, name: str = "config.json", version: str = "v1", sha256: str = "") -> ListedFile:
    def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
        return io.BytesIO(data[start:stop])

    return ListedFile(name, len(data), version, opener, sha256=sha256)


def test_a_second_fetch_reads_nothing(model: Path, store: BlobStore, source: Counted) -> None:
    first = fetched(model, store)
    assert 3 == len(source.opened)
    assert 113 == first.fetched_bytes == first.manifest.size_bytes
    second = fetched(model, store)
    assert 3 == len(source.opened)
    assert (first.manifest, 0) == (second.manifest, second.fetched_bytes)


def test_whoever_waited_for_another_fetch_neither_lists_nor_reads(
    model: Path, store: BlobStore, source: Counted
) -> None:
    reached, go_on, following = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        reached.set()
        assert go_on.wait(10)

    def follow(progress: Progress) -> None:
        assert progress.following
        following.set()

    source.before_reading = wait
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetched, model, store)
        assert reached.wait(10)
        second = pool.submit(fetch, f"file://{model}", store, file_roots=root_of(model), report=follow)
        assert following.wait(10)
        go_on.set()
        assert first.result(10).manifest == second.result(10).manifest
        assert second.result().waited_s > 0
        assert 0 == second.result().fetched_bytes
    assert (1, 3) == (source.listings, len(source.opened))


def test_a_changed_file_is_read_again(model: Path, store: BlobStore, source: Counted) -> None:
    fetched(model, store)
    source.opened.clear()
    (model / "config.json").write_text("[]")
    files = fetched(model, store).manifest.by_name
    assert ["config.json"] == source.opened
    assert hashlib.sha256(b"[]").hexdigest() == files["config.json"].sha256


def test_a_fetch_that_failed_half_way_does_not_read_the_first_half_again(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(start: int = 0, stop: int | None = None) -> BinaryIO:
        raise SourceForbidden("memory://x: b")

    first, second = file_of(b"first", name="a"), file_of(b"second", name="b")
    listing(monkeypatch, first, replace(second, open=refuse))
    with pytest.raises(SourceForbidden):
        fetch("memory://x", store)
    listing(monkeypatch, replace(first, open=refuse), second)
    done = fetch("memory://x", store)
    assert (6, 5) == (done.fetched_bytes, done.resumed_bytes)
    assert ["a", "b"] == [file.name for file in done.manifest.files]
    assert [] == list((store.root / "partial").rglob("*"))


def test_pinned_files_are_brought_back_and_no_others(model: Path, store: BlobStore, source: Counted) -> None:
    pinned = fetched(model, store).manifest.files
    (model / "new.json").write_text("new")
    store.discard(pinned[0].sha256)
    source.opened.clear()
    assert pinned == fetched(model, store, pinned).manifest.files
    assert [pinned[0].name] == source.opened


def test_present_pins_are_found_without_a_lock_or_a_listing(model: Path, store: BlobStore, source: Counted) -> None:
    pinned = fetched(model, store).manifest.files
    shutil.rmtree(store.root / "locks")
    assert pinned == fetched(model, store, pinned).manifest.files
    assert 1 == source.listings
    assert not (store.root / "locks").exists()


def test_a_pin_that_is_present_need_not_be_at_the_source_any_more(model: Path, store: BlobStore) -> None:
    pinned = fetched(model, store).manifest.files
    store.discard(pinned[0].sha256)
    (model / "config.json").unlink()
    assert pinned == fetched(model, store, pinned).manifest.files


def test_a_pinned_fetch_says_nothing_about_what_the_url_holds(model: Path, store: BlobStore) -> None:
    """A file that is present by its pin was not read, so its digest must not be recorded under the listed version."""
    pinned = fetched(model, store).manifest.files
    before = read_manifest(store.root, f"file://{model}")
    (model / "config.json").write_text("[]")
    store.discard(next(file.sha256 for file in pinned if file.name == "model.safetensors"))
    fetched(model, store, pinned)
    assert before == read_manifest(store.root, f"file://{model}")
    now = fetched(model, store).manifest.by_name["config.json"]
    assert hashlib.sha256(b"[]").hexdigest() == now.sha256


def test_a_refetch_that_no_longer_matches_fails_with_both_digests(model: Path, store: BlobStore) -> None:
    pinned = fetched(model, store).manifest.files
    pin = next(file for file in pinned if file.name == "config.json")
    store.discard(pin.sha256)
    (model / "config.json").write_text("[]")
    with pytest.raises(SourceChanged) as caught:
        fetched(model, store, pinned)
    assert pin.sha256 in str(caught.value)
    assert hashlib.sha256(b"[]").hexdigest() in str(caught.value)


def test_a_pinned_file_that_is_gone_is_named(model: Path, store: BlobStore) -> None:
    pinned = fetched(model, store).manifest.files
    store.discard(pinned[-1].sha256)
    (model / pinned[-1].name).unlink()
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(SourceChanged, match=pinned[-1].name):
        fetched(model, store, pinned)


def test_a_large_file_of_another_size_is_not_read_to_find_out(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin = ManifestFile("config.json", 10, "1" * 64)
    listing(monkeypatch, replace(file_of(b""), size=10**12))
    with pytest.raises(SourceChanged, match=f"{'1' * 64}, 10 bytes.*1000000000000 bytes now"):
        fetch("memory://x", store, pinned=[pin])


def test_a_digest_that_the_source_states_is_held_against_the_pin_and_the_bytes(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stated, pin = "2" * 64, ManifestFile("config.json", 2, "1" * 64)
    listing(monkeypatch, file_of(b"{}", sha256=stated))
    with pytest.raises(SourceChanged, match=f"{pin.sha256}.*not what was deployed.*{stated}"):
        fetch("memory://x", store, pinned=[pin])
    with pytest.raises(SourceChanged, match=f"stated by the source.*{stated}.*{hashlib.sha256(b'{}').hexdigest()}"):
        fetch("memory://x", store)
    assert not list((store.root / "blobs").rglob("*/*"))


def test_a_blob_that_the_source_names_by_its_digest_is_not_transferred(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.add([b"{}"])
    listing(monkeypatch, replace(file_of(b"{}", sha256=blob.sha256), open=lambda *_: pytest.fail("opened")))
    assert 0 == fetch("memory://x", store).fetched_bytes


def test_two_urls_of_one_pinned_blob_transfer_it_once(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened, reached, following = [], threading.Event(), threading.Event()

    def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
        opened.append(start)
        reached.set()
        assert following.wait(10)
        return io.BytesIO(b"{}")

    def follow(progress: Progress) -> None:
        if progress.following:
            following.set()

    listing(monkeypatch, replace(file_of(b"{}"), open=opener))
    pinned = [ManifestFile("config.json", 2, hashlib.sha256(b"{}").hexdigest())]
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, "memory://a", store, pinned=pinned)
        assert reached.wait(10)
        second = pool.submit(fetch, "memory://b", store, pinned=pinned, report=follow)
        assert (2, 0) == (first.result(10).fetched_bytes, second.result(10).fetched_bytes)
    assert [0] == opened


def test_a_source_that_sends_less_than_it_said_is_asked_again_and_publishes_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    listing(monkeypatch, replace(file_of(b"123"), size=10))
    with pytest.raises(SourceUnreachable, match="expected 10 bytes, got 3"):
        fetch("memory://liar", store, backoff=AT_ONCE)
    assert not list((store.root / "blobs").rglob("*/*"))


def test_a_listing_that_fails_is_asked_for_again(
    model: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def listed(url: str, file_roots: Sequence[Path]) -> tuple[ListedFile, ...]:
        asked.append(url)
        if len(asked) == 1:
            raise SourceUnreachable("busy")
        return (file_of(b"{}"),)

    monkeypatch.setattr(fetching, "open_source", listed)
    assert 1 == fetch("memory://x", store, backoff=AT_ONCE).retries


def test_what_does_not_fit_fails_before_a_byte_is_transferred(model: Path, store: BlobStore, source: Counted) -> None:
    with pytest.raises(StoreFull):
        fetch(f"file://{model}", store, file_roots=root_of(model), budget=Budget(max_bytes=50))
    assert [] == source.opened


def test_making_room_does_not_evict_the_fetchs_own_blobs(model: Path, store: BlobStore) -> None:
    pinned = fetched(model, store).manifest.files
    others = [store.add([bytes([number]) * 30]) for number in range(4)]
    store.discard(next(file.sha256 for file in pinned if file.name == "config.json"))
    for file in pinned:
        if store.has(file.sha256):
            os.utime(store.path(file.sha256), (1, 1))  # least recently used
    size = store.index.totals()[1]
    budget = Budget(max_bytes=size, reserve_bytes=0)
    done = fetch(f"file://{model}", store, file_roots=root_of(model), pinned=pinned, budget=budget)
    assert (1, 30) == (done.evicted_blobs, done.evicted_bytes)
    assert all(store.has(file.sha256, file.size) for file in pinned)
    assert len(others) - 1 == sum(store.has(blob.sha256) for blob in others)


def test_an_unreadable_manifest_is_only_a_lost_hint(model: Path, store: BlobStore) -> None:
    first = fetched(model, store).manifest
    (record,) = (store.root / "manifests").iterdir()
    for text in ("", "{", "[]", '{"url": 1}', '{"url": "x", "files": [[1]]}'):
        record.write_text(text)
        assert first == fetched(model, store).manifest


def test_progress_tells_the_fetched_from_the_present(model: Path, store: BlobStore) -> None:
    seen: list[Progress] = []
    fetched(model, store)
    (model / "config.json").write_text("[1]")
    fetch(f"file://{model}", store, file_roots=root_of(model), report=seen.append)
    assert Progress("", 0, 114, 0) == seen[0]
    assert Progress("model.safetensors", 114, 114, 3) == seen[-1]
    assert ["", "1_Pooling/config.json", "config.json", "model.safetensors"] == list(
        dict.fromkeys(progress.file for progress in seen)
    )


# --- the program ------------------------------------------------------------------------------------------------------


def test_the_last_line_is_the_manifest(model: Path, store: BlobStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([f"file://{model}", "--store", str(store.root), "--file-root", str(model)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"progress"} == {line["event"] for line in lines[:-1]}
    assert lines[-2]["total_bytes"] == lines[-2]["done_bytes"] == lines[-2]["fetched_bytes"]
    assert ["1_Pooling/config.json", "config.json", "model.safetensors"] == [row[0] for row in lines[-1]["files"]]
    counted = {name: value for name, value in lines[-1].items() if name not in ("event", "files", "took_s")}
    nothing = dict.fromkeys(("resumed_bytes", "retries", "evicted_blobs", "evicted_bytes", "waited_s"), 0)
    assert {"fetched_bytes": 113, **nothing} == counted


def test_the_last_line_is_the_error(store: BlobStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(["package://no_such_package/x", "--store", str(store.root)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("error", "SourceNotFound") == (line["event"], line["error_type"])
    assert isinstance(named(line["error_type"], line["message"]), SourceNotFound)


def test_the_budget_is_the_commands(model: Path, store: BlobStore, capsys: pytest.CaptureFixture[str]) -> None:
    given = [f"file://{model}", "--store", str(store.root), "--file-root", str(model)]
    assert 1 == main([*given, "--budget-bytes", "50"])
    assert "StoreFull" == json.loads(capsys.readouterr().out.splitlines()[-1])["error_type"]
    assert 1 == main([*given, "--reserve-bytes", str(2**60)])
    assert "StoreFull" == json.loads(capsys.readouterr().out.splitlines()[-1])["error_type"]


@pytest.mark.parametrize(
    "text",
    ["", "{}x", '[["a", 1]]', '[["../a", 1, "%s"]]' % ("0" * 64), '[["a", 1, "0"]]', '[["a", "1", "%s"]]' % ("0" * 64),
     '[[1, 1, "%s"]]' % ("0" * 64)],
)  # fmt: skip
def test_a_malformed_pin_list_is_refused(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert 1 == main(["memory://x", "--store", str(store.root), "--pinned"])
    assert "SourceInvalid" == json.loads(capsys.readouterr().out)["error_type"]
