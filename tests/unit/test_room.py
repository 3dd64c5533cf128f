"""Admission: what goes to make room, in which order, and what the refusal says."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from glowplug.cache.candidates import Candidates
from glowplug.cache.errors import StoreFull
from glowplug.cache.evict import NOTHING, Entry, Eviction
from glowplug.cache.holds import Hold
from glowplug.cache.index import Index
from glowplug.cache.pins import pin
from glowplug.cache.room import Budget, disk, make_room, prune, remove
from glowplug.cache.store import Blob, BlobStore

SIZE = 1000
GB = 10**9


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


def filled(store: BlobStore, count: int) -> list[Blob]:
    """Add ``count`` blobs of 1,000 bytes, the first of which is the least recently used."""
    blobs = [store.add([bytes([number]) * SIZE]) for number in range(count)]
    for number, blob in enumerate(blobs):
        used(store, blob, number)
    return blobs


def used(store: BlobStore, blob: Blob, at_s: float) -> None:
    os.utime(store.path(blob.sha256), (at_s, at_s))


def left(store: BlobStore, blobs: list[Blob]) -> list[bool]:
    return [store.has(blob.sha256, blob.size) for blob in blobs]


def small_disk(monkeypatch: pytest.MonkeyPatch, *, size: int, free: int) -> None:
    status = os.statvfs_result((1, 1, size, free, free, 100, 100, 100, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda path: status)


def test_the_reserve_is_five_percent_at_most_a_gibibyte(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    small_disk(monkeypatch, size=10 * GB, free=GB)
    assert GB // 2 == disk(store.root).reserve_bytes
    assert (0, 1) == (disk(store.root).short_bytes(GB // 2), disk(store.root).short_bytes(GB // 2 + 1))
    small_disk(monkeypatch, size=1000 * GB, free=GB)
    assert 1024**3 == disk(store.root).reserve_bytes
    assert 7 == disk(store.root, Budget(reserve_bytes=7)).reserve_bytes


def test_a_need_of_nothing_never_raises(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    small_disk(monkeypatch, size=10, free=0)
    assert NOTHING == make_room(store, 0, Budget(max_bytes=0, reserve_bytes=10**12))


def test_where_there_is_room_nothing_is_evicted_and_no_index_is_made(store: BlobStore) -> None:
    blobs = filled(store, 2)
    assert NOTHING == make_room(store, 100, Budget(reserve_bytes=0))
    assert ([True, True], False) == (left(store, blobs), store.index.path.exists())


def test_the_least_recently_used_go_for_the_budget(store: BlobStore) -> None:
    blobs = filled(store, 5)
    used(store, blobs[0], 100)
    done = make_room(store, 1500, Budget(max_bytes=5000, reserve_bytes=0))
    assert [blobs[1].sha256, blobs[2].sha256] == [entry.sha256 for entry in done.victims]
    assert (2000, 0) == (done.freed_bytes, done.short_bytes)
    assert [True, False, False, True, True] == left(store, blobs)
    assert (3, 3000) == store.index.totals()


def test_the_least_recently_used_go_for_the_disk(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    blobs = filled(store, 3)
    small_disk(monkeypatch, size=100_000, free=1500)
    make_room(store, 2000, Budget(reserve_bytes=500))
    assert [False, True, True] == left(store, blobs)


def test_held_and_pinned_blobs_stay(store: BlobStore) -> None:
    blobs = filled(store, 4)
    pin(store.root, "operator:x", [blobs[0].sha256])
    with BlobStore(store.root).hold([blobs[1]]):
        used(store, blobs[1], 1)
        make_room(store, SIZE, Budget(max_bytes=4000, reserve_bytes=0))
    assert [True, True, False, True] == left(store, blobs)


def test_the_refusal_says_what_is_needed_free_held_and_pinned_and_evicts_nothing(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    blobs = filled(store, 4)
    for owner in "edcba":
        pin(store.root, f"operator:{owner}", [blobs[0].sha256])
    small_disk(monkeypatch, size=10_000_000, free=3_000_000)
    with store.hold([blobs[1]]), pytest.raises(StoreFull) as caught:
        make_room(store, 8_000_000, Budget(max_bytes=5_000_000, reserve_bytes=1_000_000))
    for part in (
        str(store.root), "no room for 8.0 MB more, 6.0 MB are short", "3.0 MB free, 1.0 MB of which stay free",
        "takes 4.0 kB of the 5.0 MB it may take", "2.0 kB in 2 blobs could be evicted", "1.0 kB in 1 blobs are held",
        "1.0 kB in 1 blobs are pinned by operator:a, operator:b, operator:c and 2 more", "GLOWPLUG_CACHE_BYTES",
        "GLOWPLUG_CACHE_RESERVE_BYTES", "glowplug cache pin --remove",
    ):  # fmt: skip
        assert part in str(caught.value)
    assert [True] * 4 == left(store, blobs)


def test_blobs_used_since_the_index_was_written_stay_however_many_they_are(store: BlobStore) -> None:
    blobs = filled(store, 100)
    store.index.rebuild()
    for blob in blobs[:99]:
        used(store, blob, 1000)
    make_room(store, SIZE, Budget(max_bytes=100 * SIZE, reserve_bytes=0))
    assert [*[True] * 99, False] == left(store, blobs)


def test_rows_of_blobs_that_are_gone_count_for_nothing(store: BlobStore) -> None:
    blobs = filled(store, 3)
    store.index.add(Entry("e" * 64, 10**9, 0.0))
    assert NOTHING == make_room(store, SIZE, Budget(max_bytes=4 * SIZE, reserve_bytes=0))
    assert ([True] * 3, (3, 3000)) == (left(store, blobs), store.index.totals())


def test_blobs_that_the_index_has_lost_are_found_before_anybody_is_refused(store: BlobStore) -> None:
    blobs = filled(store, 3)
    store.index.rebuild()
    store.index._run(lambda database: database.execute("DELETE FROM blobs"))
    with pytest.raises(StoreFull, match=r"takes 3\.0 kB"):
        make_room(store, 5000, Budget(max_bytes=4000, reserve_bytes=0))
    assert ([True] * 3, (3, 3000)) == (left(store, blobs), store.index.totals())


def dead_download(store: BlobStore, size: int) -> Path:
    path = store.root / "partial" / ("d" * 64) / "key.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"x" * size)
    return path


def test_downloads_dead_for_a_day_go_before_any_blob(store: BlobStore) -> None:
    blobs = filled(store, 2)
    path = dead_download(store, 100_000)
    for old in (path, path.parent):
        os.utime(old, (1, 1))
    assert NOTHING == make_room(store, SIZE, Budget(max_bytes=50_000, reserve_bytes=0))
    assert ([True, True], False) == (left(store, blobs), path.exists())


def test_a_download_that_died_just_now_goes_when_nothing_else_is_enough(store: BlobStore) -> None:
    blobs = filled(store, 2)
    path = dead_download(store, 100_000)
    make_room(store, SIZE, Budget(max_bytes=store.partial_bytes() + 2 * SIZE, reserve_bytes=0))
    assert ([False, True], True) == (left(store, blobs), path.exists())
    make_room(store, 2 * SIZE, Budget(max_bytes=3 * SIZE, reserve_bytes=0))
    assert ([False, True], False) == (left(store, blobs), path.exists())


def test_the_download_of_the_fetch_that_asks_stays(store: BlobStore) -> None:
    path = dead_download(store, 100_000)
    lock = store.root / "locks" / path.parent.name
    lock.parent.mkdir(parents=True)
    with lock.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StoreFull):
            make_room(store, SIZE, Budget(max_bytes=2 * SIZE, reserve_bytes=0))
    assert path.exists()


@pytest.mark.parametrize("held", [1, 3])
def test_a_blob_held_between_the_choice_and_its_removal_stays_and_another_goes_if_one_can(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch, held: int
) -> None:
    blobs = filled(store, 3)
    holder = BlobStore(store.root)
    real = Candidates.choose
    choices: list[Eviction] = []
    holds: list[Hold] = []

    def choose(self: Candidates, need: Callable[[], int]) -> Eviction:
        choices.append(real(self, need))
        if len(choices) == 2:  # the first one decides whether to admit, the second what goes
            holds.append(holder.hold(blobs[:held]))
        return choices[-1]

    monkeypatch.setattr(Candidates, "choose", choose)
    budget = Budget(max_bytes=3 * SIZE, reserve_bytes=0)
    if held == 1:
        assert [blobs[1].sha256] == [entry.sha256 for entry in make_room(store, SIZE, budget).victims]
        assert [True, False, True] == left(store, blobs)
    else:
        with pytest.raises(StoreFull, match=r"3\.0 kB in 3 blobs are held"):
            make_room(store, SIZE, budget)
        assert [True] * 3 == left(store, blobs)
    holds[0].close()


def test_one_odd_file_does_not_keep_the_others(store: BlobStore, tmp_path: Path) -> None:
    blobs = filled(store, 2)
    store.index.rebuild()
    path = store.path(blobs[0].sha256)
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    make_room(store, SIZE, Budget(max_bytes=2 * SIZE, reserve_bytes=0))
    assert (True, False) == (path.is_symlink(), store.has(blobs[1].sha256))


def test_prune_evicts_down_to_a_size_and_says_what_it_could_not(store: BlobStore) -> None:
    blobs = filled(store, 4)
    store.index.rebuild()
    assert (1000, 0) == (prune(store, to_bytes=3000).freed_bytes, prune(store, to_bytes=3000).short_bytes)
    with store.hold(blobs[3:]):
        done = prune(store, to_bytes=0)
    assert (2000, 1000) == (done.freed_bytes, done.short_bytes)
    assert [False, False, False, True] == left(store, blobs)
    assert (1, 1000) == Index(store.root).totals()


def test_prune_forgets_old_pins_of_paths_that_are_gone(store: BlobStore, tmp_path: Path) -> None:
    blobs = filled(store, 1)
    pin(store.root, str(tmp_path / "gone"), [blobs[0].sha256])
    [path] = (store.root / "pins").iterdir()
    os.utime(path, (1, 1))
    prune(store, to_bytes=0)
    assert ([], [False]) == (list((store.root / "pins").iterdir()), left(store, blobs))


def test_what_is_removed_by_name_goes_unless_it_is_held_or_pinned(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    free, held, wanted = (store.add([text]) for text in (b"weights", b"held", b"pinned"))
    pin(tmp_path, "operator:mine", [wanted.sha256])
    with BlobStore(tmp_path).hold([held]):
        removal = remove(store, [blob.sha256 for blob in (free, held, wanted)] + ["0" * 64])
    assert [free.sha256] == [victim.sha256 for victim in removal.freed.victims]
    assert 7 == removal.freed.freed_bytes
    assert {held.sha256: "a process has them open", wanted.sha256: "pinned by operator:mine"} == removal.kept
    assert [False, True, True] == [store.has(blob.sha256) for blob in (free, held, wanted)]
    assert 2 == store.index.totals()[0]
