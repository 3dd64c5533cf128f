"""Where and when a change of the catalog is made: what decisions need of the world, and get as a value."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Site:
    """Where and when: the beginnings of ARNs, the time in Lambda's form, in ISO 8601 and in Unix seconds, and new
    random ids."""

    function_arn: str
    layer_arn: str
    now: str
    iso: str
    unix_s: float = 0.0
    new_id: Callable[[], str] = lambda: str(uuid.uuid4())
