"""Downloads of code by a link that needs no credentials: what GetFunction and GetLayerVersion give as ``Location``.

    GET /_glowplug/download/<sha256>?Expires=<unix seconds>&Signature=<HMAC-SHA256, hex>

Whoever was told the link may download until it expires, as on AWS, also where the node checks signatures: the link is
signed, with the node's key, over digest and time. Links outlive a restart of the node, whose key is in its state
directory. Nothing is kept of a link that was made.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncGenerator
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qs

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import Forbidden, MethodNotAllowed, ResourceNotFound

from .messages import Reply, Request

PREFIX = "/_glowplug/download/"
VALID_S = 600
"""How long a link may be used: 10 minutes, as the links of Lambda's GetFunction."""

_PURPOSE = b"glowplug code download 1\n"  # the key also signs snapshots; neither may pass for the other


class Zips(Protocol):
    """Uploaded code. ``CodeStore`` is one."""

    def has(self, digest: str, /) -> bool:
        """Return whether the code is here. Raises ``InvalidParameter`` for what is no digest."""

    def size(self, digest: str, /) -> int:
        """Return the bytes of a zip."""

    def read(self, digest: str, /) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a zip."""


class Downloads:
    """Makes links and answers them. ``key`` is the node's."""

    def __init__(self, code: Zips, key: bytes, clock: Clock) -> None:
        self._code = code
        self._key = key
        self._clock = clock

    def __repr__(self) -> str:
        return f"<Downloads of {self._code!r}>"

    def location(self, request: Request, digest: str) -> str:
        """Return a link to the zip with this SHA-256 (hex), at the host that the caller has reached the node at."""
        expires = int(self._clock.time()) + VALID_S
        return (
            f"http://{request.host}{PREFIX}{digest}?Expires={expires}&Signature={self._signature(digest, str(expires))}"
        )

    async def answer(self, request: Request) -> Reply:
        """Send the zip. Raises ``Forbidden`` for a link that the node has not made or that has expired,
        ``ResourceNotFound`` for code that is gone, ``MethodNotAllowed``."""
        if request.method != "GET":
            raise MethodNotAllowed(f"{request.path} takes GET, not {request.method}")
        digest = request.path.removeprefix(PREFIX)
        given = parse_qs(request.query)
        expires, signature = given.get("Expires", [""])[-1], given.get("Signature", [""])[-1]
        if not hmac.compare_digest(self._signature(digest, expires).encode(), signature.encode(errors="replace")):
            raise Forbidden("The signature of this link does not match")
        if int(expires) < self._clock.time():  # a number: the node has signed it
            raise Forbidden("This link has expired; ask for another one")
        if not self._code.has(digest):
            raise ResourceNotFound(f"Code not found: {digest}")
        length = ("Content-Length", str(self._code.size(digest)))
        return Reply(HTTPStatus.OK, headers=(length,), content_type="application/zip", stream=self._code.read(digest))

    def _signature(self, digest: str, expires: str) -> str:
        signed = f"{digest}\n{expires}".encode(errors="replace")
        return hmac.new(self._key, _PURPOSE + signed, hashlib.sha256).hexdigest()
