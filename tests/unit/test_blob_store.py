"""The blob store: what appears in it, when, and what never does."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import resource
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from glowplug.cache.errors import BlobMissing, DigestMismatch, SourceInvalid, StoreError, StoreFull, StoreUnwritable
from glowplug.cache.store import ABANDONED_S, Blob, BlobStore

DATA = b"weights" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


def visible(store: BlobStore) -> list[str]:
    """What lies in the store, without its lock files."""
    files = [path for path in store.root.rglob("*") if path.is_file() and path.parent.name != "locks"]
    return sorted(path.name for path in files)


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


def test_a_blob_removed_while_it_is_verified_is_missing(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = store.add([DATA])
    monkeypatch.setattr(store, "has", lambda digest, size: True)
    store.discard(blob.sha256)
    with pytest.raises(BlobMissing, match=DIGEST):
        store.verify(blob)


# --- publishing -------------------------------------------------------------------------------------------------------


def partial_of(store: BlobStore, data: bytes) -> tuple[Path, int]:
    path = store.root / "partial" / "download.part"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    descriptor = os.open(path, os.O_RDWR)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return path, descriptor


def test_publishing_moves_the_file_and_lets_others_hold_it_at_once(store: BlobStore) -> None:
    path, descriptor = partial_of(store, DATA)
    blob = Blob(DIGEST, len(DATA))
    inode = path.stat().st_ino
    store.publish(descriptor, path, blob)
    with store.hold([blob]):  # would wait for ever if the writer's exclusive flock were still there
        assert [DIGEST] == visible(store)
    assert (inode, 0o444) == (store.path(DIGEST).stat().st_ino, store.path(DIGEST).stat().st_mode & 0o777)
    os.close(descriptor)


def test_publishing_what_is_there_keeps_the_old_file_and_marks_it_used(store: BlobStore) -> None:
    blob = store.add([DATA])
    os.utime(store.path(DIGEST), (1, 1))
    inode = store.path(DIGEST).stat().st_ino
    path, descriptor = partial_of(store, DATA)
    store.publish(descriptor, path, blob)
    os.close(descriptor)
    status = store.path(DIGEST).stat()
    assert (inode, [DIGEST]) == (status.st_ino, visible(store))
    assert status.st_mtime > 1


def test_publishing_what_is_evicted_at_that_moment_publishes_it_again(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = store.add([DATA])
    path, descriptor = partial_of(store, DATA)
    real = store.has

    def has(digest: str, size: int | None = None) -> bool:
        found = real(digest, size)
        store.path(digest).unlink(missing_ok=True)
        return found

    monkeypatch.setattr(store, "has", has)
    store.publish(descriptor, path, blob)
    os.close(descriptor)
    monkeypatch.undo()
    store.verify(blob)


# --- holding ----------------------------------------------------------------------------------------------------------


def locked_by_others(path: Path) -> bool:
    """Whether an eviction would find the blob held."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_hold_locks_its_blobs_until_it_is_closed_and_marks_them_used(store: BlobStore) -> None:
    one, two = store.add([b"one"]), store.add([b"two!"])
    os.utime(store.path(one.sha256), (1, 1))
    hold = store.hold([one, two, one])
    assert {one.sha256: store.path(one.sha256), two.sha256: store.path(two.sha256)} == dict(hold.paths)
    assert (2, 7) == (len(hold), hold.size_bytes)
    assert "2 blobs, 7 bytes" in repr(hold)
    assert store.path(one.sha256).stat().st_mtime > 1
    assert locked_by_others(store.path(one.sha256))
    hold.close()
    hold.close()
    assert [False, False] == [locked_by_others(path) for path in hold.paths.values()]
    assert "held=0" in repr(store)


def test_two_holds_of_a_blob_share_a_descriptor_and_the_last_one_lets_go(store: BlobStore) -> None:
    blob = store.add([DATA])
    before = len(os.listdir("/proc/self/fd"))
    with store.hold([blob]):
        with store.hold([blob]):
            assert before + 1 == len(os.listdir("/proc/self/fd"))
        assert locked_by_others(store.path(DIGEST))
    assert not locked_by_others(store.path(DIGEST))
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_hold_is_all_or_nothing_and_names_the_first_missing_blob(store: BlobStore) -> None:
    blob = store.add([DATA])
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(BlobMissing, match="a" * 64):
        store.hold([blob, Blob("a" * 64, 1), Blob("b" * 64, 1)])
    with pytest.raises(BlobMissing, match=DIGEST):
        store.hold([Blob(DIGEST, 3)])
    with pytest.raises(SourceInvalid):
        store.hold([blob, Blob("../../etc/passwd", 1)])
    assert not locked_by_others(store.path(DIGEST))
    assert before == len(os.listdir("/proc/self/fd"))
    with store.hold([blob]), pytest.raises(BlobMissing, match="3 bytes"):
        store.hold([Blob(DIGEST, 3)])


