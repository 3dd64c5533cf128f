"""What every test can rely on: the operator's own settings and credentials are not there; how the tests are shared out
between processes; and the nodes and web servers that tests of several folders want."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import signal
import socketserver
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import bakes
import nodes
import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadScopeScheduling

CHUNK_BYTES = 64 * 1024

TESTS = Path(__file__).parent
DEAR_FIRST = ("integration/bake", "e2e", "hostile", "integration")
"""Folders of tests that take seconds. The others' take milliseconds."""
TOGETHER = {
    "tests/integration/bake/test_bake.py": "decoder",
    "tests/integration/bake/test_engines.py": "decoder",
    "tests/e2e/test_remote_tier.py": "compiled",
    "tests/e2e/test_snapshot_damaged.py": "compiled",
    "tests/e2e/test_function_errors.py": "misbehaving",
    "tests/e2e/test_refusals.py": "misbehaving",
    "tests/e2e/test_scaling.py": "misbehaving",
    "tests/contract/test_alias_moves.py": "empty",
    "tests/contract/test_awscli.py": "empty",
    "tests/contract/test_boto3.py": "empty",
    "tests/contract/test_concurrency.py": "empty",
    "tests/contract/test_snapstart.py": "empty",
}
"""Files that share a bake or a node (a fixture of the session), which each process would have to make for itself."""
_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def pytest_configure(config: pytest.Config) -> None:
    """Take glowplug's and AWS's names out of the environment, for this process and all that it starts, have
    signals mean what they should, and property tests take the time they need."""
    for name in list(os.environ):
        if name.startswith(("GLOWPLUG_", "AWS_")):
            del os.environ[name]
    os.environ["AWS_EC2_METADATA_DISABLED"] = "true"  # boto3 would ask the network for credentials, for seconds
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # a shell's background job; tests interrupt what they start
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # How long an example takes is the machine's, and says nothing of the code.
    settings.register_profile("any machine", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
    if hasattr(config, "workerinput"):  # one of several processes: it must not outlive a first one that is killed
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where processes share the tests, put what takes long first: else one would be at it when the other is done."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: _turn(item.path.relative_to(TESTS).as_posix()))


def _turn(path: str) -> int:
    return next((turn for turn, folder in enumerate(DEAR_FIRST) if path.startswith(f"{folder}/")), len(DEAR_FIRST))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Say how ``pytest -n 2`` shares the tests out: a file's stay together, as do those of files in ``TOGETHER``."""
    config.option.loadscopereorder = False  # by the number of tests, which says nothing of their time
    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = _group
    return scheduler


def _group(nodeid: str) -> str:
    path = nodeid.partition("::")[0]
    return TOGETHER.get(path, path)


@contextlib.contextmanager
def serving_requests(server: socketserver.BaseServer) -> Iterator[None]:
    """Serve in a thread while the block runs."""
    with server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture(scope="session")
def serving() -> Any:
    """Run a node of the test's own: ``with serving(template, state, **environ) as node``, a ``nodes.ServedNode``."""
    return nodes.served


@pytest.fixture(scope="session")
def shared_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of this session that all processes which share the tests have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


@pytest.fixture(scope="session")
def baked_embed(shared_directory: Path) -> bakes.BakedEmbed:
    """The shipped ``embed`` with all its engines, baked once for all processes."""
    return bakes.baked_embed(shared_directory)


@pytest.fixture(scope="session")
def mortal_command() -> Callable[..., list[str]]:
    """``nodes.mortal``, for tests that run a server of their own."""
    return nodes.mortal


@pytest.fixture(scope="session")
def running() -> Callable[[Any], contextlib.AbstractContextManager[None]]:
    """Serve with a server of the test's own: ``with running(server)``."""
    return serving_requests


class RangeServer(ThreadingHTTPServer):
    """Serves ``data`` in ranges, always the same version; ``ranges`` has where each began, ``sent`` counts bytes.

    ``before`` is called with the offset of each chunk before it is sent: it may wait.
    """

    daemon_threads = True

    def __init__(self, data: bytes, before: Callable[[int], object]) -> None:
        super().__init__(("127.0.0.1", 0), _Ranges)
        self.data = data
        self.before = before
        self.ranges: list[int] = []
        self.sent = 0
        self.counting = threading.Lock()
        self.url = f"http://127.0.0.1:{self.server_port}/model.safetensors"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients are killed."""


class _Ranges(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._headers(200, len(self.server.data))

    def do_GET(self) -> None:
        data = self.server.data
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert asked is not None
        first, last = int(asked[1]), int(asked[2])
        self.server.ranges.append(first)
        self._headers(206, last + 1 - first, f"bytes {first}-{last}/{len(data)}")
        for start in range(first, last + 1, CHUNK_BYTES):
            self.server.before(start)
            chunk = data[start : min(start + CHUNK_BYTES, last + 1)]
            self.wfile.write(chunk)
            with self.server.counting:
                self.server.sent += len(chunk)

    def _headers(self, status: int, length: int, content_range: str = "") -> None:
        self.send_response(status)
        self.send_header("ETag", '"v1"')
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(length))
        if content_range:
            self.send_header("Content-Range", content_range)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def serve_ranges() -> Iterator[Callable[[bytes, Callable[[int], object]], RangeServer]]:
    """Serve bytes in ranges until the test ends: ``serve_ranges(data, before) -> RangeServer``."""
    with contextlib.ExitStack() as servers:

        def serve(data: bytes, before: Callable[[int], object]) -> RangeServer:
            server = RangeServer(data, before)
            servers.enter_context(serving_requests(server))
            return server

        yield serve
