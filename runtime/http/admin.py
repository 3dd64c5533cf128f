"""The admin API: ``ControlPlane`` and ``StackPlane`` as JSON under ``/_glowplug/``, and ``/metrics``.

    GET  /_glowplug/health
    GET  /_glowplug/functions                      {"functions": [...]}
    POST /_glowplug/functions/<name>/warm          {"function", "tier"}
    POST /_glowplug/functions/<name>/cool          body {"to": "parked"|"stored"|"remote"}; {"function", "tier"}
    GET  /_glowplug/functions/<name>/bake          {"function", "engines": [...]}, with measurements
    POST /_glowplug/functions/<name>/bake          body {"wait": bool, "engine": label or ""}; the same (*)
    GET  /_glowplug/functions/<name>/snapshot      ?model=; a snapshot file without its signature
    POST /_glowplug/snapshots                      ?wait=true; body a snapshot file; {"key", "models": [...], …}
    GET  /_glowplug/functions/<name>/logs          ?request_id=&last=<lines>; text
    GET  /_glowplug/starts[/<request-id>]          {"starts": [...]}, or one record
    GET  /_glowplug/explain/<request-id>           text
    HEAD, GET, PUT /_glowplug/code/<sha256>        zip bytes
    GET  /_glowplug/stacks[/<stack>]               {"stacks": [...]}, or one with what was asked for (Definitions) and
                                                   what was changed since (Drift)
    PUT  /_glowplug/stacks/<stack>                 body as ``StackRequest.from_json`` reads it;
                                                   {"changes": [...], "notes": [...], "versions": {...}} (*)
    DELETE /_glowplug/stacks/<stack>               {"changes": [...]}
    …    /_glowplug/async[/<request-id>]           asynchronous events (``results.py``)
    …    /_glowplug/queues[/…]                      queue_admin.py
    …    /_glowplug/schedules, events, topics, jobs  what causes events (``triggers.py``)
    GET  /metrics                                  Prometheus text

(*) with ``Accept: application/x-ndjson`` the answer comes as lines: any number of ``{"event": "progress", …}``, then
one ``{"event": "result", …}`` or ``{"event": "error", "status", "code", …}``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict
from http import HTTPStatus
from typing import Any, Protocol, cast

from glowplug.runtime.catalog import Stack
from glowplug.runtime.config import Limits
from glowplug.runtime.control import ControlPlane, EngineListing, StackPlane
from glowplug.runtime.errors import InvalidParameter, InvalidRequestContent, MethodNotAllowed, ResourceNotFound
from glowplug.runtime.invocation import Tier
from glowplug.runtime.stacks import OnEvent, StackRequest

from .events import events_of
from .messages import Reply, Request, json_reply, parse_json
from .queries import asked, whole
from .queue_admin import QueueAdmin
from .results import ResultsApi
from .triggers import TriggersApi

_PREFIX = "/_glowplug/"
_COOLER: tuple[Tier, ...] = ("parked", "stored", "remote")
_STACK_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-_]{0,127}")
_TEXT = "text/plain; charset=utf-8"
_NDJSON = "application/x-ndjson"
_BYTES = "application/octet-stream"

Work = Callable[[OnEvent], Awaitable[Mapping[str, Any]]]


class Exposition(Protocol):
    """The node's metrics as text."""

    content_type: str

    async def scrape(self) -> bytes:
        """Return all metrics."""


