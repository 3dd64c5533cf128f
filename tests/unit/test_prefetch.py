"""Read-ahead: orders that are not believed, the plan as a pure function, and readers that never fail a start."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.cache import prefetch, readorder
from glowplug.cache.disk import DiskProfile
from glowplug.cache.prefetch import (
    Extent,
    Piece,
    ReadOrder,
    Verdict,
    available_memory_bytes,
    file_order,
    plan,
    read_ahead,
)

MIB = 1024 * 1024
PROFILE = DiskProfile(readers=2, chunk_bytes=MIB)


class Files:
    """Files of given sizes, and which of their mebibytes are resident; the plan's eyes."""

    def __init__(self, sizes: dict[str, int], resident: Sequence[tuple[str, int]] = ()) -> None:
        self._sizes = sizes
        self._resident = resident
        self.looked: list[Extent] = []

    def look(self, extent: Extent) -> tuple[int, int] | None:
        self.looked.append(extent)
        size = self._sizes.get(extent.path)
        if size is None:
            return None
        end = min(size, extent.offset + extent.length)
        there = sum(
            max(0, min(end, (mib + 1) * MIB) - max(extent.offset, mib * MIB))
            for path, mib in self._resident
            if path == extent.path
        )
        return max(0, end - extent.offset), there

    def plan(self, *extents: Extent, limit_bytes: int = 1 << 40, chunk_bytes: int = 4 * MIB) -> list[Piece]:
        return list(plan(extents, self.look, limit_bytes=limit_bytes, chunk_bytes=chunk_bytes))


def read(path: str, first_mib: int, mib: int, *, resident_mib: int = 0) -> Piece:
    missing = (mib - resident_mib) * MIB
    return Piece(Extent(path, first_mib * MIB, mib * MIB), Verdict.READ, missing, resident_mib * MIB)


def test_the_order_of_first_use_is_kept_across_files() -> None:
    files = Files({"/a": 8 * MIB, "/b": 8 * MIB})
    found = files.plan(Extent("/b", 4 * MIB, MIB), Extent("/a", 0, MIB), Extent("/b", 0, MIB))
    assert [read("/b", 4, 1), read("/a", 0, 1), read("/b", 0, 1)] == found


def test_neighbours_become_one_and_small_tensors_take_the_mebibyte_around_them() -> None:
    files = Files({"/a": 8 * MIB})
    found = files.plan(
        Extent("/a", 100, 3072), Extent("/a", MIB + 5, 10), Extent("/a", 200, 10), Extent("/a", 2 * MIB, 1)
    )
    assert [read("/a", 0, 3)] == found


def test_every_byte_is_planned_once_though_the_files_follow_whole() -> None:
    files = Files({"/a": 6 * MIB + 10})
    found = files.plan(Extent("/a", 2 * MIB, MIB), Extent("/a", 4 * MIB, MIB), Extent("/a", 0, 6 * MIB + 10))
    tail = Piece(Extent("/a", 5 * MIB, MIB + 10), Verdict.READ, MIB + 10)
    assert [read("/a", 2, 1), read("/a", 4, 1), read("/a", 0, 2), read("/a", 3, 1), tail] == found


def test_what_is_resident_is_not_read_and_is_counted() -> None:
    files = Files({"/a": 12 * MIB}, resident=[("/a", mib) for mib in (0, 1, 2, 3, 5)])
    found = files.plan(Extent("/a", 0, 12 * MIB))
    assert [
        Piece(Extent("/a", 0, 4 * MIB), Verdict.PRESENT, 0, 4 * MIB),
        read("/a", 4, 4, resident_mib=1),
        read("/a", 8, 4),
    ] == found


def test_the_limit_cuts_within_a_piece_and_nothing_overtakes() -> None:
    files = Files({"/a": 12 * MIB, "/b": MIB, "/c": MIB}, resident=[("/c", 0)])
    extents = [Extent("/a", 0, 12 * MIB), Extent("/b", 0, MIB), Extent("/c", 0, MIB)]
    found = files.plan(*extents, limit_bytes=5 * MIB + 100)
    assert [
        read("/a", 0, 4),
        read("/a", 4, 1),
        Piece(Extent("/a", 5 * MIB, 3 * MIB), Verdict.OVER, 3 * MIB),
        Piece(Extent("/a", 8 * MIB, 4 * MIB), Verdict.OVER, 4 * MIB),
        Piece(Extent("/b", 0, MIB), Verdict.OVER, MIB),
        Piece(Extent("/c", 0, MIB), Verdict.PRESENT, 0, MIB),
    ] == found
    assert [Verdict.OVER] * 3 == [piece.verdict for piece in files.plan(Extent("/a", 0, 12 * MIB), limit_bytes=0)]


