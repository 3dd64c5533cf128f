"""What the queue keeps: values without behaviour. What can be done with them is in ``steps``.

A *message* waits in a *queue* until it is visible, is received under a *lease*, and is deleted by whoever holds that.
A lease runs out; the message is then visible again, and whoever receives it next has another lease. ``Lease.token`` is
the fence between them: it is the message's receive count, so no two leases of one message have the same, and every step
that names a lease is refused once a later one was given.

A *record* is a row with a key of its own, beside the messages, for what must be kept after a message is gone: the state
and the result of an event, or who has used an idempotency key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

DEDUPLICATION_MS = 300_000
"""How long a FIFO queue knows a de-duplication id (SQS: 5 minutes)."""
LONGEST_LEASE_S = 43_200
"""The longest visibility timeout (SQS: 12 hours)."""
FOREVER_S = 10**9
"""A retention that no message reaches."""

Attributes = Mapping[str, Any]
"""What msgpack takes. The queue keeps it and does not look into it."""
Place = tuple[int, int, int]
"""Where a message is among those of its queue, in the order in which they are received; its first part is Unix ms."""
BEGINNING: Place = (-1, -1, -1)
END_OF_MS = 2**62
"""Behind all that are visible from the same ms on: ``(ms, END_OF_MS, 0)``."""
NOTHING: Attributes = {}


def nothing() -> Attributes:
    """Return ``NOTHING``, for defaults of fields."""
    return NOTHING


@dataclass(frozen=True, slots=True)
class QueueSettings:
    """How one queue treats its messages. Times in seconds."""

    #: How long a lease lasts where the receiver does not say.
    visibility_s: float = 30
    #: How long a message stays invisible after it was sent, where the sender does not say.
    delay_s: float = 0
    #: A message older than this is gone.
    retention_s: float = 345_600
    #: How long an empty receive waits, where the receiver does not say.
    wait_s: float = 0
    #: The largest body, in bytes. Attributes are counted by whoever encodes them.
    max_message_bytes: int = 1_048_576
    #: A message that was received this often goes to ``dead_letter`` instead of being received again.
    max_receives: int | None = None
    #: The name of the queue for such messages.
    dead_letter: str | None = None
    #: Order within a group, and de-duplication.
    fifo: bool = False
    #: Messages without a de-duplication id get a digest of their body.
    content_deduplication: bool = False
    #: How many messages there may be; a send beyond it is refused as ``QueueFull``.
    capacity: int | None = None
    #: Who made it: "" for clients, ``stack:NAME`` for a template, the name of the part of the node otherwise.
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    #: What clients may set and nothing here reads.
    extra: Mapping[str, str] = field(default_factory=dict)

    def evolve(self, **changes: Any) -> QueueSettings:
        """Return a copy with other values."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Queue:
    """A queue. ``created_ms`` and ``modified_ms`` are Unix milliseconds."""

    number: int
    name: str
    settings: QueueSettings
    created_ms: int
    modified_ms: int


@dataclass(frozen=True, slots=True)
class Lease:
    """The right to delete, extend or release one message. ``until_ms`` is when it runs out."""

    queue: str
    sequence: int
    token: int
    until_ms: int


@dataclass(frozen=True, slots=True)
class Message:
    """A message as it is kept. ``sequence`` grows with every message of the file; ``visible_ms`` is Unix ms."""

    id: bytes
    queue: str
    body: bytes
    sequence: int
    sent_ms: int
    visible_ms: int
    receives: int = 0
    first_received_ms: int | None = None
    group: str | None = None
    deduplication: str | None = None
    #: The queue that it came from, on a dead-letter queue.
    source: str | None = None
    attributes: Attributes = field(default_factory=nothing)

    @property
    def place(self) -> Place:
        """Where it is in its queue."""
        return self.visible_ms, self.receives, self.sequence


@dataclass(frozen=True, slots=True)
class Received:
    """A message and the lease under which it was received."""

    message: Message
    lease: Lease


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of a ``Send``. ``duplicate``: the ids are of an earlier message, and nothing was added."""

    id: bytes
    sequence: int
    duplicate: bool = False


@dataclass(frozen=True, slots=True)
class Moved:
    """What became of a ``Move``: how many went, and how far it came; ``to`` of None: nothing is left to look at."""

    count: int
    to: Place | None


@dataclass(frozen=True, slots=True)
class Counts:
    """How many messages a queue has. ``oldest_s``: the age of the oldest of the 100 that come next, 0 without any."""

    visible: int
    in_flight: int
    delayed: int
    oldest_s: float

    @property
    def total(self) -> int:
        """All of them."""
        return self.visible + self.in_flight + self.delayed


@dataclass(frozen=True, slots=True)
class Record:
    """A keyed row. What ``state`` means is the owner's; records are found by (owner, state, created)."""

    #: 16 bytes.
    id: bytes
    owner: str
    state: int
    created_ms: int
    #: Unix ms after which it is swept away; None: never.
    expires_ms: int | None = None
    attributes: Attributes = field(default_factory=nothing)
    body: bytes | None = None


class Unchanged:
    """The type of ``KEEP``."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP = Unchanged()
"""Leave what is there."""
