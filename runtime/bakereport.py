"""What a baker says: JSON lines, to a descriptor of their own.

    {"event": "progress", "phase": "import|export|compile …|measure …|check", "fraction": 0…1}
    {"event": "done", "key": …, "reused": bool, "verdict": "aot_inductor", "reason": …,
     "measured": {"eager": {"cold_ms": …, "warm_ms": …, "refused": "", …}, …}}
    {"event": "failed", "error_type": …, "message": …}

The child runs an author's code and is not trusted: what is not in this form is passed over.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import IO, Any

from glowplug.snapshot.assignments import FIGURES, Measured

OnProgress = Callable[["BakeProgress"], None]


class BakeFailed(Exception):
    """No snapshot was made. ``error_type`` is the class name that the child reported, or ``Killed`` or ``TimedOut``."""

    def __init__(self, error_type: str, message: str) -> None:
        super().__init__(f"{error_type}: {message}")
        self.error_type = error_type


@dataclass(frozen=True, slots=True)
class BakeProgress:
    """How far a bake is: ``phase`` and the part of it that is done, 0 to 1."""

    phase: str
    fraction: float


@dataclass(frozen=True, slots=True)
class BakeVerdict:
    """What a bake found out: the snapshot's ``key``, whether it was there before (``reused``; nothing to publish is
    staged then), the engine to use (``engine``, which may be ``eager``), why, and what was ``measured`` of each."""

    key: str
    reused: bool
    engine: str
    reason: str
    measured: tuple[Measured, ...] = ()


async def listen(pipe: IO[bytes], on_progress: OnProgress) -> dict[str, Any]:
    """Read the child's lines until it closes its end; return the last that is a verdict, or nothing."""
    reader = asyncio.StreamReader(limit=1024 * 1024)
    protocol = asyncio.StreamReaderProtocol(reader)
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, pipe)
    final: dict[str, Any] = {}
    try:
        async for line in reader:
            event = _event(line)
            if event.get("event") == "progress":
                on_progress(BakeProgress(str(event["phase"]), float(event["fraction"])))
            elif event:
                final = event
    finally:
        transport.close()
    return final


def verdict_of(final: Mapping[str, Any], *, otherwise: str) -> BakeVerdict:
    """Return the verdict in a child's last line. Raises ``BakeFailed``, with ``otherwise`` where there is no line."""
    if final.get("event") == "done":
        measured = _figures(final.get("measured"))
        return BakeVerdict(final["key"], final["reused"], final["verdict"], final["reason"], measured)
    if final.get("event") == "failed":
        raise BakeFailed(final["error_type"], final["message"])
    raise BakeFailed("Killed", otherwise)


_FIELDS: dict[str, dict[str, type | tuple[type, ...]]] = {
    "progress": {"phase": str, "fraction": (int, float)},
    "done": {"key": str, "reused": bool, "verdict": str, "reason": str},
    "failed": {"error_type": str, "message": str},
}


def _event(line: bytes) -> dict[str, Any]:
    """Return a line as an event; nothing for what is none."""
    try:
        event = json.loads(line)
        fields = _FIELDS[event["event"]]
        well_formed = all(isinstance(event[name], kind) for name, kind in fields.items())
    except (ValueError, KeyError, TypeError):
        return {}
    return dict(event) if well_formed else {}


def _figures(measured: Any) -> tuple[Measured, ...]:
    """Return what the child measured, by label; nothing where it is not in the form that a baker writes."""
    try:
        return tuple(
            Measured(str(label), **{name: _KINDS[name](row[name]) for name in FIGURES})
            for label, row in sorted(measured.items())
        )
    except (AttributeError, KeyError, TypeError, ValueError):
        return ()


def _milliseconds(value: Any) -> float | None:
    return None if value is None else float(value)


def _sizes(value: Any) -> dict[str, float]:
    return {str(sizes): float(took) for sizes, took in value.items()}


_KINDS: dict[str, Callable[[Any], Any]] = {name: _milliseconds for name in FIGURES if name.endswith("_ms")} | {
    "private_bytes": int, "shared_bytes": int, "worst_error": float, "refused": str, "shapes": _sizes,
    "batches": _sizes,
}  # fmt: skip
