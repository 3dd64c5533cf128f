"""What can be done with queues and records. A *step* is one change or one look; a *unit* is a sequence of steps that
are carried out together or not at all.

What a step gives, and how it is refused, it says itself; ``engine`` carries them out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .model import BEGINNING, KEEP, Attributes, Lease, Place, QueueSettings, Record, Unchanged, nothing

# --- steps: messages --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Send:
    """Add a message; gives ``Sent``. Refused: ``QueueNotFound``, ``QueueFull``, ``RequestTooLarge``,
    ``InvalidParameter`` (a FIFO queue without group or de-duplication id)."""

    queue: str
    body: bytes
    attributes: Attributes = field(default_factory=nothing)
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
    ``target`` is None; gives ``Moved``. Those that came from none, or whose queue is gone, stay.

    ``beyond``: where another ended; what was left there is not looked at again. ``until``: a sequence number; a message
    with a later one, which may have been moved before and come back, stays."""

    queue: str
    target: str | None = None
    limit: int = 100
    beyond: Place = BEGINNING
    until: int | None = None


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
    """Gives a list of records of an owner, without their bodies, the oldest first unless ``newest_first``. ``states``:
    empty for all."""

    owner: str
    states: tuple[int, ...] = ()
    limit: int = 100
    newest_first: bool = False


@dataclass(frozen=True, slots=True)
class Peek:
    """Gives a list of ``Message``, those first that will be received first; leases nothing. ``after`` skips some, and
    ``beyond`` all up to a place, which costs nothing however many they are.

    ``bodies`` of False: they are left out, as many of them may be more than there is memory."""

    queue: str
    limit: int = 10
    after: int = 0
    bodies: bool = True
    beyond: Place = BEGINNING


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
    """Delete a queue; its messages are gone with it. With ``only_empty`` one that has messages stays. Gives whether it
    is gone. Refused: ``QueueNotFound``."""

    name: str
    only_empty: bool = False


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
    | DeleteRecord
    | GetRecord
    | ScanRecords
    | Peek
    | Count
    | Sweep
    | QueueStep
)
Unit = tuple[Step, ...]
