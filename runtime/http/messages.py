"""What the edge passes around: a ``Request`` as it came off the socket, a ``Reply`` to be put on it.

Paths stay raw: routes are matched on the undecoded path and each segment is decoded afterwards, because clients send
``my-fn:live`` as ``my-fn%3Alive`` and whole ARNs as one segment (spec 1.1), and because a function URL must see
``/pa2%Fth`` as it was sent (spec 2.2).
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import unquote

from aiohttp import web
from aiohttp.streams import StreamReader

from glowplug.runtime.errors import InvalidParameter, InvalidRequestContent, InvalidSignature, RequestTooLarge
from glowplug.runtime.principal import Principal

JSON = "application/json"


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


# Made once: json.dumps and json.loads with options make a coder per call, which costs more than the coding
_of_json = json.JSONDecoder(parse_constant=_refuse).decode
_to_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, check_circular=False).encode


quoted = json.encoder.encode_basestring
"""Returns a string as JSON, with its quotes; text stays UTF-8."""


class Chunks(Protocol):
    """A body as it comes: an asynchronous generator, or something like one. Whoever has it closes it."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Return what yields the chunks."""

    async def aclose(self) -> object:
        """End the work behind it, begun or not."""


class StreamCut(Exception):
    """A body that was sent in part has no rest: its client is shown that by a connection that ends too early."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A response. ``stream``, when given, is sent chunk by chunk after the headers, and ``body`` is not used; it may
    raise ``StreamCut``. ``request_id`` is that of the request which was run, where it is not the one that is answered.
    """

    status: int
    body: bytes = b""
    headers: Sequence[tuple[str, str]] = ()
    content_type: str = JSON
    stream: Chunks | None = None
    request_id: str = ""