def test_a_missing_file_is_told_once_and_not_looked_for_again() -> None:
    files = Files({"/b": MIB})
    found = files.plan(Extent("/a", 0, MIB), Extent("/a", 5 * MIB, MIB), Extent("/b", 0, 1), Extent("/a", 9 * MIB, 1))
    assert [Piece(Extent("/a", 0, 0), Verdict.GONE), read("/b", 0, 1)] == found
    assert ["/a", "/b"] == [extent.path for extent in files.looked]


def test_an_extent_far_beyond_the_end_of_its_file_takes_one_look() -> None:
    files = Files({"/a": 2 * MIB})
    assert [read("/a", 0, 2)] == files.plan(Extent("/a", 0, 2**62))
    assert [] == files.plan(Extent("/a", 2**61, 2**61))
    assert 2 == len(files.looked)


def test_reading_begins_before_the_last_file_was_looked_at() -> None:
    files = Files({f"/{number}": MIB for number in range(100)})
    pieces = plan((Extent(f"/{number}", 0, MIB) for number in range(100)), files.look, limit_bytes=MIB, chunk_bytes=MIB)
    next(pieces)
    assert 1 == len(files.looked)


extents = st.lists(
    st.builds(
        Extent,
        st.sampled_from(["/a", "/b", "/gone"]),
        st.integers(0, 30 * MIB),
        st.integers(1, 9 * MIB),
    ),
    max_size=12,
)
residents = st.lists(st.tuples(st.sampled_from(["/a", "/b"]), st.integers(0, 24)), unique=True)


@given(extents, residents, st.integers(0, 60 * MIB), st.sampled_from([MIB, 3 * MIB, 8 * MIB]))
def test_a_plan_has_every_wanted_byte_once_and_stays_within_its_limit(
    wanted: list[Extent], resident: list[tuple[str, int]], limit_bytes: int, chunk_bytes: int
) -> None:
    sizes = {"/a": 25 * MIB + 123, "/b": 10 * MIB}
    pieces = Files(sizes, resident).plan(*wanted, limit_bytes=limit_bytes, chunk_bytes=chunk_bytes)
    assert sum(piece.missing_bytes for piece in pieces if piece.verdict is Verdict.READ) <= limit_bytes
    for path, size in sizes.items():
        planned: set[int] = set()  # by 4 KiB pages
        for piece in pieces:
            if piece.extent.path == path:
                end = piece.extent.offset + piece.extent.length
                assert piece.extent.length <= chunk_bytes
                assert end <= size
                pages = set(range(piece.extent.offset // 4096, -(-end // 4096)))
                assert not pages & planned
                planned |= pages
        for extent in wanted:
            if extent.path == path:
                assert (
                    set(range(extent.offset // 4096, -(-min(size, extent.offset + extent.length) // 4096))) <= planned
                )
    verdicts = [piece.verdict for piece in pieces]
    if Verdict.OVER in verdicts:
        assert Verdict.READ not in verdicts[verdicts.index(Verdict.OVER) :]


def test_an_order_survives_json() -> None:
    order = ReadOrder.from_rows([["/a/é", 0, 5], ["/b", 7, 1]])
    assert (Extent("/a/é", 0, 5), Extent("/b", 7, 1)) == order.extents
    assert order == ReadOrder.from_json(order.to_json())
    assert order == ReadOrder.from_json(order.to_json().encode())


@pytest.mark.parametrize(
    "row",
    [
        ["relative", 0, 1],
        ["/" + "a" * 5000, 0, 1],
        ["/nul\0", 0, 1],
        ["/new\nline", 0, 1],
        ["/a", -1, 1],
        ["/a", 0, 0],
        ["/a", 0, -5],
        ["/a", 2**63, 1],
        ["/a", 1, 2**63 - 1],
        ["/a", True, 1],
        ["/a", 0, 1.5],
        ["/a", 0],
        ["/a", 0, 1, 2],
        [None, 0, 1],
        "abc",
        7,
    ],
)
def test_one_row_out_of_form_and_there_is_no_order(row: Any) -> None:
    assert ReadOrder() == ReadOrder.from_rows([["/fine", 0, 1], row])
    assert ReadOrder() == ReadOrder.from_json(json.dumps({"version": 1, "extents": [["/fine", 0, 1], row]}))


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "[" * 100_000, '{"version": 2, "extents": []}', b"\xff\xfe", "NaN", "7"]
)
def test_text_that_is_no_order_is_none(text: str | bytes) -> None:
    assert ReadOrder() == ReadOrder.from_json(text)


def test_an_order_has_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    assert ReadOrder() == ReadOrder.from_rows([["/a", 0, 1]] * (readorder.MAX_EXTENTS + 1))
    text = ReadOrder.from_rows([["/a", 0, 1]]).to_json()
    monkeypatch.setattr(readorder, "MAX_ORDER_BYTES", len(text) - 1)
    assert ReadOrder() == ReadOrder.from_json(text)


def test_an_order_reaches_nothing_outside_its_roots() -> None:
    rows = ["/srv/blobs/a", "/srv/blobs/../secret", "/srv/blobsx/a", "/etc/shadow", "/srv/blobs//a", "/usr/lib/x.so"]
    order = ReadOrder.from_rows([[path, 0, 1] for path in rows]).within([Path("/srv/blobs"), "/usr/"])
    assert ["/srv/blobs/a", "/usr/lib/x.so"] == [extent.path for extent in order.extents]


def test_without_an_order_files_are_read_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"12345")
    (tmp_path / "empty").write_bytes(b"")
    assert (Extent(str(tmp_path / "a"), 0, 5),) == file_order([tmp_path / "a", tmp_path / "none", tmp_path / "empty"])


def test_files_that_cannot_be_read_are_counted_and_the_rest_is_read(tmp_path: Path) -> None:
    (tmp_path / "there").write_bytes(b"x" * 3 * MIB)
    os.mkfifo(tmp_path / "fifo")
    names = ["gone", "fifo", "there", "gone"]
    result = read_ahead([Extent(str(tmp_path / name), 0, 9 * MIB) for name in names], PROFILE, limit_bytes=1 << 40)
    assert 2 == result.missing_files
    assert 3 * MIB == result.read_bytes + result.resident_bytes
    assert not result.cancelled


def test_a_bad_spot_on_the_disk_is_counted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, offset: int, length: int) -> None:
        if offset == 0:
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(prefetch, "populate", broken)
    monkeypatch.setattr(prefetch, "resident_bytes", lambda descriptor, offset, length: 0)
    (tmp_path / "a").write_bytes(b"x" * 3 * MIB)
    result = read_ahead(file_order([tmp_path / "a"]), PROFILE, limit_bytes=1 << 40)
    assert (2 * MIB, 1) == (result.read_bytes, result.missing_files)


