"""The index: names every blob whatever happens to its file, and never fails whoever asks."""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from glowplug.cache import index as indexing
from glowplug.cache.errors import StoreError, StoreFull
from glowplug.cache.evict import Entry
from glowplug.cache.index import Index, blob_path, scan


@pytest.fixture
def index(tmp_path: Path) -> Index:
    return Index(tmp_path)


def blob(root: Path, letter: str, size: int = 1, used_s: float = 1000.0) -> Entry:
    """Put a file where a blob of this digest would be."""
    path = blob_path(root, letter * 64)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    os.utime(path, (used_s, used_s))
    return Entry(letter * 64, size, used_s)


def known(index: Index) -> list[Entry]:
    return sorted(index.entries(), key=lambda entry: entry.sha256)


def rows(root: Path) -> list[tuple[str, int, float]]:
    """What the database itself says."""
    connection = sqlite3.connect(root / "index.db")
    try:
        return connection.execute("SELECT * FROM blobs ORDER BY sha256").fetchall()
    finally:
        connection.close()


def test_an_index_that_is_not_there_is_made_by_scanning(tmp_path: Path, index: Index) -> None:
    assert [] == known(index)
    index.path.unlink()
    a, b = blob(tmp_path, "a", 3), blob(tmp_path, "b", 4, 2000.5)
    assert [a, b] == known(index)
    assert (2, 7) == index.totals()
    assert [("a" * 64, 3, 1000.0), ("b" * 64, 4, 2000.5)] == rows(tmp_path)


def test_only_blobs_are_scanned(tmp_path: Path) -> None:
    a = blob(tmp_path, "a")
    blobs = tmp_path / "blobs"
    (blobs / "aa" / ".nfs0001").write_text("foreign")
    (blobs / "aa" / ("b" * 64)).write_text("in another's directory")
    (blobs / "aa" / ("aa" + "0" * 62)).symlink_to("/etc/passwd")
    (blobs / "aa" / ("aa" + "1" * 62)).mkdir()
    os.mkfifo(blobs / "aa" / ("aa" + "2" * 62))
    (blobs / "README").write_text("foreign")
    (blobs / "lost+found").mkdir()
    (blobs / "cc").symlink_to(blobs / "aa")
    assert [a] == list(scan(tmp_path))


def test_a_row_is_there_before_the_blob_and_a_later_one_replaces_it(tmp_path: Path, index: Index) -> None:
    index.rebuild()
    with index.publishing(Entry("a" * 64, 3, 1.0)):
        assert [("a" * 64, 3, 1.0)] == rows(tmp_path)
    index.add(Entry("a" * 64, 3, 2.0))
    assert [Entry("a" * 64, 3, 2.0)] == known(index)


def test_publishing_without_an_index_makes_none_because_the_scan_will_see_the_blob(
    tmp_path: Path, index: Index
) -> None:
    with index.publishing(Entry("a" * 64, 1, 1.0)):
        a = blob(tmp_path, "a")
    assert not index.path.exists()
    assert [a] == known(index)


def test_a_rebuild_between_a_row_and_its_rename_does_not_lose_the_blob(tmp_path: Path, index: Index) -> None:
    index.rebuild()
    rebuilding = threading.Thread(target=Index(tmp_path).rebuild)
    with index.publishing(Entry("a" * 64, 1, 1.0)):
        rebuilding.start()
        rebuilding.join(0.05)
        assert rebuilding.is_alive()
        a = blob(tmp_path, "a")
    rebuilding.join()
    assert [a] == known(index)


def test_a_blob_published_again_while_its_eviction_is_written_down_stays_known(tmp_path: Path, index: Index) -> None:
    a = blob(tmp_path, "a")
    index.rebuild()
    blob_path(tmp_path, a.sha256).unlink()  # evicted, and
    index.add(a)
    blob(tmp_path, "a")  # published again, before the evictor says
    index.drop([a.sha256])
    assert [a] == known(index)
    blob_path(tmp_path, a.sha256).unlink()
    index.drop([a.sha256])
    assert [] == known(index)


def scrambled(path: Path) -> None:
    path.write_bytes(os.urandom(path.stat().st_size))


def truncated(path: Path) -> None:
    os.truncate(path, 700)


def emptied(path: Path) -> None:
    os.truncate(path, 0)


