"""Event source mappings of a node that polls nothing."""

from __future__ import annotations

from collections.abc import Mapping

from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.events.mapping.pollers import MappingStatus


class FakeMappings:
    """Queues and pollers of mappings. ``timeouts`` is by ARN the longest timeout that a queue takes; None: all queues
    are there, and take every function."""

    def __init__(self, timeouts: Mapping[str, float] | None = None) -> None:
        self.timeouts = timeouts
        self.statuses: dict[str, MappingStatus] = {}

    async def check(self, arn: str, timeout_s: float) -> None:
        """Raise ``InvalidParameter`` unless the queue is there and takes functions of that timeout."""
        if self.timeouts is not None and self.timeouts.get(arn, -1) < timeout_s:
            raise InvalidParameter(f"{arn}: no such queue")

    def status(self, uuid: str) -> MappingStatus:
        """Return what was said of a mapping."""
        return self.statuses.get(uuid, MappingStatus())
