"""Snapshots that were altered, or staged by a baker that lies: never opened, never published."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from glowplug.snapshot.errors import SnapshotCorrupt, SnapshotError, SnapshotMissing
from glowplug.snapshot.store import MAX_MANIFEST_BYTES, SnapshotStore

KEY = "ab" * 32
SO = b"\x7fELF engine"


def stage(directory: Path, manifest: Any = None) -> Path:
    directory.mkdir()
    (directory / "model.so").write_bytes(SO)
    entry = {"sha256": hashlib.sha256(SO).hexdigest(), "size": len(SO)}
    text = json.dumps(manifest if manifest is not None else {"key": KEY, "artefacts": {"model.so": entry}})
    (directory / "manifest.json").write_text(text)
    return directory


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", b"k" * 32)


def rewrite(path: Path, data: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(data)


def test_one_flipped_byte_anywhere_is_caught(store: SnapshotStore, tmp_path: Path) -> None:
    store.publish(stage(tmp_path / "staging"))
    store.open(KEY)  # with the verdict kept, as in a running node
    files = sorted((store.root / KEY).iterdir())
    assert 3 == len(files)
    for path in files:
        good = path.read_bytes()
        for position in range(len(good)):
            rewrite(path, good[:position] + bytes([good[position] ^ 1]) + good[position + 1 :])
            with pytest.raises(SnapshotCorrupt):
                store.open(KEY)
        rewrite(path, good)
        store.open(KEY)


def test_a_missing_longer_or_shorter_file_is_caught(store: SnapshotStore, tmp_path: Path) -> None:
    store.publish(stage(tmp_path / "staging"))
    for name in ("manifest.json", "manifest.hmac", "model.so"):
        path = store.root / KEY / name
        good = path.read_bytes()
        for changed in (good + b"\n", good[:-1], b""):
            rewrite(path, changed)
            with pytest.raises(SnapshotCorrupt):
                store.open(KEY)
        path.unlink()
        with pytest.raises(SnapshotMissing):
            store.open(KEY)
        path.write_bytes(good)
        store.open(KEY)


def test_a_link_in_place_of_an_artefact_is_not_followed(store: SnapshotStore, tmp_path: Path) -> None:
    store.publish(stage(tmp_path / "staging"))
    path = store.root / KEY / "model.so"
    path.rename(tmp_path / "elsewhere.so")
    path.symlink_to(tmp_path / "elsewhere.so")
    with pytest.raises(SnapshotCorrupt):
        store.open(KEY)


def artefact(name: str = "model.so", **changed: Any) -> dict[str, Any]:
    entry = {"sha256": hashlib.sha256(SO).hexdigest(), "size": len(SO), **changed}
    return {"key": KEY, "artefacts": {name: entry}}


@pytest.mark.parametrize(
    "manifest",
    [
        [], 5, {}, {"key": KEY}, {"key": "../../up", "artefacts": {}}, {"key": 5, "artefacts": {}},
        {"key": KEY, "artefacts": []}, {"key": KEY, "artefacts": {"model.so": []}},
        artefact("../model.so"), artefact("/etc/passwd"), artefact("a/b"), artefact("manifest.json"),
        artefact("manifest.hmac"), artefact(sha256="0" * 64), artefact(sha256="short"), artefact(size=1),
        artefact(size=-1), artefact(size=True), artefact(size=10**18), artefact(size="11"),
    ],
)  # fmt: skip
def test_a_staged_manifest_that_lies_publishes_nothing(store: SnapshotStore, tmp_path: Path, manifest: Any) -> None:
    with pytest.raises(SnapshotError):
        store.publish(stage(tmp_path / "staging", manifest))
    assert [] == store.keys()
    assert not store.root.exists() or [] == list(store.root.iterdir())


def test_a_staged_link_to_a_secret_is_not_copied(store: SnapshotStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(SO)
    staging = stage(tmp_path / "staging")
    (staging / "model.so").unlink()
    (staging / "model.so").symlink_to(secret)
    with pytest.raises(SnapshotCorrupt):
        store.publish(staging)


@pytest.mark.parametrize("name", ["manifest.json", "model.so"])
def test_a_staged_pipe_does_not_hang_the_node(store: SnapshotStore, tmp_path: Path, name: str) -> None:
    staging = stage(tmp_path / "staging")
    (staging / name).unlink()
    os.mkfifo(staging / name)
    with pytest.raises(SnapshotCorrupt, match="not a regular file"):
        store.publish(staging)


def test_a_staged_manifest_of_gigabytes_is_not_read(store: SnapshotStore, tmp_path: Path) -> None:
    staging = stage(tmp_path / "staging")
    os.truncate(staging / "manifest.json", 10 * MAX_MANIFEST_BYTES)
    with pytest.raises(SnapshotCorrupt, match=str(MAX_MANIFEST_BYTES)):
        store.publish(staging)
