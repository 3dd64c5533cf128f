"""What causes events, as HTTP on the control listener.

GET  /_glowplug/schedules                {"schedules": [...]}: next and last runs, and
                                         what became of the last
POST /_glowplug/events                   body {"Entries": [...]}, as PutEvents; {"FailedEntryCount", "Entries"}
POST /_glowplug/topics/<name>            body {"Message", "Subject", "MessageAttributes"}; {"MessageId"}
POST /_glowplug/jobs/<job>               ?function=&qualifier=&first=&concurrency=&retries=; body: a piece of a batch
                                         job, one JSON value a line. The answer is a line for each, in their order:
                                         {"index", "output"} or {"index", "error"}; what ends it early is a last line
                                         {"event": "error", "status", "code", …}
"""

from __future__ import annotations

import logging
import re
from collections.abc import AsyncGenerator, Mapping
from dataclasses import asdict
from http import HTTPStatus
from typing import Any

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import (
    GlowplugError,
    InternalError,
    InvalidParameter,
    InvalidRequestContent,
    MethodNotAllowed,
    ResourceNotFound,
)
from glowplug.runtime.events.bus import Bus
from glowplug.runtime.events.jobs import Jobs, Piece
from glowplug.runtime.events.results import Results
from glowplug.runtime.events.scheduler import ScheduleListing, Scheduler
from glowplug.runtime.events.topics import Published, Topics

from .faults import error_fields
from .messages import Reply, Request, compact_json, json_reply, parse_json
from .queries import asked, whole

_NDJSON = "application/x-ndjson"
_JOB = re.compile(r"[A-Za-z0-9_-]{1,64}")
_MOST_CONCURRENT = 1000
_MOST_LINES = 10_000  # each is a task of its own; the command line sends 64

log = logging.getLogger(__name__)


class TriggersApi:
    """Answers for schedules, posted events, topics and batch jobs."""

    def __init__(
        self, scheduler: Scheduler, bus: Bus, topics: Topics, jobs: Jobs, results: Results, limits: Limits
    ) -> None:
        self._scheduler = scheduler
        self._bus = bus
        self._topics = topics
        self._jobs = jobs
        self._results = results
        self._limits = limits

    async def answer(self, request: Request, segments: list[str]) -> Reply:
        """Answer what follows ``/_glowplug/``. Raises ``GlowplugError``."""
        match segments:
            case ["schedules"]:
                _only(request, "GET")
                listed = [asdict(one) | {"result": await self._result(one)} for one in self._scheduler.listing()]
                return json_reply({"schedules": listed})
            case ["events"]:
                _only(request, "POST")
                return json_reply(await self._bus.put((await self._body(request)).get("Entries")))
            case ["topics", name]:
                _only(request, "POST")
                published = published_of(name, await self._body(request))
                return json_reply({"MessageId": await self._topics.publish(published)})
            case ["jobs", job]:
                _only(request, "POST")
                piece = await self._piece(request, job)
                return Reply(HTTPStatus.OK, content_type=_NDJSON, stream=_lines(self._jobs, piece))
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    async def _result(self, schedule: ScheduleListing) -> str:
        """Return the states of the events of a schedule's last run, empty where nothing is known of them any more."""
        states = []
        for request_id in schedule.requests:
            try:
                states.append(self._results.show(await self._results.find(request_id), result=False)["state"])
            except ResourceNotFound:
                continue
        return ", ".join(states)

    async def _piece(self, request: Request, job: str) -> Piece:
        query = asked(request)
        if not _JOB.fullmatch(job):
            raise InvalidParameter(f"{job!r} is not the id of a job: it does not match {_JOB.pattern}")
        if not query.get("function"):
            raise InvalidParameter("function: is missing")
        body = await request.read(self._limits.sync_request_bytes, what="a piece of a job")
        if body.count(b"\n") > _MOST_LINES:
            raise InvalidParameter(f"a piece of a job has at most {_MOST_LINES} lines; send the others in another")
        lines = body.split(b"\n")
        return Piece(
            job=job,
            function=query["function"],
            qualifier=query.get("qualifier", ""),
            first=whole(query, "first", 0, 0, 2**53),
            lines=lines[:-1] if lines[-1] == b"" else lines,
            concurrency=whole(query, "concurrency", 1, 1, _MOST_CONCURRENT),
            retries=whole(query, "retries", 0, 0, 185) if "retries" in query else None,
        )

    async def _body(self, request: Request) -> Mapping[str, Any]:
        body = await request.read(self._limits.async_request_bytes, what="an event")
        try:
            value = parse_json(body)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestContent(f"The body is not JSON: {error}") from error
        if not isinstance(value, dict):
            raise InvalidRequestContent("The body is not an object")
        return value


def published_of(topic: str, body: Mapping[str, Any]) -> Published:
    """Read a message: as Publish takes it, or a notification as SNS sends it. Raises ``InvalidParameter``."""
    if body.get("Type") == "SubscriptionConfirmation":
        raise InvalidParameter(f"A subscription is confirmed by whoever visits {body.get('SubscribeURL')}")
    message, subject, given = body.get("Message"), body.get("Subject"), body.get("MessageAttributes") or {}
    if not isinstance(message, str):
        raise InvalidParameter("Message: must be a string")
    if subject is not None and not isinstance(subject, str):
        raise InvalidParameter("Subject: must be a string")
    if not isinstance(given, dict):
        raise InvalidParameter("MessageAttributes: must be an object")
    attributes = {}
    for name, one in given.items():
        kind = one.get("DataType", one.get("Type")) if isinstance(one, dict) else None
        value = (
            (one.get("StringValue") or one.get("BinaryValue") or one.get("Value")) if isinstance(one, dict) else None
        )
        if not isinstance(kind, str) or not isinstance(value, str):
            raise InvalidParameter(f"MessageAttributes.{name}: must have a DataType and a StringValue")
        attributes[name] = (kind, value)
    return Published(topic, message, subject, attributes)


async def _lines(jobs: Jobs, piece: Piece) -> AsyncGenerator[bytes, None]:
    try:
        async for line in jobs.run(piece):
            yield compact_json(line) + b"\n"
    except GlowplugError as error:
        yield _ending(error)
    except Exception:
        log.exception("job %s failed at piece %d", piece.job, piece.first)
        yield _ending(InternalError("Internal error; the node's log says more"))


def _ending(error: GlowplugError) -> bytes:
    fields = {"event": "error", "status": error.status, "code": error.code, **error_fields(error)}
    return compact_json(fields) + b"\n"


def _only(request: Request, method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(f"{request.path} takes {method}, not {request.method}")
