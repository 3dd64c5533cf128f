"""The disk's profile: the choice, what is kept of it, and when it is not believed. The measuring itself on a small file."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from glowplug.cache import disk
from glowplug.cache.disk import DiskProfile, choose, default_profile, device_of, measure, read_profile, write_profile
from glowplug.cache.errors import StoreError

MIB = 1024 * 1024


def test_the_fewest_readers_within_ten_percent_of_the_best_are_chosen() -> None:
    assert 1 == choose({1: 960.0, 2: 1000.0, 4: 990.0, 8: 900.0})
    assert 4 == choose({1: 500.0, 2: 900.0, 4: 2900.0, 8: 3000.0})
    assert 2 == choose({1: 899.0, 2: 905.0, 4: 1000.0})
    assert 8 == choose({1: 1.0, 2: 2.0, 4: 3.0, 8: 4.0})


@pytest.mark.slow
def test_measuring_reads_from_the_disk_and_leaves_nothing_behind(tmp_path: Path) -> None:
    reports: list[tuple[int, int]] = []
    profile = measure(tmp_path, size_bytes=8 * MIB, report=lambda done, total: reports.append((done, total)))
    assert [] == os.listdir(tmp_path)
    assert device_of(tmp_path) == profile.device
    if not profile.measured:
        pytest.skip("this file system keeps files in memory")
    assert [(done, 13) for done in range(1, 14)] == reports
    assert [1, 2, 4, 8] == [readers for readers, _ in profile.rates]
    assert dict(profile.rates)[profile.readers] == profile.bytes_per_s > 0


def test_what_does_not_leave_memory_cannot_be_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disk, "drop", lambda path: path.stat().st_size)
    profile = measure(tmp_path, size_bytes=8 * MIB)
    assert (1, False, 0.0) == (profile.readers, profile.measured, profile.bytes_per_s)
    assert [] == os.listdir(tmp_path)


def test_too_little_to_measure_is_said_to_be_unmeasured(tmp_path: Path) -> None:
    assert not measure(tmp_path, size_bytes=MIB).measured


def test_a_measuring_that_fails_removes_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(descriptor: int, offset: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(disk, "populate", broken)
    monkeypatch.setattr(disk, "drop", lambda path: 0)
    with pytest.raises(OSError, match="Input/output error"):
        measure(tmp_path, size_bytes=8 * MIB)
    assert [] == os.listdir(tmp_path)
    with pytest.raises(FileNotFoundError):
        measure(tmp_path / "none")


def test_a_profile_is_kept_in_the_store(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    root.mkdir()
    profile = DiskProfile(4, 8 * MIB, 3.5e9, True, device_of(root), ((1, 1.0e9), (4, 3.5e9)))
    write_profile(root, profile)
    assert profile == read_profile(root)
    assert [root / "disk.json"] == [path for path in root.rglob("*") if path.is_file()]


def test_the_profile_of_another_device_is_not_used(tmp_path: Path) -> None:
    write_profile(tmp_path, DiskProfile(8, MIB, 3.5e9, True, "1:2", ((8, 3.5e9),)))
    assert not read_profile(tmp_path).measured
    assert device_of(tmp_path) == read_profile(tmp_path).device


GOOD = {"version": 1, "device": "", "readers": 4, "chunk_bytes": 8 * MIB, "bytes_per_s": 1e9, "rates": [[1, 1e9]]}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        "\xff",
        "[" * 100_000,
        json.dumps({**GOOD, "version": 2}),
        json.dumps({**GOOD, "readers": 0}),
        json.dumps({**GOOD, "readers": 10_000_000}),
        json.dumps({**GOOD, "readers": True}),
        json.dumps({**GOOD, "readers": 1.5}),
        json.dumps({**GOOD, "chunk_bytes": 0}),
        json.dumps({**GOOD, "chunk_bytes": 2**60}),
        json.dumps({**GOOD, "bytes_per_s": float("nan")}),
        json.dumps({**GOOD, "bytes_per_s": 10**400}),
        json.dumps({**GOOD, "bytes_per_s": -1}),
        json.dumps({**GOOD, "rates": [[1]]}),
        json.dumps({**GOOD, "rates": 7}),
    ],
)
def test_a_damaged_profile_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "disk.json").write_text(text.replace('"device": ""', f'"device": "{device_of(tmp_path)}"'))
    assert default_profile(tmp_path) == read_profile(tmp_path)


def test_the_same_profile_undamaged_is_used(tmp_path: Path) -> None:
    (tmp_path / "disk.json").write_text(json.dumps({**GOOD, "device": device_of(tmp_path)}))
    assert (4, True) == (read_profile(tmp_path).readers, read_profile(tmp_path).measured)


def test_a_profile_that_cannot_be_written_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"disk\.json"):
        write_profile(tmp_path / "file", DiskProfile())


def test_unmeasured_nvme_gets_four_readers_and_all_else_one(tmp_path: Path) -> None:
    device, sysfs = device_of(tmp_path), tmp_path / "dev" / "block"
    sysfs.mkdir(parents=True)
    assert 1 == default_profile(tmp_path, sysfs).readers
    drive = tmp_path / "devices" / "pci0000:00" / "nvme" / "nvme0" / "nvme0n1" / "nvme0n1p2"
    drive.mkdir(parents=True)
    (sysfs / device).symlink_to(drive)
    assert (4, False, device) == (
        default_profile(tmp_path, sysfs).readers,
        default_profile(tmp_path, sysfs).measured,
        default_profile(tmp_path, sysfs).device,
    )
    mapped = tmp_path / "devices" / "virtual" / "block" / "dm-0"
    (mapped / "slaves").mkdir(parents=True)
    (sysfs / device).unlink()
    (sysfs / device).symlink_to(mapped)
    assert 1 == default_profile(tmp_path, sysfs).readers
    (mapped / "slaves" / "nvme0n1p2").symlink_to(drive)
    assert 4 == default_profile(tmp_path, sysfs).readers


def test_a_store_that_is_not_there_yet_has_the_plain_profile(tmp_path: Path) -> None:
    assert DiskProfile() == read_profile(tmp_path / "none")
