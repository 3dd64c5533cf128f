"""Manifests: what they say of a source, and which files in their place are ignored."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.errors import StoreUnwritable
from glowplug.cache.manifests import (
    Manifest,
    ManifestFile,
    forget_manifest,
    manifests,
    read_manifest,
    write_manifest,
)
from glowplug.cache.store import Blob

URL = "s3://models/minilm"
A, B = "a" * 64, "b" * 64
CONFIG = ManifestFile("config.json", 2, A, "etag-1")
WEIGHTS = ManifestFile("model.safetensors", 100, B)
MANIFEST = Manifest(URL, (CONFIG, WEIGHTS))


def place(root: Path, url: str = URL) -> Path:
    return root / "manifests" / hashlib.sha256(url.encode()).hexdigest()


def test_a_manifest_comes_back_as_it_was_written(tmp_path: Path) -> None:
    assert read_manifest(tmp_path, URL) is None
    write_manifest(tmp_path, MANIFEST)
    assert MANIFEST == read_manifest(tmp_path, URL)
    newer = Manifest(URL, (CONFIG,))
    write_manifest(tmp_path, newer)
    assert newer == read_manifest(tmp_path, URL)
    assert [] == list((tmp_path / "partial").iterdir())


def test_all_manifests_are_listed_by_url_and_one_can_be_forgotten(tmp_path: Path) -> None:
    assert [] == manifests(tmp_path)
    other = Manifest("hf://x/y", (WEIGHTS,))
    write_manifest(tmp_path, MANIFEST)
    write_manifest(tmp_path, other)
    assert [other, MANIFEST] == manifests(tmp_path)
    forget_manifest(tmp_path, URL)
    forget_manifest(tmp_path, URL)
    assert [other] == manifests(tmp_path)


def test_the_digest_is_that_of_the_files_whatever_the_url_and_versions() -> None:
    renamed = Manifest("file:///elsewhere", (ManifestFile("config.json", 2, A, "etag-2"), WEIGHTS))
    assert MANIFEST.digest == renamed.digest
    rows = f'[["config.json",2,"{A}"],["model.safetensors",100,"{B}"]]'
    assert hashlib.sha256(rows.encode()).hexdigest() == MANIFEST.digest
    assert MANIFEST.digest != Manifest(URL, (CONFIG,)).digest


def test_two_names_of_one_content_are_one_blob() -> None:
    manifest = Manifest(URL, (CONFIG, ManifestFile("copy.json", 2, A), WEIGHTS))
    assert (Blob(A, 2), Blob(B, 100)) == manifest.blobs
    assert 104 == manifest.size_bytes
    assert ["config.json", "copy.json", "model.safetensors"] == list(manifest.by_name)


GOOD = ["config.json", 2, A, ""]


@pytest.mark.parametrize(
    "document",
    [
        {"url": URL, "files": [["../../etc/passwd", 2, A, ""]]},
        {"url": URL, "files": [["/etc/passwd", 2, A, ""]]},
        {"url": URL, "files": [["a\x00b", 2, A, ""]]},
        {"url": URL, "files": [["config.json", 2, "../" + A[3:], ""]]},
        {"url": URL, "files": [["config.json", -1, A, ""]]},
        {"url": URL, "files": [["config.json", True, A, ""]]},
        {"url": URL, "files": [["config.json", 2, A, None]]},
        {"url": URL, "files": [["config.json", 2, A]]},
        {"url": URL, "files": [GOOD, GOOD]},
        {"url": URL, "files": [["b", 2, A, ""], ["a", 2, A, ""]]},
        {"url": URL, "files": [[f"{n:05}", 2, A, ""] for n in range(10_001)]},
        {"url": URL, "files": {"config.json": GOOD}},
        {"url": "s3://another", "files": [GOOD]},
        {"url": [URL], "files": [GOOD]},
        {"files": [GOOD]},
        [GOOD],
        None,
    ],
    ids=lambda document: json.dumps(document)[:60],
)
def test_a_hostile_manifest_is_ignored_as_a_whole(tmp_path: Path, document: Any) -> None:
    write_manifest(tmp_path, MANIFEST)
    place(tmp_path).write_text(json.dumps(document))
    assert read_manifest(tmp_path, URL) is None
    assert [] == manifests(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"\0" * 4096])
def test_a_damaged_manifest_is_ignored(tmp_path: Path, content: bytes) -> None:
    write_manifest(tmp_path, MANIFEST)
    place(tmp_path).write_bytes(content)
    assert read_manifest(tmp_path, URL) is None


def test_what_is_no_regular_file_is_ignored_and_hangs_nobody(tmp_path: Path) -> None:
    write_manifest(tmp_path, MANIFEST)
    elsewhere = tmp_path / "elsewhere"
    place(tmp_path).rename(elsewhere)
    place(tmp_path).symlink_to(elsewhere)
    assert read_manifest(tmp_path, URL) is None
    place(tmp_path).unlink()
    os.mkfifo(place(tmp_path))
    assert read_manifest(tmp_path, URL) is None
    place(tmp_path).unlink()
    place(tmp_path).mkdir()
    assert read_manifest(tmp_path, URL) is None
    assert [] == manifests(tmp_path)


def test_a_manifest_that_cannot_be_written_is_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_manifest(tmp_path, MANIFEST)

    def refuse(*arguments: Any) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreUnwritable, match=str(place(tmp_path))):
        write_manifest(tmp_path, Manifest(URL, ()))
    monkeypatch.undo()
    assert MANIFEST == read_manifest(tmp_path, URL)
    assert [] == list((tmp_path / "partial").iterdir())
