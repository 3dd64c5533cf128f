"""What the fetching benches download from, each in a process of its own on loopback.

``moto`` is the S3 that the project's tests use. It reads the whole object for every range that is asked of it, so with
parallel ranges it is slower than any disk or network; ``ranges`` is a server that does nothing but ``sendfile``, speaks
as much of S3 as a download needs, and counts the bytes that it has sent.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from .served import ROOT, free_port

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_SERVED = "/-/served"


def client_environment(endpoint: str) -> dict[str, str]:
    """Return the settings with which boto3 talks to ``endpoint``: made-up credentials, nothing from this machine."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "bench",
        "AWS_SECRET_ACCESS_KEY": "bench",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }


@contextlib.contextmanager
def moto(keep_bytes: int) -> Iterator[str]:
    """Run a moto server, give its endpoint. Objects up to ``keep_bytes`` stay in its memory and not in a file."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _running(command, port, {"MOTO_S3_DEFAULT_KEY_BUFFER_SIZE": str(keep_bytes)}):
        yield f"http://127.0.0.1:{port}"


@contextlib.contextmanager
def ranges(directory: Path) -> Iterator[str]:
    """Serve ``directory`` (its folders are buckets) until the block ends; give the endpoint."""
    port = free_port()
    with _running([sys.executable, "-m", "bench.cache_servers", str(directory), str(port)], port, {}):
        yield f"http://127.0.0.1:{port}"


def served_bytes(endpoint: str) -> int:
    """Return how many bytes of objects a ``ranges`` server has sent so far."""
    connection = http.client.HTTPConnection(urlsplit(endpoint).netloc, timeout=10)
    with contextlib.closing(connection):
        connection.request("GET", _SERVED)
        return int(json.load(connection.getresponse())["bytes"])


@contextlib.contextmanager
def _running(command: Sequence[str], port: int, environ: dict[str, str], limit_s: float = 60) -> Iterator[None]:
    with subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **environ}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            end = time.monotonic() + limit_s
            while not _listens(port):
                if process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"{' '.join(command)}: does not listen; status {process.poll()}")
                time.sleep(0.02)
            yield
        finally:
            process.kill()


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.5):
        return True
    return False


class _Served:
    """Bytes sent, counted by all connections."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.bytes = 0

    def add(self, count: int) -> None:
        with self._lock:
            self.bytes += count


class _Handler(BaseHTTPRequestHandler):
    """GET and HEAD of objects, whole or one range of them, and ListObjectsV2."""

    protocol_version = "HTTP/1.1"
    directory: Path
    served: _Served

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == _SERVED:
            return self._whole(json.dumps({"bytes": self.served.bytes}).encode(), "application/json")
        path = self.directory / unquote(url.path).strip("/")
        if path.is_dir():
            return self._whole(_listing(path, parse_qs(url.query)), "application/xml")
        if not path.is_file():
            return self._whole(b"<Error><Code>NoSuchKey</Code></Error>", "application/xml", 404)
        return self._object(path)

    def _whole(self, body: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def _object(self, path: Path) -> None:
        size = path.stat().st_size
        asked = _RANGE.fullmatch(self.headers.get("Range", ""))
        begin = int(asked[1]) if asked else 0
        end = min(int(asked[2]) + 1 if asked and asked[2] else size, size)
        self.send_response(206 if asked else 200)
        if asked:
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{size}")
        self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", _etag(path))
        self.send_header("Last-Modified", formatdate(path.stat().st_mtime, usegmt=True))
        self.send_header("Accept-Ranges", "bytes")
        self.end_headers()
        if self.command == "GET":
            self.wfile.flush()
            self._send_file(path, begin, end)

    def _send_file(self, path: Path, begin: int, end: int) -> None:
        with path.open("rb") as file:
            while begin < end:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), begin, end - begin)
                if not sent:
                    return
                begin += sent
                self.served.add(sent)

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002  (http.server's name)
        """Say nothing: a bench's output is its table."""


def _etag(path: Path) -> str:
    return f'"{hashlib.md5(f"{path.name}:{path.stat().st_mtime_ns}".encode()).hexdigest()}"'


def _listing(bucket: Path, query: dict[str, list[str]]) -> bytes:
    prefix = query.get("prefix", [""])[0]
    keys = sorted(p.relative_to(bucket).as_posix() for p in bucket.rglob("*") if p.is_file())
    found = [key for key in keys if key.startswith(prefix)]
    rows = "".join(
        f"<Contents><Key>{escape(key)}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
        f"<ETag>{escape(_etag(bucket / key))}</ETag><Size>{(bucket / key).stat().st_size}</Size></Contents>"
        for key in found
    )
    return (
        f'<?xml version="1.0"?><ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<Name>{escape(bucket.name)}</Name><Prefix>{escape(prefix)}</Prefix><KeyCount>{len(found)}</KeyCount>"
        f"<MaxKeys>1000</MaxKeys><IsTruncated>false</IsTruncated>{rows}</ListBucketResult>"
    ).encode()


def main(directory: Path, port: int) -> None:
    """Serve ``directory`` on ``port`` of loopback for ever."""
    handler = type("Handler", (_Handler,), {"directory": directory, "served": _Served()})
    server = ThreadingHTTPServer(("127.0.0.1", port), handler)
    server.daemon_threads = True
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
