"""The record of an event that is over: kept under its request id, found by function and state, shown as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from glowplug.runtime.invocation import Outcome
from glowplug.runtime.queue.embedded import id_text
from glowplug.runtime.queue.model import Message, Record

from .envelopes import milliseconds
from .retrying import Condition, Finished
from .stored import StoredEvent, function_of, queue_of, stored

SUCCEEDED, FAILED, CANCELLED = 1, 2, 3
STATES: Final[Mapping[str, int]] = {"succeeded": SUCCEEDED, "failed": FAILED, "cancelled": CANCELLED}
"""What an event that is over is called, and the state of its record."""
_NAMES: Final = {state: name for name, state in STATES.items()}
UNKNOWN: Final = "Unknown"
"""The condition of an event whose record is damaged."""
_CANCELLED_ERROR: Final = {"errorType": "Glowplug.Cancelled", "errorMessage": "The event was cancelled."}


def record_of(
    event: StoredEvent,
    finished: Finished | None,
    outcome: Outcome | None,
    *,
    now_s: float,
    retention_s: float,
    most_bytes: int,
    undelivered: tuple[str, ...] = (),
) -> Record:
    """Return the record of an event. ``finished`` of None: it was cancelled. ``outcome`` is that of its last attempt,
    None where that did not reach the function; an answer of more than ``most_bytes`` is left out, and that is noted.
    ``undelivered`` are ARNs that its record could not be sent to."""
    now_ms = round(now_s * 1000)
    values: dict[str, Any] = {"f": now_ms, "q": event.qualifier, "s": event.source}
    state, body = CANCELLED, None
    if finished is not None:
        state = FAILED if finished.condition.failed else SUCCEEDED
        values |= {"n": finished.runs, "c": finished.condition.value}
    else:
        values["n"] = event.progress.runs + (outcome is not None)
    if outcome is not None:
        values |= {"v": outcome.executed_version, "e": outcome.function_error, "t": outcome.tier}
        values |= {"p": [[name, round(ms, 3)] for name, ms in outcome.phases]}
        body = outcome.payload if len(outcome.payload) <= most_bytes else None
        if body is None:
            values["z"] = len(outcome.payload)
    if undelivered:
        values["u"] = list(undelivered)
    return Record(
        id=event.key,
        owner=queue_of(event.function),
        state=state,
        created_ms=round(event.progress.accepted_s * 1000),
        expires_ms=now_ms + round(retention_s * 1000),
        attributes={key: value for key, value in values.items() if value},
        body=body,
    )


def shown(record: Record, *, result: bool = True) -> dict[str, Any]:
    """Return a record as the API shows it; without the answer where ``result`` is False."""
    kept = record.attributes
    finished_ms = kept.get("f", record.created_ms)
    out: dict[str, Any] = {
        "requestId": id_text(record.id),
        "function": function_of(record.owner),
        "qualifier": kept.get("q", ""),
        "state": _NAMES[record.state],
        "attempts": kept.get("n", 0),
        "acceptedAt": moment(record.created_ms),
        "finishedAt": moment(finished_ms),
        "ageSeconds": max(0, finished_ms - record.created_ms) / 1000,
    }
    for key, name in (("s", "source"), ("v", "executedVersion"), ("t", "tier"), ("u", "undelivered")):
        if key in kept:
            out[name] = kept[key]
    if record.state != CANCELLED:
        out["condition"] = kept.get("c", UNKNOWN)
    if "p" in kept:
        out["phases"] = dict(kept["p"])
    if "z" in kept:
        out["resultBytes"] = kept["z"]
    if result:
        out.update(_answer(record))
    return out


def _answer(record: Record) -> dict[str, Any]:
    kept = record.attributes
    if record.state == SUCCEEDED:
        return {"result": _parsed(record.body)}
    if record.state == CANCELLED:
        return {"error": _CANCELLED_ERROR}
    if record.body is not None:
        return {"error": _parsed(record.body)}
    condition = kept.get("c", UNKNOWN)
    reason = next((one.reason for one in Condition if one.value == condition), "What was noted of it is damaged.")
    return {"error": {"errorType": f"Glowplug.{condition}", "errorMessage": reason}}


def _parsed(body: bytes | None) -> Any:
    if not body:
        return None
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return body.decode(errors="replace")


def waiting(message: Message, state: str, now_s: float) -> dict[str, Any]:
    """Return an event that is not over as the API shows it. ``state`` is ``queued``, ``running`` or ``retrying``."""
    event = stored(message)
    out: dict[str, Any] = {
        "requestId": event.request_id,
        "function": event.function,
        "qualifier": event.qualifier,
        "state": state,
        "attempts": event.progress.runs + (state == "running"),
        "acceptedAt": moment(round(event.progress.accepted_s * 1000)),
        "ageSeconds": max(0.0, round(now_s - event.progress.accepted_s, 3)),
    }
    if event.source:
        out["source"] = event.source
    if state != "running" and message.visible_ms > now_s * 1000:
        out["nextAttemptAt"] = moment(message.visible_ms)
    return out


def moment(unix_ms: int) -> str:
    """Return a time as the API writes it."""
    return milliseconds(datetime.fromtimestamp(unix_ms / 1000, UTC))
