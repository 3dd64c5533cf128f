"""From a listed file to a blob: pieces and streams, what breaks on the way, what is continued."""

from __future__ import annotations

import hashlib
import io
import math
import os
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, cast

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glowplug.cache import parallel, streams
from glowplug.cache import transfer as module
from glowplug.cache.errors import (
    DigestMismatch,
    SourceChanged,
    SourceForbidden,
    SourceUnreachable,
    StoreError,
    StoreFull,
)
from glowplug.cache.partial import Partial
from glowplug.cache.retry import Backoff
from glowplug.cache.sources.listing import ListedFile
from glowplug.cache.store import BlobStore
from glowplug.cache.streams import LEAST_BYTES_PER_S, Pace
from glowplug.cache.transfer import Transfer, Transferred

DATA = random.Random(1).randbytes(64 * 1024 + 77)
SHA256 = hashlib.sha256(DATA).hexdigest()
PIECE = 8 * 1024


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces of 8 KiB and reads of 1 KiB, so that 64 KiB are a large file."""
    monkeypatch.setattr(module, "PIECE_BYTES", PIECE)
    monkeypatch.setattr(module, "BUFFER_BYTES", 1024)
    monkeypatch.setattr(parallel, "BUFFER_BYTES", 1024)
    monkeypatch.setattr(parallel, "FLUSH_BYTES", 16 * 1024)
    monkeypatch.setattr(parallel, "_JOIN_S", 10.0)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path)


class Stream(io.RawIOBase):
    """Gives ``data`` in reads of at most ``step`` bytes, then ends or raises ``error``."""

    def __init__(self, data: bytes, *, step: int = 700, error: Exception | None = None) -> None:
        self._data, self._step, self._error = memoryview(data), step, error

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        size = min(len(buffer), self._step, len(self._data))
        if not size and self._error is not None:
            raise self._error
        buffer[:size] = self._data[:size]
        self._data = self._data[size:]
        return size


class Source:
    """A file that counts what is asked of it; ``answer`` may replace the stream of one opening."""

    def __init__(self, data: bytes = DATA, *, ranged: bool = True, connections: int = 1, version: str = "v1") -> None:
        self.data = data
        self.asked: list[tuple[int, int | None]] = []
        self.answer: Callable[[int, int | None, int], BinaryIO | None] = lambda start, stop, number: None
        self._lock = threading.Lock()
        self.file = ListedFile("model.safetensors", len(data), version, self.open, ranged, connections)

    def open(self, start: int = 0, stop: int | None = None) -> BinaryIO:
        with self._lock:
            self.asked.append((start, stop))
            number = len(self.asked)
        answer = self.answer(start, stop, number)
        return answer if answer is not None else stream(self.data[start:stop])


@pytest.mark.parametrize(
    ("missing", "connections", "pieces"), [(1, 1, 1), (60, 1, 60), (11, 8, 1), (60, 8, 3), (256, 8, 4), (0, 8, 1)]
)
def test_spans_are_long_where_every_connection_still_gets_two(missing: int, connections: int, pieces: int) -> None:
    assert pieces == parallel._span_pieces(missing, connections)


def stream(data: bytes, **options: Any) -> BinaryIO:
    return cast(BinaryIO, Stream(data, **options))


def bring(source: Source | ListedFile, store: BlobStore, *, expected: str = "", **options: Any) -> Transferred:
    file = source.file if isinstance(source, Source) else source
    options = {"room": pytest.fail, "backoff": Backoff(base_s=0.0), **options}
    transfer = Transfer("s3://bucket/model", store, **options)
    key = transfer.partials.key(file, expected)
    return transfer.bring(file, key, expected=expected, report=lambda done, fetched: None)


def leftovers(store: BlobStore) -> list[str]:
    return sorted(path.suffix for path in (store.root / "partial").rglob("*") if path.is_file())


def blobs(store: BlobStore) -> list[Path]:
    return list((store.root / "blobs").rglob("*/*"))


# --- in pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("connections", "openings"), [(1, 1), (4, 9)])
def test_a_large_file_comes_in_pieces(store: BlobStore, connections: int, openings: int) -> None:
    source = Source(connections=connections)
    done = bring(source, store)
    assert (SHA256, len(DATA), 0, 0) == (done.blob.sha256, done.fetched_bytes, done.resumed_bytes, done.retries)
    assert DATA == store.path_of(done.blob).read_bytes()
    assert openings == len(source.asked)
    assert (len(DATA) // PIECE * PIECE if connections > 1 else 0, None) == sorted(source.asked, key=lambda it: it[0])[
        -1
    ]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.integers(PIECE + 1, 5 * PIECE),
    connections=st.integers(1, 5),
    step=st.integers(1, 3000),
    cuts=st.lists(st.integers(0, 2 * PIECE), max_size=4),
    left=st.sets(st.integers(0, 4)),
)
def test_whatever_breaks_and_whatever_was_left_the_bytes_are_right(
    tmp_path_factory: pytest.TempPathFactory, size: int, connections: int, step: int, cuts: list[int], left: set[int]
) -> None:
    data = random.Random(size).randbytes(size)
    store, source = BlobStore(tmp_path_factory.mktemp("store")), Source(data, connections=connections)
    leave(store, source, left)

    def answer(start: int, stop: int | None, number: int) -> BinaryIO:
        if number <= len(cuts):
            cut = data[start:stop][: cuts[number - 1]]
            return stream(cut, step=step, error=SourceUnreachable("reset") if number % 2 else None)
        return stream(data[start:stop], step=step)

    source.answer = answer
    done = bring(source, store)
    assert hashlib.sha256(data).hexdigest() == done.blob.sha256
    assert data == store.path_of(done.blob).read_bytes()
    assert size == done.fetched_bytes + done.resumed_bytes
    assert done.retries <= len(cuts)


def leave(store: BlobStore, source: Source, pieces: set[int]) -> None:
    """Leave some pieces as a killed fetch would."""
    transfer = Transfer("s3://bucket/model", store, room=lambda need_bytes: None, backoff=Backoff())
    key = transfer.partials.key(source.file, "")
    assert key is not None
    partial = transfer.partials.open(key, len(source.data), piece_bytes=PIECE)
    for piece in pieces & set(range(partial.pieces)):
        start = piece * PIECE
        partial.write(memoryview(source.data)[start : start + partial.length(piece)], start)
        partial.mark(piece)
    partial.close()


def test_a_broken_connection_is_continued_at_the_byte_it_had_reached(store: BlobStore) -> None:
    source = Source()
    source.answer = lambda start, stop, number: (
        stream(DATA[start : start + 1000], error=SourceUnreachable("reset")) if number <= 3 else None
    )
    done = bring(source, store)
    assert [(0, None), (1000, None), (2000, None), (3000, None)] == source.asked
    assert (SHA256, len(DATA), 3) == (done.blob.sha256, done.fetched_bytes, done.retries)


def test_what_an_earlier_process_left_is_not_fetched_again(store: BlobStore) -> None:
    source = Source(connections=3)
    leave(store, source, {0, 1, 3, 8})
    done = bring(source, store)
    assert (SHA256, 3 * PIECE + 77) == (done.blob.sha256, done.resumed_bytes)
    assert len(DATA) == done.fetched_bytes + done.resumed_bytes
    assert [2, 4, 5, 6, 7] == sorted(start // PIECE for start, _ in source.asked)


def test_a_file_that_was_left_complete_only_has_to_be_digested(store: BlobStore) -> None:
    source = Source(connections=3)
    leave(store, source, set(range(9)))
    done = bring(source, store)
    assert (SHA256, 0, len(DATA), []) == (done.blob.sha256, done.fetched_bytes, done.resumed_bytes, source.asked)


def test_a_failed_fetch_keeps_its_whole_pieces(store: BlobStore) -> None:
    source = Source()
    source.answer = lambda start, stop, number: stream(DATA[start : 2 * PIECE + 5], error=SourceForbidden("expired"))
    with pytest.raises(SourceForbidden, match="expired"):
        bring(source, store)
    assert ([".done", ".part"], []) == (leftovers(store), blobs(store))
    source.answer = lambda start, stop, number: None
    assert 2 * PIECE == bring(source, store).resumed_bytes


def test_bytes_that_were_damaged_while_they_waited_are_fetched_once_more(store: BlobStore) -> None:
    """A pinned fetch would fail for ever otherwise, from the same damaged piece each time."""
    source = Source()
    leave(store, source, {0, 4})
    (part,) = (store.root / "partial").rglob("*.part")
    with part.open("r+b") as file:
        file.write(bytes([DATA[0] ^ 1]))
    done = bring(source, store, expected=SHA256)
    assert (SHA256, 0, 2 * len(DATA) - 2 * PIECE) == (done.blob.sha256, done.resumed_bytes, done.fetched_bytes)
    assert DATA == store.path_of(done.blob).read_bytes()


def test_a_source_with_wrong_bytes_is_asked_once_and_nothing_is_kept(store: BlobStore) -> None:
    source = Source()
    with pytest.raises(DigestMismatch, match=f"expected sha256 {'1' * 64}, got {SHA256}"):
        bring(source, store, expected="1" * 64)
    assert (1, [], []) == (len(source.asked), leftovers(store), blobs(store))


def test_wrong_bytes_after_a_resume_are_the_sources_only_if_they_are_wrong_twice(store: BlobStore) -> None:
    source = Source()
    leave(store, source, {0})
    with pytest.raises(DigestMismatch, match=f"expected sha256 {'1' * 64}, got {SHA256}"):
        bring(source, store, expected="1" * 64)
    assert [(PIECE, None), (0, None)] == source.asked


def test_no_piece_begins_far_ahead_of_the_digest(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LEAD_BYTES", PIECE)
    digested, real = [0], Partial.read

    def read(self: Partial, buffer: memoryview, offset: int) -> int:
        digested[0] = offset + len(buffer)
        return real(self, buffer, offset)

    def answer(start: int, stop: int | None, number: int) -> BinaryIO | None:
        assert start <= digested[0] + (1 + 2 * 2) * PIECE  # the lead, and two spans of two pieces under way
        return None

    monkeypatch.setattr(Partial, "read", read)
    source = Source(connections=2)
    source.answer = answer
    assert SHA256 == bring(source, store).blob.sha256


def test_digesting_what_was_left_keeps_nothing_waiting(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parallel, "LEAD_BYTES", 0)
    source, asked, real = Source(connections=2), threading.Event(), Partial.read
    leave(store, source, set(range(8)))

    def read(self: Partial, buffer: memoryview, offset: int) -> int:
        assert asked.wait(10)
        return real(self, buffer, offset)

    monkeypatch.setattr(Partial, "read", read)

    def answer(start: int, stop: int | None, number: int) -> BinaryIO | None:
        asked.set()
        return None

    source.answer = answer
    assert SHA256 == bring(source, store).blob.sha256


@pytest.mark.parametrize("connections", [1, 3])
def test_more_than_was_listed_is_a_change(store: BlobStore, connections: int) -> None:
    source = Source(connections=connections)
    source.answer = lambda start, stop, number: stream((DATA + b"more")[start:stop])
    with pytest.raises(SourceChanged, match=f"model.safetensors sends more than the {len(DATA)} bytes"):
        bring(source, store)
    assert [] == blobs(store)


def test_a_source_that_ignores_where_to_stop_is_cut_off(store: BlobStore) -> None:
    source = Source(connections=3)
    source.answer = lambda start, stop, number: stream(DATA[start:])
    assert SHA256 == bring(source, store).blob.sha256


def test_a_stream_that_always_ends_early_is_given_up_with_where_it_ended(store: BlobStore) -> None:
    source = Source()
    source.answer = lambda start, stop, number: stream(DATA[start:PIECE])
    with pytest.raises(SourceUnreachable, match=f"ended at byte {PIECE} of {len(DATA)}"):
        bring(source, store)


def test_one_failed_connection_ends_the_others(store: BlobStore) -> None:
    source, started, before = Source(connections=3), threading.Barrier(3), set(threading.enumerate())

    def answer(start: int, stop: int | None, number: int) -> BinaryIO:
        if number <= 3:
            started.wait(10)
        if start == PIECE:
            raise SourceForbidden("no")
        return stream(DATA[start:stop], step=1)

    source.answer = answer
    with pytest.raises(SourceForbidden):
        bring(source, store)
    assert before >= set(threading.enumerate())


def test_a_read_that_never_ends_keeps_no_error_back_and_writes_into_no_other_file(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "_JOIN_S", 0.01)
    source, blocked, go_on = Source(connections=2), threading.Event(), threading.Event()

    class Blocking(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            blocked.set()
            assert go_on.wait(10)
            buffer[:4] = b"late"
            return 4

    def answer(start: int, stop: int | None, number: int) -> BinaryIO:
        if start == 0:
            return cast(BinaryIO, Blocking())
        assert blocked.wait(10)
        raise SourceForbidden("no")

    source.answer = answer
    before = set(threading.enumerate())
    with pytest.raises(SourceForbidden):
        bring(source, store)
    stray = set(threading.enumerate()) - before
    assert stray
    (part,) = (store.root / "partial").rglob("*.part")
    assert part in [path.resolve() for path in Path("/proc/self/fd").iterdir()]
    go_on.set()
    for thread in stray:
        thread.join(10)
    assert b"late" != part.read_bytes()[:4]


def test_a_full_disk_keeps_whole_pieces_for_the_next_time(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.pwrite

    def full(descriptor: int, data: Any, offset: int) -> int:
        if 3 * PIECE <= offset < len(DATA) and len(data) > 1:
            raise OSError(28, "No space left on device")
        return real(descriptor, data, offset)

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(StoreFull, match=r"\.part: No space left"):
        bring(Source(), store)
    assert [] == blobs(store)
    monkeypatch.setattr(os, "pwrite", real)
    assert 3 * PIECE == bring(Source(), store).resumed_bytes


def test_a_failing_flush_fails_the_transfer(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", broken)
    source = Source()
    source.answer = lambda start, stop, number: stream(DATA[start:stop], step=1)
    with pytest.raises(StoreError, match="Input/output error"):
        bring(source, store)
    assert [] == blobs(store)


# --- as one stream ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [Source(DATA[:PIECE]), Source(ranged=False, connections=4), Source(version="", connections=4), Source(b"")],
    ids=["small", "no ranges", "nothing to tell versions by", "empty"],
)
def test_other_files_come_as_one_stream(store: BlobStore, source: Source) -> None:
    done = bring(source, store)
    assert source.data == store.path_of(done.blob).read_bytes()
    assert [(0, None)] == source.asked


def test_a_broken_stream_begins_again(store: BlobStore) -> None:
    source = Source(ranged=False)
    source.answer = lambda start, stop, number: (
        stream(DATA[:5000], error=SourceUnreachable("reset")) if number == 1 else None
    )
    done = bring(source, store)
    assert (SHA256, len(DATA) + 5000, 1) == (done.blob.sha256, done.fetched_bytes, done.retries)
    assert [".done"] == leftovers(store)


def test_a_stream_without_readinto_is_read(store: BlobStore) -> None:
    class Plain:
        def __init__(self) -> None:
            self.read = io.BytesIO(DATA).read

        def __enter__(self) -> Plain:
            return self

        def __exit__(self, *details: object) -> None:
            pass

    source = Source(ranged=False)
    source.answer = lambda start, stop, number: cast(BinaryIO, Plain())
    assert SHA256 == bring(source, store).blob.sha256


def test_a_body_that_never_ends_ends_in_a_full_store(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ROOM_BYTES", 10_000)
    asked: list[int] = []

    def room(need_bytes: int) -> None:
        asked.append(need_bytes)
        if len(asked) == 3:
            raise StoreFull("no room")

    class Endless(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            buffer[:512] = b"\0" * 512
            return 512

    file = ListedFile("x", None, "v1", lambda start=0, stop=None: cast(BinaryIO, Endless()))
    with pytest.raises(StoreFull):
        bring(file, store, room=room)
    assert ([10_000] * 3, [], []) == (asked, leftovers(store), blobs(store))


# --- streams ----------------------------------------------------------------------------------------------------------


def test_a_drip_is_noticed_and_named_and_not_tried_again(store: BlobStore) -> None:
    now = [0.0]

    class Drip(io.RawIOBase):
        def readinto(self, buffer: Any) -> int:
            now[0] += 20.0  # each byte comes in time for a read timeout
            buffer[:1] = b"."
            return 1

    for source in (Source(), Source(ranged=False)):
        source.answer = lambda start, stop, number: cast(BinaryIO, Drip())
        with pytest.raises(SourceUnreachable, match=r"model\.safetensors: 0\.1 bytes/s over 60 s") as caught:
            bring(source, store, clock=lambda: now[0])
        assert math.inf == caught.value.retry_after_s
        assert 1 == len(source.asked)


def test_a_slow_stream_that_keeps_the_least_rate_is_left_alone() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    for _ in range(1000):
        now[0] += 10.0
        assert pace.too_low(10 * LEAST_BYTES_PER_S) is None


def test_a_stream_that_was_fast_once_may_not_drip_ever_after() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    now[0] = 60.0
    assert pace.too_low(10**9) is None
    now[0] = 119.0
    assert pace.too_low(1) is None
    now[0] = 120.0
    assert "0.0 bytes/s over 60 s" == pace.too_low(1)


def test_a_stream_is_read_as_it_comes_where_it_can_be() -> None:
    """``readinto`` of a buffered stream would wait for the whole buffer."""
    reads: list[int] = []

    class Counting(Stream):
        def readinto(self, buffer: Any) -> int:
            reads.append(len(buffer))
            return super().readinto(buffer)

    buffered = io.BufferedReader(Counting(DATA), 16)
    assert 700 == streams._reader(cast(BinaryIO, buffered))(memoryview(bytearray(5000)))
    assert 1 == len(reads)