class AdminApi:
    """Answers ``/_glowplug/*`` and ``/metrics``."""

    def __init__(
        self,
        control: ControlPlane,
        stacks: StackPlane,
        metrics: Exposition,
        *,
        limits: Limits,
        events: ResultsApi | None = None,
        queues: QueueAdmin | None = None,
        triggers: TriggersApi | None = None,
    ) -> None:
        self._triggers = triggers
        self._events = events
        self._control = control
        self._stacks = stacks
        self._metrics = metrics
        self._limits = limits
        self._queues = queues

    async def answer(self, request: Request) -> Reply:
        """Dispatch on the raw path. Raises ``GlowplugError``."""
        if request.path == "/metrics":
            _only(request, "GET")
            return Reply(HTTPStatus.OK, await self._metrics.scrape(), content_type=self._metrics.content_type)
        match request.segments(_PREFIX):
            case ["functions", name, verb]:
                return await self._function(request, name, verb)
            case ["snapshots"]:
                return await self._import(request)
            case [("schedules" | "events" | "topics" | "jobs"), *_] as segments if self._triggers is not None:
                return await self._triggers.answer(request, segments)
            case ["async", *rest] if self._events is not None:
                return await self._events.answer(request, rest)
            case ["queues", *_] if self._queues is not None:
                return await self._queues.answer(request)
            case ["code", digest]:
                return await self._code(request, digest)
            case ["stacks", name]:
                return await self._stack(request, name)
            case segments:
                _only(request, "GET")
                return await self._read(request, segments)

    async def _read(self, request: Request, segments: list[str]) -> Reply:
        match segments:
            case ["health"]:
                return json_reply(asdict(await self._control.health()))
            case ["functions"]:
                return json_reply({"functions": [asdict(listing) for listing in await self._control.functions()]})
            case ["starts"]:
                return json_reply({"starts": [record.to_json() for record in await self._control.starts()]})
            case ["starts", request_id]:
                return json_reply((await self._control.start(request_id)).to_json())
            case ["explain", request_id]:
                text = await self._control.explain(request_id)
                return Reply(HTTPStatus.OK, f"{text.rstrip()}\n".encode(), content_type=_TEXT)
            case ["stacks"]:
                return json_reply({"stacks": [_stack_summary(stack) for stack in await self._stacks.stacks()]})
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    async def _function(self, request: Request, name: str, verb: str) -> Reply:
        match verb:
            case "logs":
                _only(request, "GET")
                return await self._logs(request, name)
            case "snapshot":
                _only(request, "GET")
                pieces = await self._control.export_snapshot(name, asked(request).get("model"))
                return Reply(HTTPStatus.OK, content_type=_BYTES, stream=pieces)
            case "warm":
                _only(request, "POST")
                return json_reply({"function": name, "tier": await self._control.warm(name)})
            case "cool":
                _only(request, "POST")
                to = (await self._body(request)).get("to")
                if to not in _COOLER:
                    raise InvalidParameter(f"to: {to!r} is not one of {', '.join(_COOLER)}")
                return json_reply({"function": name, "tier": await self._control.cool(name, cast(Tier, to))})
            case "bake":
                _only(request, "GET", "POST")
                if request.method == "GET":
                    return json_reply(_engines(name, self._control.engines(name)))
                return await self._bake(request, name)
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    async def _logs(self, request: Request, name: str) -> Reply:
        query = asked(request)
        last = whole(query, "last", 0, 1, 2**53) or None
        text = await self._control.logs(name, request_id=query.get("request_id"), last=last)
        return Reply(HTTPStatus.OK, text.encode(), content_type=_TEXT)

    async def _bake(self, request: Request, name: str) -> Reply:
        body = await self._body(request)
        wait, engine = body.get("wait", False), body.get("engine", "")
        if not isinstance(wait, bool):
            raise InvalidParameter(f"wait: {wait!r} is not true or false")
        if not isinstance(engine, str):
            raise InvalidParameter(f"engine: {engine!r} is not an engine's label")

        async def work(on_event: OnEvent) -> Mapping[str, Any]:
            return _engines(name, await self._control.bake(name, wait=wait, engine=engine, on_event=on_event))

        return await _run(request, work)

    async def _import(self, request: Request) -> Reply:
        _only(request, "POST")
        wait = asked(request).get("wait", "false")
        if wait not in ("true", "false"):
            raise InvalidParameter(f"wait: {wait!r} is not true or false")
        body = request.parts(self._limits.snapshot_file_bytes, what="a snapshot file")
        return json_reply(asdict(await self._control.import_snapshot(body, wait=wait == "true")))

    async def _code(self, request: Request, digest: str) -> Reply:
        _only(request, "HEAD", "GET", "PUT")
        if request.method == "PUT":
            # As from S3 on AWS: what limits it is the size of its contents.
            parts = request.parts(self._limits.code_unzipped_bytes, what="a code upload")
            return json_reply({"code": digest, "bytes": await self._stacks.put_code(digest, parts)})
        if not await self._stacks.has_code(digest):
            raise ResourceNotFound(f"Code not found: {digest}")
        if request.method == "GET":
            return Reply(HTTPStatus.OK, content_type="application/zip", stream=self._stacks.get_code(digest))
        return Reply(HTTPStatus.OK)

    async def _stack(self, request: Request, name: str) -> Reply:
        _only(request, "GET", "PUT", "DELETE")
        if not _STACK_NAME.fullmatch(name):
            raise InvalidParameter(f"{name!r} is not a stack name: it does not match {_STACK_NAME.pattern}")
        if request.method == "GET":
            listing = await self._stacks.stack(name)
            asked = {"Definitions": listing.stack.definitions.to_json(), "Drift": dict(listing.drift)}
            return json_reply(_stack_summary(listing.stack) | asked)
        if request.method == "DELETE":
            return json_reply({"changes": [asdict(change) for change in await self._stacks.delete_stack(name)]})
        wanted = StackRequest.from_json(name, await self._body(request))

        async def work(on_event: OnEvent) -> Mapping[str, Any]:
            result = await self._stacks.put_stack(wanted, on_event)
            return {
                "changes": [asdict(change) for change in result.changes],
                "notes": list(result.notes),
                "versions": dict(result.versions),
            }

        return await _run(request, work)

    async def _body(self, request: Request) -> dict[str, Any]:
        body = await request.read(self._limits.sync_request_bytes, what="the admin API")
        try:
            value = parse_json(body) if body else {}
        except (ValueError, RecursionError) as error:
            raise InvalidRequestContent(f"The body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequestContent(f"The body is {json.dumps(value)[:40]}, not an object")
        return value


async def _run(request: Request, work: Work) -> Reply:
    """Answer with the result, or with a stream of events when the client accepts one."""
    if _NDJSON in request.headers.get("accept", ""):
        return Reply(HTTPStatus.OK, content_type=_NDJSON, stream=events_of(work))
    return json_reply(await work(_unheard))


def _unheard(event: Mapping[str, Any]) -> None:
    """Nobody listens to progress where one answer was asked for."""


def _only(request: Request, *methods: str) -> None:
    if request.method not in methods:
        raise MethodNotAllowed(f"{request.path} takes {' and '.join(methods)}, not {request.method}")


def _stack_summary(stack: Stack) -> dict[str, Any]:
    return {
        "Name": stack.name,
        "TemplateDigest": stack.template_digest,
        "LastModified": stack.modified,
        **stack.names.to_json(),
        "Exports": dict(stack.exports),
        "Imports": dict(stack.imports),
    }


def _engines(name: str, engines: Sequence[EngineListing]) -> dict[str, Any]:
    return {"function": name, "engines": [asdict(engine) for engine in engines]}
