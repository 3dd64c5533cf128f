"""A store in bad company: hostile and foreign files, a full disk, lost permissions, a log that was tampered with."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.errors import StoreError, StoreFull, StoreUnwritable
from glowplug.cache.index import Index, scan
from glowplug.cache.manifests import Manifest, ManifestFile, manifests, read_manifest, write_manifest
from glowplug.cache.pins import pin, pinned, unpin
from glowplug.cache.room import Budget, disk, make_room, prune
from glowplug.cache.store import BlobStore

MB = 1024 * 1024
URL = "s3://models/x"
DISK_SIZE = "4m"


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


# --- files that somebody else wrote -----------------------------------------------------------------------------------


def test_manifests_and_pins_that_name_paths_reach_nothing_outside_the_store(store: BlobStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    blob = store.add([b"x" * 1000])
    climbing = "../" * 5 + "secret"
    write_manifest(store.root, Manifest(URL, (ManifestFile("a", 1, blob.sha256),)))
    path = store.root / "manifests" / hashlib.sha256(URL.encode()).hexdigest()
    path.write_text(json.dumps({"url": URL, "files": [[climbing, 1, blob.sha256, ""]]}))
    assert (None, []) == (read_manifest(store.root, URL), manifests(store.root))
    pin(store.root, "operator:x", [blob.sha256])
    [path] = (store.root / "pins").iterdir()
    path.write_text(json.dumps({"owner": "operator:x", "blobs": [climbing]}))
    with pytest.raises(StoreError, match=str(path)):
        prune(store, to_bytes=0)
    assert (True, True) == (secret.exists(), store.has(blob.sha256))
    unpin(store.root, "operator:x")
    prune(store, to_bytes=0)
    assert (True, False) == (secret.exists(), store.has(blob.sha256))


def test_an_index_whose_rows_are_paths_removes_nothing(store: BlobStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s")
    blob = store.add([b"x" * 1000])
    store.index.rebuild()
    for name in ("../../../secret", str(secret), blob.sha256[:2]):
        store.index._run(lambda database, name=name: database.execute("INSERT INTO blobs VALUES (?, 1, 0.0)", (name,)))  # type: ignore[misc]
    make_room(store, 1000, Budget(max_bytes=1000, reserve_bytes=0))
    assert (True, False) == (secret.exists(), store.has(blob.sha256))
    assert [] == store.index.entries()


def test_foreign_files_among_the_blobs_are_neither_counted_nor_removed(store: BlobStore) -> None:
    blob = store.add([b"x" * 1000])
    aa = store.path(blob.sha256).parent
    foreign = [aa / "notes.txt", aa / ("0" * 63), aa.parent / "README", aa.parent / "zz" / ("z" * 64)]
    for path in foreign:
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"f" * 5000)
    (aa / (aa.name + "0" * 62)).symlink_to("/etc/passwd")
    os.mkfifo(aa / (aa.name + "1" * 62))
    assert (1, 1000) == store.index.totals()
    assert 1000 == prune(store, to_bytes=0).freed_bytes
    assert [True] * 4 == [path.exists() for path in foreign]
    assert Path("/etc/passwd").exists()


def test_foreign_files_among_the_partials_do_not_stop_the_sweep(store: BlobStore) -> None:
    partial = store.root / "partial"
    partial.mkdir(parents=True)
    os.mkfifo(partial / "fifo.part")
    (partial / "link.part").symlink_to("/nonexistent")
    (partial / ("d" * 64)).write_text("a file where a directory belongs")
    (partial / "dead.part").write_text("x")
    store.sweep(abandoned_s=0)
    assert not (partial / "dead.part").exists()
    assert (partial / ("d" * 64)).exists()


@pytest.mark.parametrize("suffix", ["-wal", "-shm"])
@pytest.mark.parametrize("closed", [True, False])
def test_a_log_that_was_tampered_with_costs_a_scan_at_most(store: BlobStore, suffix: str, closed: bool) -> None:
    store.add([b"one"])
    store.index.rebuild()
    store.add([b"two"])
    log = Path(f"{store.index.path}{suffix}")
    with log.open("r+b") as file:
        file.write(os.urandom(log.stat().st_size))
    if closed:
        store = BlobStore(store.root)
    store.add([b"three"])
    with pytest.raises(StoreFull):
        make_room(store, 10**9, Budget(max_bytes=100, reserve_bytes=0))
    assert {entry.sha256 for entry in scan(store.root)} == {entry.sha256 for entry in store.index.entries()}
    assert 3 == store.index.totals()[0]


# --- a full disk ------------------------------------------------------------------------------------------------------


def test_what_does_not_fit_is_refused_before_and_typed_while_it_is_written(small_disk: Path) -> None:
    store = BlobStore(small_disk / "cache")
    kept = store.add([b"k" * MB])
    with store.hold([kept]):
        with pytest.raises(StoreFull, match="no room for"):
            make_room(store, 8 * MB, Budget())
        with pytest.raises(StoreFull, match="No space left"):
            store.add([b"x" * MB] * 8)
        store.verify(kept)
    assert [] == list((store.root / "partial").iterdir())
    make_room(store, 3 * MB, Budget())
    store.add([b"y" * 3 * MB])


def test_room_is_made_on_a_disk_that_is_full(small_disk: Path, fill: Any) -> None:
    store = BlobStore(small_disk / "cache")
    blobs = [store.add([bytes([number]) * (MB // 2)]) for number in range(4)]
    fill(small_disk)
    assert 0 == disk(store.root).free_bytes
    done = make_room(BlobStore(store.root), MB, Budget(reserve_bytes=0))  # no index yet, and no place for one
    assert [blob.sha256 for blob in blobs[:2]] == [entry.sha256 for entry in done.victims]
    blob = store.add([b"z" * (MB - 64 * 1024)])
    store.verify(blob)


def test_a_blob_whose_row_does_not_fit_is_published_and_found(small_disk: Path, fill: Any) -> None:
    store = BlobStore(small_disk / "cache")
    first = store.add([b"1" * 1000])
    store.index.rebuild()
    with store.writing() as writer:
        writer.write(b"x" * 1000)
        store.path(hashlib.sha256(b"x" * 1000).hexdigest()).parent.mkdir()
        filler = fill(small_disk)
        blob = writer.commit()
    store.verify(blob)
    filler.unlink()
    assert {first.sha256, blob.sha256} == {entry.sha256 for entry in store.index.entries()}


def test_manifests_and_pins_on_a_full_disk_are_typed_and_the_old_ones_stay(small_disk: Path, fill: Any) -> None:
    store = BlobStore(small_disk / "cache")
    manifest = Manifest(URL, (ManifestFile("a", 1, "a" * 64),))
    write_manifest(store.root, manifest)
    pin(store.root, "operator:x", ["a" * 64])
    fill(small_disk)
    with pytest.raises(StoreFull):
        write_manifest(store.root, Manifest(URL, ()))
    with pytest.raises(StoreFull):
        pin(store.root, "operator:x", ["b" * 64])
    assert (manifest, ["a" * 64]) == (read_manifest(store.root, URL), list(pinned(store.root)))
    assert [] == list((store.root / "partial").iterdir())


# --- permission lost --------------------------------------------------------------------------------------------------


def test_a_read_only_disk_serves_what_it_has_and_names_itself_for_the_rest(small_disk: Path) -> None:
    store = BlobStore(small_disk / "cache")
    blob = store.add([b"x" * 1000])
    store.index.rebuild()
    store.index.close()
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with store.hold([blob]):
        store.verify(blob)
    with pytest.raises(StoreUnwritable, match=str(store.root)):
        store.add([b"y"])
    with pytest.raises(StoreUnwritable, match=str(store.root)):
        make_room(store, 100 * MB, Budget())
    with pytest.raises(StoreUnwritable, match=str(store.root)):
        pin(store.root, "operator:x", [blob.sha256])


AS_NOBODY = """
import os, sys
from pathlib import Path
from glowplug.cache.errors import StoreError
from glowplug.cache.pins import pinned
from glowplug.cache.room import Budget, make_room
from glowplug.cache.store import Blob, BlobStore
os.setgroups([]); os.setgid(65534); os.setuid(65534)
store = BlobStore(Path(sys.argv[1]))
blob = Blob(sys.argv[2], 1000)
for step in (
    lambda: store.hold([blob]).close(),
    lambda: store.verify(blob),
    lambda: store.add([b"y"]),
    lambda: store.discard(blob.sha256),
    lambda: make_room(store, 10**18, Budget()),
    lambda: pinned(store.root),
):
    try:
        step()
        print("done")
    except StoreError as error:
        print(type(error).__name__)
