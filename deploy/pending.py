"""What is known only when a deploy is done: the version that a layer of the template gets.

``Ref`` of a layer is the ARN of its version, and which number that is the node says when it has published it. Until
then the number's place is held by words that nobody else writes. In a function's ``Layers`` they name the layer, in
``Outputs`` they are replaced after the deploy, anywhere else they are refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_HELD = re.compile(r"\{version of ([A-Za-z0-9]+), known after the deploy\}")


def pending_arn(layer_arn: str, logical_id: str) -> str:
    """Return the ARN of the version that a layer will have."""
    return f"{layer_arn}:{{version of {logical_id}, known after the deploy}}"


def layer_of(arn: str) -> str:
    """Return the logical id of the layer whose ``pending_arn`` this is; empty for every other text."""
    number = arn.rpartition(":")[2]
    found = _HELD.fullmatch(number)
    return "" if found is None else found[1]


def first_pending(value: Any) -> str:
    """Return the logical id of a layer whose version a value names anywhere in it; empty where there is none."""
    if isinstance(value, str):
        found = _HELD.search(value)
        return "" if found is None else found[1]
    if isinstance(value, Mapping):
        return next(filter(None, (first_pending(part) for pair in value.items() for part in pair)), "")
    if isinstance(value, list | tuple):
        return next(filter(None, map(first_pending, value)), "")
    return ""


def settled(value: Any, versions: Mapping[str, str]) -> Any:
    """Return a value with the versions of layers, ARNs by logical id, in the places that were held for them."""
    if isinstance(value, str):
        return _HELD.sub(lambda held: versions.get(held[1], held[0]).rpartition(":")[2], value)
    if isinstance(value, Mapping):
        return {key: settled(part, versions) for key, part in value.items()}
    if isinstance(value, list):
        return [settled(part, versions) for part in value]
    return value
