"""The list of GPUs: read from what ``nvidia-smi`` prints, and from a program that prints it, hangs or fails."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.snapshot.cuda import devices
from glowplug.snapshot.cuda.devices import Gpu
from glowplug.snapshot.errors import DeviceListingInvalid, DeviceUnavailable

L4 = "22563, 23034, NVIDIA L4, 8.9, 550.54.15\n"


def a_tool(directory: Path, script: str) -> str:
    path = directory / devices.TOOL
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_a_listing_is_read_line_by_line() -> None:
    first, second = devices.parse(L4 + "512, 15360, Tesla T4, 7.5, 550.54.15\n")
    assert Gpu(0, "NVIDIA L4", 22563, 23034, "8.9", "550.54.15") == first
    assert (1, "Tesla T4", 512) == (second.index, second.name, second.free_mib)


def test_unified_memory_is_unknown_and_no_error() -> None:
    assert (None, None) == (
        (gpu := devices.parse("[N/A], [N/A], NVIDIA GB10, 12.1, 580.95.05")[0]).free_mib,
        gpu.total_mib,
    )
    assert "memory unknown" in gpu.describe()


names = st.text(st.characters(blacklist_categories=("C", "Z"), blacklist_characters="[]"), min_size=1, max_size=20)


@given(st.lists(st.tuples(st.integers(0, 2**20), st.integers(0, 2**20), names), max_size=4))
def test_what_is_listed_is_read_back(rows: list[tuple[int, int, str]]) -> None:
    """Names with commas included: the fields around the name are numbers, so it is what is left."""
    text = "".join(f"{free}, {free + used}, {name}, 9.0, 570.1\n" for free, used, name in rows)
    read = devices.parse(text)
    assert [(free, free + used) for free, used, _ in rows] == [(gpu.free_mib, gpu.total_mib) for gpu in read]
    assert [name.replace(",", "") for _, _, name in rows] == [
        gpu.name.replace(", ", "").replace(",", "") for gpu in read
    ]


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused_by_line(text: str) -> None:
    try:
        found = len(devices.parse(text))
    except DeviceListingInvalid:
        found = sum(bool(line.strip()) for line in text.splitlines())
    assert found == sum(bool(line.strip()) for line in text.splitlines())


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("1, 2, L4", "has 3 fields, not 5"),
        ("1 MiB, 2, L4, 8.9, 550", "'1 MiB' is not a number of MiB"),
        ("3, 2, L4, 8.9, 550", "3 MiB are free of 2"),
    ],
)
def test_a_line_of_another_form_is_refused(line: str, message: str) -> None:
    with pytest.raises(DeviceListingInvalid, match=message):
        devices.parse(L4 + line)


def test_the_tool_is_asked(tmp_path: Path) -> None:
    found = a_tool(tmp_path, f'test "$*" = "{" ".join(devices.QUERY)}" && printf "{L4}"')
    assert ["NVIDIA L4"] == [gpu.name for gpu in devices.listing(found)]


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (
            "echo 'NVIDIA-SMI has failed because it could not communicate with the driver'; exit 9",
            "status 9: NVIDIA-SMI",
        ),
        ("exit 0", "lists no device"),
        ("exec sleep 60", "did not answer within 0 s"),
        ("printf '\\377'", "cannot be run"),
    ],
)
def test_a_tool_that_fails_says_why(tmp_path: Path, script: str, message: str) -> None:
    with pytest.raises(DeviceUnavailable, match=message):
        devices.listing(a_tool(tmp_path, script), timeout_s=0.2 if "sleep" in script else 10.0)


def test_without_tool_and_driver_nothing_is_run(tmp_path: Path) -> None:
    assert "" == devices.tool(str(tmp_path))
    assert "this machine has no NVIDIA GPU" == devices.obstacle("", tmp_path / "nvidia")
    assert "nvidia-smi is not on the PATH" in devices.obstacle("", tmp_path)
    assert "" == devices.obstacle("/usr/bin/nvidia-smi", tmp_path / "nvidia")
