"""What the parts of a stack are called where people read of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from glowplug.runtime.contents import Definition
from glowplug.runtime.events.triggers import BUCKET, RULE, SCHEDULE, SUBSCRIPTION

NOUNS: Final[Mapping[str, str]] = {
    "Functions": "function",
    "Layers": "layer",
    "Apis": "API",
    "Queues": "queue",
    "Mappings": "event source mapping",
    "Triggers": "trigger",
}
"""What a part of each section is."""

_TRIGGERS: Final[Mapping[str, str]] = {
    RULE: "rule {name}",
    SCHEDULE: "schedule {name}",
    BUCKET: "notifications of bucket {name}",
    SUBSCRIPTION: "subscription {logical_id} to topic {name}",
}


def words_of(section: str, name: str, logical_id: str, definition: Definition) -> str:
    """Return what a part is, and which: ``queue shop-Jobs``, ``rule nightly``. ``name`` is its identity."""
    if section == "Triggers" and definition.get("Type") in _TRIGGERS:
        return _TRIGGERS[definition["Type"]].format(name=definition.get("Name"), logical_id=logical_id)
    return f"{NOUNS[section]} {name}"
