"""How an event is kept: a message of its function's own queue, whose id is the request id.

Ids are UUIDs of version 7, which begin with their time, so that the index over them grows at its end alone. What is at
its default is left out of a message's attributes: most have none at all, and a million events cost megabytes.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

from glowplug.runtime.identifiers import random_bytes
from glowplug.runtime.queue.embedded import id_text
from glowplug.runtime.queue.model import NOTHING, Message, nothing

from .accepting import NewEvent
from .retrying import Progress

_T = TypeVar("_T")
_PREFIX: Final = "async:"
"""Of the names of queues and of records' owners. SQS knows no name with a colon, so no client sees or touches them."""

# Keys of attributes. Those of an event that waits for its first attempt:
_QUALIFIER, _TRACE, _CONTEXT, _RETRIES, _AGE, _SOURCE, _WEBHOOK, _LINEAGE = "qtcrmswl"
# and those that its attempts add. ``_SEEN`` is how often it had been received when it was last put back: a message
# that was received more often than that, and is invisible, is one whose attempt is under way or was cut off.
_RUNS, _REQUEUES, _SEEN = "npx"


def queue_of(function: str) -> str:
    """Return the name of a function's queue; records of its events have it as their owner."""
    return f"{_PREFIX}{function}"


def function_of(queue: str) -> str | None:
    """Return the function that a queue is of, None for other queues."""
    return queue.removeprefix(_PREFIX) if queue.startswith(_PREFIX) else None


def new_id(unix_s: float) -> bytes:
    """Return a new request id: 48 bits of the time in ms, the rest random but version and variant (RFC 9562)."""
    noise = bytearray(random_bytes(10))
    noise[0] = 0x70 | noise[0] & 0x0F
    noise[2] = 0x80 | noise[2] & 0x3F
    return int(unix_s * 1000).to_bytes(6) + noise


def key_of(request_id: str) -> bytes | None:
    """Return the bytes of a request id, None for what is no UUID."""
    try:
        return uuid.UUID(request_id).bytes
    except ValueError:
        return None


def attributes_of(event: NewEvent) -> dict[str, Any]:
    """Return what is kept beside an event's payload."""
    given = {
        _QUALIFIER: event.qualifier,
        _TRACE: event.trace_id,
        _CONTEXT: event.client_context,
        _RETRIES: event.retries,
        _AGE: event.max_age_s,
        _SOURCE: event.source,
        _WEBHOOK: event.webhook,
        _LINEAGE: event.lineage,
    }
    return {key: value for key, value in given.items() if value or (value is not None and key in (_RETRIES, _AGE))}


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """An event as it was received. ``progress`` is that of its earlier attempts; ``sent_ms`` is Unix ms."""

    key: bytes
    function: str
    qualifier: str
    payload: bytes
    progress: Progress
    sent_ms: int
    trace_id: str = ""
    client_context: bytes = b""
    retries: int | None = None
    max_age_s: int | None = None
    source: str = ""
    webhook: str = ""
    lineage: Mapping[str, int] = field(default_factory=nothing)

    @property
    def request_id(self) -> str:
        """The id as callers see it."""
        return id_text(self.key)

    @property
    def followed(self) -> dict[str, int]:
        """The lineage of an event that follows from this one."""
        return {**self.lineage, self.function: self.lineage.get(self.function, 0) + 1}


def stored(message: Message) -> StoredEvent:
    """Return the event of a message."""
    kept, function = message.attributes, function_of(message.queue) or ""
    accepted_s = message.sent_ms / 1000
    if not kept:
        return StoredEvent(message.id, function, "", message.body, Progress(accepted_s), message.sent_ms)
    return StoredEvent(
        key=message.id,
        function=function,
        qualifier=_read(kept, _QUALIFIER, str) or "",
        payload=message.body,
        progress=Progress(accepted_s, _read(kept, _RUNS, int) or 0, _read(kept, _REQUEUES, int) or 0),
        sent_ms=message.sent_ms,
        trace_id=_read(kept, _TRACE, str) or "",
        client_context=_read(kept, _CONTEXT, bytes) or b"",
        retries=_read(kept, _RETRIES, int),
        max_age_s=_read(kept, _AGE, int),
        source=_read(kept, _SOURCE, str) or "",
        webhook=_read(kept, _WEBHOOK, str) or "",
        lineage=_read(kept, _LINEAGE, dict) or NOTHING,
    )


def _read(kept: Mapping[str, Any], key: str, kind: type[_T]) -> _T | None:
    """Return what is kept under a key; None where it is of another type. In a damaged file it can be, and one event
    that nobody can read would hold up all of its function."""
    value = kept.get(key)
    return value if isinstance(value, kind) else None


def put_back(message: Message, progress: Progress) -> dict[str, Any]:
    """Return the attributes of a message that waits for another attempt."""
    kept = {key: value for key, value in message.attributes.items() if key not in (_RUNS, _REQUEUES, _SEEN)}
    given = {_RUNS: progress.runs, _REQUEUES: progress.requeues, _SEEN: message.receives}
    return {**kept, **{key: value for key, value in given.items() if value}}


def cut_off(message: Message, now_ms: int) -> bool:
    """Return whether an attempt of a message is under way; at a start: was cut off when the node ended."""
    return message.receives > (_read(message.attributes, _SEEN, int) or 0) and message.visible_ms > now_ms
