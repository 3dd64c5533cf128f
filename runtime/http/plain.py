"""Small replies in one write: the head is put together here and leaves with the body.

aiohttp's own response is made for everything that a web application may want (cookies, compression, chunks, hooks) and
shows in a profile of ``echo``. What a function answers most often needs none of it: a status, a few
headers, some bytes on a connection that stays open. ``fits`` says when that is so; everything else goes the usual way.
"""

from __future__ import annotations

import email.utils
import functools
import http
from typing import Any

from aiohttp import HttpVersion11, web

from .messages import Reply

MAX_BODY_BYTES = 64 * 1024
"""What a socket takes at once (net.core.wmem_default is 208 KiB): larger bodies need aiohttp's flow control."""

_OURS = frozenset(
    {
        *("connection", "content-length", "content-type", "date", "keep-alive", "server", "trailer"),
        *("transfer-encoding", "upgrade", "x-amzn-requestid"),
    }
)


def fits(raw: web.BaseRequest, reply: Reply) -> bool:
    """Tell whether ``PlainResponse`` may answer: nothing to negotiate, nothing waiting in the socket."""
    transport = raw.transport
    return (
        reply.stream is None
        and len(reply.body) <= MAX_BODY_BYTES
        and reply.status >= 200
        and reply.status not in (http.HTTPStatus.NO_CONTENT, http.HTTPStatus.NOT_MODIFIED)
        and raw.version == HttpVersion11
        and raw.keep_alive
        and raw.method != "HEAD"
        and transport is not None
        and not transport.is_closing()
        and not transport.get_write_buffer_size()
        and not any(name.lower() in _OURS for name, _ in reply.headers)
    )


class PlainResponse(web.StreamResponse):
    """A reply that ``fits``. ``now_s`` is Unix time, for Date. Raises ``ValueError`` for a header that breaks lines."""

    def __init__(self, reply: Reply, request_id: str, now_s: float) -> None:
        super().__init__(status=reply.status)
        lines = "".join([f"{name}: {value}\r\n" for name, value in reply.headers])
        if lines.count("\r") != len(reply.headers) or lines.count("\n") != len(reply.headers) or "\0" in lines:
            raise ValueError("a header's name or value has a line break or a NUL")
        head = (
            f"HTTP/1.1 {reply.status} {_phrase(reply.status)}\r\n{lines}x-amzn-RequestId: {request_id}\r\n"
            f"Content-Type: {reply.content_type}\r\nServer: glowplug\r\nContent-Length: {len(reply.body)}\r\n"
            f"Date: {_date(int(now_s))}\r\n\r\n"
        )
        self._bytes = head.encode() + reply.body

    @property
    def keep_alive(self) -> bool | None:
        """True: only such connections are answered this way."""
        return True

    async def prepare(self, request: web.BaseRequest) -> Any:
        """Send everything. Raises ``ConnectionResetError`` when the client has gone."""
        if not self._eof_sent:
            if request.transport is None or request.transport.is_closing():
                raise ConnectionResetError("the client closed the connection")
            self._eof_sent = True
            request.transport.write(self._bytes)
        return None

    async def write_eof(self, data: bytes = b"") -> None:
        """Do nothing: ``prepare`` has sent it all."""


def _phrase(status: int) -> str:
    try:
        return http.HTTPStatus(status).phrase
    except ValueError:
        return ""


@functools.lru_cache(maxsize=1)
def _date(unix_s: int) -> str:
    return email.utils.formatdate(unix_s, usegmt=True)
