"""Accepting events: what whoever causes an asynchronous invocation builds against (`Acceptor`), and nothing more.

    accepted = await acceptor.accept(NewEvent("resize", "", b'{"key": "a.png"}', source="s3:uploads"))

``accept`` returns when the event is on disk: from then on it runs, is tried again and ends in a record, whatever is
killed. What must be kept together with it, such as how far a schedule is, goes along as steps of the same unit:

    await acceptor.accept(event, PutRecord(progress))      # both, or neither
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from glowplug.runtime.queue.model import nothing
from glowplug.runtime.queue.steps import Step


@dataclass(frozen=True, slots=True)
class NewEvent:
    """An event that is to be invoked asynchronously."""

    function: str
    qualifier: str
    """As the caller gave it; empty where there was none. It is resolved anew for each attempt."""
    payload: bytes
    """One JSON value, UTF-8; it is not checked again."""
    trace_id: str = ""
    """X-Ray's header; each attempt makes one of its own where it is empty."""
    client_context: bytes = b""
    """A JSON object, decoded."""
    request_id: str = ""
    """A UUID; made where it is empty. The same on all attempts. Two events of one id are two events: who must not
    enqueue twice gives an ``idempotency_key``."""
    idempotency_key: str = ""
    """A second event of the same function, ``caller`` and key is not kept: the first one's id is given."""
    caller: str = ""
    retries: int | None = None
    """MaximumRetryAttempts of this event, 0 to 185; None: of the function's EventInvokeConfig."""
    max_age_s: int | None = None
    """MaximumEventAgeInSeconds of this event; None: of the function's EventInvokeConfig."""
    source: str = ""
    """What caused it, in a few words for listings: ``schedule:nightly``. Empty for a client's own call."""
    webhook: str = ""
    """An http(s) URL that gets the result."""
    lineage: Mapping[str, int] = field(default_factory=nothing)
    """How often each function ran in the chain of events that this one follows from as a destination."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """An event that is on disk. ``duplicate``: it is an earlier one's id, and nothing was added."""

    request_id: str
    duplicate: bool = False


class Acceptor(Protocol):
    """Takes events."""

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        """Keep an event, together with ``also`` or not at all; return when both are on disk.

        Where it is a duplicate the steps of ``also`` are not carried out.

        Raises ``FunctionNotFound`` for a function or qualifier that is not deployed, ``RequestTooLarge``,
        ``InvalidParameter`` for an idempotency key that was used with another payload, ``Throttled`` when the
        function's queue is full, ``StateError`` when the disk is, and what a step of ``also`` raises: then nothing was
        kept.
        """
