"""ReceiveMessage, DeleteMessage and ChangeMessageVisibility, and their batches."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from glowplug.runtime.errors import GlowplugError, InvalidParameter, StaleLease
from glowplug.runtime.queue.attributes import MessageAttribute, attributes_digest
from glowplug.runtime.queue.embedded import lease_of
from glowplug.runtime.queue.model import Lease, Queue
from glowplug.runtime.queue.ports import Incoming
from glowplug.runtime.queue.steps import Delete, Extend

from . import call as parameters
from .call import Call
from .faults import SqsError, entry_fault, invalid, missing, translated

_SYSTEM = frozenset(
    "All SenderId SentTimestamp ApproximateReceiveCount ApproximateFirstReceiveTimestamp SequenceNumber"
    " MessageDeduplicationId MessageGroupId AWSTraceHeader DeadLetterQueueSourceArn".split()
)
_LONGEST_S = 43_200


async def receive(call: Call) -> dict[str, Any]:
    """ReceiveMessage. A client that goes away while it waits cancels this, and gets no message."""
    queue = call.queue()
    limit = call.number("MaxNumberOfMessages", 1, 10)
    visibility_s = call.number("VisibilityTimeout", 0, _LONGEST_S)
    wait_s = call.number("WaitTimeSeconds", 0, 20)
    system = {*call.names("AttributeNames"), *call.names("MessageSystemAttributeNames")}
    if unknown := system - _SYSTEM:
        raise SqsError("InvalidAttributeName", f"Unknown Attribute {min(unknown)}.")
    wanted = call.names("MessageAttributeNames")
    found = await call.services.embedded(queue.name).receive(
        1 if limit is None else limit,
        wait_s=queue.settings.wait_s if wait_s is None else wait_s,
        visibility_s=visibility_s,
    )
    return {"Messages": [_shown(message, system, wanted) for message in found]} if found else {}


def _shown(message: Incoming, system: set[str], wanted: Sequence[str]) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "MessageId": message.id,
        "ReceiptHandle": message.handle,
        "MD5OfBody": message.body_md5,
        "Body": message.body,
    }
    if values := {name: value for name, value in message.system.items() if "All" in system or name in system}:
        shown["Attributes"] = values
    if attributes := {name: one for name, one in message.attributes.items() if _asked(name, wanted)}:
        shown["MessageAttributes"] = {name: _attribute(one) for name, one in attributes.items()}
        shown["MD5OfMessageAttributes"] = attributes_digest(attributes)
    return shown


def _asked(name: str, wanted: Sequence[str]) -> bool:
    return any(
        one in ("All", ".*", name) or (one.endswith(".*") and name.startswith(one.removesuffix("*"))) for one in wanted
    )


def _attribute(attribute: MessageAttribute) -> dict[str, str]:
    if isinstance(attribute.value, bytes):
        return {"BinaryValue": base64.b64encode(attribute.value).decode(), "DataType": attribute.data_type}
    return {"StringValue": attribute.value, "DataType": attribute.data_type}


async def delete(call: Call) -> dict[str, Any]:
    """DeleteMessage."""
    await _delete(call, call.queue(), call.parameters)
    return {}


async def delete_batch(call: Call) -> dict[str, Any]:
    """DeleteMessageBatch."""
    return await _batch(call, _delete)


async def _delete(call: Call, queue: Queue, given: Mapping[str, Any]) -> None:
    lease = _lease(queue, given)
    try:
        await call.services.store.apply(Delete(lease))
    except StaleLease:
        # SQS says the same: whoever has the message now keeps it, and only a FIFO queue lets the caller know.
        if queue.settings.fifo:
            raise invalid(
                f"Value {given['ReceiptHandle']} for parameter ReceiptHandle is invalid. Reason: The receipt handle has"
                " expired."
            ) from None


async def change_visibility(call: Call) -> dict[str, Any]:
    """ChangeMessageVisibility."""
    await _change_visibility(call, call.queue(), call.parameters)
    return {}


async def change_visibility_batch(call: Call) -> dict[str, Any]:
    """ChangeMessageVisibilityBatch."""
    return await _batch(call, _change_visibility)


async def _change_visibility(call: Call, queue: Queue, given: Mapping[str, Any]) -> None:
    seconds = parameters.number(given, "VisibilityTimeout", 0, _LONGEST_S)
    if seconds is None:
        raise missing("VisibilityTimeout")
    lease = _lease(queue, given)
    try:
        await call.services.store.apply(Extend(lease, seconds))
    except StaleLease:
        raise invalid(
            f"Value {given['ReceiptHandle']} for parameter ReceiptHandle is invalid. Reason: Message does not exist or"
            " is not available for visibility timeout change."
        ) from None


def _lease(queue: Queue, given: Mapping[str, Any]) -> Lease:
    handle = parameters.text(given, "ReceiptHandle")
    if not handle:
        raise missing("ReceiptHandle")
    try:
        return lease_of(queue, handle)
    except InvalidParameter as error:
        raise SqsError("ReceiptHandleIsInvalid", str(error)) from None


async def _batch(call: Call, work: Callable[[Call, Queue, Mapping[str, Any]], Any]) -> dict[str, Any]:
    queue = call.queue()
    entries = call.entries()
    results = await asyncio.gather(*(work(call, queue, entry) for entry in entries), return_exceptions=True)
    successful, failed = [], []
    for entry, result in zip(entries, results, strict=True):
        if isinstance(result, GlowplugError):
            failed.append(entry_fault(entry["Id"], translated(result)))
        elif isinstance(result, BaseException):
            raise result
        else:
            successful.append({"Id": entry["Id"]})
    return {"Successful": successful, "Failed": failed}
