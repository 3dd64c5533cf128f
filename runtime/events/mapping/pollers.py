"""All mappings at work: one poller for each that is enabled, as the catalog says."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.clock import Clock

from .functions import Functions
from .poller import Poller
from .settings import KIND, is_enabled, settings_of
from .sources import OpenSource

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MappingStatus:
    """How a mapping is. ``draining``: it was disabled, deleted, or got another queue, and a batch is still under way.

    ``problem`` is why it does not receive, empty while it does; ``last_result`` is Lambda's LastProcessingResult.
    """

    draining: bool = False
    problem: str = ""
    last_result: str = ""


class Pollers:
    """The pollers of a node. ``follow`` is told of every catalog."""

    def __init__(self, functions: Functions, open_source: OpenSource, clock: Clock) -> None:
        self._functions = functions
        self._open_source = open_source
        self._clock = clock
        self._documents: Mapping[str, Mapping[str, Any]] = {}
        self._pollers: dict[str, Poller] = {}
        self._ending: dict[asyncio.Task[None], Poller] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"<Pollers {list(self._pollers.values())} ending={len(self._ending)}>"

    def follow(self, catalog: Catalog) -> None:
        """Poll what this catalog has enabled, and nothing else; what was received is still run."""
        if self._closed or catalog.documents is self._documents:
            return
        self._documents = catalog.documents
        wanted = {
            key: settings_of(document)
            for key, document in catalog.documents.items()
            if key.startswith(f"{KIND}/") and is_enabled(document)
        }
        for key, poller in list(self._pollers.items()):
            if key not in wanted or wanted[key].source != poller.settings.source:
                self._end(self._pollers.pop(key))
        for key, settings in wanted.items():
            known = self._pollers.get(key)
            if known is not None:
                known.settings = settings
                continue
            poller = self._pollers[key] = Poller(settings, self._functions, self._open_source, self._clock)
            poller.start()

    @property
    def polled(self) -> tuple[Poller, ...]:
        """The pollers of all mappings that are enabled."""
        return tuple(self._pollers.values())

    def status(self, uuid: str) -> MappingStatus:
        """Return how a mapping is, of one that is not polled too."""
        draining = any(poller.settings.uuid == uuid for poller in self._ending.values())
        poller = self._pollers.get(f"{KIND}/{uuid}")
        return (
            MappingStatus(draining) if poller is None else MappingStatus(draining, poller.problem, poller.last_result)
        )

    def stop(self) -> None:
        """Receive nothing any more: the node is about to end."""
        self._closed = True
        for poller in self._pollers.values():
            poller.stop()

    async def drained(self) -> None:
        """Return when nothing is under way; after ``stop``."""
        await asyncio.gather(*(poller.finished() for poller in (*self._pollers.values(), *self._ending.values())))

    async def close(self) -> None:
        """End everything: what is under way is given up, and comes again."""
        self.stop()
        await asyncio.gather(*(poller.abandon() for poller in (*self._pollers.values(), *self._ending.values())))
        for task in list(self._ending):
            await task

    def _end(self, poller: Poller) -> None:
        poller.stop()
        task = asyncio.create_task(poller.finished(), name=f"end of mapping {poller.settings.uuid}")
        self._ending[task] = poller
        task.add_done_callback(lambda done: self._ending.pop(done, None))
