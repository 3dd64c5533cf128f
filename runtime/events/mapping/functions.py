"""What mappings need of the node that runs their functions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from glowplug.runtime.catalog import Version
from glowplug.runtime.invocation import Invocation, Outcome


@dataclass(frozen=True, slots=True)
class Functions:
    """The node, as a poller sees it. ``target`` returns the version that one request for (name, qualifier) runs on,
    and raises ``GlowplugError`` where none can; ``room`` how many more invocations of (name, version) could run."""

    target: Callable[[str, str], Version]
    room: Callable[[str, str], int]
    invoke: Callable[[Invocation], Awaitable[Outcome]]
    new_request_id: Callable[[], str]
    new_trace_id: Callable[[], str]
    event_bytes: int
