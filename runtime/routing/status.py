"""What the router tells about its functions."""

from __future__ import annotations

from dataclasses import dataclass

from glowplug.runtime.invocation import Tier

from .records import StartRecord


@dataclass(frozen=True, slots=True)
class FunctionStatus:
    """One function at its current revision, as of now.

    ``instances`` counts all live ones and starts that wait for their turn, ``starting`` those among them that are not
    ready yet, ``draining`` those that are on their way out (older revisions included). ``unparkable_reason`` says why
    it has no parked tier, ``last_error`` why the last failed start failed.
    """

    name: str
    version: str
    revision: str
    tier: Tier
    instances: int
    busy: int
    starting: int
    draining: int
    held: int
    unparkable_reason: str
    last_start: StartRecord | None
    last_error: str
