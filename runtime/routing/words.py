"""Starts and requests in plain words: what ``glowplug explain`` prints."""

from __future__ import annotations

from .enginefigures import EngineRow
from .records import Fetch, ReadAhead, RequestRecord, StartRecord

_CAUSES: dict[str, str] = {
    "request": "a request",
    "warm": "`warm`",
    "cool": "`cool --to parked`",
    "bake": "a finished bake",
    "age": "the age of its zygote",
    "distrust": "an engine that was given up",
}
_WAYS: dict[str, str] = {
    "fork": "a worker was forked from the parked zygote",
    "park and fork": "the function's zygote was built first, then a worker was forked from it",
    "park": "the function's zygote was built",
    "fork and import": "a worker was forked from the base zygote and imported the handler itself (Parking: off)",
    "exec": "a worker was started as a new program and imported the handler itself",
    "context": "a worker that held a CUDA context was taken from the pool and imported the handler itself",
}


def describe_request(request: RequestRecord, start: StartRecord | None, live: str = "") -> str:
    """Return one request in plain words, with the start it waited for. ``live`` says how its engines do by now."""
    lines = [f"{request.function} was {request.tier}; {_waited(request, start)}."]
    if start is not None:
        lines += _start_lines(start, live)
    ending = "It ended in a function error after" if request.failed else "The handler took"
    why = f" ({request.why})" if request.why else ""
    return "\n".join([*lines, f"{ending} {request.handler_ms:.1f} ms{why}."])


def describe_engine(row: EngineRow) -> str:
    """Return the live figures of one engine in plain words."""
    times = [
        f"{milliseconds:.1f} ms {what}"
        for milliseconds, what in (
            (row.warm_ms, "a warm call"),
            (row.parked_ms, "the first after a start from parked"),
            (row.cold_ms, "the first after one from stored, with its restore"),
        )
        if milliseconds is not None
    ]
    calls = f"{row.calls} call{'' if row.calls == 1 else 's'}"
    said = f"So far {row.engine}{f' of {row.model}' if row.model else ''} answered {calls}"
    said += f": {', '.join(times)} (medians)" if times else ""
    said += f"; {row.failed} raised" if row.failed else ""
    if row.verified:
        said += f"; {row.verified} were verified, the largest difference was {row.worst_error:.2g}"
    return f"{said}."


def describe_start(start: StartRecord, live: str = "") -> str:
    """Return one start in plain words. ``live`` says how its engines do by now."""
    headline = f"{start.function} was {start.tier}, and was started because of {_CAUSES[start.cause]}."
    return "\n".join([headline, *_start_lines(start, live)])


def _start_lines(start: StartRecord, live: str) -> list[str]:
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
        device = f" on {start.device}" if start.device else ""
        lines.append(f"Engine {start.engine}{device}{better}.{f' {live}' if live else ''}")
    if start.fetch is not None:
        lines.append(_fetched(start.fetch))
    if start.bytes_read:
        lines.append(f"Weights of {start.bytes_read / 1e6:.1f} MB from {start.bytes_from}.")
    if start.read_ahead is not None:
        lines.append(_read_ahead(start.read_ahead))
    if start.warmup:
        lines.append(f"Warm-up: {start.warmup}.")
    return [*lines, *(f"Note: {note}." for note in start.notes)]


def _waited(request: RequestRecord, start: StartRecord | None) -> str:
    if start is not None:
        return f"the request waited {request.held_ms:.1f} ms for a start"
    if request.held_ms > 0:
        return f"every instance was busy and the request waited {request.held_ms:.1f} ms for one"
    return "an instance was ready and nothing had to start"


def _fetched(fetch: Fetch) -> str:
    again = f", {fetch.retries} attempts repeated" if fetch.retries else ""
    speed = _rate(fetch.transferred_bytes, fetch.took_s)
    return f"Fetched {_megabytes(fetch.transferred_bytes)} from {fetch.source} at {speed}{again}."


def _read_ahead(ahead: ReadAhead) -> str:
    """Say how fast the disk was against what it can do: the one figure by which a start from a cold page cache can be
    judged."""
    if not ahead.read_bytes:
        said = f"Read ahead: nothing; {_megabytes(ahead.resident_bytes)} were in the page cache"
    else:
        speed = ahead.read_bytes / ahead.took_s if ahead.took_s > 0 else 0.0
        said = f"Read {_megabytes(ahead.read_bytes)} from disk at {_rate(ahead.read_bytes, ahead.took_s)}"
        if ahead.disk_bytes_per_s > 0:
            share, limit = speed / ahead.disk_bytes_per_s, f"{ahead.disk_bytes_per_s / 1e9:.2f} GB/s"
            said += f" ({share:.0%} of the {limit} measured for this disk)"
        said += f" while the process started; {_megabytes(ahead.resident_bytes)} were in the page cache"
    if ahead.skipped_bytes:
        said += f", {_megabytes(ahead.skipped_bytes)} were left to be read when used"
    return f"{said}."


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"


def _rate(size: int, took_s: float) -> str:
    if took_s <= 0:
        return "no measurable time"
    per_s = size / took_s
    return f"{per_s / 1e9:.2f} GB/s" if per_s >= 1e8 else f"{per_s / 1e6:.1f} MB/s"
