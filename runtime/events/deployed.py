"""What is deployed, as events need it; the triggers of it, read once for each document of the catalog."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Protocol

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import DefinitionError

from .triggers import PREFIX, Trigger, trigger_of

_log = logging.getLogger(__name__)


class Deployed(Protocol):
    """What is deployed. ``Registry`` is it."""

    @property
    def catalog(self) -> Catalog:
        """What is deployed now."""


class DeployedTriggers:
    """Triggers by type, of whatever ``deployed`` has now."""

    def __init__(self, deployed: Deployed) -> None:
        self._deployed = deployed
        self._seen: Mapping[str, Mapping[str, Any]] | None = None
        self._documents: dict[str, tuple[Mapping[str, Any], Trigger | None]] = {}
        self._triggers: tuple[Trigger, ...] = ()

    def all(self) -> tuple[Trigger, ...]:
        """Return all triggers, enabled or not, by id."""
        documents = self._deployed.catalog.documents
        if documents is not self._seen:
            self._documents = {
                key: self._read(key, document) for key, document in documents.items() if key.startswith(PREFIX)
            }
            found = (trigger for _, trigger in self._documents.values() if trigger is not None)
            self._triggers = tuple(sorted(found, key=lambda one: one.id))
            self._seen = documents
        return self._triggers

    def of_type(self, type_: str) -> tuple[Trigger, ...]:
        """Return the enabled triggers of one type."""
        return tuple(one for one in self.all() if one.type == type_ and one.enabled)

    def _read(self, key: str, document: Mapping[str, Any]) -> tuple[Mapping[str, Any], Trigger | None]:
        known = self._documents.get(key)
        if known is not None and known[0] is document:
            return known
        try:
            return document, trigger_of(key.removeprefix(PREFIX), document)
        except DefinitionError as error:  # put by a release that took it
            _log.warning("%s does not run any more: %s", key, error)
            return document, None
