"""How long a cold start takes: parked, stored and remote against warm, in one run, over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import time
from dataclasses import dataclass, field

from .figures import Figure, at_most, median, percentile
from .inprocess import EVENT, InProcess
from .served import Node, exchange

SIXTEEN_TOKENS = EVENT
"""14 word pieces and the two markers: one 16-token text."""

CYCLES = 30
REMOTE_CYCLES = 5  # each one copies the package's 92 MB into the cache again, digested and synced
WARM_CALLS_PER_CYCLE = 5


@dataclass
class Cycles:
    """Milliseconds of every first call after a cool-down and of the warm calls that followed it."""

    cold_ms: list[float] = field(default_factory=list)
    warm_ms: list[float] = field(default_factory=list)
    in_process_ms: list[float] = field(default_factory=list)
    phases_ms: dict[str, list[float]] = field(default_factory=dict)


def timed(connection: http.client.HTTPConnection, path: str, body: object) -> tuple[float, dict[str, str]]:
    """Return milliseconds from sending the request to the last byte of a 200 answer, and its headers."""
    begun = time.perf_counter()
    status, headers, answer = exchange(connection, "POST", path, body)
    spent = (time.perf_counter() - begun) * 1000
    if status != 200:
        raise RuntimeError(f"{path}: {status} {answer}")
    return spent, headers


def cycles(node: Node, tier: str, baseline: InProcess, count: int = CYCLES) -> Cycles:
    """Cool ``embed`` to ``tier``, call it, then call it warm and in process by turns; ``count`` times."""
    seen = Cycles()
    for _ in range(count):
        node.admin("POST", "functions/embed/cool", {"to": tier})
        with contextlib.closing(node.connect()) as connection:
            exchange(connection, "GET", "/_glowplug/health")  # the connection's own set-up is not the start's
            spent, headers = timed(connection, "/_url/embed/", SIXTEEN_TOKENS)
            if headers["x-glowplug-tier"] != tier:
                raise RuntimeError(f"the call after cooling to {tier} found {headers['x-glowplug-tier']}")
            seen.cold_ms.append(spent)
            for name, phase_ms in server_timing(headers.get("server-timing", "")):
                seen.phases_ms.setdefault(name, []).append(phase_ms)
            timed(connection, "/_url/embed/", SIXTEEN_TOKENS)
            for _ in range(WARM_CALLS_PER_CYCLE):
                seen.warm_ms.append(timed(connection, "/_url/embed/", SIXTEEN_TOKENS)[0])
                seen.in_process_ms.append(baseline.call_ms())
    return seen


def server_timing(header: str) -> list[tuple[str, float]]:
    """Parse ``name;dur=1.5, other;dur=2`` into pairs of name and milliseconds."""
    pairs = []
    for part in filter(None, (part.strip() for part in header.split(","))):
        name, *parameters = part.split(";")
        durations = [float(item.strip()[4:]) for item in parameters if item.strip().startswith("dur=")]
        pairs.append((name, durations[0] if durations else 0.0))
    return pairs


def figures(node: Node, baseline: InProcess, plain_s: float) -> list[Figure]:
    """Measure all tiers; ``baseline`` and ``plain_s`` are what they are compared with."""
    parked = cycles(node, "parked", baseline)
    stored = cycles(node, "stored", baseline)
    remote = cycles(node, "remote", baseline, REMOTE_CYCLES)
    inprocess_ms = median(parked.in_process_ms)
    warm = median(parked.warm_ms)
    cold = median(parked.cold_ms)
    section = "embed over its function URL, one 16-token text"
    rows = [
        Figure(section, "warm p50", warm, "ms"),
        Figure(section, "same engine in process, p50", inprocess_ms, "ms"),
        at_most(section, "warm p50 against in process (1.15x + 2 ms)", warm, "ms", round(1.15 * inprocess_ms + 2, 2)),
        Figure(section, "parked → answer p50", cold, "ms"),
        Figure(section, "parked → answer p99", percentile(parked.cold_ms, 0.99), "ms"),
        at_most(section, "parked p50 / warm p50", cold / warm, "x", 2.5),
        at_most(section, "parked p99 / warm p50", percentile(parked.cold_ms, 0.99) / warm, "x", 5.0),
        at_most(section, "stored → answer p50", median(stored.cold_ms), "ms", 250),
        Figure(section, "remote (package://, 92 MB) → answer p50", median(remote.cold_ms), "ms"),
        Figure(section, "plain script, start to answer", plain_s, "s"),
        Figure(section, "plain script / parked", plain_s * 1000 / cold, "x", "≥ 60 x", plain_s * 1000 / cold >= 60),
    ]
    for tier, seen in (("parked", parked), ("stored", stored), ("remote", remote)):
        rows += [
            Figure(f"where the time of a {tier} start goes (p50)", name, median(values), "ms")
            for name, values in seen.phases_ms.items()
        ]
    return rows
