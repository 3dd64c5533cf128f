"""Between rows and values: messages, and what a column of attributes holds, of a message or a record."""

from __future__ import annotations

import logging
from typing import Any

import msgpack

from .model import NOTHING, Attributes, Message

MESSAGE = "sequence, visible_ms, receives, sent_ms, first_ms, ordered, id, attributes, body"
"""The columns of a message, in the order of ``Row``."""
WITHOUT_BODY = MESSAGE.replace("body", "x''")
"""The same of one whose body is not needed: those of many may be more than there is memory."""
Row = tuple[int, int, int, int, int | None, int | None, bytes, bytes | None, bytes]

_log = logging.getLogger(__name__)


def pack(values: Attributes) -> bytes | None:
    """Return a mapping as it is kept; nothing is NULL."""
    return msgpack.packb(dict(values), use_bin_type=True) if values else None


def unpack(data: bytes | None) -> dict[str, Any]:
    """Return a mapping that was kept. Bytes that are none any more are as if nothing had been kept: SQLite has no check
    sums, and a message that cannot be received would stop all that come behind it."""
    if not data:
        return {}
    try:
        values = msgpack.unpackb(data, raw=False, strict_map_key=False)
    except (ValueError, TypeError) as error:
        _log.error("attributes of a message or a record are damaged, and left out: %s", error)
        return {}
    return values if isinstance(values, dict) else {}


def parts_of(data: bytes | None) -> dict[str, Any]:
    """Return what ``packed`` made: ``a`` for attributes, ``d``, ``s`` and ``g``, as far as it is there and whole."""
    return {key: value for key, value in unpack(data).items() if isinstance(value, dict if key == "a" else str)}


def packed(
    attributes: Attributes, deduplication: str | None = None, source: str | None = None, group: str | None = None
) -> bytes | None:
    """Return what goes into a message's ``attributes``. ``group`` only where no row of ``groups`` has it."""
    if not attributes and deduplication is None and source is None and group is None:
        return None
    parts = {"a": dict(attributes) if attributes else None, "d": deduplication, "s": source, "g": group}
    return pack({key: value for key, value in parts.items() if value is not None})


def message(row: Row, queue: str, group: str | None) -> Message:
    """Return a message from its row."""
    sequence, visible_ms, receives, sent_ms, first_ms, _, key, data, body = row
    if data is None:
        return Message(key, queue, body, sequence, sent_ms, visible_ms, receives, first_ms, group)
    parts = parts_of(data)
    return Message(
        id=key,
        queue=queue,
        body=body,
        sequence=sequence,
        sent_ms=sent_ms,
        visible_ms=visible_ms,
        receives=receives,
        first_received_ms=first_ms,
        group=group if group is not None else parts.get("g"),
        deduplication=parts.get("d"),
        source=parts.get("s"),
        attributes=parts.get("a", NOTHING),
    )