def test_what_is_no_regular_file_is_missing_and_hangs_nobody(store: BlobStore) -> None:
    path = store.path(DIGEST)
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    with pytest.raises(BlobMissing):
        store.hold([Blob(DIGEST, 0)])
    path.unlink()
    path.mkdir()
    with pytest.raises(BlobMissing):
        store.hold([Blob(DIGEST, path.stat().st_size)])


@pytest.mark.parametrize("fetched_again", [False, True])
def test_a_blob_evicted_between_open_and_flock_is_not_held(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, fetched_again: bool
) -> None:
    blob = store.add([DATA])
    before = len(os.listdir("/proc/self/fd"))
    real = fcntl.flock
    evicted: list[Path] = []

    def flock(descriptor: int, operation: int) -> None:
        if operation == fcntl.LOCK_SH and not evicted:
            evicted.append(store.path(DIGEST))
            evicted[0].unlink()
            if fetched_again:
                evicted[0].write_bytes(DATA)
        real(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)
    if fetched_again:
        with store.hold([blob]):
            assert locked_by_others(store.path(DIGEST))
    else:
        with pytest.raises(BlobMissing):
            store.hold([blob])
    assert before == len(os.listdir("/proc/self/fd"))


def test_threads_that_hold_and_let_go_never_let_go_of_anothers_hold(store: BlobStore) -> None:
    blobs = [store.add([bytes([number])]) for number in range(5)]

    def work() -> None:
        for _ in range(50):
            store.hold(blobs).close()

    with store.hold(blobs[:1]), ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(work) for _ in range(4)]:
            future.result()
        assert [True, *[False] * 4] == [locked_by_others(store.path(blob.sha256)) for blob in blobs]


def test_a_hold_waits_for_an_eviction_that_has_the_blob_locked(store: BlobStore) -> None:
    blob = store.add([DATA])
    evictor = os.open(store.path(DIGEST), os.O_RDONLY)
    fcntl.flock(evictor, fcntl.LOCK_EX)
    answers: list[str] = []

    def hold() -> None:
        try:
            store.hold([blob])
        except BlobMissing as error:
            answers.append(str(error))

    holding = threading.Thread(target=hold)
    holding.start()
    holding.join(0.05)
    assert holding.is_alive()
    store.path(DIGEST).unlink()
    os.close(evictor)
    holding.join()
    assert 1 == len(answers)


def test_the_limit_of_open_files_is_raised_and_then_named(store: BlobStore) -> None:
    blobs = [store.add([bytes([number])]) for number in range(12)]
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free + 5, hard))
        with store.hold(blobs) as hold:
            assert 12 == len(hold)
        assert (hard, hard) == resource.getrlimit(resource.RLIMIT_NOFILE)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_limit_of_open_files_that_cannot_be_raised_is_an_error_that_says_so(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = [store.add([bytes([number])]) for number in range(3)]
    real = os.open
    opened: list[int] = []

    def limited(path: Path, flags: int, mode: int = 0o777) -> int:
        if len(opened) == 2:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        opened.append(real(path, flags, mode))
        return opened[-1]

    monkeypatch.setattr(os, "open", limited)
    monkeypatch.setattr(resource, "getrlimit", lambda which: (2, 2))
    with pytest.raises(StoreError, match=r"on top of 2 other blobs.*ulimit -n"):
        store.hold(blobs)
    monkeypatch.undo()
    assert not locked_by_others(store.path(blobs[0].sha256))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EPERM])
def test_a_blob_whose_last_use_cannot_be_written_is_held_all_the_same(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    blob = store.add([DATA])

    def refuse(file: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "utime", refuse)
    with store.hold([blob]):
        assert locked_by_others(store.path(DIGEST))


# --- sweeping ---------------------------------------------------------------------------------------------------------


def download(store: BlobStore, *, age_s: float) -> Path:
    """A resumable download that was last written ``age_s`` ago."""
    directory = store.root / "partial" / ("d" * 64)
    directory.mkdir(parents=True)
    for name in ("key.part", "key.done"):
        (directory / name).write_bytes(b"x" * 5000)
    written = (directory / "key.part").stat().st_mtime - age_s
    for path in [*directory.iterdir(), directory]:
        os.utime(path, (written, written))
    return directory


def test_a_download_is_swept_once_nobody_has_worked_on_it_for_long(store: BlobStore) -> None:
    directory = download(store, age_s=ABANDONED_S - 60)
    assert 0 == store.sweep()
    assert 2 == store.sweep(abandoned_s=60)
    assert not directory.exists()


def test_a_download_that_somebody_works_on_is_never_swept(store: BlobStore) -> None:
    directory = download(store, age_s=ABANDONED_S * 2)
    lock = store.root / "locks" / directory.name
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert 0 == store.sweep(abandoned_s=0)
        assert directory.exists()
    assert 2 == store.sweep()


def test_foreign_directories_are_not_swept_and_bytes_of_downloads_are_counted(store: BlobStore) -> None:
    assert 0 == store.partial_bytes()
    foreign = store.root / "partial" / "foreign"
    foreign.mkdir(parents=True)
    (foreign / "file").write_bytes(b"x" * 10_000)
    assert 0 == store.sweep(abandoned_s=0)
    assert 10_000 <= store.partial_bytes() <= 32_768
