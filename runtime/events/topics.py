"""Messages that are published to a topic: handed to the functions that are subscribed to it, in SNS's shape.

A topic is a name that subscriptions of deployed templates use; nothing else of it exists. A message is on disk for all
subscribers before it is answered. Filter policies are read as event patterns are, of which SNS's are a part.
"""

from __future__ import annotations

import asyncio
import json
import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import InvalidParameter, ResourceNotFound

from .delivery import Delivery
from .deployed import DeployedTriggers
from .envelopes import Home, Notification, sns_event
from .triggers import SUBSCRIPTION, Trigger

MESSAGE_BYTES = 256 * 1024
"""Of a message with its attributes, as on AWS."""


@dataclass(frozen=True, slots=True)
class Published:
    """A message for a topic. ``attributes`` is (type, value) by name; a binary value is base64."""

    topic: str
    message: str
    subject: str | None = None
    attributes: Mapping[str, tuple[str, str]] = field(default_factory=dict)


class Topics:
    """Takes messages."""

    def __init__(self, triggers: DeployedTriggers, delivery: Delivery, home: Home, clock: Clock) -> None:
        self._triggers = triggers
        self._delivery = delivery
        self._home = home
        self._clock = clock

    async def publish(self, published: Published) -> str:
        """Hand a message to whoever is subscribed; return its MessageId.

        Raises ``ResourceNotFound`` for a topic that no subscription names, ``InvalidParameter`` for a message that SNS
        does not take, ``Throttled`` and ``StateError``.
        """
        subscribers = [one for one in self._triggers.of_type(SUBSCRIPTION) if one.name == published.topic]
        if not subscribers:
            raise ResourceNotFound(f"Topic does not exist: nothing that is deployed is subscribed to {published.topic}")
        _check(published)
        message_id = str(uuid.uuid4())
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        wanted = [one for one in subscribers if one.pattern is None or one.pattern.matches(_filtered(one, published))]
        ends = await asyncio.gather(
            *(self._hand(one, published, message_id, now) for one in wanted), return_exceptions=True
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end
        return message_id

    async def _hand(self, subscription: Trigger, published: Published, message_id: str, now: datetime) -> None:
        topic_arn = subscription.arn(self._home)
        subscription_arn = f"{topic_arn}:{uuid.uuid5(uuid.NAMESPACE_OID, subscription.id)}"
        event = sns_event(
            Notification(
                message_id=message_id,
                topic_arn=topic_arn,
                message=published.message,
                time=now,
                subscription_arn=subscription_arn,
                unsubscribe_url="",
                subject=published.subject,
                attributes=published.attributes,
            )
        )
        payload = json.dumps(event, separators=(",", ":")).encode()
        for target in subscription.targets:
            await self._delivery.hand(subscription, target, payload)


def _check(published: Published) -> None:
    if not published.message:
        raise InvalidParameter("Invalid parameter: Empty message")
    texts = [published.message, *(text for name, one in published.attributes.items() for text in (name, *one))]
    size = sum(len(text.encode(errors="surrogatepass")) for text in texts)
    if size > MESSAGE_BYTES:
        raise InvalidParameter(f"Invalid parameter: Message too long: {size} bytes of {MESSAGE_BYTES}")
    if published.subject is not None and not 1 <= len(published.subject) <= 100:
        raise InvalidParameter("Invalid parameter: Subject has 1 to 100 characters")
    for name, (kind, _) in published.attributes.items():
        if kind.partition(".")[0] not in ("String", "Number", "Binary"):
            raise InvalidParameter(f"Invalid parameter: MessageAttributes: {name} is of the type {kind!r}")


def _filtered(subscription: Trigger, published: Published) -> Mapping[str, Any]:
    """Return what a filter policy looks at: the message itself, or its attributes."""
    if subscription.body:
        try:
            value = json.loads(published.message)
        except (ValueError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}
    return {name: _value(kind, value) for name, (kind, value) in published.attributes.items()}


def _value(kind: str, text: str) -> Any:
    try:
        if kind == "Number" and math.isfinite(number := float(text)):
            return number
        if kind == "String.Array" and isinstance(listed := json.loads(text), list):
            return listed
    except (ValueError, RecursionError):
        return text
    return text
