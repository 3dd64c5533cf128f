"""Where the record of an invocation that is over goes: which deliveries there are, and how each is made. Pure.

| the ARN is of | then |
|---|---|
| a queue of this node | a message, in the very transaction that ends the event |
| a function of this node | an event of it, in that transaction too |
| another SQS queue, an S3 bucket (failures alone) | the outbox, where the node has an endpoint for it |
| an SNS topic, an event bus | the outbox: a POST to the URL that ``GLOWPLUG_WEBHOOKS`` gives for it |
| anything else | nothing can deliver it: counted, and named in the event's record |
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

from glowplug.runtime.queue.embedded import arn_of

from .outcomes import Invocation, bus_entry, dead_letter_attributes, invocation_record
from .retrying import Condition

Way = Literal["queue", "function", "sqs", "s3", "webhook", "none"]


@dataclass(frozen=True, slots=True)
class Home:
    """What of the outside a node can reach. ``queues`` tells whether it has a queue of a name."""

    region: str
    account_id: str
    arn_prefix: str
    queues: Callable[[str], bool]
    webhooks: Mapping[str, str] = field(default_factory=dict)
    sqs: bool = False
    s3: bool = False


@dataclass(frozen=True, slots=True)
class Delivery:
    """One thing to be sent. ``target`` is a queue, a function with its qualifier, a bucket, a URL or, for SQS, an ARN.

    ``attributes`` are in the form of SendMessage. ``dead_letter``: it goes to a dead-letter queue, which another metric
    counts.
    """

    way: Way
    arn: str
    target: str
    body: bytes
    attributes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    dead_letter: bool = False


def way_to(arn: str, home: Home) -> tuple[Way, str]:
    """Return how an ARN is reached, and the target there."""
    if arn in home.webhooks:
        return "webhook", home.webhooks[arn]
    parts = arn.split(":", 5)
    service, rest = (parts[2], parts[5]) if len(parts) == 6 else ("", "")
    if service == "sqs":
        if arn == arn_of(home.region, home.account_id, rest) and home.queues(rest):
            return "queue", rest
        return ("sqs", arn) if home.sqs else ("none", arn)
    if service == "lambda" and arn.startswith(home.arn_prefix):
        return "function", arn.removeprefix(home.arn_prefix)
    if service == "s3" and home.s3:
        return "s3", rest.split("/", 1)[0]
    return "none", arn


def deliveries(
    invocation: Invocation, *, now_s: float, destinations: Mapping[str, Any], dead_letter: str, status: int, home: Home
) -> list[Delivery]:
    """Return what is to be sent: the record to OnSuccess or OnFailure, the event to the dead-letter queue.

    ``destinations`` is Lambda's DestinationConfig, ``status`` the HTTP status of the last attempt.
    """
    failed = invocation.finished.condition.failed
    out = []
    side = destinations.get("OnFailure" if failed else "OnSuccess") or {}
    if arn := side.get("Destination"):
        out.append(_record(invocation, arn, now_s, failed, home))
    if failed and dead_letter:
        way, target = way_to(dead_letter, home)
        attributes = dead_letter_attributes(invocation, status)
        body = invocation.payload
        if way == "webhook":  # a topic: what its subscribers would see
            body = compact({"Message": body.decode(errors="replace"), "MessageAttributes": attributes})
        if way not in ("queue", "sqs", "webhook"):
            way = "none"
        out.append(Delivery(way, dead_letter, target, body, attributes, dead_letter=True))
    return out


def _record(invocation: Invocation, arn: str, now_s: float, failed: bool, home: Home) -> Delivery:
    now = datetime.fromtimestamp(now_s, UTC)
    way, target = way_to(arn, home)
    if way == "s3" and not failed:
        way = "none"
    if way == "function" and invocation.finished.condition is Condition.RECURSIVE_LOOP:
        way = "none"  # it may be one of the loop, which would go on without running anything
    if way == "webhook" and arn.split(":")[2] == "events":
        return Delivery(way, arn, target, compact(bus_entry(invocation, now, arn)))
    return Delivery(way, arn, target, compact(invocation_record(invocation, now)))


def compact(value: Any) -> bytes:
    """Return JSON without spaces. Lone surrogates, which UTF-8 cannot carry, stay escaped."""
    try:
        return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value, separators=(",", ":")).encode()
