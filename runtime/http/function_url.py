"""Function URLs, the half that waits: resolve the id, see who calls, read the body, invoke, answer.

The client of a function URL is the public: it learns a status and nothing of the function's error (spec 2.3).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from http import HTTPStatus

from glowplug.runtime.catalog import Url
from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import (
    Forbidden,
    FunctionFault,
    FunctionNotFound,
    GlowplugError,
    HoldTimeout,
    InternalError,
    StateError,
    Throttled,
)
from glowplug.runtime.identifiers import new_trace_id
from glowplug.runtime.invocation import Invocation

from .admission import Admission
from .cors import allows_origin, applied, is_preflight, preflight
from .deferred import Deferred
from .faults import error_reply
from .invoking import Directory, Invoke, UrlObserver, hold_of, start_headers
from .messages import Reply, Request
from .streamed_url import failed, streamed
from .streaming import Live, Streams
from .url_event import OPEN, UnmappableResult, event_of, response_of, signed_by

log = logging.getLogger(__name__)

_UNKNOWN = Reply(HTTPStatus.FORBIDDEN, b'{"Message":null}', (("x-amzn-ErrorType", "AccessDeniedException"),))
_REFUSED = Reply(HTTPStatus.FORBIDDEN, b'{"Message":"Forbidden"}', (("x-amzn-ErrorType", "AccessDeniedException"),))


class FunctionUrls:
    """Answers calls of function URLs. ``arn_prefix`` ends in ``:function:``; ``deferred`` turns requests into events
    where they prefer that."""

    def __init__(
        self,
        directory: Directory,
        invoke: Invoke,
        streams: Streams,
        admission: Admission,
        *,
        arn_prefix: str,
        clock: Clock,
        request_bytes: int,
        observer: UrlObserver,
        deferred: Deferred | None = None,
    ) -> None:
        self._directory = directory
        self._invoke = invoke
        self._streams = streams
        self._admission = admission
        self._arn_prefix = arn_prefix
        self._clock = clock
        self._request_bytes = request_bytes
        self._observer = observer
        self._deferred = deferred

    def welcomes(self, url_id: str, origin: str) -> bool:
        """Return whether the URL's CORS settings let pages of ``origin`` in."""
        url = self._directory.url(url_id.lower())
        return url is not None and allows_origin(url.cors, origin)

    async def answer(self, request: Request, url_id: str, path: str) -> Reply:
        """Run the function behind ``url_id``; ``path`` is the raw path with any ``/_url/<id>`` taken off.

        Raises ``GlowplugError`` for what is not the function's fault.
        """
        url_id = url_id.lower()
        url = self._directory.url(url_id)
        if url is None:
            return _UNKNOWN
        if url.cors and "origin" in request.headers:
            return await self._across_origins(request, url, path)
        return await self._answer(request, url, path)

    async def _across_origins(self, request: Request, url: Url, path: str) -> Reply:
        """Answer a page, which learns of refusals as well."""
        if is_preflight(request):
            self._count(request, url.function, HTTPStatus.OK)
            return preflight(url.cors, request, HTTPStatus.OK)
        try:
            reply = await self._answer(request, url, path)
        except (InternalError, StateError):
            raise
        except GlowplugError as error:
            reply = error_reply(error)
        headers = applied(url.cors, request.headers["origin"], reply.headers, alone=False)
        return replace(reply, headers=headers)

    async def _answer(self, request: Request, url: Url, path: str) -> Reply:
        function = url.function
        try:
            reply = await self._call(request, url, path)
        except FunctionFault:
            reply = failed()
        except Forbidden:
            reply = _REFUSED
        except GlowplugError as error:
            self._count(request, function, error.status)
            raise
        if isinstance(reply.stream, Live):
            reply.stream.on_closed = lambda: self._count(request, function, reply.status)
        else:
            self._count(request, function, reply.status)
        return reply

    def _count(self, request: Request, function: str, status: int) -> None:
        self._observer.url_request(function, status, self._clock.monotonic() - request.arrived_s)

    async def _call(self, request: Request, url: Url, path: str) -> Reply:
        function = url.function
        request = await self._admission.to_url(request, url)
        door = OPEN if request.principal is None else signed_by(request.principal)
        if self._deferred is not None and (found := await self._deferred.answer(request, url, path)) is not None:
            return found
        headers = request.headers
        now = self._clock.time()
        trace_id = headers.get("x-amzn-trace-id") or new_trace_id(now)
        body = await request.read(self._request_bytes)
        try:
            version = self._directory.target(function, url.qualifier)
        except FunctionNotFound:  # its alias is gone
            return _UNKNOWN
        suffix = "" if url.qualifier == "$LATEST" else f":{url.qualifier}"
        prefer = headers.get("prefer")
        invocation = Invocation(
            request_id=request.request_id,
            function=function,
            version=version.number,
            function_arn=f"{self._arn_prefix}{function}{suffix}",
            payload=event_of(request, url.url_id, path, body, trace_id=trace_id, time_s=now, door=door),
            arrived_s=request.arrived_s,
            trace_id=trace_id,
            hold_s=hold_of(prefer),
        )
        deferred = self._deferred
        if deferred is None or not deferred.wanted(prefer, version.spec):
            if url.invoke_mode == "RESPONSE_STREAM":
                return await streamed(self._streams, invocation)
            outcome = await self._invoke(invocation)
        elif invocation.hold_s is None:
            return await deferred.accept(request, url, path, invocation.payload, trace_id)
        else:
            try:
                outcome = await self._invoke(invocation)
            except (HoldTimeout, Throttled):  # nothing was run
                return await deferred.accept(request, url, path, invocation.payload, trace_id)
        timing = start_headers(outcome)
        if outcome.function_error is not None:
            return failed(timing)
        try:
            reply = response_of(outcome.payload)
        except UnmappableResult as error:
            log.warning("%s: request %s: the result is not a response: %s", function, request.request_id, error)
            return failed(timing)
        return Reply(reply.status, reply.body, [*reply.headers, *timing], reply.content_type)
