"""What travels the request path: an ``Invocation`` in, an ``Outcome`` out. Plain values, no behaviour of the edge.

Tuples, because they are made for every request: a frozen dataclass sets its fields one by one, in Python.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from .responsestream import ResponseStream

Tier = Literal["hot", "parked", "stored", "remote"]
"""How warm a function is, warmest first. An invocation's tier is the one it *found*."""


class Invocation(NamedTuple):
    """One call of a function, not yet assigned to an instance.

    ``version`` is the one that it runs on, as resolved (and drawn, for a weighted alias) from what the caller asked
    for; ``function_arn`` keeps the qualifier exactly as the caller gave it. ``payload`` is JSON text. ``hold_s`` is how
    long the caller lets the request wait for an instance (None: the function's HoldTimeoutSeconds). ``arrived_s`` is
    the node's monotonic clock. ``stream`` is for a caller that takes the answer as it comes; without one it is whole.
    """

    request_id: str
    function: str
    version: str
    function_arn: str
    payload: bytes
    arrived_s: float
    trace_id: str = ""
    client_context: bytes = b""
    identity: bytes = b""
    log_tail: bool = False
    hold_s: float | None = None
    stream: ResponseStream | None = None


class Outcome(NamedTuple):
    """The result of an invocation. ``payload`` is the handler's JSON, or Lambda's error body when ``function_error``;
    empty when all of it went through the invocation's stream.

    ``function_error`` is the value of ``X-Amz-Function-Error`` (``Unhandled``) or None. ``phases`` are (name,
    milliseconds) of what this request waited for, for ``Server-Timing``. ``log_tail`` is the request's log, START to
    REPORT, last 4 KiB, only when it was asked for.
    """

    request_id: str
    payload: bytes
    executed_version: str
    tier: Tier
    function_error: str | None = None
    duration_ms: float = 0.0
    phases: tuple[tuple[str, float], ...] = ()
    log_tail: bytes = b""