@dataclass(frozen=True, slots=True)
class Request:
    """One HTTP request. Header names are lower case, repeated headers are joined with a comma.

    ``path`` and ``query`` are as sent, ``host`` is the authority it was sent to (``Host``, or the authority of an
    absolute-form target, which overrides it: RFC 9112 section 3.2.2), ``arrived_s`` is the monotonic clock. ``raw`` is
    the socket's side of it, for ``read`` alone; a request without one has no body.

    ``principal`` is who signed it, where a signature was asked for. ``body`` is what was read to check a signature,
    ``body_sha256`` (hex) what the body must have, where the signature names its digest; ``read`` and ``parts`` see to
    it.
    """

    request_id: str
    method: str
    path: str
    query: str
    host: str
    headers: Mapping[str, str]
    protocol: str
    peer: str
    port: int
    arrived_s: float
    raw: web.BaseRequest | None = None
    principal: Principal | None = None
    body: bytes | None = None
    body_sha256: str = ""

    @classmethod
    def of(cls, raw: web.BaseRequest, request_id: str, port: int, arrived_s: float) -> Request:
        """Take the parts out of an aiohttp request; the body is left unread."""
        headers: dict[str, str] = {}
        for raw_name, raw_value in raw.raw_headers:
            name = raw_name.decode("latin-1").lower()
            value = _header_text(raw_value)
            if name in headers:  # RFC 9113 section 8.2.3 for cookies, whose values may hold commas
                value = f"{headers[name]}{'; ' if name == 'cookie' else ','}{value}"
            headers[name] = value
        path, _, query = raw.raw_path.partition("?")
        host = headers.get("host", "")
        if not path.startswith("/") and "://" in path:
            host, _, path = path.partition("://")[2].partition("/")
            path = "/" + path
        protocol = "HTTP/1.1" if raw.version == (1, 1) else f"HTTP/{raw.version[0]}.{raw.version[1]}"
        peer = raw.protocol.peername
        return cls(
            request_id, raw.method, path, query, host, headers, protocol,
            peer[0] if isinstance(peer, tuple) else "", port, arrived_s, raw,
        )  # fmt: skip

    def fields(self) -> list[tuple[str, str]]:
        """Return the header fields one by one, each name as it was spelled."""
        if self.raw is None:
            return list(self.headers.items())
        return [(name.decode("latin-1"), _header_text(value)) for name, value in self.raw.raw_headers]

    def segments(self, prefix: str) -> list[str]:
        """Return the percent-decoded segments that follow ``prefix``; one trailing slash is ignored.

        Raises ``InvalidParameter`` for a segment that is not UTF-8.
        """
        rest = self.path[len(prefix) :].removesuffix("/")
        try:
            return [unquote(segment, errors="strict") for segment in rest.split("/")] if rest else []
        except UnicodeDecodeError as error:
            raise InvalidParameter(f"{self.path}: not UTF-8: {error}") from None

    async def read(self, limit_bytes: int, *, what: str = "") -> bytes:
        """Return the body, never holding more than ``limit_bytes`` of it.

        Raises ``RequestTooLarge`` with Lambda's sentence (``what`` replaces the invocation type's part of it) before
        anything is read where the length was declared, ``InvalidRequestContent`` where its framing is broken, and
        ``InvalidSignature`` where it is not the body that was signed.
        """
        if self.body is not None:
            if len(self.body) > limit_bytes:
                raise too_large(len(self.body), limit_bytes, what)
            return self.body
        body = await self._read(limit_bytes, what)
        if self.body_sha256:
            self._check(hashlib.sha256(body).hexdigest())
        return body

    async def _read(self, limit_bytes: int, what: str) -> bytes:
        stream = await self._content(limit_bytes, what)
        if stream is None:
            return b""
        body = await _next(stream)
        if stream.at_eof() and len(body) <= limit_bytes:
            return body
        parts, size = [body], len(body)
        while size <= limit_bytes:
            part = await _next(stream)
            if not part:
                return b"".join(parts)
            parts.append(part)
            size += len(part)
        raise too_large(size, limit_bytes, what)

    async def parts(self, limit_bytes: int, *, what: str) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives. Raises as ``read``; ``InvalidSignature`` comes after the last part."""
        if self.body is not None:
            yield await self.read(limit_bytes, what=what)
            return
        stream = await self._content(limit_bytes, what)
        digest, size = hashlib.sha256() if self.body_sha256 else None, 0
        while stream is not None and (part := await _next(stream)):
            size += len(part)
            if size > limit_bytes:
                raise too_large(size, limit_bytes, what)
            if digest is not None:
                digest.update(part)
            yield part
        if digest is not None:
            self._check(digest.hexdigest())

    def _check(self, sha256: str) -> None:
        if not hmac.compare_digest(sha256, self.body_sha256):
            raise InvalidSignature("The provided 'x-amz-content-sha256' header does not match what was computed.")

    async def _content(self, limit_bytes: int, what: str) -> StreamReader | None:
        """Return what the body is read from, after the interim response to a client that waits for one."""
        if self.raw is None:
            return None
        declared = self.headers.get("content-length")
        if declared is not None and int(declared) > limit_bytes:
            raise too_large(int(declared), limit_bytes, what)
        if self.headers.get("expect", "").lower() == "100-continue":
            await self.raw.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.raw.writer.output_size = 0  # the interim response is not part of the final one
        return self.raw.content


def too_large(size_bytes: int, limit_bytes: int, what: str = "") -> RequestTooLarge:
    """Return the error with Lambda's recorded sentence (spec 1.5)."""
    what = what or "the RequestResponse invocation type"
    return RequestTooLarge(f"{size_bytes} byte payload is too large for {what} (limit {limit_bytes} bytes)")


def json_reply(value: Any, status: int = 200, headers: Sequence[tuple[str, str]] = ()) -> Reply:
    """Return ``value`` as compact JSON."""
    return Reply(status, compact_json(value), headers)


def compact_json(value: Any) -> bytes:
    """Return ``value`` as JSON without spaces, UTF-8. Lone surrogates, which UTF-8 cannot carry, stay escaped."""
    try:
        return _to_json(value).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()


def parse_json(text: bytes) -> Any:
    """Return the one JSON value that ``text`` is. Raises ``ValueError`` (``RecursionError`` when nested too deep).

    Stricter than ``json.loads``: UTF-8 only, and neither NaN nor Infinity, which are not JSON.
    """
    return _of_json(text.decode())


async def _next(stream: StreamReader) -> bytes:
    try:
        return await stream.readany()
    except web.RequestPayloadError as error:
        raise InvalidRequestContent(f"Could not read request body: {error}") from error


def _header_text(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:  # RFC 9110 section 5.5: historically ISO-8859-1
        return value.decode("latin-1")
