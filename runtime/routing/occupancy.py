"""What the pools of a node share: cores, memory, and how many instances with a model are busy."""

from __future__ import annotations

from collections.abc import Callable

MEMORY_FLOOR_BYTES = 256 * 1024 * 1024
"""Left free for the node and the page cache when instances are admitted."""


class Occupancy:
    """What the pools of a node share: cores, memory, and how many instances with a model are busy."""

    __slots__ = ("available_bytes", "busy_models", "cores")

    def __init__(self, cores: int, available_bytes: Callable[[], int]) -> None:
        self.cores = cores
        self.available_bytes = available_bytes
        self.busy_models = 0

    @property
    def threads(self) -> int:
        """The threads that an invocation gets: an even share of the cores, at least one."""
        return max(1, self.cores // (self.busy_models or 1))
