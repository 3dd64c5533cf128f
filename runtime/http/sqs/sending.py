"""SendMessage and SendMessageBatch: what a message may be, and its digests."""

from __future__ import annotations

import asyncio
import base64
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.queue.attributes import (
    FORBIDDEN,
    MessageAttribute,
    attributes_digest,
    body_digest,
    kept,
    size_of,
)
from glowplug.runtime.queue.embedded import id_text, sequence_number
from glowplug.runtime.queue.model import Queue, Sent
from glowplug.runtime.queue.steps import Send

from . import call as parameters
from .call import Call
from .faults import SqsError, entry_fault, invalid, missing, translated

_BATCH_BYTES = 1_048_576
_MOST_ATTRIBUTES = 10
_NAME = re.compile(r"(?!(?i:aws\.|amazon\.))(?!\.)(?!.*\.\.)[A-Za-z0-9_.-]{1,256}(?<!\.)")
_TYPE = re.compile(r"(String|Number|Binary)(\.[^\ud800-\udfff]{1,256})?")
_NUMBER = re.compile(r"[+-]?([0-9]+(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]{1,3})?")
_IDENTIFIER = re.compile(r"[A-Za-z0-9!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~]{1,128}")
_TRACE = "AWSTraceHeader"


async def send(call: Call) -> dict[str, Any]:
    """SendMessage."""
    queue = call.queue()
    step, answer = _message(call, queue, call.parameters, _contents(call.parameters))
    sent: Sent = (await call.services.store.apply(step))[0]
    return _answer(queue, sent, answer)


async def send_batch(call: Call) -> dict[str, Any]:
    """SendMessageBatch: each message by itself, all of them on the way to the disk together."""
    queue = call.queue()
    contents: list[tuple[Mapping[str, Any], _Contents]] = []
    failed = []
    for entry in call.entries():
        try:
            contents.append((entry, _contents(entry)))
        except SqsError as error:
            failed.append(entry_fault(entry["Id"], error))
    total = sum(one.size_bytes for _, one in contents)
    if total > _BATCH_BYTES:
        raise SqsError(
            "BatchRequestTooLong",
            f"Batch requests cannot be longer than {_BATCH_BYTES} bytes. You have sent {total} bytes.",
        )
    steps: list[tuple[str, Send, dict[str, str]]] = []
    for entry, one in contents:
        try:
            steps.append((entry["Id"], *_message(call, queue, entry, one)))
        except SqsError as error:
            failed.append(entry_fault(entry["Id"], error))
    store = call.services.store
    results = await asyncio.gather(*(store.apply(step) for _, step, _ in steps), return_exceptions=True)
    successful = []
    for (entry_id, _, answer), result in zip(steps, results, strict=True):
        if isinstance(result, GlowplugError):
            failed.append(entry_fault(entry_id, translated(result)))
        elif isinstance(result, BaseException):
            raise result
        else:
            successful.append({"Id": entry_id, **_answer(queue, result[0], answer)})
    return {"Successful": successful, "Failed": failed}


def _answer(queue: Queue, sent: Sent, digests: Mapping[str, str]) -> dict[str, Any]:
    answer = {"MessageId": id_text(sent.id), **digests}
    if queue.settings.fifo:
        answer["SequenceNumber"] = sequence_number(sent.sequence)
    return answer


class _Contents(NamedTuple):
    """What a message holds. ``size_bytes`` is what counts towards limits: not the system's attributes."""

    body: str
    attributes: dict[str, MessageAttribute]
    system: dict[str, MessageAttribute]
    size_bytes: int


def _contents(given: Mapping[str, Any]) -> _Contents:
    """Return what a message holds. Raises ``SqsError``."""
    body = parameters.text(given, "MessageBody")
    if not body:
        raise missing("MessageBody")
    if found := FORBIDDEN.search(body):
        raise SqsError(
            "InvalidMessageContents",
            f"Invalid binary character '#x{ord(found[0]):X}' was found in the message body, the set of allowed"
            " characters is #x9 | #xA | #xD | [#x20 to #xD7FF] | [#xE000 to #xFFFD] | [#x10000 to #x10FFFF]",
        )
    attributes = _attributes(parameters.mapping(given, "MessageAttributes"))
    system = _attributes(parameters.mapping(given, "MessageSystemAttributes"))
    if foreign := set(system) - {_TRACE}:
        raise invalid(f"Message system attribute name '{min(foreign)}' is invalid.")
    if system and not isinstance(system[_TRACE].value, str):
        raise invalid(f"Message system attribute '{_TRACE}' must be of the type String.")
    return _Contents(body, attributes, system, len(body.encode()) + size_of(attributes))


