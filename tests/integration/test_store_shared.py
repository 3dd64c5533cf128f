"""One store, several processes: holds against evictions in both orders, and an index that is pulled away under way."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from glowplug.cache.errors import BlobMissing, StoreFull
from glowplug.cache.index import Index, scan
from glowplug.cache.room import Budget, make_room
from glowplug.cache.store import Blob, BlobStore

SIZE = 1000


class Process:
    """A Python process that works on a store; lines go both ways."""

    def __init__(self, program: str, *arguments: object) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", program, *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def says(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def go_on(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write("\n")

    def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        self._process.kill()
        self._process.communicate()


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def begin(program: str, *arguments: object) -> Process:
        started.append(Process(program, *arguments))
        return started[-1]

    yield begin
    for process in started:
        process.close()


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "cache")


def filled(store: BlobStore, count: int) -> list[Blob]:
    blobs = [store.add([bytes([number]) * SIZE]) for number in range(count)]
    for number, blob in enumerate(blobs):
        os.utime(store.path(blob.sha256), (number, number))
    return blobs


HOLDER = """
import sys
from pathlib import Path
from glowplug.cache.store import Blob, BlobStore
hold = BlobStore(Path(sys.argv[1])).hold([Blob(sys.argv[2], int(sys.argv[3]))])
print("held", flush=True)
sys.stdin.readline()
hold.close()
print("closed", flush=True)
sys.stdin.readline()
"""


def test_a_blob_that_another_process_holds_is_not_evicted_until_it_lets_go(
    store: BlobStore, start: Callable[..., Process]
) -> None:
    [blob] = filled(store, 1)
    holder = start(HOLDER, store.root, blob.sha256, blob.size)
    assert "held" == holder.says()
    with pytest.raises(StoreFull, match=r"1\.0 kB in 1 blobs are held"):
        make_room(store, SIZE, Budget(max_bytes=SIZE, reserve_bytes=0))
    holder.go_on()
    assert "closed" == holder.says()
    make_room(store, SIZE, Budget(max_bytes=SIZE, reserve_bytes=0))
    assert not store.has(blob.sha256)


def test_the_kernel_lets_go_for_a_holder_that_was_killed(store: BlobStore, start: Callable[..., Process]) -> None:
    [blob] = filled(store, 1)
    holder = start(HOLDER, store.root, blob.sha256, blob.size)
    assert "held" == holder.says()
    holder.kill()
    make_room(store, SIZE, Budget(max_bytes=SIZE, reserve_bytes=0))
    assert not store.has(blob.sha256)


EVICTOR = """
import os, sys
from pathlib import Path
from glowplug.cache.room import Budget, make_room
from glowplug.cache.store import BlobStore
real = Path.unlink
def unlink(path, missing_ok=False):
    if "blobs" in path.parts:
        print("about to unlink", flush=True)  # it has the blob locked
        sys.stdin.readline()
    real(path, missing_ok)
Path.unlink = unlink
make_room(BlobStore(Path(sys.argv[1])), 1000, Budget(max_bytes=1000, reserve_bytes=0))
print("evicted", flush=True)
sys.stdin.readline()
"""


def test_a_holder_that_comes_while_the_blob_is_evicted_waits_and_is_told_that_it_is_missing(
    store: BlobStore, start: Callable[..., Process]
) -> None:
    [blob] = filled(store, 1)
    evictor = start(EVICTOR, store.root)
    assert "about to unlink" == evictor.says()
    evictor.go_on()
    with pytest.raises(BlobMissing, match=blob.sha256):
        store.hold([blob])
    assert "evicted" == evictor.says()


def test_an_evictor_that_is_killed_half_way_leaves_a_store_that_works(
    store: BlobStore, start: Callable[..., Process]
) -> None:
    [blob] = filled(store, 1)
    evictor = start(EVICTOR, store.root)
    assert "about to unlink" == evictor.says()
    evictor.kill()
    with store.hold([blob]):
        pass
    make_room(store, SIZE, Budget(max_bytes=SIZE, reserve_bytes=0))
    assert (False, (0, 0)) == (store.has(blob.sha256), store.index.totals())


PUBLISHER = """
import sys
from pathlib import Path
from glowplug.cache.store import BlobStore
store = BlobStore(Path(sys.argv[1]))
for number in range(int(sys.argv[2])):
    blob = store.add([f"{sys.argv[3]} {number} ".encode() * 50])
    print(blob.sha256, flush=True)
    if number == 0:
        sys.stdin.readline()
