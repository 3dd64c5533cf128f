"""What the ledger holds: one record per start, one line per request. ``words`` puts them into plain ones.

Milliseconds throughout, because that is what people compare; ``start_ms`` of a phase counts from the decision to start.
Phases may overlap (weights are fetched while the process is forked), so their sum may pass ``total_ms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from glowplug.runtime.invocation import Tier

Cause = Literal["request", "warm", "cool", "bake", "age", "distrust"]
"""Why a start was made: a request, ``glowplug warm``, ``glowplug cool --to parked``, a finished bake, an old zygote, an
engine that was given up."""

Way = Literal["fork", "park and fork", "park", "fork and import", "exec", "context"]
"""How: from a parked zygote; from one built first; only built; from a base zygote (``Parking: off``); as a program; in
a worker that held a CUDA context."""


class Phase(NamedTuple):
    """One step of a start."""

    name: str
    start_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class Fetch:
    """What a start had to bring to this machine first. ``source`` is a URL's scheme and host, without credentials or
    query; ``transferred_bytes`` in ``took_s`` seconds, of ``retries`` attempts that were repeated."""

    source: str
    transferred_bytes: int
    took_s: float
    retries: int = 0


@dataclass(frozen=True, slots=True)
class ReadAhead:
    """What was read from disk into the page cache while a process started.

    ``resident_bytes`` were there before; ``skipped_bytes`` were left to be read on demand, for want of memory or
    because the start failed. ``disk_bytes_per_s`` is what was measured of this disk, 0 where nobody has.
    """

    read_bytes: int
    resident_bytes: int
    skipped_bytes: int
    took_s: float
    disk_bytes_per_s: float = 0.0


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start of one revision, finished. ``request_id`` is the request that caused it, None when none did.

    ``tier`` is the one that was found, ``started_at_s`` Unix time. ``bytes_read`` came from ``bytes_from``;
    ``engine_reason`` says why not a better engine. ``outcome`` is ``ready``, ``failed`` or ``discarded``. ``fetch`` and
    ``read_ahead`` are None for a start that had no need of them; the latter also as long as it is still going on.
    ``device`` is the GPU that the models run on, empty for the CPU.
    """

    start_id: str
    function: str
    version: str
    revision: str
    request_id: str | None
    cause: Cause
    tier: Tier
    way: Way
    started_at_s: float
    total_ms: float
    phases: tuple[Phase, ...]
    bytes_read: int = 0
    bytes_from: str = ""
    engine: str = ""
    engine_reason: str = ""
    warmup: str = ""
    dominated_by: str = ""
    outcome: str = "ready"
    error: str = ""
    notes: tuple[str, ...] = ()
    fetch: Fetch | None = None
    read_ahead: ReadAhead | None = None
    device: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values; phases as objects."""
        return asdict(self) | {"phases": [phase._asdict() for phase in self.phases], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StartRecord:
        """Read what ``to_json`` wrote. Raises ``TypeError`` or ``KeyError`` for anything else."""
        given = dict(value)
        phases = tuple(Phase(p["name"], p["start_ms"], p["duration_ms"]) for p in given.pop("phases"))
        notes = tuple(given.pop("notes"))
        fetch, ahead = given.pop("fetch", None), given.pop("read_ahead", None)
        return cls(
            **given,
            phases=phases,
            notes=notes,
            fetch=None if fetch is None else Fetch(**fetch),
            read_ahead=None if ahead is None else ReadAhead(**ahead),
        )


class RequestRecord(NamedTuple):
    """One request. ``held_ms`` is how long it waited for an instance; ``start_id`` is the start it waited for, if any.

    ``why`` says why the instance ended with it, if it did. A tuple, because one is made for every request.
    """

    request_id: str
    function: str
    tier: Tier
    held_ms: float
    handler_ms: float
    start_id: str | None
    failed: bool
    why: str = ""
