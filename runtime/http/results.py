"""What became of events, as HTTP: under ``/_glowplug/async`` of the control listener.

GET    /_glowplug/async                 ?function=&state=&limit=; {"events": [...]}, newest first, without answers
GET    /_glowplug/async/<request-id>    ?wait=<seconds>; one event. With ``Accept: text/event-stream`` a stream of
                                        server-sent events: ``progress`` whenever something changes, ``result`` last
DELETE /_glowplug/async/<request-id>    cancel; the event as it is then
GET    /_glowplug/async/webhook-key     {"key"}: what webhooks are signed with
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Callable, Iterable
from http import HTTPStatus

from glowplug.runtime.errors import InvalidParameter, MethodNotAllowed, ResourceNotFound
from glowplug.runtime.events.results import Results

from .messages import Reply, Request, compact_json, json_reply
from .queries import asked, whole

_STREAM = "text/event-stream"
_KEEP_ALIVE_S = 5.0  # cold starts show how far they are
_LIMIT, _MOST = 100, 1_000


class ResultsApi:
    """Answers questions about events. ``functions`` names those that are deployed, ``webhook_key`` is what webhooks are
    signed with."""

    def __init__(self, results: Results, functions: Callable[[], Iterable[str]], webhook_key: bytes) -> None:
        self._results = results
        self._webhook_key = webhook_key
        self._functions = functions

    async def answer(self, request: Request, segments: list[str]) -> Reply:
        """Answer what follows ``/_glowplug/async``. Raises ``GlowplugError``."""
        query = asked(request)
        match segments, request.method:
            case [], "GET":
                return await self._list(query)
            case ["webhook-key"], "GET":
                return json_reply({"key": self._webhook_key.decode()})
            case [request_id], "GET":
                if _STREAM in request.headers.get("accept", ""):
                    await self._results.find(request_id)  # an unknown one is 404, not an empty stream
                    return Reply(HTTPStatus.OK, content_type=_STREAM, stream=self._stream(request_id))
                found = await self._results.wait(request_id, seconds_of(query.get("wait", "0")))
                return json_reply(self._results.show(found))
            case [request_id], "DELETE":
                return json_reply(self._results.show(await self._results.cancel(request_id)))
            case (([] | [_]), _):
                raise MethodNotAllowed(f"{request.path} does not take {request.method}")
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    async def _list(self, query: dict[str, str]) -> Reply:
        limit = whole(query, "limit", _LIMIT, 1, _MOST)
        functions = [query["function"]] if "function" in query else sorted(self._functions())
        return json_reply({"events": await self._results.listing(functions, query.get("state", ""), limit)})

    async def _stream(self, request_id: str) -> AsyncGenerator[bytes, None]:
        async for event in self._results.follow(request_id, _KEEP_ALIVE_S):
            kind = "result" if "finishedAt" in event else "progress"
            yield f"event: {kind}\ndata: ".encode() + compact_json(event) + b"\n\n"


def seconds_of(text: str) -> float:
    """Return the seconds that a caller wants to wait. Raises ``InvalidParameter``."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= 86_400:
        raise InvalidParameter(f"wait: {text!r} is not a number of seconds")
    return seconds
