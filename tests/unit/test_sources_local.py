"""Local files: read in ranges, noticed when they change under way, never from outside the roots."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)
from glowplug.cache.sources import local
from glowplug.cache.sources.listing import ListedFile
from glowplug.cache.sources.table import open_source

BYTES = bytes(range(256)) * 8


@pytest.fixture
def model(tmp_path: Path) -> Path:
    directory = tmp_path / "root" / "model"
    directory.mkdir(parents=True)
    (directory / "model.safetensors").write_bytes(BYTES)
    return directory


def listed(model: Path, name: str = "model.safetensors") -> tuple[ListedFile, ...]:
    return open_source(f"file://{model / name}", file_roots=[model.parent])


@pytest.mark.parametrize(
    ("start", "stop"), [(0, None), (0, 10), (5, 10), (2000, None), (5, 5), (0, 9999), (2048, None)]
)
def test_a_range_ends_where_it_was_asked_to(model: Path, start: int, stop: int | None) -> None:
    (file,) = listed(model)
    with file.open(start, stop) as stream:
        assert BYTES[start:stop] == stream.read()
        assert b"" == stream.read()


def test_reading_into_a_buffer_gives_the_same(model: Path) -> None:
    (file,) = listed(model)
    buffer, read = memoryview(bytearray(1000)), bytearray()
    with file.open(3, 2003) as stream:
        while size := stream.readinto(buffer):  # type: ignore[attr-defined]
            read += buffer[:size]
    assert BYTES[3:2003] == read


def test_no_descriptor_stays_open(model: Path) -> None:
    (file,) = listed(model)
    before = os.listdir("/proc/self/fd")
    with file.open(3, 10):
        pass
    (model / "model.safetensors").write_bytes(b"changed")
    with pytest.raises(SourceChanged):
        file.open()
    assert len(before) == len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("ranged", [False, True])
def test_a_file_that_is_written_to_under_way_is_noticed_before_its_last_bytes_are_given(
    model: Path, ranged: bool
) -> None:
    (file,) = listed(model)
    stream = file.open(100, 1000) if ranged else file.open()
    assert 10 == len(stream.read(10))
    with (model / "model.safetensors").open("r+b") as writer:
        writer.seek(500)
        writer.write(b"other")
    with stream, pytest.raises(SourceChanged, match=r"model\.safetensors: changed since it was listed"):
        stream.read()


def test_a_file_that_was_cut_short_under_way_ends_early(model: Path) -> None:
    (file,) = listed(model)
    with file.open() as stream:
        os.truncate(model / "model.safetensors", 100)
        assert BYTES[:100] == stream.read()


def test_a_file_that_was_replaced_or_removed_after_the_listing(model: Path) -> None:
    (file,) = listed(model)
    (model / "new").write_bytes(BYTES)
    (model / "new").rename(model / "model.safetensors")
    with pytest.raises(SourceChanged, match="changed since it was listed"):
        file.open()
    (model / "model.safetensors").unlink()
    with pytest.raises(SourceChanged, match="gone since it was listed"):
        file.open()


def test_a_link_swapped_in_after_the_listing_leads_nowhere_outside(model: Path, tmp_path: Path) -> None:
    (file,) = listed(model)
    (tmp_path / "secret").write_bytes(BYTES)
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to(tmp_path / "secret")
    with pytest.raises(SourceForbidden, match="not below a file root"):
        file.open()


def test_a_link_to_a_file_below_the_root_is_followed(model: Path) -> None:
    (model / "link.safetensors").symlink_to(model / "model.safetensors")
    files = open_source(f"file://{model}", file_roots=[model.parent])
    assert [BYTES, BYTES] == [file.open().read() for file in files]


def test_an_index_lists_its_shards_and_nothing_else(model: Path) -> None:
    index = model / "model.safetensors.index.json"
    index.write_text('{"weight_map": {"a": "model.safetensors", "b": "model.safetensors"}}')
    (model / "config.json").write_text("{}")
    assert ["model.safetensors", index.name] == [file.name for file in listed(model, index.name)]
    index.write_text('{"weight_map": {"a": "absent.safetensors"}}')
    with pytest.raises(SourceNotFound, match=r"absent\.safetensors"):
        listed(model, index.name)
    index.write_text('{"weight_map": {"a": "../../secret.safetensors"}}')
    with pytest.raises(SourceInvalid, match="does not stay below"):
        listed(model, index.name)


def test_an_index_is_not_read_without_bound(model: Path) -> None:
    with (model / "model.safetensors.index.json").open("wb") as file:
        file.truncate(2**30)
    with pytest.raises(SourceInvalid, match="an index of 1073741824 bytes"):
        listed(model, "model.safetensors.index.json")


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.EACCES, SourceForbidden), (errno.EIO, SourceUnreachable), (errno.ESTALE, SourceUnreachable), (errno.ENOENT, SourceChanged)],
)  # fmt: skip
def test_what_the_kernel_says_becomes_a_source_error(
    model: Path, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[SourceError]
) -> None:
    (file,) = listed(model)

    def fail(*arguments: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(local, "_open", fail)
    with pytest.raises(kind, match=r"model\.safetensors"):
        file.open()
