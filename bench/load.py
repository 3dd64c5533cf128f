"""A load generator for machines without wrk: keep-alive connections, one request in flight on each."""

from __future__ import annotations

import asyncio
import time
from urllib.parse import urlsplit

import uvloop

from .figures import median


class _Caller(asyncio.Protocol):
    def __init__(self, request: bytes, spent_ms: list[float], end: float, done: asyncio.Future[None]) -> None:
        self._request, self._spent_ms, self._end, self._done = request, spent_ms, end, done
        self._buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._send()

    def _send(self) -> None:
        self._begun = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        head, found, body = self._buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"\r\ncontent-length:")[2].split(b"\r\n", 1)[0])
        if len(body) < length:
            return
        self._buffer = body[length:]
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202")):
            self._done.set_exception(RuntimeError(head.decode()))
            return
        now = time.perf_counter()
        self._spent_ms.append((now - self._begun) * 1000)
        if now < self._end:
            self._send()
        elif not self._done.done():
            self._transport.close()
            self._done.set_result(None)


def run(url: str, payload: str, connections: int, seconds: int) -> tuple[float, float]:
    """Return (p50 in milliseconds, requests per second)."""
    spent_ms, per_second = spent(url, payload, connections, seconds)
    return median(spent_ms), per_second


def spent(
    url: str, payload: str, connections: int, seconds: int, headers: str = "Content-Type: application/json\r\n"
) -> tuple[list[float], float]:
    """Return (each request's milliseconds, requests per second). ``headers``: lines, each with its end."""
    parts = urlsplit(url)
    host, port = parts.hostname or "127.0.0.1", parts.port or 80
    request = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{headers}"
        f"Content-Length: {len(payload)}\r\n\r\n{payload}"
    ).encode()
    spent_ms: list[float] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        end = time.perf_counter() + seconds
        waits = []
        for _ in range(connections):
            done: asyncio.Future[None] = loop.create_future()
            waits.append(done)
            await loop.create_connection(lambda d=done: _Caller(request, spent_ms, end, d), host, port)  # type: ignore[misc]
        await asyncio.gather(*waits)

    begun = time.perf_counter()
    uvloop.run(main())
    return spent_ms, len(spent_ms) / (time.perf_counter() - begun)
