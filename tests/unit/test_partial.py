"""Partial files: what is continued, what starts over, and what is removed."""

from __future__ import annotations

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from glowplug.cache import partial as module
from glowplug.cache.digest import bytes_digest
from glowplug.cache.errors import StoreFull
from glowplug.cache.partial import HEADER_BYTES, Partial, Partials
from glowplug.cache.sources.listing import ListedFile
from glowplug.cache.store import Blob, BlobStore

DATA = bytes(range(256)) * 10  # 2,560 bytes: pieces of 1,000, 1,000 and 560
PIECE = 1000
FILE = ListedFile("model.safetensors", len(DATA), "v1", lambda start=0, stop=None: io.BytesIO(DATA[start:stop]))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


@pytest.fixture
def partials(store: BlobStore) -> Partials:
    return Partials(store, "s3://bucket/model")


def opened(partials: Partials, size: int = len(DATA), piece_bytes: int = PIECE) -> Partial:
    key = partials.key(FILE, "")
    assert key is not None
    return partials.open(key, size, piece_bytes=piece_bytes)


def fill(partial: Partial, *pieces: int) -> None:
    for piece in pieces:
        start = piece * partial.piece_bytes
        partial.write(memoryview(DATA)[start : start + partial.length(piece)], start)
        partial.mark(piece)


def test_pieces_that_are_marked_are_there_next_time(partials: Partials) -> None:
    first = opened(partials)
    assert ([0, 1, 2], 0) == (first.missing(), first.resumed_bytes)
    fill(first, 2, 0)
    first.write(memoryview(DATA)[1000:1500], 1000)  # not marked: half a piece
    first.close()
    second = opened(partials)
    assert ([1], 1560) == (second.missing(), second.resumed_bytes)
    fill(second, 1)
    blob = second.commit(bytes_digest(DATA))
    second.close()
    assert DATA == partials._store.path_of(blob).read_bytes()
    assert not second.path.exists()


def test_a_file_without_a_whole_piece_is_not_kept(partials: Partials) -> None:
    partial = opened(partials)
    partial.write(memoryview(DATA)[:999], 0)
    partial.close()
    assert [] == list(partials.directory.iterdir())


@pytest.mark.parametrize(
    "damage",
    ["another boot", "no boot", "another size", "another piece size", "no marks", "marks cut", "marks of two",
     "bytes cut", "no bytes", "scrambled header", "header of a list"],
)  # fmt: skip
def test_what_does_not_match_starts_over(partials: Partials, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    first = opened(partials)
    fill(first, 0, 1)
    first.close()
    marks, size, piece_bytes = first.path.with_suffix(".done"), len(DATA), PIECE
    text = marks.read_bytes()
    match damage:
        case "another boot":
            monkeypatch.setattr(module, "boot_id", lambda: "another")
        case "no boot":
            monkeypatch.setattr(module, "boot_id", lambda: "")
            marks.write_bytes(
                json.dumps({"boot": "", "size": size, "piece_bytes": PIECE}).encode().ljust(4096) + text[4096:]
            )
        case "another size":
            size += 1
        case "another piece size":
            piece_bytes = 500
        case "no marks":
            marks.unlink()
        case "marks cut":
            marks.write_bytes(text[:-1])
        case "marks of two":
            marks.write_bytes(text[:-1] + b"\x02")
        case "bytes cut":
            first.path.write_bytes(DATA[:-1])
        case "no bytes":
            first.path.unlink()
        case "scrambled header":
            marks.write_bytes(b"\xff" * HEADER_BYTES + text[HEADER_BYTES:])
        case "header of a list":
            marks.write_bytes(b"[]".ljust(HEADER_BYTES) + text[HEADER_BYTES:])
    second = opened(partials, size, piece_bytes)
    assert 0 == second.resumed_bytes
    assert size == second.path.stat().st_size
    second.close()


def test_the_same_content_starts_over_only_when_something_changed(partials: Partials) -> None:
    """The other half of the test above: rewriting what is there changes nothing."""
    first = opened(partials)
    fill(first, 0, 1)
    first.close()
    marks = first.path.with_suffix(".done")
    marks.write_bytes(marks.read_bytes())
    second = opened(partials)
    assert 2000 == second.resumed_bytes
    second.close()


def test_the_key_tells_versions_apart_and_needs_something_to_tell_by(partials: Partials) -> None:
    key = partials.key(FILE, "")
    assert key == partials.key(FILE, "1" * 64)
    others = [replace(FILE, version="v2"), replace(FILE, size=1), replace(FILE, name="b")]
    assert 4 == len({key, *(partials.key(other, "") for other in others)})
    assert key != Partials(partials._store, "s3://bucket/other").key(FILE, "")
    unversioned = replace(FILE, version="")
    assert partials.key(unversioned, "") is None
    assert partials.key(unversioned, "1" * 64) != partials.key(unversioned, "2" * 64)


def test_other_versions_are_removed(partials: Partials) -> None:
    first = opened(partials)
    fill(first, 0)
    first.close()
    other = partials.key(replace(FILE, version="v2"), "")
    assert other is not None
    partials.finish(other, Blob("1" * 64, 1))
    (partials.directory / "leftover.new").touch()
    key = partials.key(FILE, "")
    assert key is not None
    partials.keep({key})
    assert {f"{key}.part", f"{key}.done"} == {path.name for path in partials.directory.iterdir()}


def test_a_finished_file_is_remembered_as_long_as_its_blob_is_there(partials: Partials, store: BlobStore) -> None:
    key = partials.key(FILE, "")
    assert key is not None
    assert partials.finished(key) is None
    blob = store.add([DATA])
    partials.finish(key, blob)
    assert blob == partials.finished(key)
    store.discard(blob.sha256)
    assert partials.finished(key) is None
    partials.clear()
    partials.clear()
    assert not partials.directory.exists()


def test_what_is_allocated_is_counted(partials: Partials) -> None:
    key = partials.key(FILE, "")
    assert key is not None
    assert 0 == partials.allocated_bytes(key)
    partial = partials.open(key, 100_000, piece_bytes=PIECE)
    assert 100_000 <= partials.allocated_bytes(key) < 110_000
    partial.close()


def test_no_space_leaves_nothing(partials: Partials, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(StoreFull, match=str(partials.directory)):
        opened(partials)
    assert [] == list(partials.directory.iterdir())