print("done", flush=True)
sys.stdin.readline()
"""


def deleted(path: Path) -> None:
    path.unlink(missing_ok=True)


def scrambled(path: Path) -> None:
    if path.exists():
        with path.open("r+b") as file:
            file.write(os.urandom(path.stat().st_size))


def foreign(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        Path(f"{path}{suffix}").unlink(missing_ok=True)
    path.write_text("something else altogether")


@pytest.mark.parametrize("damage", [deleted, scrambled, foreign])
def test_an_index_pulled_away_while_two_processes_use_it_loses_no_blob(
    store: BlobStore, start: Callable[..., Process], damage: Callable[[Path], None]
) -> None:
    filled(store, 3)
    store.index.rebuild()
    publishers = [start(PUBLISHER, store.root, 40, name) for name in ("one", "two")]
    for publisher in publishers:
        publisher.says()  # it has the index open
        publisher.go_on()
    for _ in range(10):
        damage(store.index.path)
        store.index.totals()
    published = set()
    for publisher in publishers:
        while (line := publisher.says()) != "done":
            published.add(line)
    damage(store.index.path)
    known = {entry.sha256 for entry in Index(store.root).entries()}
    assert 78 == len(published)
    assert {entry.sha256 for entry in scan(store.root)} == known
    assert published <= known


def test_processes_that_rebuild_publish_and_evict_at_once_agree_in_the_end(
    store: BlobStore, start: Callable[..., Process]
) -> None:
    filled(store, 5)
    publishers = [start(PUBLISHER, store.root, 30, name) for name in ("one", "two")]
    for publisher in publishers:
        publisher.says()
        publisher.go_on()
    for _ in range(10):
        store.index.rebuild()
        _, size = store.index.totals()
        with contextlib.suppress(StoreFull):  # what the publishers are writing at the moment counts too
            make_room(BlobStore(store.root), 100, Budget(max_bytes=max(size, 1000), reserve_bytes=0))
    for publisher in publishers:
        while publisher.says() != "done":
            pass
    there = sorted(entry.sha256 for entry in scan(store.root))
    assert there == sorted(entry.sha256 for entry in store.index.entries())
    make_room(store, SIZE, Budget(max_bytes=SIZE, reserve_bytes=0))
    assert ([], (0, 0)) == (list(scan(store.root)), Index(store.root).totals())


def test_a_child_made_by_fork_neither_keeps_nor_frees_a_hold(store: BlobStore) -> None:
    blobs = filled(store, 2)
    program = f"""
import os, sys
from pathlib import Path
from glowplug.cache.errors import StoreFull
from glowplug.cache.room import Budget, make_room
from glowplug.cache.store import Blob, BlobStore
store = BlobStore(Path({str(store.root)!r}))
first, second = (store.hold([Blob(digest, {SIZE})]) for digest in {[blob.sha256 for blob in blobs]!r})
store.index.totals()
ready, go_on = os.pipe(), os.pipe()
child = os.fork()
if child == 0:
    first.close()  # in the child: must not free the parent's
    store.index.totals()
    os.write(ready[1], b"x")
    os.read(go_on[0], 1)
    os._exit(0)
os.read(ready[0], 1)
try:
    make_room(BlobStore(store.root), 1, Budget(max_bytes=2 * {SIZE}, reserve_bytes=0))
    sys.exit("evicted what the parent holds")
except StoreFull:
    second.close()  # the child lives and has a copy of the descriptor
done = make_room(BlobStore(store.root), 1, Budget(max_bytes=2 * {SIZE}, reserve_bytes=0))
os.write(go_on[1], b"x")
os.waitpid(child, 0)
print(*[entry.sha256 for entry in done.victims])
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=False)
    assert (f"{blobs[1].sha256}\n", "") == (ran.stdout, ran.stderr)
