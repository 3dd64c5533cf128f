"""One request to SQS, and what operations are made of: its parameters, the queue it names, the services behind."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlsplit

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import QueueNotFound
from glowplug.runtime.queue.embedded import EmbeddedQueue, arn_of
from glowplug.runtime.queue.model import Queue
from glowplug.runtime.queue.store import QueueStore

from .faults import SqsError, invalid, missing
from .settings import is_name

_QUEUE = "QueueUrl"


@dataclass(frozen=True, slots=True)
class Services:
    """What operations need."""

    store: QueueStore
    clock: Clock
    region: str
    account_id: str
    #: Held while a queue's settings are read, changed and written.
    changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    def arn(self, name: str) -> str:
        """Return the ARN of a queue."""
        return arn_of(self.region, self.account_id, name)

    def named_by(self, arn: str) -> str | None:
        """Return the name of the queue that an ARN is of, None for one that is not of this node."""
        name = arn.rpartition(":")[2]
        return name if arn == self.arn(name) and is_name(name) else None

    def queue(self, name: str) -> Queue:
        """Return a queue that clients may see. Raises ``QueueNotFound``."""
        if not is_name(name):
            raise QueueNotFound(name)
        return self.store.queue(name)

    def shown(self) -> list[Queue]:
        """Return all queues that clients may see, by name."""
        return [queue for queue in self.store.queues if is_name(queue.name)]

    def embedded(self, name: str) -> EmbeddedQueue:
        """Return a queue as consumers see it."""
        return EmbeddedQueue(self.store, name, region=self.region, account_id=self.account_id)


@dataclass(frozen=True, slots=True)
class Call:
    """The parameters of one request. ``origin`` is the URL under which the client knows the node."""

    services: Services
    parameters: Mapping[str, Any]
    origin: str
    sender: str = ""

    def url(self, name: str) -> str:
        """Return a queue's URL."""
        return f"{self.origin}/{self.services.account_id}/{name}"

    def queue(self) -> Queue:
        """Return the queue that ``QueueUrl`` names; its host is whatever the client reaches the node by."""
        url = self.text(_QUEUE)
        try:
            parts = urlsplit(url).path.strip("/").split("/")
        except ValueError:
            raise SqsError("InvalidAddress", f"The address {url} is not valid for this endpoint.") from None
        if len(parts) != 2 or parts[0] != self.services.account_id:
            raise QueueNotFound(url)
        return self.services.queue(unquote(parts[1]))

    def text(self, name: str) -> str:
        """Return a string that must be there."""
        value = self.parameters.get(name)
        if value is None:
            raise missing(name)
        return _text(name, value)

    def maybe(self, name: str) -> str | None:
        """Return a string, or None."""
        value = self.parameters.get(name)
        return None if value is None else _text(name, value)

    def number(self, name: str, low: int, high: int) -> int | None:
        """Return a whole number in its range, or None."""
        return number(self.parameters, name, low, high)

    def names(self, name: str) -> list[str]:
        """Return a list of strings, empty where there is none."""
        value = self.parameters.get(name) or []
        if not isinstance(value, list):
            raise _malformed(name)
        return [_text(name, one) for one in value]

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object, empty where there is none."""
        return mapping(self.parameters, name)

    def entries(self) -> list[Mapping[str, Any]]:
        """Return the entries of a batch. Raises ``SqsError`` where there are none, too many, or ids are wrong."""
        value = self.parameters.get("Entries")
        if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
            raise missing("Entries") if value is None else _malformed("Entries")
        if not value:
            raise SqsError("EmptyBatchRequest", "There should be at least one entry in the request.")
        if len(value) > 10:
            raise SqsError(
                "TooManyEntriesInBatchRequest",
                f"Maximum number of entries per request are 10. You have sent {len(value)}.",
            )
        ids = [_text("Id", one.get("Id") or "") for one in value]
        for one in ids:
            if not is_name(one) or one.endswith(".fifo"):
                raise SqsError(
                    "InvalidBatchEntryId",
                    "A batch entry id can only contain alphanumeric characters, hyphens and underscores. It can be at"
                    " most 80 letters long.",
                )
        if len(set(ids)) != len(ids):
            repeated = next(one for one in ids if ids.count(one) > 1)
            raise SqsError("BatchEntryIdsNotDistinct", f"Id {repeated} repeated.")
        return value


def number(parameters: Mapping[str, Any], name: str, low: int, high: int) -> int | None:
    """Return a whole number in its range, or None. Raises ``SqsError``."""
    value = parameters.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise _malformed(name)
    if not low <= value <= high:
        raise invalid(
            f"Value {value} for parameter {name} is invalid. Reason: Must be between {low} and {high}, if provided."
        )
    return value


def mapping(parameters: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object, empty where there is none. Raises ``SqsError``."""
    value = parameters.get(name) or {}
    if not isinstance(value, dict):
        raise _malformed(name)
    return value


def text(parameters: Mapping[str, Any], name: str) -> str | None:
    """Return a string, or None. Raises ``SqsError``."""
    value = parameters.get(name)
    return None if value is None else _text(name, value)


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise _malformed(name)
    return value


def _malformed(name: str) -> SqsError:
    return SqsError("SerializationException", f"{name}: a value of the wrong type")
