"""What the ledger holds: one record per start, one line per request, and both in plain words.

Milliseconds throughout, because that is what people compare; ``start_ms`` of a phase counts from the decision to start.
Phases may overlap (weights are fetched while the process is forked), so their sum may pass ``total_ms``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

from glowplug.runtime.invocation import Tier

Cause = Literal["request", "warm", "cool", "bake", "age"]
"""Why a start was made: a request, ``glowplug warm``, ``glowplug cool --to parked``, a finished bake, an old zygote."""

Way = Literal["fork", "park and fork", "park", "fork and import", "exec"]
"""How: from a parked zygote; from one built first; only built; from a base zygote (``Parking: off``); as a program."""

_CAUSES: dict[str, str] = {
    "request": "a request",
    "warm": "`warm`",
    "cool": "`cool --to parked`",
    "bake": "a finished bake",
    "age": "the age of its zygote",
}
_WAYS: dict[str, str] = {
    "fork": "a worker was forked from the parked zygote",
    "park and fork": "the function's zygote was built first, then a worker was forked from it",
    "park": "the function's zygote was built",
    "fork and import": "a worker was forked from the base zygote and imported the handler itself (Parking: off)",
    "exec": "a worker was started as a new program and imported the handler itself",
}


class Phase(NamedTuple):
    """One step of a start."""

    name: str
    start_ms: float
    duration_ms: float


@dataclass(frozen=True, slots=True)
class StartRecord:
    """One start of one revision, finished. ``request_id`` is the request that caused it, None when none did.

    ``tier`` is the one that was found, ``started_at_s`` Unix time. ``bytes_read`` came from ``bytes_from``;
    ``engine_reason`` says why not a better engine. ``outcome`` is ``ready``, ``failed`` or ``discarded``.
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

    def to_json(self) -> dict[str, Any]:
        """Return JSON-able values; phases as objects."""
        return asdict(self) | {"phases": [phase._asdict() for phase in self.phases], "notes": list(self.notes)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> StartRecord:
        """Read what ``to_json`` wrote. Raises ``TypeError`` or ``KeyError`` for anything else."""
        given = dict(value)
        phases = tuple(Phase(p["name"], p["start_ms"], p["duration_ms"]) for p in given.pop("phases"))
        notes = tuple(given.pop("notes"))
        return cls(**given, phases=phases, notes=notes)


class RequestRecord(NamedTuple):
    """One request. ``held_ms`` is how long it waited for an instance; ``start_id`` is the start it waited for, if any.

    A tuple, because one is made for every request.
    """

    request_id: str
    function: str
    tier: Tier
    held_ms: float
    handler_ms: float
    start_id: str | None
    failed: bool


def describe_request(request: RequestRecord, start: StartRecord | None) -> str:
    """Return one request in plain words, with the start it waited for."""
    lines = [f"{request.function} was {request.tier}; {_waited(request, start)}."]
    if start is not None:
        lines += _start_lines(start)
    ending = "It ended in a function error after" if request.failed else "The handler took"
    return "\n".join([*lines, f"{ending} {request.handler_ms:.1f} ms."])


def describe_start(start: StartRecord) -> str:
    """Return one start in plain words."""
    headline = f"{start.function} was {start.tier}, and was started because of {_CAUSES[start.cause]}."
    return "\n".join([headline, *_start_lines(start)])


def _start_lines(start: StartRecord) -> list[str]:
    how = _WAYS[start.way] if start.outcome == "ready" else f"the start was {start.outcome}"
    longest = max(start.phases, key=lambda phase: phase.duration_ms, default=None)
    took = f"{start.total_ms:.1f} ms"
    if longest is not None:
        took += f", of which the {longest.name} took {longest.duration_ms:.1f} ms"
    steps = ", ".join(f"{phase.name} {phase.duration_ms:.1f} ms" for phase in start.phases)
    lines = [f"The start: {how}; {took}.", *([f"Its steps: {steps}."] if steps else [])]
    if start.error:
        lines.append(f"It failed: {start.error}")
    if start.engine:
        better = f"; not a better one: {start.engine_reason}" if start.engine_reason else ""
        lines.append(f"Engine {start.engine}{better}.")
    if start.bytes_read:
        lines.append(f"Weights of {start.bytes_read / 1e6:.1f} MB from {start.bytes_from}.")
    if start.warmup:
        lines.append(f"Warm-up: {start.warmup}.")
    return [*lines, *(f"Note: {note}." for note in start.notes)]


def _waited(request: RequestRecord, start: StartRecord | None) -> str:
    if start is not None:
        return f"the request waited {request.held_ms:.1f} ms for a start"
    if request.held_ms > 0:
        return f"every instance was busy and the request waited {request.held_ms:.1f} ms for one"
    return "an instance was ready and nothing had to start"
