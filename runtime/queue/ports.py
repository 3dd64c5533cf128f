"""What consumers need of a queue, embedded or a real one of SQS: ``MessageQueue``.

The shapes are those that SQS can give as well, so ids, handles and system attributes are strings. What the embedded
queue can do beyond (units of several steps, listening) is ``QueueStore``'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from .attributes import MessageAttribute


@dataclass(frozen=True, slots=True)
class Incoming:
    """A message that was received. ``system`` has SQS's own names (``SentTimestamp``, ``MessageGroupId``, …)."""

    id: str
    handle: str
    body: str
    body_md5: str
    system: Mapping[str, str]
    attributes: Mapping[str, MessageAttribute] = field(default_factory=dict)
    attributes_md5: str | None = None


class MessageQueue(Protocol):
    """One queue. All raise ``QueueNotFound`` when it is gone, and ``GlowplugError`` when it cannot be reached."""

    async def visibility_s(self) -> int:
        """Return for how long messages are hidden where a receive does not say."""

    async def receive(self, limit: int, *, wait_s: float, visibility_s: float | None = None) -> list[Incoming]:
        """Receive up to ``limit`` messages, as soon as there is one; none after ``wait_s``."""

    async def delete(self, handles: Sequence[str]) -> list[str]:
        """Acknowledge messages; return the handles that were stale, whose messages others have now."""

    async def extend(self, handles: Sequence[str], visibility_s: float) -> list[str]:
        """Keep messages invisible for ``visibility_s`` from now, 0 to give them back; return the stale handles."""
