"""The admin API's queues: all of them, those of the node itself as well.

GET  /_glowplug/queues                         {"queues": [...]}
GET  /_glowplug/queues/<name>                  one, with its settings
GET  /_glowplug/queues/<name>/messages         ?limit=&after=; {"messages": [...]}, fewer where they
                                               are large; nothing is received
POST /_glowplug/queues/<name>/redrive          body {"to": name or absent}; {"moved": n, "left": n}
POST /_glowplug/queues/<name>/purge            {"purged": n}

The node's own queues are shown and not changed: an event's message and its record end together, or not at all.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from glowplug.runtime.errors import InvalidParameter, InvalidRequestContent, MethodNotAllowed, ResourceNotFound
from glowplug.runtime.queue.attributes import attributes_of
from glowplug.runtime.queue.embedded import id_text
from glowplug.runtime.queue.model import Counts, Message, Queue
from glowplug.runtime.queue.store import QueueStore

from .messages import Reply, Request, json_reply, parse_json
from .queries import asked, whole
from .sqs.settings import is_name

PREFIX = "/_glowplug/queues"
_BODY_BYTES = 64 * 1024
_MOST = 1_000
_PAGE_BYTES, _AT_ONCE = 8 * 2**20, 10


class QueueAdmin:
    """Answers below ``/_glowplug/queues``."""

    def __init__(self, store: QueueStore) -> None:
        self._store = store

    async def answer(self, request: Request) -> Reply:
        """Dispatch on the raw path. Raises ``GlowplugError``."""
        match request.segments(PREFIX + "/"):
            case []:
                _only(request, "GET")
                counts = await self._store.all_counts()
                rows = [self._row(queue, counts[queue.name]) for queue in self._store.queues if queue.name in counts]
                return json_reply({"queues": rows})
            case [name]:
                _only(request, "GET")
                queue = self._store.queue(name)
                row = self._row(queue, await self._store.counts(name))
                return json_reply(row | {"settings": asdict(queue.settings), "created_ms": queue.created_ms})
            case [name, "messages"]:
                _only(request, "GET")
                query = asked(request)
                limit, after = whole(query, "limit", 10, 0, _MOST), whole(query, "after", 0, 0, 2**31)
                return json_reply({"messages": [_shown(one) for one in await self._page(name, limit, after)]})
            case [name, "redrive"]:
                _only(request, "POST")
                to = await _target(request)
                for one in (name, *([] if to is None else [to])):
                    self._clients(one)
                moved = await self._store.redrive(name, to)
                return json_reply({"moved": moved, "left": (await self._store.counts(name)).visible})
            case [name, "purge"]:
                _only(request, "POST")
                self._clients(name)
                return json_reply({"purged": await self._store.purge(name)})
        raise ResourceNotFound(f"Nothing is served at {request.path}")

    def _clients(self, name: str) -> None:
        """Refuse a queue of the node itself."""
        if not is_name(self._store.queue(name).name):
            raise InvalidParameter(
                f"{name} is the node's own queue and is only looked at; DELETE /_glowplug/async/ID cancels an event"
            )

    async def _page(self, name: str, limit: int, after: int) -> list[Message]:
        """Return up to ``limit`` messages, fewer where they are large: those that follow are on the next page."""
        found: list[Message] = []
        while len(found) < limit and sum(len(one.body) for one in found) < _PAGE_BYTES:
            more = await self._store.peek(name, min(_AT_ONCE, limit - len(found)), after + len(found))
            found += more
            if not more:
                break
        return found

    def _row(self, queue: Queue, counts: Counts) -> dict[str, Any]:
        settings = queue.settings
        return {
            "name": queue.name,
            "owner": settings.owner,
            "fifo": settings.fifo,
            **asdict(counts),
            "dead_letter": settings.dead_letter,
            "max_receives": settings.max_receives,
            "dead_letters": self._store.statistics.dead_letters[queue.name],
        }


def _shown(message: Message) -> dict[str, Any]:
    attributes = attributes_of(message.attributes) if "m" in message.attributes else {}
    return {
        "id": id_text(message.id),
        "sequence": message.sequence,
        "sent_ms": message.sent_ms,
        "visible_ms": message.visible_ms,
        "receives": message.receives,
        "group": message.group,
        "source": message.source,
        "bytes": len(message.body),
        "body": message.body.decode(errors="replace"),
        "attributes": {
            name: one.value if isinstance(one.value, str) else one.value.hex() for name, one in attributes.items()
        },
    }


async def _target(request: Request) -> str | None:
    text = await request.read(_BODY_BYTES, what="the admin API")
    try:
        body = parse_json(text) if text else {}
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContent(f"The body is not JSON: {error}") from error
    to = body.get("to") if isinstance(body, dict) else body
    if to is not None and not isinstance(to, str):
        raise InvalidParameter(f"to: {to!r} is not the name of a queue")
    return to


def _only(request: Request, method: str) -> None:
    if request.method != method:
        raise MethodNotAllowed(f"{request.path} takes {method}, not {request.method}")
