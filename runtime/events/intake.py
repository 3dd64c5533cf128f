"""Takes events: the node's ``Acceptor``. One transaction for all that come while the disk works (group commit)."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

from glowplug.runtime.catalog import LATEST
from glowplug.runtime.clock import Clock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import (
    FunctionNotFound,
    InvalidParameter,
    QueueFull,
    QueueNotFound,
    RecordExists,
    RequestTooLarge,
    Throttled,
)
from glowplug.runtime.queue.embedded import id_text
from glowplug.runtime.queue.model import FOREVER_S, QueueSettings, Record
from glowplug.runtime.queue.steps import InsertRecord, Send, Step
from glowplug.runtime.queue.store import QueueStore

from .accepting import Accepted, NewEvent
from .deployed import Deployed
from .figures import Book
from .pressure import Pressure
from .stored import attributes_of, key_of, new_id, queue_of

KEYS = "async-keys"
"""The owner of the records of idempotency keys."""
_RETRY_AFTER_S = 1.0


class Intake:
    """Accepts events for functions of ``deployed``. ``opened`` is called with the name of a function whose queue was
    made, before its first event is accepted."""

    def __init__(
        self,
        store: QueueStore,
        deployed: Deployed,
        config: NodeConfig,
        clock: Clock,
        figures: Book,
        pressure: Pressure,
        *,
        opened: Callable[[str], None],
    ) -> None:
        self._store = store
        self._deployed = deployed
        self._arn_prefix = config.arn_prefix
        self._limits = config.limits
        self._retention_s = config.async_retention_s
        self._clock = clock
        self._opened = opened
        self._figures = figures
        self._pressure = pressure

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        """Keep an event; see ``Acceptor``."""
        self._check(event)
        send = self.step(event)
        key = send.id
        assert key is not None  # noqa: S101 - ``step`` has set it
        first = () if not event.idempotency_key else (self._claim(event, key),)
        try:
            await self._apply(event.function, (*first, send, *also))
        except RecordExists as known:
            if first and known.record.id == first[0].record.id:
                return _duplicate(event, known.record)
            raise
        self._figures.of(event.function).received += 1
        self._pressure.accepted()
        return Accepted(id_text(key))

    def step(self, event: NewEvent) -> Send:
        """Return the step that keeps an event, for a unit of other steps. Its queue may not be there yet."""
        key = key_of(event.request_id) if event.request_id else new_id(self._clock.time())
        if key is None:
            raise InvalidParameter(f"request id {event.request_id!r} is not a UUID")
        return Send(queue_of(event.function), event.payload, attributes_of(event), id=key)

    def _check(self, event: NewEvent) -> None:
        function = self._deployed.catalog.functions.get(event.function)
        qualifier = event.qualifier or LATEST
        if function is None or not function.versions_of(qualifier):
            raise FunctionNotFound(f"Function not found: {self._arn_prefix}{event.function}:{qualifier}")
        most = self._limits.async_request_bytes
        if len(event.payload) > most:
            raise RequestTooLarge(
                f"{len(event.payload)} byte payload is too large for the Event invocation type (limit {most} bytes)"
            )

    async def _apply(self, function: str, steps: tuple[Step, ...]) -> None:
        queue = queue_of(function)
        try:
            try:
                await self._store.apply(*steps)
            except QueueNotFound as missing:
                if missing.name != queue:
                    raise
                await self.open(function)
                await self._store.apply(*steps)
        except QueueFull as full:
            if full.name != queue:
                raise
            problem = f"Rate Exceeded. {self._limits.async_queue_events} events of {function} wait already."
            raise Throttled(problem, reason="CallerRateLimitExceeded", retry_after_s=_RETRY_AFTER_S) from full

    async def open(self, function: str) -> None:
        """Make the queue of a function, or give it the settings of this node."""
        settings = QueueSettings(
            visibility_s=60,
            retention_s=FOREVER_S,
            max_message_bytes=self._limits.async_request_bytes,
            capacity=self._limits.async_queue_events,
            owner="async",
        )
        await self._store.create(queue_of(function), settings, replace=True)
        self._opened(function)

    def _claim(self, event: NewEvent, key: bytes) -> InsertRecord:
        """Return the step that makes an idempotency key this event's, unless it is another's."""
        name = "\0".join((event.function, event.caller, event.idempotency_key)).encode()
        now_ms = round(self._clock.time() * 1000)
        attributes: dict[str, Any] = {"id": key, "payload": _digest(event.payload)}
        expires_ms = now_ms + round(self._retention_s * 1000)
        return InsertRecord(Record(_digest(name), KEYS, 0, now_ms, expires_ms, attributes))


def _duplicate(event: NewEvent, record: Record) -> Accepted:
    if record.attributes["payload"] != _digest(event.payload):
        raise InvalidParameter(
            f"Idempotency key {event.idempotency_key!r} was used with another payload (request "
            f"{id_text(record.attributes['id'])})"
        )
    return Accepted(id_text(record.attributes["id"]), duplicate=True)


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).digest()
