"""The snapshot store and the assignments: what is published, what is opened, what is kept."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from pathlib import Path

import pytest

from glowplug.cache.digest import Streaming
from glowplug.snapshot.assignments import Assignment, Assignments
from glowplug.snapshot.errors import SnapshotCorrupt, SnapshotMissing, SnapshotStoreFailed
from glowplug.snapshot.store import SnapshotStore

KEY = "ab" * 32
SECRET = b"k" * 32


def stage(directory: Path, *, key: str = KEY, files: dict[str, bytes] | None = None, **changed: object) -> Path:
    """Write what a baker leaves: artefacts and a manifest that names them."""
    directory.mkdir(parents=True, exist_ok=True)
    files = {"model.so": b"\x7fELF" * 100, "check.safetensors": b"check"} if files is None else files
    artefacts = {}
    for name, data in files.items():
        (directory / name).write_bytes(data)
        artefacts[name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (directory / "manifest.json").write_text(json.dumps({"key": key, "artefacts": artefacts, **changed}))
    return directory


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "snapshots", SECRET)


@pytest.fixture
def staging(tmp_path: Path) -> Path:
    return stage(tmp_path / "staging")


def leftovers(store: SnapshotStore) -> list[str]:
    return sorted(entry.name.partition("-")[0] for entry in store.root.iterdir() if entry.name.startswith("."))


def count_digests(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    real = Streaming.hexdigest

    def hexdigest(self: Streaming) -> str:
        counted.append(self.size)
        return real(self)

    monkeypatch.setattr(Streaming, "hexdigest", hexdigest)
    return counted


def test_a_published_snapshot_opens_with_its_manifest(store: SnapshotStore, staging: Path) -> None:
    ref = store.publish(staging)
    assert (KEY, False) == (ref.key, ref.reused)
    opened = store.open(KEY)
    assert (staging / "manifest.json").read_bytes() == opened.manifest
    assert store.root / KEY == opened.directory
    assert [KEY] == store.keys()


def test_published_files_are_copies_that_nobody_else_can_write(store: SnapshotStore, staging: Path) -> None:
    with (staging / "model.so").open("r+b") as still_open:
        store.publish(staging)
        still_open.write(b"late")
    store.open(KEY)
    files = sorted((store.root / KEY).iterdir())
    assert ["check.safetensors", "manifest.hmac", "manifest.json", "model.so"] == [file.name for file in files]
    assert {0o444} == {file.stat().st_mode & 0o777 for file in files}
    assert 0o755 == (store.root / KEY).stat().st_mode & 0o777


def test_a_snapshot_that_is_there_already_is_kept(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    inode = (store.root / KEY).stat().st_ino
    assert store.publish(staging).reused
    assert inode == (store.root / KEY).stat().st_ino


def test_an_altered_snapshot_is_replaced_by_a_new_bake(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    (store.root / KEY / "model.so").unlink()
    assert not store.publish(staging).reused
    store.open(KEY)


def test_another_nodes_snapshot_is_not_opened(store: SnapshotStore, staging: Path) -> None:
    SnapshotStore(store.root, b"x" * 32).publish(staging)
    with pytest.raises(SnapshotCorrupt, match="signature"):
        store.open(KEY)


def test_a_snapshot_under_another_key_is_not_opened(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    shutil.copytree(store.root / KEY, store.root / ("cd" * 32))
    with pytest.raises(SnapshotCorrupt, match=f"manifest of {KEY}"):
        store.open("cd" * 32)


@pytest.mark.parametrize("key", ["", "..", "keys", "../cache", ".staging-1", "AB" * 32])
def test_only_keys_become_paths(store: SnapshotStore, key: str) -> None:
    with pytest.raises(SnapshotMissing):
        store.open(key)


def test_a_second_open_reads_no_bytes(store: SnapshotStore, staging: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish(staging)
    counted = count_digests(monkeypatch)
    first = store.open(KEY)
    assert 2 == len(counted)
    assert first == store.open(KEY)
    assert 2 == len(counted)


def test_a_changed_byte_with_its_old_mtime_is_caught(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    store.open(KEY)
    path = store.root / KEY / "model.so"
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.write(b"\x00")
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    with pytest.raises(SnapshotCorrupt, match=r"model\.so: sha256"):
        store.open(KEY)


def test_a_retired_snapshot_is_missing_and_says_why_until_the_next_start(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    store.open(KEY)
    store.retire(KEY, "its output was not the recorded one")
    with pytest.raises(SnapshotMissing):
        store.open(KEY)
    assert "its output was not the recorded one\n" == next(store.root.glob(".retired-*/why")).read_text()
    store.retire(KEY, "again")
    assert 1 == store.sweep()
    assert [] == leftovers(store)


def test_sweep_removes_what_a_killed_publisher_left(store: SnapshotStore, staging: Path) -> None:
    store.publish(staging)
    (store.root / ".staging-dead").mkdir()
    (store.root / ".staging-dead" / "model.so").write_bytes(b"half")
    assert 1 == store.sweep()
    assert [KEY] == [entry.name for entry in store.root.iterdir()]
    assert 0 == SnapshotStore(store.root / "absent", SECRET).sweep()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_publishes_nothing(
    store: SnapshotStore, staging: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(SnapshotStoreFailed, match=os.strerror(number)):
        store.publish(staging)
    monkeypatch.undo()
    assert [] == list(store.root.iterdir())


# --- assignments ------------------------------------------------------------------------------------------------------

VERDICT = Assignment("aot_inductor", KEY, "", "auto", "f" * 64)


def test_assignments_survive_a_restart(tmp_path: Path) -> None:
    Assignments(tmp_path).set("rev1", "", VERDICT)
    Assignments(tmp_path).set("rev1", "second", VERDICT)
    again = Assignments(tmp_path)
    assert VERDICT == again.get("rev1", "")
    assert VERDICT == again.get("rev1", "second")
    assert again.get("rev2", "") is None
    again.forget("rev1", "")
    assert Assignments(tmp_path).get("rev1", "") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"": []}', '{"": {"engine": "x"}}', "\x80"])
def test_an_unreadable_assignment_counts_as_none(tmp_path: Path, text: str) -> None:
    Assignments(tmp_path).set("rev1", "", VERDICT)
    (tmp_path / "assigned" / "rev1.json").write_text(text, encoding="latin-1")
    assert Assignments(tmp_path).get("rev1", "") is None


def test_an_owner_cannot_leave_the_directory(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="cannot name a file"):
        Assignments(tmp_path).get("../../etc/passwd", "")
