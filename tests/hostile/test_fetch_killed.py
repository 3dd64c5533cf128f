"""``kill -9`` at random moments of a download, again and again: no wrong byte is ever visible, and nothing is lost but
the pieces that were on their way."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.partial import HEADER_BYTES
from glowplug.cache.store import BlobStore

KILLS = 50
CONNECTIONS = 4  # glowplug.cache.sources.web's
PIECE = 256 * 1024
DATA = random.Random(9).randbytes(48 * 1024 * 1024)
SHA256 = hashlib.sha256(DATA).hexdigest()

FORKER = """
import json, os, sys
from pathlib import Path
from glowplug.cache import transfer
from glowplug.cache.fetch import fetch
from glowplug.cache.sources import web  # noqa: F401  imported before the fork: a child starts in milliseconds
from glowplug.cache.store import BlobStore

transfer.PIECE_BYTES = int(sys.argv[3])
for line in sys.stdin:
    child = os.fork()
    if child == 0:
        done = fetch(sys.argv[1], BlobStore(Path(sys.argv[2])))
        print(json.dumps([done.fetched_bytes, done.resumed_bytes]), flush=True)
        os._exit(0)
    print(child, flush=True)
    print(os.waitpid(child, 0)[1], flush=True)
"""


class Pace:
    """Some 3 MB/s a connection: a pause before each chunk."""

    def __init__(self) -> None:
        self.pause_s = 0.02

    def __call__(self, offset: int) -> None:
        time.sleep(self.pause_s)


@pytest.fixture
def pace() -> Pace:
    return Pace()


@pytest.fixture
def server(serve_ranges: Any, pace: Pace) -> Any:
    return serve_ranges(DATA, pace)


class Forker:
    """Forks fetches from a process that has everything imported: starting Python fifty times would take longer."""

    def __init__(self, url: str, store: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", FORKER, url, str(store), str(PIECE)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def fetch(self, *, kill_after_s: float | None = None) -> tuple[int, list[int] | None]:
        """Run one fetch; return its wait status, and its (fetched, resumed) bytes unless it was killed."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write("fetch\n")
        pid = int(self._process.stdout.readline())
        if kill_after_s is not None:
            time.sleep(kill_after_s)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        line, counted = self._process.stdout.readline(), None
        if line.startswith("["):
            counted = json.loads(line)
            line = self._process.stdout.readline()
        return int(line), counted

    def close(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.close()
        assert 0 == self._process.wait(30)


@pytest.fixture
def forker(tmp_path: Path, server: Any) -> Iterator[Forker]:
    forker = Forker(server.url, tmp_path)
    yield forker
    forker.close()


def of(piece: int) -> slice:
    return slice(piece * PIECE, (piece + 1) * PIECE)


def pieces_there(store: Path) -> set[int]:
    """Return the pieces that are marked, after comparing each one's bytes."""
    there: set[int] = set()
    for marks in store.glob("partial/*/*.done"):
        flags = marks.read_bytes()[HEADER_BYTES:]
        there = {piece for piece, flag in enumerate(flags) if flag}
        part = marks.with_suffix(".part")
        if part.exists():
            data = part.read_bytes()
            assert [] == [piece for piece in there if data[of(piece)] != DATA[of(piece)]]
    return there


def visible(store: Path) -> list[Path]:
    """Return the blobs, after comparing their bytes."""
    found = [path for path in store.glob("blobs/*/*") if path.is_file()]
    assert all(SHA256 == path.name == hashlib.sha256(path.read_bytes()).hexdigest() for path in found)
    return found


@pytest.mark.slow
def test_fifty_kills_publish_nothing_wrong_and_lose_only_what_was_on_its_way(
    tmp_path: Path, server: Any, pace: Pace, forker: Forker
) -> None:
    moments, there, kills, finished = random.Random(4), set[int](), 0, 0
    while kills < KILLS:
        status, _ = forker.fetch(kill_after_s=moments.uniform(0.0, 0.3))
        if status == 0:  # all there before the moment came: from the start
            finished += 1
            assert visible(tmp_path)
            BlobStore(tmp_path).discard(SHA256)
            there = set()
            continue
        kills += 1
        assert signal.SIGKILL == status
        now = pieces_there(tmp_path)
        if visible(tmp_path):  # killed after the rename
            BlobStore(tmp_path).discard(SHA256)
            finished, there = finished + 1, set()
            continue
        assert there <= now
        there = now
    assert there or finished  # it did get on between the kills
    pace.pause_s = 0.0
    status, counted = forker.fetch()
    assert (0, [len(DATA) - sum_of(there), sum_of(there)]) == (status, counted)
    assert [SHA256] == [path.name for path in visible(tmp_path)]
    assert server.sent <= (finished + 1) * len(DATA) + kills * CONNECTIONS * PIECE
    BlobStore(tmp_path).sweep()
    assert [] == [path for path in (tmp_path / "partial").rglob("*") if path.is_file()]


def sum_of(pieces: set[int]) -> int:
    return sum(len(DATA[of(piece)]) for piece in pieces)


def test_a_kill_between_the_last_piece_and_the_rename_loses_no_piece(tmp_path: Path, server: Any, pace: Pace) -> None:
    pace.pause_s = 0.0
    script = FORKER.replace("for line", "BlobStore.publish = lambda *_: os._exit(9)\nfor line")
    ran = subprocess.run(
        [sys.executable, "-c", script, server.url, str(tmp_path), str(PIECE)],
        input="fetch\n", capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert os.waitstatus_to_exitcode(int(ran.stdout.split()[-1])) == 9
    assert [] == visible(tmp_path)
    assert len(DATA) // PIECE == len(pieces_there(tmp_path))
    asked = server.sent
    forker = Forker(server.url, tmp_path)
    assert (0, [0, len(DATA)]) == forker.fetch()
    forker.close()
    assert asked == server.sent
    assert [SHA256] == [path.name for path in visible(tmp_path)]
