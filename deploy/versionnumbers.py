"""Numbers of versions, which the node gives when it publishes them: what stands for one until then."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_NUMBER = re.compile(r"<version of (\w+)>")


def number_of(logical_id: str) -> str:
    """Return what stands for the number of a version until it is published."""
    return f"<version of {logical_id}>"


def unpublished(value: object) -> str:
    """Return the logical id of the version whose number ``value`` has to wait for; empty where it is complete."""
    found = _NUMBER.search(value) if isinstance(value, str) else None
    return found[1] if found else ""


def numbered(value: Any, numbers: Mapping[str, str]) -> Any:
    """Return ``value`` with the numbers of published versions, by logical id, where those were not known yet."""
    if isinstance(value, str):
        return _NUMBER.sub(lambda found: numbers.get(found[1], found[0]), value)
    if isinstance(value, Mapping):
        return {key: numbered(item, numbers) for key, item in value.items()}
    return [numbered(item, numbers) for item in value] if isinstance(value, list) else value
