"""From received messages to the events of a function: what is filtered out, and which messages go together. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from glowplug.runtime.events.sqsbatch import sqs_record
from glowplug.runtime.queue.ports import Incoming

_FRAME = b'{"Records":[%b]}'


@dataclass(frozen=True, slots=True)
class Item:
    """A message on its way to a function. ``record`` is its JSON in the event; ``group`` is empty but in a FIFO
    queue."""

    id: str
    handle: str
    group: str
    record: bytes
    trace: str = ""


def record_of(message: Incoming, queue_arn: str) -> dict[str, object]:
    """Return the record of a message, as the function gets it and filters look at it."""
    attributes = {
        name: {
            "DataType": one.data_type,
            **({"BinaryValue": one.value} if isinstance(one.value, bytes) else {"StringValue": one.value}),
        }
        for name, one in message.attributes.items()
    }
    return sqs_record(
        {
            "MessageId": message.id,
            "ReceiptHandle": message.handle,
            "Body": message.body,
            "MD5OfBody": message.body_md5,
            "Attributes": message.system,
            "MessageAttributes": attributes,
            "MD5OfMessageAttributes": message.attributes_md5,
        },
        queue_arn,
    )


def item_of(message: Incoming, record: dict[str, object]) -> Item:
    """Return a message with its record written out."""
    text = json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")
    system = message.system
    return Item(message.id, message.handle, system.get("MessageGroupId", ""), text, system.get("AWSTraceHeader", ""))


def event_of(items: Sequence[Item]) -> bytes:
    """Return the event of a batch."""
    return _FRAME % b",".join(item.record for item in items)


def event_bytes(items: Iterable[Item]) -> int:
    """Return how long the event of a batch is."""
    return len(_FRAME) - 2 + sum(len(item.record) + 1 for item in items) - 1


def split(items: Sequence[Item], most: int, limit_bytes: int) -> list[list[Item]]:
    """Return the batches that items make, in their order: at most ``most`` in one, and ``limit_bytes`` of event.

    An item that is too long by itself has a batch of its own: whoever runs it refuses it.
    """
    batches: list[list[Item]] = []
    size = 0
    for item in items:
        added = len(item.record) + 1
        if batches and len(batches[-1]) < most and size + added <= limit_bytes:
            batches[-1].append(item)
            size += added
        else:
            batches.append([item])
            size = event_bytes([item])
    return batches
