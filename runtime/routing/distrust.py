"""When an engine is given up, and what serves then: the policy, pure.

| what is seen | kind | when | how its function moves |
|---|---|---|---|
| it cannot be loaded, bound or opened | ``restore`` | at once | the same start tries the next engine |
| its check fails: outputs are not the recorded ones | ``check`` | at once | the same start tries the next engine |
| the process ends while a start has it loaded | ``crash`` | at once | the same start tries the next engine |
| an answer is not eager's on the same inputs | ``mismatch`` | at once | what has it goes, another is started |
| it starts slower than the next was measured | ``cold`` | after ``STARTS`` | the next one's zygote is built first |
| a call raises | | never | most often it is the caller's input |
| eager does any of this | | never | there is nothing behind it |

The *next* engine is the one with the least cost of those that passed the bake and have not been given up; after the
last of them comes eager. An engine is given up for one revision of one function, with the reason, across restarts,
until that function is baked again (``snapshot/assignments.py``).

Noise: a cold time is compared as a median over at least ``STARTS`` starts, with a margin, and in proportion: a machine
that is busy, and inputs larger than the example, make the engine's warm calls slower than they were measured just as
they do its cold ones, and would the next engine's. Where it has no warm calls to show for it, the margin is wider.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from glowplug.runtime.errors import CheckFailed, WorkerExited

from .enginefigures import EngineRow

Kind = Literal["restore", "check", "crash", "mismatch", "cold"]

STARTS = 8
MARGIN = 2.0
MARGIN_UNKNOWN = 4.0
LEAST_MS = 5.0
"""A difference that nobody notices is no reason to change anything."""


@dataclass(frozen=True, slots=True)
class Expected:
    """What a bake has measured of one engine, in milliseconds: what it adds to a start from parked, to one from stored,
    and a warm call. None where that was not measured."""

    engine: str
    parked_ms: float | None
    cold_ms: float | None
    warm_ms: float | None


def kind_of(error: BaseException) -> Kind:
    """Return what a start that failed with an engine in it blames the engine for."""
    if isinstance(error, CheckFailed):
        return "check"
    return "crash" if isinstance(error, WorkerExited) else "restore"


def too_slow(live: EngineRow, own: Expected | None, rival: Expected | None) -> str:
    """Return why an engine that serves is worse from cold than the next one was measured to be; empty when it is not,
    or nobody can tell."""
    if rival is None:
        return ""
    known = own is not None and own.warm_ms and live.warm_ms is not None
    load = max(1.0, live.warm_ms / own.warm_ms) if known and own is not None and own.warm_ms and live.warm_ms else 1.0
    margin = MARGIN if known else MARGIN_UNKNOWN
    for tier, starts, seen_ms, rival_ms in (
        ("parked", live.parked_starts, live.parked_ms, rival.parked_ms),
        ("stored", live.cold_starts, live.cold_ms, rival.cold_ms),
    ):
        if starts < STARTS or seen_ms is None or rival_ms is None:
            continue
        bound_ms = rival_ms * load * margin
        if seen_ms > bound_ms and seen_ms - rival_ms * load > LEAST_MS:
            return (
                f"it adds {seen_ms:.1f} ms to a start from {tier} (median), {rival.engine} was measured at "
                f"{rival_ms:.1f} ms"
            )
    return ""
