"""A queue of this node as a ``MessageQueue``, and the strings in which it speaks: ARNs, ids and receipt handles.

A receipt handle is the lease: queue, message and fencing token, with a check sum that tells a handle from a typing
error. Who may receive from a queue may delete from it, so nothing is secret in it.
"""

from __future__ import annotations

import asyncio
import base64
import struct
import zlib
from collections.abc import Sequence

from glowplug.runtime.errors import InvalidParameter, StaleLease

from .attributes import attributes_digest, attributes_of, body_digest, sender_of, trace_of
from .model import Lease, Queue, Received
from .ports import Incoming
from .steps import Delete, Extend, Step
from .store import QueueStore

_HANDLE = struct.Struct(">IQI")
_SUM = struct.Struct(">I")


def arn_of(region: str, account_id: str, name: str) -> str:
    """Return the ARN of a queue."""
    return f"arn:aws:sqs:{region}:{account_id}:{name}"


def handle_of(queue: Queue, lease: Lease) -> str:
    """Return the receipt handle of a lease."""
    data = _HANDLE.pack(queue.number, lease.sequence, lease.token)
    return base64.urlsafe_b64encode(data + _SUM.pack(zlib.crc32(data))).decode()


def lease_of(queue: Queue, handle: str) -> Lease:
    """Return the lease of a receipt handle. Raises ``InvalidParameter`` for one that is not of ``queue``."""
    try:
        data = base64.b64decode(handle, altchars=b"-_", validate=True)
        number, sequence, token = _HANDLE.unpack(data[: _HANDLE.size])
        (check,) = _SUM.unpack(data[_HANDLE.size :])
    except (ValueError, struct.error):
        raise InvalidParameter(f'The input receipt handle "{handle}" is not a valid receipt handle.') from None
    if check != zlib.crc32(data[: _HANDLE.size]) or number != queue.number:
        raise InvalidParameter(f'The input receipt handle "{handle}" is not a valid receipt handle.')
    return Lease(queue.name, sequence, token, 0)


class EmbeddedQueue:
    """The queue ``name`` of ``store``."""

    def __init__(self, store: QueueStore, name: str, *, region: str, account_id: str) -> None:
        self._store = store
        self._name = name
        self._region = region
        self._account_id = account_id

    def __repr__(self) -> str:
        return f"<EmbeddedQueue {self._name}>"

    async def visibility_s(self) -> int:
        """Return for how long messages are hidden where a receive does not say. Raises ``QueueNotFound``."""
        return round(self._store.queue(self._name).settings.visibility_s)

    async def receive(self, limit: int, *, wait_s: float, visibility_s: float | None = None) -> list[Incoming]:
        """Receive up to ``limit`` messages, as soon as there is one; none after ``wait_s``."""
        found = await self._store.receive(self._name, limit, wait_s=wait_s, visibility_s=visibility_s)
        return [self._incoming(received) for received in found]

    async def delete(self, handles: Sequence[str]) -> list[str]:
        """Acknowledge messages; return the stale handles."""
        queue = self._store.queue(self._name)
        return await self._each(handles, [Delete(lease_of(queue, handle)) for handle in handles])

    async def extend(self, handles: Sequence[str], visibility_s: float) -> list[str]:
        """Keep messages invisible for ``visibility_s`` from now; return the stale handles."""
        queue = self._store.queue(self._name)
        return await self._each(handles, [Extend(lease_of(queue, handle), visibility_s) for handle in handles])

    async def _each(self, handles: Sequence[str], steps: Sequence[Step]) -> list[str]:
        """Carry out each step by itself; all go to the disk together."""
        results = await asyncio.gather(*(self._store.apply(step) for step in steps), return_exceptions=True)
        stale: list[str] = []
        for handle, result in zip(handles, results, strict=True):
            if isinstance(result, StaleLease):
                stale.append(handle)
            elif isinstance(result, BaseException):
                raise result
        return stale

    def _incoming(self, received: Received) -> Incoming:
        message = received.message
        queue = self._store.queue(self._name)
        system = {
            "ApproximateReceiveCount": str(message.receives),
            "SentTimestamp": str(message.sent_ms),
            "SenderId": sender_of(message.attributes) or self._account_id,
            "ApproximateFirstReceiveTimestamp": str(message.first_received_ms),
        }
        if queue.settings.fifo:
            system["SequenceNumber"] = sequence_number(message.sequence)
        if message.group is not None:
            system["MessageGroupId"] = message.group
        if message.deduplication is not None:
            system["MessageDeduplicationId"] = message.deduplication
        if trace := trace_of(message.attributes):
            system["AWSTraceHeader"] = trace
        if message.source is not None:
            system["DeadLetterQueueSourceArn"] = arn_of(self._region, self._account_id, message.source)
        attributes = attributes_of(message.attributes)
        return Incoming(
            id=id_text(message.id),
            handle=handle_of(queue, received.lease),
            body=message.body.decode(errors="replace"),
            body_md5=body_digest(message.body),
            system=system,
            attributes=attributes,
            attributes_md5=attributes_digest(attributes) if attributes else None,
        )


def sequence_number(sequence: int) -> str:
    """Return the number of a message as SQS writes it: 20 digits."""
    return f"{sequence:020d}"


def id_text(key: bytes) -> str:
    """Return the id of a message as callers see it: as a UUID."""
    text = key.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
