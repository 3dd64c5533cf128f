"""Processes that want the same absent source at once: one download, everybody served, whoever dies."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.partial import HEADER_BYTES, PIECE_BYTES
from glowplug.cache.store import BlobStore

DATA = random.Random(3).randbytes(3 * PIECE_BYTES)
SHA256 = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def go_on() -> Iterator[threading.Event]:
    """What the last third of the download waits for."""
    event = threading.Event()
    yield event
    event.set()


@pytest.fixture
def server(serve_ranges: Any, go_on: threading.Event) -> Any:
    def before(offset: int) -> None:
        assert offset < 2 * PIECE_BYTES or go_on.wait(60)

    return serve_ranges(DATA, before)


class Fetching:
    """One ``python -m glowplug.cache``; a thread reads its lines."""

    def __init__(self, url: str, store: Path) -> None:
        command = [sys.executable, "-m", "glowplug.cache", url, "--store", str(store)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.lines: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(json.loads(line))

    @property
    def following(self) -> bool | None:
        """Whether it waits for another one; None while nobody can know."""
        return bool(self.lines[-1]["following"]) if self.lines else None

    def end(self) -> tuple[int, dict[str, Any]]:
        """Wait for its end; return its status and last line."""
        self._reader.join(60)
        assert self.process.stderr is not None
        assert self.process.stdout is not None
        if not self.process.stderr.closed:
            with self.process.stderr as stderr, self.process.stdout:
                assert "" == stderr.read()
        return self.process.wait(60), self.lines[-1] if self.lines else {}


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def marks(store: Path) -> int:
    """How many pieces of the download are there."""
    return sum(sum(path.read_bytes()[HEADER_BYTES:]) for path in store.glob("partial/*/*.done"))


@pytest.fixture
def fetching(tmp_path: Path, server: Any) -> Iterator[Callable[[int], list[Fetching]]]:
    started: list[Fetching] = []

    def start(number: int) -> list[Fetching]:
        started.extend(Fetching(server.url, tmp_path) for _ in range(number))
        return started[-number:]

    yield start
    for one in started:
        one.process.kill()
        one.end()


def test_eight_processes_that_want_the_same_absent_blob_download_it_once(
    tmp_path: Path, server: Any, go_on: threading.Event, fetching: Callable[[int], list[Fetching]]
) -> None:
    children = fetching(8)
    until(lambda: 7 == sum(child.following is True for child in children))
    go_on.set()
    with ThreadPoolExecutor(8) as pool:
        ended = list(pool.map(Fetching.end, children))
    assert [0] * 8 == [status for status, _ in ended]
    assert [["model.safetensors", len(DATA), SHA256]] * 8 == [line["files"][0] for _, line in ended]
    assert [0, PIECE_BYTES, 2 * PIECE_BYTES] == sorted(server.ranges)
    assert [0] * 7 + [len(DATA)] == sorted(line["fetched_bytes"] for _, line in ended)
    assert 7 == sum(line["waited_s"] > 0 for _, line in ended)
    assert DATA == BlobStore(tmp_path).path(SHA256).read_bytes()


def test_a_killed_leader_is_replaced_and_its_download_resumed(
    tmp_path: Path, server: Any, go_on: threading.Event, fetching: Callable[[int], list[Fetching]]
) -> None:
    children = fetching(3)
    until(lambda: 2 == sum(child.following is True for child in children) and 2 == marks(tmp_path))
    (leader,) = (child for child in children if not child.following)
    leader.process.kill()
    go_on.set()
    status, _ = leader.end()
    assert -signal.SIGKILL == status
    ended = [child.end() for child in children if child is not leader]
    assert [0, 0] == [status for status, _ in ended]
    moved = sorted((line["fetched_bytes"], line["resumed_bytes"]) for _, line in ended)
    assert [(0, 0), (PIECE_BYTES, 2 * PIECE_BYTES)] == moved
    assert DATA == BlobStore(tmp_path).path(SHA256).read_bytes()
    assert [] == list((tmp_path / "partial").iterdir())


def test_a_fetch_that_is_told_to_stop_leaves_its_pieces_for_the_next(
    tmp_path: Path, server: Any, go_on: threading.Event, fetching: Callable[[int], list[Fetching]]
) -> None:
    (child,) = fetching(1)
    until(lambda: 2 == marks(tmp_path))
    child.process.terminate()
    status, _ = child.end()
    assert 143 == status
    go_on.set()
    (child,) = fetching(1)
    status, line = child.end()
    assert (0, PIECE_BYTES, 2 * PIECE_BYTES) == (status, line["fetched_bytes"], line["resumed_bytes"])


def test_a_fetch_whose_reader_is_gone_ends(
    tmp_path: Path, server: Any, go_on: threading.Event, fetching: Callable[[int], list[Fetching]]
) -> None:
    command = [sys.executable, "-m", "glowplug.cache", server.url, "--store", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        assert 1 == child.wait(60)
        assert b"" == child.stderr.read()
