"""Routes of APIs, the half that waits: find the API and the route, see who calls, read the body, invoke, answer.

``gateway_routing`` says which route it is, ``gateway_event`` what the function gets and what its result means,
``gateway_replies`` what the gateway answers by itself. A route may invoke the function that it names: both come from
one template, and their stack was put as a whole.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import replace
from http import HTTPStatus
from typing import Any, NamedTuple

from glowplug.runtime.apis import Api, Route, api_of
from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.identifiers import new_trace_id
from glowplug.runtime.invocation import Invocation

from .admission import Admission
from .cors import allows_origin, applied, is_preflight, preflight
from .gateway_event import canned, decoded_path, door_of, event_v1_of, response_v1_of
from .gateway_replies import REPLIES, UNKNOWN_API
from .gateway_routing import Match, RouteTable
from .invoking import ApiObserver, Directory, Invoke, hold_of, start_headers
from .messages import Reply, Request
from .url_event import UnmappableResult, event_of, response_of

log = logging.getLogger(__name__)

_ALLOWED = "access-control-allow-origin"


class _Served(NamedTuple):
    """An API made ready for requests, and the document that it was made of."""

    document: Mapping[str, Any]
    api: Api
    table: RouteTable


class Gateway:
    """Answers requests to APIs. ``arn_prefix`` ends in ``:function:``; ``account_id`` is the APIs' account."""

    def __init__(
        self,
        directory: Directory,
        invoke: Invoke,
        admission: Admission,
        *,
        arn_prefix: str,
        account_id: str,
        clock: Clock,
        request_bytes: int,
        observer: ApiObserver,
    ) -> None:
        self._directory = directory
        self._invoke = invoke
        self._admission = admission
        self._arn_prefix = arn_prefix
        self._account_id = account_id
        self._clock = clock
        self._request_bytes = request_bytes
        self._observer = observer
        self._ready: dict[str, _Served] = {}

    def welcomes(self, api_id: str, origin: str) -> bool:
        """Return whether the API lets pages of ``origin`` in: by its CORS settings or, in a REST API, by what its own
        answers to preflights say."""
        served = self._served(api_id.lower())
        if served is None:
            return False
        answers = [route.response.headers for route in served.api.routes if route.response is not None]
        allowed = [value for headers in answers for name, value in headers if name.lower() == _ALLOWED]
        return allows_origin(served.api.cors or {"AllowOrigins": allowed}, origin)

    async def answer(self, request: Request, api_id: str, path: str) -> Reply:
        """Run the route of ``path``, the raw path with any ``/_apis/<id>`` taken off, of an API.

        Raises ``GlowplugError`` for what is the node's fault.
        """
        served = self._served(api_id.lower())
        if served is None:
            return UNKNOWN_API
        try:
            reply = await self._across_origins(request, served, path)
        except GlowplugError as error:
            self._count(request, served, error.status)
            raise
        self._count(request, served, reply.status)
        return reply

    def _count(self, request: Request, served: _Served, status: int) -> None:
        self._observer.api_request(served.api.api_id, status, self._clock.monotonic() - request.arrived_s)

    async def _across_origins(self, request: Request, served: _Served, path: str) -> Reply:
        """Answer preflights, and see to it that the function has no say in CORS, where an HTTP API has settings."""
        cors = served.api.cors
        if not cors:
            return await self._answer(request, served, path)
        if is_preflight(request):
            return preflight(cors, request, HTTPStatus.NO_CONTENT)
        reply = await self._answer(request, served, path)
        return replace(reply, headers=applied(cors, request.headers.get("origin", ""), reply.headers, alone=True))

    async def _answer(self, request: Request, served: _Served, path: str) -> Reply:
        api, replies = served.api, REPLIES[served.api.protocol]
        below = _below(api.root, path)
        if below is None:
            return replies.forbidden if api.protocol == "REST" else replies.no_route
        match = served.table.find(request.method, below)
        if match is None:
            return replies.no_route
        try:
            if match.route.signed:
                request = await self._admission.to_route(request, api)
            if match.route.response is not None:
                return canned(match.route)
            return await self._call(request, api, match, path)
        except GlowplugError as error:
            reply = replies.of(error)
            if reply is None:
                raise
            return reply

    async def _call(self, request: Request, api: Api, match: Match, path: str) -> Reply:
        """Invoke the function of a route. Where it takes too long it goes on, as on AWS, and nobody hears of it.

        Raises ``GlowplugError``.
        """
        route, replies = match.route, REPLIES[api.protocol]
        now = self._clock.time()
        trace_id = request.headers.get("x-amzn-trace-id") or new_trace_id(now)
        body = await request.read(self._request_bytes)
        version = self._directory.target(route.function, route.qualifier).number
        suffix = "" if route.qualifier == "$LATEST" else f":{route.qualifier}"
        account = self._account_id
        if route.payload == "2.0":
            door = door_of(api, match, request, account)
            shown = decoded_path(path)
            payload = event_of(request, api.api_id, shown, body, trace_id=trace_id, time_s=now, door=door)
        else:
            payload = event_v1_of(request, api, match, path, body, trace_id=trace_id, time_s=now, account_id=account)
        invocation = Invocation(
            request_id=request.request_id,
            function=route.function,
            version=version,
            function_arn=f"{self._arn_prefix}{route.function}{suffix}",
            payload=payload,
            arrived_s=request.arrived_s,
            trace_id=trace_id,
            hold_s=hold_of(request.headers.get("prefer")),
        )
        try:
            async with asyncio.timeout(route.timeout_s) as limit:
                outcome = await self._invoke(invocation)
        except TimeoutError:
            if not limit.expired():
                raise
            log.warning("%s: request %s took longer than its route allows", route.function, request.request_id)
            return replies.late
        timing = start_headers(outcome)
        reply = replies.failed
        if outcome.function_error is None:
            try:
                reply = _mapped(outcome.payload, api, route, request)
            except UnmappableResult as error:
                log.warning("%s: request %s: the result is not a response: %s",
                            route.function, request.request_id, error)  # fmt: skip
        return replace(reply, headers=[*reply.headers, *timing])

    def _served(self, api_id: str) -> _Served | None:
        """Return an API; read once, as documents are replaced and never changed."""
        document = self._directory.api(api_id)
        known = self._ready.get(api_id)
        if document is None:
            self._ready.pop(api_id, None)
            return None
        if known is None or known.document is not document:
            api = api_of(api_id, document)
            known = self._ready[api_id] = _Served(document, api, RouteTable(api))
        return known


def _mapped(payload: bytes, api: Api, route: Route, request: Request) -> Reply:
    if route.payload == "2.0":
        return response_of(payload)
    return response_v1_of(payload, api, request.headers.get("accept", ""))


def _below(root: str, path: str) -> str | None:
    """Return what follows the stage in a path, ``/`` where nothing does; None where it is another stage's."""
    if not path.startswith("/"):
        return None  # such as the * of OPTIONS
    if not root:
        return path
    if path == root:
        return "/"
    return path[len(root) :] if path.startswith(f"{root}/") else None