def test_readers_share_the_work_in_order_and_stop_when_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cancelled, offsets = threading.Event(), []

    def populated(descriptor: int, offset: int, length: int) -> None:
        offsets.append(offset // MIB)
        if offset == 4 * MIB:
            cancelled.set()

    monkeypatch.setattr(prefetch, "populate", populated)
    monkeypatch.setattr(prefetch, "resident_bytes", lambda descriptor, offset, length: 0)
    path = tmp_path / "a"
    path.touch()
    os.truncate(path, 1000 * MIB)
    one = DiskProfile(readers=1, chunk_bytes=MIB)
    result = read_ahead(file_order([path]), one, limit_bytes=1 << 40, cancelled=cancelled)
    assert [0, 1, 2, 3, 4] == offsets
    assert (5 * MIB, 0, True) == (result.read_bytes, result.skipped_bytes, result.cancelled)


def test_a_defect_in_a_reader_is_not_swallowed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def defect(descriptor: int, offset: int, length: int) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(prefetch, "populate", defect)
    monkeypatch.setattr(prefetch, "resident_bytes", lambda descriptor, offset, length: 0)
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(ZeroDivisionError):
        read_ahead(file_order([tmp_path / "a"]), PROFILE, limit_bytes=1 << 40)


def test_nothing_to_read_has_no_speed() -> None:
    result = read_ahead([], PROFILE, limit_bytes=1 << 40)
    assert (0, 0, 0, 0, 0.0) == (
        result.read_bytes,
        result.resident_bytes,
        result.skipped_bytes,
        result.missing_files,
        result.bytes_per_s,
    )


def test_free_memory_is_the_machines_or_the_containers_minus_a_floor(tmp_path: Path) -> None:
    meminfo, cgroup = tmp_path / "meminfo", tmp_path / "cgroup"
    cgroup.mkdir()
    meminfo.write_text("MemTotal:       33554432 kB\nMemAvailable:   16777216 kB\nHugePages_Total:       0\n")
    gib = 1024 * MIB
    assert 15 * gib == available_memory_bytes(meminfo, cgroup)
    (cgroup / "memory.max").write_text("max\n")
    assert 15 * gib == available_memory_bytes(meminfo, cgroup)
    (cgroup / "memory.max").write_text(f"{5 * gib}\n")
    (cgroup / "memory.current").write_text(f"{2 * gib}\n")
    assert 3 * gib - gib // 2 == available_memory_bytes(meminfo, cgroup)
    (cgroup / "memory.current").write_text(f"{5 * gib}\n")
    assert 0 == available_memory_bytes(meminfo, cgroup)
    assert available_memory_bytes() >= 0