def _message(call: Call, queue: Queue, given: Mapping[str, Any], contents: _Contents) -> tuple[Send, dict[str, str]]:
    """Return the step that sends a message, and the digests for its answer. Raises ``SqsError``."""
    body, attributes, system, size_bytes = contents
    limit = queue.settings.max_message_bytes
    if size_bytes > limit:
        raise invalid(f"One or more parameters are invalid. Reason: Message must be shorter than {limit} bytes.")
    trace = str(system[_TRACE].value) if system else ""
    delay_s = parameters.number(given, "DelaySeconds", 0, 900)
    group = _identifier(given, "MessageGroupId")
    deduplication = _identifier(given, "MessageDeduplicationId")
    if queue.settings.fifo:
        if group is None:
            raise missing("MessageGroupId")
        if delay_s is not None:
            raise _not_for("DelaySeconds", delay_s)
        if deduplication is None and not queue.settings.content_deduplication:
            raise invalid(
                "The queue should either have ContentBasedDeduplication enabled or MessageDeduplicationId provided"
                " explicitly"
            )
    elif deduplication is not None:
        raise _not_for("MessageDeduplicationId", deduplication)
    about = kept(attributes, sender=call.sender, trace=trace)
    step = Send(queue.name, body.encode(), about, delay_s, group, deduplication)
    answer = {"MD5OfMessageBody": body_digest(step.body)}
    if attributes:
        answer["MD5OfMessageAttributes"] = attributes_digest(attributes)
    if system:
        answer["MD5OfMessageSystemAttributes"] = attributes_digest(system)
    return step, answer


def _attributes(given: Mapping[str, Any]) -> dict[str, MessageAttribute]:
    if len(given) > _MOST_ATTRIBUTES:
        raise invalid(f"Number of message attributes [{len(given)}] exceeds the allowed maximum [{_MOST_ATTRIBUTES}].")
    return {name: _attribute(name, value) for name, value in given.items()}


def _attribute(name: str, given: object) -> MessageAttribute:
    if not _NAME.fullmatch(name):
        raise invalid(f"Message (user) attribute name '{name}' is invalid.")
    fields = given if isinstance(given, dict) else {}
    data_type = parameters.text(fields, "DataType") or ""
    if not _TYPE.fullmatch(data_type):
        raise invalid(f"The message attribute '{name}' has an invalid message attribute type, the set of supported type"
                      " prefixes is Binary, Number, and String.")  # fmt: skip
    if data_type.startswith("Binary"):
        text = parameters.text(fields, "BinaryValue")
        if not text:
            raise _empty(name)
        try:
            return MessageAttribute(data_type, base64.b64decode(text, validate=True))
        except ValueError:
            raise invalid(f"The message (user) attribute '{name}' has a BinaryValue that is not base64.") from None
    value = parameters.text(fields, "StringValue")
    if not value:
        raise _empty(name)
    if FORBIDDEN.search(value):
        raise invalid(f"The message (user) attribute '{name}' contains a character that is not allowed.")
    if data_type.startswith("Number") and not _NUMBER.fullmatch(value):
        raise invalid(f"Can't cast the value of message (user) attribute '{name}' to a number.")
    return MessageAttribute(data_type, value)


def _empty(name: str) -> SqsError:
    return invalid(f"Message (user) attribute '{name}' must contain a non-empty value of its type.")


def _identifier(given: Mapping[str, Any], name: str) -> str | None:
    value = parameters.text(given, name)
    if value is not None and not _IDENTIFIER.fullmatch(value):
        raise invalid(
            f"Value {value} for parameter {name} is invalid. Reason: {name} can only include alphanumeric and"
            " punctuation characters. 1 to 128 in length."
        )
    return value


def _not_for(name: str, value: object) -> SqsError:
    return invalid(
        f"Value {value} for parameter {name} is invalid. Reason: The request include parameter that is not valid for"
        " this queue type"
    )