def foreign(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE blobs (name TEXT)")
    connection.close()


def newer(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()


def with_other_types(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("INSERT INTO blobs VALUES ('../../etc/passwd', 'huge', 'never')")
    connection.commit()
    connection.close()


def of_another_boot(path: Path) -> None:
    connection = sqlite3.connect(path)
    connection.execute("UPDATE made SET boot = 'before the power cut'")
    connection.execute("DELETE FROM blobs")
    connection.commit()
    connection.close()


DAMAGES = [scrambled, truncated, emptied, Path.unlink, foreign, newer, with_other_types, of_another_boot]


@pytest.mark.parametrize("open_before", [True, False])
@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_index_is_made_anew(tmp_path: Path, damage: Callable[[Path], None], open_before: bool) -> None:
    index = Index(tmp_path)
    a, b = blob(tmp_path, "a"), blob(tmp_path, "b", 5)
    index.rebuild()
    index.close()
    if open_before:
        index.totals()
    damage(index.path)
    if damage is newer or damage is of_another_boot:
        index.close()  # looked at when a process opens it, once
    assert [a, b] == known(index)
    assert (2, 6) == index.totals()
    assert [a, b] == known(Index(tmp_path))  # the open one may still have had good pages in memory


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_publishing_into_a_damaged_index_publishes_and_loses_nothing(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    index = Index(tmp_path)
    a = blob(tmp_path, "a")
    index.rebuild()
    index.close()
    damage(index.path)
    with index.publishing(Entry("b" * 64, 5, 1000.0)):
        b = blob(tmp_path, "b", 5)
    assert [a, b] == known(Index(tmp_path))


def test_where_no_index_can_be_written_the_scan_is_the_answer(tmp_path: Path, index: Index) -> None:
    a = blob(tmp_path, "a", 3)

    def refuse(*arguments: object, **options: object) -> sqlite3.Connection:
        raise sqlite3.OperationalError("database or disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sqlite3, "connect", refuse)
        assert [a] == known(index)
        assert (1, 3) == index.totals()
        with index.publishing(Entry("b" * 64, 1, 1000.0)):
            b = blob(tmp_path, "b")
        assert [a, b] == known(index)
        assert not index.path.exists()
    assert [a, b] == known(index)
    assert 2 == len(rows(tmp_path))


def test_an_index_that_can_be_neither_written_nor_removed_stops_the_publishing(tmp_path: Path, index: Index) -> None:
    index.path.mkdir()
    with pytest.raises(StoreError, match=str(index.path)), index.publishing(Entry("a" * 64, 1, 1.0)):
        pytest.fail("the blob would be unknown for ever")


def test_a_process_notices_that_another_one_made_the_index_anew(tmp_path: Path, index: Index) -> None:
    a = blob(tmp_path, "a")
    assert [a] == known(index)
    other = Index(tmp_path)
    other.rebuild()
    b = Entry("b" * 64, 1, 7.0)
    other.add(b)
    assert [a, b] == known(index)
    index.add(Entry("c" * 64, 1, 8.0))
    assert ["a", "b", "c"] == [entry.sha256[0] for entry in known(other)]


def test_closing_an_index_that_was_replaced_leaves_the_log_of_the_new_one(tmp_path: Path, index: Index) -> None:
    blob(tmp_path, "a")
    index.totals()
    index.add(Entry("b" * 64, 1, 1.0))
    other = Index(tmp_path)
    other.rebuild()
    other.add(Entry("c" * 64, 1, 1.0))
    log = Path(f"{index.path}-wal")
    inode = log.stat().st_ino
    index.close()
    assert inode == log.stat().st_ino
    assert ["a", "c"] == [entry.sha256[0] for entry in known(other)]


def test_a_writer_that_never_ends_is_left_behind_with_its_file(
    tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(indexing, "BUSY_S", 0.01)
    a = blob(tmp_path, "a")
    index.rebuild()
    index.close()
    stuck = sqlite3.connect(index.path, isolation_level=None)
    stuck.execute("BEGIN IMMEDIATE")
    with index.publishing(Entry("b" * 64, 1, 1000.0)):
        b = blob(tmp_path, "b")
    assert [a, b] == known(index)
    stuck.close()


def test_threads_share_an_index(tmp_path: Path, index: Index) -> None:
    index.rebuild()
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                index.add(Entry(f"{number}{step}".ljust(64, "0"), 1, 1.0))
                index.totals()
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ([], (40, 40)) == (failed, index.totals())


def test_a_fork_opens_a_connection_of_its_own(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    a = blob(tmp_path, "a")
    index.totals()
    inherited = index._connection
    here = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: here + 1)
    assert [a] == known(index)
    assert index._connection is not inherited
    monkeypatch.undo()
    assert inherited is not None
    assert (1,) == inherited.execute("SELECT count(*) FROM blobs").fetchone()  # not closed: it is the parent's
    inherited.close()
    indexing._inherited.remove(inherited)
    index._process = here
    index.close()


def test_an_unreadable_store_is_the_only_error(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(StoreFull, match="blobs"):
        index.entries()
