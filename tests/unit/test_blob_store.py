"""The blob store: what appears in it, when, and what never does."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from glowplug.cache.errors import BlobMissing, DigestMismatch, SourceInvalid, StoreFull, StoreUnwritable
from glowplug.cache.store import Blob, BlobStore

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


def visible(store: BlobStore) -> list[str]:
    return sorted(path.name for path in store.root.rglob("*") if path.is_file())


def test_a_blob_is_named_by_its_digest_and_cannot_be_written(store: BlobStore) -> None:
    assert Blob(DIGEST, len(DATA)) == store.add([DATA[:100], DATA[100:]])
    path = store.root / "blobs" / DIGEST[:2] / DIGEST
    assert path == store.path_of(Blob(DIGEST, len(DATA)))
    assert path.read_bytes() == DATA
    assert 0o444 == path.stat().st_mode & 0o777


def test_directories_can_be_entered_by_other_users_whatever_the_umask(store: BlobStore) -> None:
    before = os.umask(0o077)
    try:
        store.add([DATA])
    finally:
        os.umask(before)
    path = store.path(DIGEST)
    assert [0o755, 0o755, 0o755] == [above.stat().st_mode & 0o777 for above in list(path.parents)[:3]]


def test_an_equal_blob_keeps_its_inode_so_that_mappings_go_on_sharing_pages(store: BlobStore) -> None:
    store.add([DATA])
    inode = store.path(DIGEST).stat().st_ino
    store.add([DATA])
    assert inode == store.path(DIGEST).stat().st_ino


def test_a_truncated_blob_is_missing_and_is_replaced(store: BlobStore) -> None:
    blob = store.add([DATA])
    path = store.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(DATA[:10])
    assert not store.has(DIGEST, len(DATA))
    with pytest.raises(BlobMissing, match=DIGEST):
        store.path_of(blob)
    store.add([DATA])
    store.verify(blob)


@pytest.mark.parametrize("announced", [{"expected": "0" * 64}, {"size": 3}])
def test_what_was_announced_differently_is_never_published(store: BlobStore, announced: dict[str, str]) -> None:
    with pytest.raises(DigestMismatch):
        store.add([DATA], **announced)  # type: ignore[arg-type]
    assert [] == visible(store)


def test_a_writer_that_raises_leaves_nothing(store: BlobStore) -> None:
    def chunks() -> Iterator[bytes]:
        yield DATA
        raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        store.add(chunks())
    assert [] == visible(store)


@pytest.mark.parametrize(
    ("number", "kind"),
    [(errno.ENOSPC, StoreFull), (errno.EDQUOT, StoreFull), (errno.EFBIG, StoreFull), (errno.EROFS, StoreUnwritable)],
)
def test_a_failing_write_is_typed_and_leaves_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int, kind: type[Exception]
) -> None:
    def write(descriptor: int, data: bytes) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "write", write)
    with pytest.raises(kind, match=os.strerror(number)):
        store.add([DATA])
    monkeypatch.undo()
    assert [] == visible(store)


def test_short_writes_are_continued(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: real(descriptor, data[:7]))
    blob = store.add([DATA])
    monkeypatch.undo()
    store.verify(blob)


@pytest.mark.parametrize("digest", ["", "../../etc/passwd", "A" * 64, "0" * 63, "0" * 64 + "\n"])
def test_only_digests_become_paths(store: BlobStore, digest: str) -> None:
    with pytest.raises(SourceInvalid):
        store.path(digest)


def test_verify_reads_every_byte(store: BlobStore) -> None:
    blob = store.add([DATA])
    path = store.path(DIGEST)
    path.chmod(0o644)
    path.write_bytes(b"W" + DATA[1:])
    with pytest.raises(DigestMismatch, match=DIGEST):
        store.verify(blob)


def test_sweep_removes_the_files_of_dead_writers_only(store: BlobStore) -> None:
    with store.writing() as writer:
        writer.write(DATA)
        dead = store.root / "partial" / "dead.part"
        dead.write_bytes(b"half")
        assert 1 == store.sweep()
        assert not dead.exists()
        writer.commit()
    assert store.has(DIGEST)


def test_a_sweep_between_open_and_flock_does_not_lose_the_blob(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fcntl.flock
    swept: list[int] = []

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_EX and not swept:
            swept.append(store.sweep())
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    blob = store.add([DATA])
    assert [1] == swept
    store.verify(blob)
