"""Fixtures that several unit tests share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from glowplug.deploy.client import NodeClient


class Scripted(ThreadingHTTPServer):
    """An HTTP server that answers with ``answer``, or by path where ``answers`` has one, and remembers what was asked."""

    daemon_threads = False  # server_close waits for the answers under way

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, b"{}")
        self.answers: dict[str, tuple[int, dict[str, str], bytes]] = {}
        self.asked: list[tuple[str, str, dict[str, str], bytes]] = []

    @property
    def client(self) -> NodeClient:
        return NodeClient(f"http://127.0.0.1:{self.server_port}")

    def say(self, value: Any, status: int = 200, *, path: str | None = None, **headers: str) -> None:
        """Answer so from now on: every request, or those for ``path`` (``/a``, or ``PUT /a`` for one method)."""
        names = {name.replace("_", "-"): text for name, text in headers.items()}
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        if path is None:
            self.answer = (status, names, data)
        else:
            self.answers[path] = (status, names, data)


class _Handler(BaseHTTPRequestHandler):
    server: Scripted

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.server.asked.append((self.command, self.path, dict(self.headers), body))
        path = self.path.partition("?")[0]
        by_path = self.server.answers.get(path, self.server.answer)
        status, headers, data = self.server.answers.get(f"{self.command} {path}", by_path)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()  # without Content-Length: the answer ends with the connection, as a cut stream does
        if self.command != "HEAD":
            self.wfile.write(data)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = _answer  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def scripted(running: Any) -> Iterator[Scripted]:
    server = Scripted()
    with running(server):
        yield server
