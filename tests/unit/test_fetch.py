"""Sources and fetching: what is listed, what is refused, what is transferred."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest

from glowplug.cache import fetch as fetching
from glowplug.cache.errors import (
    CacheError,
    PickledWeights,
    SourceChanged,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
    named,
)
from glowplug.cache.fetch import FetchedFile, fetch, main
from glowplug.cache.sources.listing import ListedFile, checked_name, select
from glowplug.cache.sources.table import open_source
from glowplug.cache.store import BlobStore


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
    file = ListedFile("a.json", 1, "", lambda: io.BytesIO(b"1"))
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
    assert ["config.json", "sub/x.safetensors"] == [file.name for file in fetch("memory://bucket/m", store)]
    assert ["config.json"] == [file.name for file in fetch("memory://bucket/m/config.json", store)]
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
                fetch("memory://bucket/m", store)


# --- fetching ---------------------------------------------------------------------------------------------------------


def count_opens(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    opened: list[str] = []
    real = fetching._chunks

    def chunks(url: str, file: ListedFile) -> Iterator[bytes]:
        opened.append(file.name)
        return real(url, file)

    monkeypatch.setattr(fetching, "_chunks", chunks)
    return opened


def test_a_second_fetch_reads_nothing(model: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = count_opens(monkeypatch)
    first = fetch(f"file://{model}", store, file_roots=root_of(model))
    assert 3 == len(opened)
    assert first == fetch(f"file://{model}", store, file_roots=root_of(model))
    assert 3 == len(opened)


def test_whoever_waited_for_another_fetch_reads_nothing(
    model: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened, reached, go_on = count_opens(monkeypatch), threading.Event(), threading.Event()
    real = fetching._chunks

    def slowly(url: str, file: ListedFile) -> Iterator[bytes]:
        reached.set()
        assert go_on.wait(10)
        return real(url, file)

    monkeypatch.setattr(fetching, "_chunks", slowly)
    with ThreadPoolExecutor() as pool:
        first = pool.submit(fetch, f"file://{model}", store, file_roots=root_of(model))
        assert reached.wait(10)
        second = pool.submit(fetch, f"file://{model}", store, file_roots=root_of(model))
        go_on.set()
        assert first.result(10) == second.result(10)
    assert 3 == len(opened)


def test_a_changed_file_is_read_again(model: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(f"file://{model}", store, file_roots=root_of(model))
    opened = count_opens(monkeypatch)
    (model / "config.json").write_text("[]")
    files = fetch(f"file://{model}", store, file_roots=root_of(model))
    assert ["config.json"] == opened
    assert hashlib.sha256(b"[]").hexdigest() == next(f.sha256 for f in files if f.name == "config.json")


def test_pinned_files_are_brought_back_and_no_others(
    model: Path, store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pinned = fetch(f"file://{model}", store, file_roots=root_of(model))
    (model / "new.json").write_text("new")
    store.discard(pinned[0].sha256)
    opened = count_opens(monkeypatch)
    assert pinned == fetch(f"file://{model}", store, file_roots=root_of(model), pinned=pinned)
    assert [pinned[0].name] == opened


def test_a_refetch_that_no_longer_matches_fails_with_both_digests(model: Path, store: BlobStore) -> None:
    pinned = fetch(f"file://{model}", store, file_roots=root_of(model))
    pin = next(file for file in pinned if file.name == "config.json")
    store.discard(pin.sha256)
    (model / "config.json").write_text("[]")
    with pytest.raises(SourceChanged) as caught:
        fetch(f"file://{model}", store, file_roots=root_of(model), pinned=pinned)
    assert pin.sha256 in str(caught.value)
    assert hashlib.sha256(b"[]").hexdigest() in str(caught.value)


def test_a_pinned_file_that_is_gone_is_named(model: Path, store: BlobStore) -> None:
    pinned = fetch(f"file://{model}", store, file_roots=root_of(model))
    store.discard(pinned[-1].sha256)
    (model / pinned[-1].name).unlink()
    (model / "pytorch_model.bin").unlink()
    with pytest.raises(SourceChanged, match=pinned[-1].name):
        fetch(f"file://{model}", store, file_roots=root_of(model), pinned=pinned)


def test_a_source_that_sends_less_than_it_said_publishes_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = ListedFile("config.json", 10, "v1", lambda: io.BytesIO(b"123"))
    monkeypatch.setattr(fetching, "open_source", lambda url, file_roots: (short,))
    with pytest.raises(SourceChanged, match="expected 10 bytes, got 3"):
        fetch("memory://liar", store)
    assert not list((store.root / "blobs").rglob("*"))


def test_an_unreadable_record_is_only_a_lost_hint(model: Path, store: BlobStore) -> None:
    first = fetch(f"file://{model}", store, file_roots=root_of(model))
    (record,) = (store.root / "sources").iterdir()
    for text in ("", "{", "[]", '{"url": 1}', '{"url": "x", "files": [[1]]}'):
        record.write_text(text)
        assert first == fetch(f"file://{model}", store, file_roots=root_of(model))


# --- the program ------------------------------------------------------------------------------------------------------


def test_the_last_line_is_the_manifest(model: Path, store: BlobStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert 0 == main([f"file://{model}", "--store", str(store.root), "--file-root", str(model)])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {"progress"} == {line["event"] for line in lines[:-1]}
    assert lines[-2]["total_bytes"] == lines[-2]["done_bytes"]
    assert ["1_Pooling/config.json", "config.json", "model.safetensors"] == [row[0] for row in lines[-1]["files"]]


def test_the_last_line_is_the_error(store: BlobStore, capsys: pytest.CaptureFixture[str]) -> None:
    assert 1 == main(["package://no_such_package/x", "--store", str(store.root)])
    line = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert ("error", "SourceNotFound") == (line["event"], line["error_type"])
    assert isinstance(named(line["error_type"], line["message"]), SourceNotFound)


@pytest.mark.parametrize("text", ["", "{}x", '[["a", 1]]', '[["../a", 1, "%s"]]' % ("0" * 64), '[["a", 1, "0"]]'])
def test_a_malformed_pin_list_is_refused(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    assert 1 == main(["memory://x", "--store", str(store.root), "--pinned"])
    assert "SourceInvalid" == json.loads(capsys.readouterr().out)["error_type"]


def test_fetched_files_are_plain_values() -> None:
    assert "FetchedFile(name='a', size=1, sha256='b')" == repr(FetchedFile("a", 1, "b"))
