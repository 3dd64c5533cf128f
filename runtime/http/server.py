"""The listeners: sockets, aiohttp's low-level server, and the one handler that turns requests into responses.

``web.Server`` rather than ``web.Application``: its router would decode the path before matching it, and with its
middlewares and signals costs more than everything else at the edge. A client that goes away cancels its handler, and
with it the invocation that waits (``handler_cancellation``).
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import logging
import socket
import struct
from http import HTTPStatus

from aiohttp import HttpVersion11, web
from multidict import CIMultiDict

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import GlowplugError, InternalError, StateError
from glowplug.runtime.identifiers import new_request_id

from .dispatch import Surface
from .faults import error_reply
from .hosts import is_loopback
from .messages import Reply, Request, StreamCut
from .plain import PlainResponse, fits

log = logging.getLogger(__name__)

_BACKLOG = 1024
_MAX_HEADER_BYTES = 16 * 1024  # one header; a ClientContext takes 4/3 of 3583 bytes, Lambda's URLs allow 10 KiB in all
_LOCAL = {"0.0.0.0": "127.0.0.1", "::": "::1"}
_RESET = struct.pack("ii", 1, 0)  # linger for no time: what closes such a socket sends RST
_DISCARD_S = 2.0  # how long a refused upload is read and thrown away, so that its client sees the answer


class Listener:
    """One bound port and, once it serves, the surface behind it. Made by ``HttpServer``."""

    def __init__(self, name: str, option: str, clock: Clock) -> None:
        self._name = name
        self._option = option
        self._clock = clock
        self._bound: socket.socket | None = None
        self._surface: Surface | None = None
        self._server: asyncio.Server | None = None
        self._protocols: web.Server | None = None
        self.port = 0

    def bind(self, host: str, port: int) -> None:
        """Take the port; clients that connect from now on wait. Raises ``StateError`` when it cannot be had."""
        self._bound = bind(host, port, name=self._name, option=self._option)
        self.port = self._bound.getsockname()[1]

    async def serve(self, surface: Surface) -> None:
        """Answer with ``surface``; ``bind`` comes first."""
        assert self._bound is not None  # noqa: S101  (bind comes first)
        self._surface = surface
        self._protocols = web.Server(
            self._handle,
            handler_cancellation=True,
            access_log=None,
            auto_decompress=False,  # a function gets the bytes that were sent
            max_field_size=_MAX_HEADER_BYTES,
            max_line_size=_MAX_HEADER_BYTES,
            lingering_time=_DISCARD_S,
        )
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._protocols, sock=self._bound, backlog=_BACKLOG)

    def stop_accepting(self) -> None:
        """Close the listening socket and idle connections; requests under way go on."""
        if self._server is not None:
            self._server.close()
        elif self._bound is not None:
            self._bound.close()
        if self._protocols is not None:
            self._protocols.pre_shutdown()

    async def close(self, drain_s: float) -> None:
        """Stop accepting, give requests under way ``drain_s`` seconds, then cancel them."""
        self.stop_accepting()
        if self._protocols is not None:
            await self._protocols.shutdown(drain_s)

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        request_id = new_request_id()
        assert self._surface is not None  # noqa: S101  (nothing is accepted before serve)
        try:
            request = Request.of(raw, request_id, self.port, self._clock.monotonic())
            reply = await self._surface.answer(request)
        except GlowplugError as error:
            if isinstance(error, InternalError | StateError):
                log.error("request %s: %s", request_id, error, exc_info=error)
            reply = error_reply(error)
        except Exception:
            log.exception("request %s: %s %s failed", request_id, raw.method, raw.raw_path)
            reply = error_reply(InternalError(f"Internal error; the node's log says more about request {request_id}"))
        if fits(raw, reply):
            return PlainResponse(reply, reply.request_id or request_id, self._clock.time())
        return await _send(raw, reply, reply.request_id or request_id)


class HttpServer:
    """The control listener and, where a public port is configured, the public one.

    ``guarded``: only callers with credentials are answered by control, so that other machines may reach it.
    """

    def __init__(self, config: NodeConfig, *, clock: Clock, guarded: bool = False) -> None:
        self._config = config
        self._guarded = guarded
        self._control = Listener("control listener", "--port", clock)
        self._public = Listener("public listener", "--public-port", clock) if config.public_port is not None else None

    def __repr__(self) -> str:
        return f"<HttpServer {self.endpoint} public_port={self.public_port}>"

    @property
    def port(self) -> int:
        """The control listener's port, also when the configured one is 0."""
        return self._control.port

    @property
    def public_port(self) -> int | None:
        """The public listener's port, None without one."""
        return self._public.port if self._public is not None else None

    @property
    def endpoint(self) -> str:
        """The URL of the control listener as this machine reaches it, without a final slash."""
        host = _LOCAL.get(self._config.host, self._config.host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def bind(self) -> None:
        """Take both ports, or neither. Raises ``StateError`` naming the one that cannot be had."""
        config = self._config
        if not is_loopback(config.host) and not self._guarded:
            raise StateError(
                f"control listener: {config.host} is reachable by other machines and nothing checks who calls; add "
                "credentials (`glowplug credentials add NAME`), or use 127.0.0.1, and --public-port for function URLs"
            )
        self._control.bind(config.host, config.port)
        if self._public is not None and config.public_port is not None:
            try:
                self._public.bind(config.public_host, config.public_port)
            except BaseException:
                self._control.stop_accepting()
                raise

    async def serve(self, *, control: Surface, public: Surface) -> None:
        """Answer on the ports that ``bind`` took."""
        await self._control.serve(control)
        if self._public is not None:
            await self._public.serve(public)

    def stop_accepting(self) -> None:
        """Close the listening sockets; requests under way go on."""
        for listener in self._listeners():
            listener.stop_accepting()

    async def close(self, drain_s: float) -> None:
        """Stop accepting, give requests under way ``drain_s`` seconds, then cancel them."""
        self.stop_accepting()
        await asyncio.gather(*(listener.close(drain_s) for listener in self._listeners()))

    def _listeners(self) -> list[Listener]:
        return [self._control] if self._public is None else [self._control, self._public]


def bind(host: str, port: int, *, name: str, option: str) -> socket.socket:
    """Return a listening, close-on-exec socket. Raises ``StateError`` naming the listener and the port."""
    address = "127.0.0.1" if host == "localhost" else host
    try:
        family = socket.AF_INET6 if ipaddress.ip_address(address).version == 6 else socket.AF_INET
    except ValueError:
        raise StateError(f"{name}: {host!r} is not an IP address") from None
    bound = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        bound.setblocking(False)
        bound.bind((address, port))
        bound.listen(_BACKLOG)
    except (OSError, OverflowError) as error:
        bound.close()
        why = "is taken by another program" if _number(error) == errno.EADDRINUSE else f"cannot be used: {error}"
        raise StateError(f"{name}: port {port} on {host} {why}; choose another with {option}") from error
    return bound


async def _send(raw: web.BaseRequest, reply: Reply, request_id: str) -> web.StreamResponse:
    headers = CIMultiDict(reply.headers)
    headers["x-amzn-RequestId"] = request_id
    headers["Content-Type"] = reply.content_type
    headers["Server"] = "glowplug"
    if reply.stream is None:
        return web.Response(status=reply.status, body=reply.body, headers=headers)
    async with contextlib.aclosing(reply.stream) as chunks:  # its work ends when the client goes away
        response = web.StreamResponse(status=reply.status, headers=headers)
        bodiless = raw.method == "HEAD" or reply.status in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED)
        await response.prepare(raw)
        try:
            async for chunk in chunks:
                if not bodiless:
                    await response.write(chunk)
        except StreamCut as cut:
            log.info("request %s: %s", request_id, cut)
            _cut(raw)
            return response
    await response.write_eof()
    return response


def _cut(raw: web.BaseRequest) -> None:
    """End the connection where a body is not complete: without its last chunk, or, where a client knows no chunks and
    an orderly end would be the body's, with a reset."""
    transport = raw.transport
    if transport is None:
        return
    if raw.version >= HttpVersion11:
        transport.close()
        return
    transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    transport.abort()


def _number(error: Exception) -> int:
    return getattr(error, "errno", None) or 0