"""


def test_a_user_without_permission_may_read_and_is_told_by_type_what_he_may_not(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    root = Path("/tmp") / f"glowplug-{tmp_path.name}-{os.getpid()}"  # pytest's own directories are closed to others
    store = BlobStore(root)
    try:
        blob = store.add([b"x" * 1000])
        pin(root, "operator:x", [blob.sha256])
        ran = subprocess.run(
            [sys.executable, "-c", AS_NOBODY, str(root), blob.sha256],
            capture_output=True, text=True, timeout=30, check=False,
        )  # fmt: skip
        expected = ["done", "done", "StoreUnwritable", "StoreUnwritable", "StoreUnwritable", "StoreError"]
        assert (expected, "") == (ran.stdout.split(), ran.stderr)
        store.verify(blob)
    finally:
        subprocess.run(["rm", "-rf", str(root)], check=True)


def test_a_directory_that_cannot_be_written_any_more_stops_the_eviction_with_its_name(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [store.add([bytes([number]) * 1000]) for number in range(2)]
    os.utime(store.path(blobs[0].sha256), (1, 1))
    real = Path.unlink

    def unlink(path: Path, missing_ok: bool = False) -> None:
        if path == store.path(blobs[1].sha256):
            raise PermissionError(13, "Permission denied")
        real(path, missing_ok)

    monkeypatch.setattr(Path, "unlink", unlink)
    with pytest.raises(StoreUnwritable, match=blobs[1].sha256):
        make_room(store, 2000, Budget(max_bytes=2000, reserve_bytes=0))
    monkeypatch.undo()
    assert [blobs[1].sha256] == [entry.sha256 for entry in Index(store.root).entries()]
