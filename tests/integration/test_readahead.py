"""A cold file becomes resident by read-ahead, once, as far as allowed; the order recorded in a process leads the way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from glowplug.cache.disk import DiskProfile
from glowplug.cache.prefetch import Extent, ReadAheadResult, ReadOrder, file_order, read_ahead
from glowplug.cache.residency import drop, resident_bytes
from glowplug.cache.weights import read_header

MIB = 1024 * 1024
SIZE = 64 * MIB + 1234
LIMIT_BYTES = 1 << 40
NEARLY = 0.9
"""Of a file: a kernel that reclaims ahead of need may take pages again right after they came in."""


@pytest.fixture
def cold(tmp_path: Path) -> Path:
    """A file of 64 MiB of which nothing is in the page cache."""
    path = tmp_path / "cold"
    block = os.urandom(MIB)
    with path.open("wb") as file:
        for _ in range(64):
            file.write(block)
        file.write(block[:1234])
    if drop(path):
        pytest.skip("this file system keeps files in memory")
    assert 0 == resident_bytes(path)
    return path


def profile(readers: int) -> DiskProfile:
    return DiskProfile(readers=readers, chunk_bytes=4 * MIB)


@pytest.mark.parametrize("readers", [1, 4])
def test_a_cold_file_is_read_once(cold: Path, readers: int) -> None:
    result = read_ahead(file_order([cold]), profile(readers), limit_bytes=LIMIT_BYTES)
    assert resident_bytes(cold) >= NEARLY * SIZE
    assert (SIZE, 0, 0, 0) == (result.read_bytes, result.resident_bytes, result.skipped_bytes, result.missing_files)
    assert readers == result.readers
    again = read_ahead(file_order([cold]), profile(readers), limit_bytes=LIMIT_BYTES)
    assert again.resident_bytes >= NEARLY * SIZE
    assert SIZE == again.read_bytes + again.resident_bytes


def test_a_capped_read_ahead_reads_the_first_part(cold: Path) -> None:
    result = read_ahead(file_order([cold]), profile(1), limit_bytes=10 * MIB)
    assert (10 * MIB, SIZE - 10 * MIB) == (result.read_bytes, result.skipped_bytes)
    assert resident_bytes(cold, 0, 10 * MIB) >= NEARLY * 10 * MIB
    assert 0 == resident_bytes(cold, SIZE - MIB), "the kernel reads on a little, but not to the end"


def test_half_a_file_that_is_there_is_not_read_again(cold: Path) -> None:
    read_ahead([Extent(str(cold), 32 * MIB, SIZE)], profile(1), limit_bytes=LIMIT_BYTES)
    result = read_ahead(file_order([cold]), profile(2), limit_bytes=LIMIT_BYTES)
    assert result.resident_bytes >= NEARLY * SIZE / 2
    assert result.read_bytes >= 31 * MIB
    assert SIZE == result.read_bytes + result.resident_bytes


def test_the_interpreter_goes_on_while_it_reads(cold: Path) -> None:
    results: list[ReadAheadResult] = []
    thread = threading.Thread(
        target=lambda: results.append(read_ahead(file_order([cold]), profile(2), limit_bytes=LIMIT_BYTES))
    )
    slept_s: list[float] = []
    thread.start()
    while thread.is_alive():
        started_s = time.monotonic()
        thread.join(0.0005)
        slept_s.append(time.monotonic() - started_s)
    assert SIZE == results[0].read_bytes
    # A reader that kept the interpreter's lock would let this thread in once for each of its 17 pieces at most.
    assert len(slept_s) > 17 or results[0].took_s < 0.02


@pytest.mark.slow
def test_the_recorded_order_of_a_process_brings_in_what_it_uses_first(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    save_file({f"layer{number}": torch.rand(1024, 1024) for number in range(16)}, path)  # 4 MiB each
    program = f"""
import json, torch
from glowplug.cache.weights import tensors
from glowplug.runtime.worker import firstuse
recorder = firstuse.Recorder()
mapped = tensors({str(path)!r})
with recorder.tensors(), torch.inference_mode():
    hidden = torch.ones(1, 1024)
    for number in (9, 2):
        hidden = hidden @ mapped[f"layer{{number}}"]
print(json.dumps([row for row in recorder.order() if row[0] == {str(path)!r}]))
"""
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    order = ReadOrder.from_rows(json.loads(ran.stdout))
    if drop(path):
        pytest.skip("this file system keeps files in memory")
    views = read_header(path).tensors
    assert [(views[name].begin, 4 * MIB) for name in ("layer9", "layer2")] == [
        (extent.offset, extent.length) for extent in order.extents
    ]
    result = read_ahead(order.extents, profile(1), limit_bytes=LIMIT_BYTES)
    for name in ("layer9", "layer2"):
        assert resident_bytes(path, views[name].begin, 4 * MIB) >= NEARLY * 4 * MIB
    assert 8 * MIB <= result.read_bytes <= 12 * MIB


def test_another_users_cold_file_is_not_taken_for_resident(cold: Path) -> None:
    """``mincore`` says that every page of a file that is not ours is resident, and ``cachestat`` is refused."""
    if os.geteuid() != 0:
        pytest.skip("becoming another user takes root")
    program = """
import os, sys
from glowplug.cache import residency  # before: that user may not be able to read this installation
os.setgroups([]); os.setgid(65534); os.setuid(65534)
print(residency.resident_bytes(int(sys.argv[1])), residency.mincore_pages(int(sys.argv[1]), 0, 1 << 20))
"""
    cold.chmod(0o444)
    with cold.open("rb") as file:
        descriptor = file.fileno()
        command = [sys.executable, "-c", program, str(descriptor)]
        ran = subprocess.run(command, pass_fds=[descriptor], capture_output=True, text=True, check=True)
    found, believed_pages = map(int, ran.stdout.split())
    assert believed_pages * 4096 >= MIB, "or this kernel no longer hides it, and the probes may go"
    assert found <= SIZE / 10  # probes begin to read what they miss
