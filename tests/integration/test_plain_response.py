"""Small replies written in one go look like the ones that aiohttp writes, on real sockets."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import ClientSession, web

from glowplug.runtime.http.messages import Reply
from glowplug.runtime.http.plain import MAX_BODY_BYTES, PlainResponse, fits

REPLIES = {
    "/small": Reply(200, b'{"a":1}', [("X-Glowplug-Tier", "hot"), ("set-cookie", "a=1"), ("set-cookie", "b=2")]),
    "/teapot": Reply(418, b"short and stout", content_type="text/plain"),
    "/unknown-status": Reply(599, b"?"),
    "/empty": Reply(200),
    "/none": Reply(204),
    "/large": Reply(200, b"x" * (MAX_BODY_BYTES + 1)),
    "/own-length": Reply(200, b"12345", [("Content-Length", "2")]),
    "/own-connection": Reply(200, b"12345", [("Connection", "close")]),
}
PLAIN = {"/small", "/teapot", "/unknown-status", "/empty"}


@pytest.fixture
async def served() -> AsyncIterator[tuple[int, list[str]]]:
    """A server that answers each path with its reply; notes which ones it answered plainly."""
    plainly: list[str] = []

    async def handle(raw: web.BaseRequest) -> web.StreamResponse:
        reply = REPLIES[raw.path]
        if fits(raw, reply):
            plainly.append(raw.path)
            return PlainResponse(reply, "the-id", 0.0)
        return web.Response(status=reply.status, body=reply.body)

    runner = web.ServerRunner(web.Server(handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    (address,) = runner.addresses
    yield address[1], plainly
    await runner.cleanup()


async def test_replies_arrive_whole_over_one_connection(served: tuple[int, list[str]]) -> None:
    port, plainly = served
    async with ClientSession() as session:
        for _ in range(3):
            for path, reply in REPLIES.items():
                async with session.get(f"http://127.0.0.1:{port}{path}") as response:
                    assert (reply.status, reply.body) == (response.status, await response.read())
                    if path in PLAIN:
                        assert "the-id" == response.headers["x-amzn-RequestId"]
                        assert reply.content_type == response.headers["Content-Type"]
                        assert "Thu, 01 Jan 1970 00:00:00 GMT" == response.headers["Date"]
                        assert [value for name, value in reply.headers if name == "set-cookie"] == (
                            response.headers.getall("set-cookie", [])
                        )
    assert set(plainly) == PLAIN


async def test_pipelined_requests_are_answered_in_order(served: tuple[int, list[str]]) -> None:
    port, _ = served
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /teapot HTTP/1.1\r\nHost: x\r\n\r\n" + b"GET /small HTTP/1.1\r\nHost: x\r\n\r\n")
    text = b""
    while not text.endswith(b'{"a":1}'):
        text += await reader.read(65536)
    assert text.index(b"short and stout") < text.index(b'{"a":1}')
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize(
    "head", [b"HEAD /small HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"GET /small HTTP/1.0\r\n\r\n"]
)
async def test_what_needs_more_goes_the_usual_way(served: tuple[int, list[str]], head: bytes) -> None:
    port, plainly = served
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(head)
    assert b"200 OK" in await reader.read()
    assert [] == plainly
    writer.close()
    await writer.wait_closed()


@pytest.mark.parametrize("header", [("a\r\nb", "c"), ("a", "b\nc"), ("a", "b\0")])
def test_a_header_cannot_begin_another(header: tuple[str, str]) -> None:
    with pytest.raises(ValueError, match="line break"):
        PlainResponse(Reply(200, b"", [header]), "id", 0.0)
