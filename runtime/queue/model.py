"""What the queue keeps and what can be done with it: values without behaviour.

A *message* waits in a *queue* until it is visible, is received under a *lease*, and is deleted by whoever holds that.
A lease runs out; the message is then visible again, and whoever receives it next has another lease. ``Lease.token`` is
the fence between them: it is the message's receive count, so no two leases of one message have the same, and every step
that names a lease is refused once a later one was given.

A *record* is a row with a key of its own, beside the messages, for what must be kept after a message is gone: the state
and the result of an event, or who has used an idempotency key.

A *step* is one change or one look; a *unit* is a sequence of steps that are carried out together or not at all.
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
NOTHING: Attributes = {}


def _nothing() -> Attributes:
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
    attributes: Attributes = field(default_factory=_nothing)


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
    attributes: Attributes = field(default_factory=_nothing)
    body: bytes | None = None


class Unchanged:
    """The type of ``KEEP``."""

    def __repr__(self) -> str:
        return "KEEP"


KEEP = Unchanged()
"""Leave what is there."""


# --- steps: messages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Add a message; gives ``Sent``. Refused: ``QueueNotFound``, ``QueueFull``, ``RequestTooLarge``,
    ``InvalidParameter`` (a FIFO queue without group or de-duplication id)."""

    queue: str
    body: bytes
    attributes: Attributes = field(default_factory=_nothing)
    delay_s: float | None = None
    group: str | None = None
    deduplication: str | None = None
    #: 16 bytes; random where it is None.
    id: bytes | None = None


@dataclass(frozen=True, slots=True)
class Receive:
    """Lease up to ``limit`` visible messages; gives a list of ``Received``, which may be empty. Messages that were
    received too often go to the dead-letter queue instead. Refused: ``QueueNotFound``."""

    queue: str
    limit: int = 1
    visibility_s: float | None = None


@dataclass(frozen=True, slots=True)
class Delete:
    """Acknowledge a message; gives it as (sequence). Refused: ``StaleLease``."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class Extend:
    """Let a lease last ``visibility_s`` from now; gives the ``Lease``. Refused: ``StaleLease``."""

    lease: Lease
    visibility_s: float


@dataclass(frozen=True, slots=True)
class Release:
    """Make a message visible again in ``delay_s``, with other ``attributes`` if given. Refused: ``StaleLease``.

    ``uncounted``: the receive does not count, for a message that reached nobody.
    """

    lease: Lease
    delay_s: float = 0
    attributes: Attributes | Unchanged = KEEP
    uncounted: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """Move up to ``limit`` visible messages of ``queue`` to ``target``, or each to the queue that it came from where
    ``target`` is None; gives how many. Those whose queue is gone stay."""

    queue: str
    target: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Discard:
    """Delete up to ``limit`` messages up to ``sequence``, leased or not; gives how many."""

    queue: str
    sequence: int
    limit: int = 10_000


@dataclass(frozen=True, slots=True)
class Find:
    """Look a message up by its id; gives the ``Message`` or None. Ids of version 7 alone (``tables.py``)."""

    queue: str
    id: bytes


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Delete a message that nobody has received since it was looked at, leased or not: ``receives`` is what it had
    then. Gives its ``sequence``. Refused: ``StaleLease``."""

    queue: str
    sequence: int
    receives: int


# --- steps: records ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class InsertRecord:
    """Keep a record. Refused where one of that id is kept: ``RecordExists``, which has it."""

    record: Record


@dataclass(frozen=True, slots=True)
class PutRecord:
    """Keep a record, in place of one of that id if there is one."""

    record: Record


@dataclass(frozen=True, slots=True)
class UpdateRecord:
    """Change a record; gives it as it is then. Refused where it is gone, or in no state of ``if_state``:
    ``RecordChanged``."""

    id: bytes
    state: int | Unchanged = KEEP
    expires_ms: int | Unchanged | None = KEEP
    attributes: Attributes | Unchanged = KEEP
    body: bytes | Unchanged | None = KEEP
    if_state: frozenset[int] | None = None


@dataclass(frozen=True, slots=True)
class DeleteRecord:
    """Forget a record; gives whether there was one."""

    id: bytes


# --- steps: looks -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class GetRecord:
    """Gives a ``Record`` or None."""

    id: bytes


@dataclass(frozen=True, slots=True)
class ScanRecords:
    """Gives a list of records of an owner, the oldest first unless ``newest_first``; without bodies unless asked for.

    ``states``: empty for all. ``after``: the last record of the page before.
    """

    owner: str
    states: tuple[int, ...] = ()
    since_ms: int = 0
    until_ms: int = 2**62
    limit: int = 100
    newest_first: bool = False
    bodies: bool = False


@dataclass(frozen=True, slots=True)
class CountRecords:
    """Gives a mapping from state to the number of an owner's records."""

    owner: str


@dataclass(frozen=True, slots=True)
class Peek:
    """Gives a list of ``Message``, those first that will be received first; leases nothing. ``after`` skips some."""

    queue: str
    limit: int = 10
    after: int = 0


@dataclass(frozen=True, slots=True)
class Count:
    """Gives ``Counts`` of a queue, or a mapping from names to them for all where ``queue`` is None."""

    queue: str | None = None


@dataclass(frozen=True, slots=True)
class Sweep:
    """Remove up to ``limit`` of each: messages that are too old, expired records, forgotten de-duplication ids and
    messages of deleted queues. Gives how many."""

    limit: int = 1_000


# --- steps: queues; each is a unit of its own -------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CreateQueue:
    """Make a queue; gives it. One of that name with the same settings is given as it is; with others it is refused as
    ``QueueExists``, or changed where ``replace`` is set."""

    name: str
    settings: QueueSettings
    replace: bool = False


@dataclass(frozen=True, slots=True)
class ChangeQueue:
    """Give a queue other settings; gives it. Refused: ``QueueNotFound``, ``InvalidParameter`` (of ``fifo``)."""

    name: str
    settings: QueueSettings


@dataclass(frozen=True, slots=True)
class DeleteQueue:
    """Delete a queue; its messages are gone with it. Refused: ``QueueNotFound``."""

    name: str


QueueStep = CreateQueue | ChangeQueue | DeleteQueue
Step = (
    Send
    | Receive
    | Delete
    | Extend
    | Release
    | Move
    | Discard
    | Find
    | Withdraw
    | InsertRecord
    | PutRecord
    | UpdateRecord
    | DeleteRecord
    | GetRecord
    | ScanRecords
    | CountRecords
    | Peek
    | Count
    | Sweep
    | QueueStep
)
Unit = tuple[Step, ...]
