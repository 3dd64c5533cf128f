"""Queue attributes as SQS has them (strings) from and to ``QueueSettings``. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from glowplug.runtime.queue.model import Counts, Queue, QueueSettings

from .faults import SqsError, invalid

NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
FIFO = ".fifo"
_LONGEST = 8_192  # of what is only kept: that of a policy at AWS
_DIGITS = 19
_FOREIGN = frozenset(
    "Policy KmsMasterKeyId KmsDataKeyReusePeriodSeconds DeduplicationScope FifoThroughputLimit RedriveAllowPolicy"
    " SqsManagedSseEnabled".split()
)
_NUMBERS: Mapping[str, tuple[str, int, int]] = {
    "VisibilityTimeout": ("visibility_s", 0, 43_200),
    "DelaySeconds": ("delay_s", 0, 900),
    "MessageRetentionPeriod": ("retention_s", 60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": ("wait_s", 0, 20),
    "MaximumMessageSize": ("max_message_bytes", 1_024, 1_048_576),
}
_COMPUTED = (
    "QueueArn",
    "ApproximateNumberOfMessages",
    "ApproximateNumberOfMessagesNotVisible",
    "ApproximateNumberOfMessagesDelayed",
    "CreatedTimestamp",
    "LastModifiedTimestamp",
)
_READABLE = (*_NUMBERS, *_COMPUTED, "RedrivePolicy", "FifoQueue", "ContentBasedDeduplication", *sorted(_FOREIGN))


def is_name(name: str) -> bool:
    """Return whether clients may use a queue of that name; the node's own have names that they may not."""
    return len(name) <= 80 and NAME.fullmatch(name.removesuffix(FIFO)) is not None


def checked_name(name: str) -> str:
    """Return ``name``. Raises ``SqsError``."""
    if not is_name(name):
        raise invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
    return name


def settings_from(
    given: Mapping[str, Any],
    base: QueueSettings,
    *,
    name_of: Callable[[str], str | None],
    queues: Mapping[str, Queue],
) -> QueueSettings:
    """Return ``base`` with SQS's attributes applied.

    ``name_of`` gives the name of the queue of an ARN, None for one that is not of this node. Raises ``SqsError`` naming
    the attribute.
    """
    changes: dict[str, Any] = {}
    extra = dict(base.extra)
    for name, value in given.items():
        if not isinstance(value, str):
            raise _wrong(name, value)
        if name in _NUMBERS:
            field, low, high = _NUMBERS[name]
            changes[field] = _number(name, value, low, high)
        elif name in ("FifoQueue", "ContentBasedDeduplication"):
            if value not in ("true", "false"):
                raise _wrong(name, value)
            changes["fifo" if name == "FifoQueue" else "content_deduplication"] = value == "true"
        elif name == "RedrivePolicy":
            changes["dead_letter"], changes["max_receives"] = _redrive(value, name_of)
        elif name in _FOREIGN:
            if len(value) > _LONGEST:
                raise _wrong(name, f"{value[:40]}…")
            extra.pop(name, None)
            if value:
                extra[name] = value
        else:
            raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    settings = base.evolve(**changes, extra=extra)
    if settings.content_deduplication and not settings.fifo:
        raise SqsError("InvalidAttributeName", "Unknown Attribute ContentBasedDeduplication.")
    if changes.get("dead_letter") is not None:
        _check_dead_letter(settings, queues, given["RedrivePolicy"])
    return settings


def _check_dead_letter(settings: QueueSettings, queues: Mapping[str, Queue], text: str) -> None:
    target = None if settings.dead_letter is None else queues.get(settings.dead_letter)
    if target is None:
        raise invalid(
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist."
        )
    if target.settings.fifo != settings.fifo:
        raise invalid(
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: Dead letter queue must be same type of queue"
            " as the source."
        )


def differing(given: Mapping[str, str], queue: Queue, wanted: QueueSettings) -> str | None:
    """Return the first attribute of ``given`` that ``queue`` has another value for, or None."""
    there = readable(queue.settings, arn_of=str)
    asked = readable(wanted, arn_of=str)
    return next((name for name in given if there.get(name) != asked.get(name)), None)


def readable(settings: QueueSettings, *, arn_of: Callable[[str], str]) -> dict[str, str]:
    """Return the attributes that settings are, as strings."""
    values = {name: str(round(getattr(settings, field))) for name, (field, _, _) in _NUMBERS.items()}
    if settings.dead_letter is not None:
        policy = {"deadLetterTargetArn": arn_of(settings.dead_letter), "maxReceiveCount": settings.max_receives}
        values["RedrivePolicy"] = json.dumps(policy, separators=(",", ":"))
    if settings.fifo:
        values["FifoQueue"] = "true"
        values["ContentBasedDeduplication"] = str(settings.content_deduplication).lower()
    return values | dict(settings.extra)


def described(queue: Queue, counts: Counts, *, arn_of: Callable[[str], str]) -> dict[str, str]:
    """Return all attributes of a queue."""
    return readable(queue.settings, arn_of=arn_of) | {
        "QueueArn": arn_of(queue.name),
        "ApproximateNumberOfMessages": str(counts.visible),
        "ApproximateNumberOfMessagesNotVisible": str(counts.in_flight),
        "ApproximateNumberOfMessagesDelayed": str(counts.delayed),
        "CreatedTimestamp": str(queue.created_ms // 1000),
        "LastModifiedTimestamp": str(queue.modified_ms // 1000),
    }


def asked_for(names: list[str], values: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes of ``names``. Raises ``SqsError`` for one that there is not."""
    for name in names:
        if name != "All" and name not in _READABLE:
            raise SqsError("InvalidAttributeName", f"Unknown Attribute {name}.")
    return {name: value for name, value in values.items() if name in names or "All" in names}


def _redrive(text: str, name_of: Callable[[str], str | None]) -> tuple[str | None, int | None]:
    if not text:
        return None, None
    try:
        policy = json.loads(text)
        arn, most = policy["deadLetterTargetArn"], int(policy["maxReceiveCount"])
    except (ValueError, OverflowError, TypeError, KeyError, RecursionError):
        raise invalid(
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: Amazon SQS can't create the redrive policy,"
            " as it's in an unsupported format."
        ) from None
    if not 1 <= most <= 1000:
        raise invalid(
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: Invalid value for maxReceiveCount: {most},"
            " valid values are from 1 to 1000 both inclusive."
        )
    name = name_of(arn) if isinstance(arn, str) else None
    if name is None:
        raise invalid(
            f"Value {text} for parameter RedrivePolicy is invalid. Reason: Dead letter target does not exist."
        )
    return name, most


def _number(name: str, value: str, low: int, high: int) -> int:
    if not (value.isascii() and value.isdigit()) or len(value) > _DIGITS or not low <= int(value) <= high:
        raise _wrong(name, value)
    return int(value)


def _wrong(name: str, value: object) -> SqsError:
    return SqsError("InvalidAttributeValue", f"Invalid value for the parameter {name}. ({value!r})")
