"""What function URLs, APIs and the Lambda API have in common when they invoke: ports, headers, waiting."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Any, Protocol

from glowplug.runtime.catalog import Function, Url, Version
from glowplug.runtime.invocation import Invocation, Outcome

Invoke = Callable[[Invocation], Awaitable[Outcome]]
"""``Router.invoke``, or the same with a tracer around it."""

_WAIT = re.compile(r"wait\s*=\s*\"?(\d{1,6})\"?\s*(?:;.*)?", re.IGNORECASE)


class Directory(Protocol):
    """Who is deployed; answers from memory. ``Registry`` is one."""

    def get(self, name: str) -> Function:
        """Return a function. Raises ``FunctionNotFound``."""

    def target(self, name: str, qualifier: str = "$LATEST") -> Version:
        """Return the version that one request for the qualifier runs on, drawn where an alias has weights. Raises
        ``FunctionNotFound`` with the qualified ARN."""

    def url(self, url_id: str) -> Url | None:
        """Return the function URL of that id, or None."""

    def api(self, api_id: str) -> Mapping[str, Any] | None:
        """Return the API of that id as its template put it, or None."""


class UrlObserver(Protocol):
    """Hears of every answered function URL call."""

    def url_request(self, function: str, status: int, seconds: float) -> None:
        """Count one request."""


class ApiObserver(Protocol):
    """Hears of every answered request to an API."""

    def api_request(self, api_id: str, status: int, seconds: float) -> None:
        """Count one request."""


def start_headers(outcome: Outcome) -> list[tuple[str, str]]:
    """Return what the request waited for: the tier it found, and its phases as ``Server-Timing``."""
    return timing_headers(outcome.tier, outcome.phases or (("handler", outcome.duration_ms),))


def timing_headers(tier: str, phases: Iterable[tuple[str, float]]) -> list[tuple[str, str]]:
    """Return the same of an answer that is still under way."""
    timing = ", ".join([f"{name};dur={milliseconds:.2f}" for name, milliseconds in phases])
    return [("X-Glowplug-Tier", tier), ("Server-Timing", timing)]


def hold_of(prefer: str | None) -> float | None:
    """Return N of ``Prefer: wait=N`` in seconds; None without one. What is not understood is ignored (RFC 7240)."""
    return next((float(match[1]) for match in _waits(prefer)), None) if prefer else None


def _waits(prefer: str) -> Iterable[re.Match[str]]:
    for preference in prefer.split(","):
        match = _WAIT.fullmatch(preference.strip())
        if match:
            yield match
