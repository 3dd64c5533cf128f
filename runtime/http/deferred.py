"""``Prefer: respond-async`` (RFC 7240) on a function URL: the request becomes an event, its answer is fetched later.

    Prefer: respond-async             202 at once
    Prefer: respond-async, wait=5     the answer, where an instance is ready within 5 s; else 202

``Location`` leads to ``<URL>/_async/<token>``, on the listener and the host that were asked; there is 202 as long as
the function has not answered, and then its answer. The token is the request's id with a code that only this node can
make (HMAC-SHA256, 128 bits): who was not given it cannot guess one. Public clients get this only of functions whose
template says ``AsyncUrl: true``.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
from http import HTTPStatus

from glowplug.runtime.catalog import Url
from glowplug.runtime.events.accepting import Acceptor, NewEvent
from glowplug.runtime.events.records import SUCCEEDED
from glowplug.runtime.events.results import Results
from glowplug.runtime.events.stored import key_of
from glowplug.runtime.queue.embedded import id_text
from glowplug.runtime.spec import FunctionSpec

from .invoking import hold_of
from .messages import Reply, Request, json_reply
from .streamed_url import failed
from .url_event import UnmappableResult, response_of

log = logging.getLogger(__name__)

PATH = "/_async/"
_CODE_BYTES = 16
_RETRY_AFTER = ("Retry-After", "1")


class Deferred:
    """Requests of one listener that are answered later. ``public``: only functions that allow it."""

    def __init__(self, events: Acceptor, results: Results, key: bytes, *, public: bool) -> None:
        self._events = events
        self._results = results
        self._key = hmac.new(key, b"glowplug async urls", hashlib.sha256).digest()
        self._public = public

    def wanted(self, prefer: str | None, spec: FunctionSpec) -> bool:
        """Return whether a request is to become an event, or may."""
        if not prefer or (self._public and not spec.async_url):
            return False
        return any(one.partition(";")[0].strip().lower() == "respond-async" for one in prefer.split(","))

    async def accept(self, request: Request, url: Url, path: str, payload: bytes, trace_id: str) -> Reply:
        """Accept the event of a request and answer 202. Raises as ``Acceptor.accept``."""
        qualifier = "" if url.qualifier == "$LATEST" else url.qualifier
        accepted = await self._events.accept(
            NewEvent(url.function, qualifier, payload, trace_id=trace_id, source=f"url:{url.url_id}")
        )
        below = request.path.removesuffix(path) if path != "/" else request.path.removesuffix("/")
        location = f"{below}{PATH}{self._token(url.function, accepted.request_id)}"
        headers = (("Location", location), _RETRY_AFTER, ("Preference-Applied", "respond-async"))
        body = {"requestId": accepted.request_id, "state": "queued"}
        return json_reply(body, HTTPStatus.ACCEPTED, headers)

    async def answer(self, request: Request, url: Url, path: str) -> Reply | None:
        """Answer a request for what became of another, None where it is none: then it is the function's.

        Raises ``ResourceNotFound`` when that is too long ago.
        """
        if request.method != "GET" or not path.startswith(PATH):
            return None
        request_id = self._named(url.function, path.removeprefix(PATH))
        if request_id is None:
            return None
        found = await self._results.wait(request_id, hold_of(request.headers.get("prefer")) or 0.0)
        record = found.record
        if record is None:
            body = {"requestId": request_id, "state": found.state}
            return json_reply(body, HTTPStatus.ACCEPTED, (("Location", request.path), _RETRY_AFTER))
        if record.state != SUCCEEDED or record.body is None:
            return failed()
        try:
            return response_of(record.body)
        except UnmappableResult as error:
            log.warning("%s: request %s: the result is not a response: %s", url.function, request_id, error)
            return failed()

    def _token(self, function: str, request_id: str) -> str:
        key = key_of(request_id) or b""
        return base64.urlsafe_b64encode(key + self._code(function, key)).rstrip(b"=").decode()

    def _named(self, function: str, token: str) -> str | None:
        """Return the request id of a token that this node gave for ``function``, None for anything else."""
        try:
            data = base64.b64decode(token + "=" * (-len(token) % 4), altchars=b"-_", validate=True)
        except ValueError:
            return None
        key, code = data[:16], data[16:]
        return id_text(key) if hmac.compare_digest(code, self._code(function, key)) else None

    def _code(self, function: str, key: bytes) -> bytes:
        return hmac.new(self._key, key + function.encode(), hashlib.sha256).digest()[:_CODE_BYTES]
