"""``glowplug cache`` in real processes: interrupted pulls, two at once, and blobs that somebody else holds."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from glowplug.cache.partial import PIECE_BYTES

SIZE = 40 * 1024 * 1024
BODY = random.Random(0).randbytes(SIZE)
HOLDING = """
import sys
from pathlib import Path
from glowplug.cache.manifests import manifests
from glowplug.cache.store import BlobStore
store = BlobStore(Path(sys.argv[1]))
hold = store.hold(manifests(store.root)[0].blobs)
print("held", flush=True)
sys.stdin.read()
"""


class Source(ThreadingHTTPServer):
    """Serves one file in ranges. While ``gate`` is shut each answer stops after half of what was asked for, or where
    the first ``through_bytes`` of the file end, if that is later."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Ranges)
        self.gate = threading.Event()
        self.lock = threading.Lock()
        self.through_bytes = 0
        self.sent_bytes = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/model.safetensors"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that is interrupted breaks its connections."""


class _Ranges(BaseHTTPRequestHandler):
    server: Source
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._head(200, SIZE)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        first, _, last = (asked or f"bytes=0-{SIZE - 1}").partition("=")[2].partition("-")
        start, stop = int(first), min(SIZE, int(last or SIZE - 1) + 1)
        extra = {"Content-Range": f"bytes {start}-{stop - 1}/{SIZE}"} if asked else {}
        self._head(206 if asked else 200, stop - start, **extra)
        pause = max(start + (stop - start) // 2, min(stop, self.server.through_bytes))
        for begin, end in ((start, pause), (pause, stop)):
            self.wfile.write(BODY[begin:end])
            with self.server.lock:
                self.server.sent_bytes += end - begin
            self.server.gate.wait(20)

    def _head(self, status: int, length: int, **extra: str) -> None:
        self.send_response(status)
        named = {"Content-Length": str(length), "Accept-Ranges": "bytes", "ETag": '"one"', **extra}
        for name, value in named.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def source() -> Iterator[Source]:
    server = Source()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.gate.set()
    server.shutdown()
    thread.join()
    server.server_close()


def begin(store: Path, *arguments: str) -> subprocess.Popen[str]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("GLOWPLUG_")}
    return subprocess.Popen(
        [sys.executable, "-m", "glowplug.deploy.cli", "cache", *arguments, "--cache", str(store)],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=environ | {"COLUMNS": "80"},
    )  # fmt: skip


def run(store: Path, *arguments: str) -> tuple[int, str, str]:
    with begin(store, *arguments) as process:
        out, err = process.communicate(timeout=60)
    return process.returncode, out, err


def wait_for(what: Callable[[], bool], limit_s: float = 20.0) -> None:
    deadline = time.monotonic() + limit_s
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


@pytest.mark.slow
def test_a_pull_that_is_interrupted_goes_on_where_it_stopped(source: Source, tmp_path: Path) -> None:
    store = tmp_path / "cache"
    source.through_bytes = PIECE_BYTES
    with begin(store, "pull", source.url) as process:
        wait_for(lambda: marked(store) >= 1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)
    assert (130, "") == (process.returncode, out)
    assert err.splitlines()[-1].startswith("glowplug: interrupted; ")
    assert "Traceback" not in err
    source.gate.set()
    code, out, _ = run(store, "pull", source.url, "--json")
    said = json.loads(out)
    assert 0 == code
    assert said["resumed_bytes"] > 0
    assert SIZE == said["resumed_bytes"] + said["fetched_bytes"]
    assert [hashlib.sha256(BODY).hexdigest()] == [file["sha256"] for file in said["files"]]
    assert (0, "1 blob read, 0 damaged\n") == run(store, "verify")[:2]


def marked(store: Path) -> int:
    """Return how many pieces of the download are complete (``cache/partial.py``)."""
    return sum(path.read_bytes()[4096:].count(1) for path in (store / "partial").glob("*/*.done"))


@pytest.mark.slow
def test_two_pulls_at_once_transfer_once(source: Source, tmp_path: Path) -> None:
    store = tmp_path / "cache"
    with begin(store, "pull", source.url, "--json") as first:
        wait_for(lambda: source.sent_bytes > 0)
        with begin(store, "pull", source.url) as second:
            assert second.stderr is not None
            shown = second.stderr.readline()
            source.gate.set()
            out, err = second.communicate(timeout=60)
        said = json.loads(first.communicate(timeout=60)[0])
    assert shown.startswith("pull: ")
    assert ", by another process" in shown + err
    assert (0, 0, SIZE) == (first.returncode, second.returncode, said["fetched_bytes"])
    assert "fetched 0 B in" in out
    assert "for another process" in out
    assert SIZE == source.sent_bytes


@pytest.mark.slow
def test_what_another_process_holds_is_shown_and_stays_until_that_process_dies(tmp_path: Path) -> None:
    (tmp_path / "model.json").write_text("{}")
    store = tmp_path / "cache"
    assert 0 == run(store, "pull", (tmp_path / "model.json").as_uri())[0]
    command = [sys.executable, "-c", HOLDING, str(store)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert "held\n" == holder.stdout.readline()
        assert [True] == [one["held"] for one in json.loads(run(store, "ls", "--json")[1])["sources"]]
        assert run(store, "prune", "--all")[1].startswith("freed 0 B in 0 blobs\n2 B stayed: 2 B held")
        holder.kill()
        holder.wait()
        assert [False] == [one["held"] for one in json.loads(run(store, "ls", "--json")[1])["sources"]]
        assert run(store, "prune", "--all")[1].startswith("freed 2 B in 1 blob\n")
