"""Typed values out of a mapping that somebody wrote by hand; every complaint names the field."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any, Final

from .errors import DefinitionError

_ARN = re.compile(r"arn:aws[a-zA-Z-]*:(?P<service>[^:]+):[^:]*:[0-9]*:.")

IS_FIFO: Final = "is FIFO; only standard queues and topics are taken"
"""Why an event is not sent to an ARN that ends in ``.fifo``, as on AWS: the event has no group."""


class Reader:
    """Reads one mapping. ``path`` is where it stands; all methods raise ``DefinitionError`` for what they refuse."""

    def __init__(self, values: object, path: str) -> None:
        if not isinstance(values, Mapping):
            raise DefinitionError(path or "definition", f"must be a mapping, not {kind(values)}")
        self.values: Mapping[str, Any] = values
        self.path = path

    def at(self, name: str) -> str:
        """Return where a field stands."""
        return f"{self.path}.{name}" if self.path else name

    def only(self, known: frozenset[str] | set[str]) -> None:
        """Refuse fields other than ``known``."""
        for name in self.values:
            if name not in known:
                near = difflib.get_close_matches(str(name), known, 1, cutoff=0.5)
                hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
                raise DefinitionError(self.at(name), f"unknown key; {hint}")

    def section(self, name: str, known: frozenset[str] | set[str]) -> Reader:
        """Return a reader of the mapping at ``name``, which has no fields but ``known``; an empty one for none."""
        value = self.values.get(name)
        section = Reader({} if value is None else value, self.at(name))
        section.only(known)
        return section

    def text(self, name: str, *, required: bool = False) -> str:
        """Return a string, empty where there is none."""
        value = self.values.get(name)
        if value is None and not required:
            return ""
        if not isinstance(value, str) or (required and not value):
            raise DefinitionError(self.at(name), f"must be a string, not {kind(value)}")
        return value

    def unordered_arn(self, name: str, *services: str) -> str:
        """Return the ARN of what events are sent to, empty where there is none; one that is FIFO is refused, and one of
        another service than ``services``, where there are any."""
        arn = self.text(name)
        if arn.endswith(".fifo"):
            raise DefinitionError(self.at(name), f"{arn} {IS_FIFO}")
        found = _ARN.match(arn)
        if arn and services and (found is None or found["service"] not in services):
            raise DefinitionError(self.at(name), f"{arn!r} is not an ARN of {', '.join(services)}")
        return arn

    def choice(self, name: str, allowed: tuple[str, ...], default: str) -> str:
        """Return one of ``allowed``."""
        value = self.values.get(name, default)
        if value is False and "off" in allowed:
            value = "off"  # YAML 1.1 reads a bare off as a boolean
        if value not in allowed:
            raise DefinitionError(self.at(name), f"{value!r} is not one of {', '.join(allowed)}")
        return str(value)

    def flag(self, name: str) -> bool:
        """Return ``true`` or ``false``; absent is false."""
        value = self.values.get(name)
        if value is not None and not isinstance(value, bool):
            raise DefinitionError(self.at(name), f"must be true or false, not {kind(value)}")
        return bool(value)

    def number(self, name: str, default: float, *, low: float, high: float = math.inf) -> float:
        """Return a finite number within bounds, which are allowed themselves."""
        value = self.values.get(name, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise DefinitionError(self.at(name), f"must be a number, not {kind(value)}")
        if not (low <= value <= high and math.isfinite(value)):
            allowed = f"{low:g} or more" if math.isinf(high) else f"between {low:g} and {high:g}"
            raise DefinitionError(self.at(name), f"{value} is not {allowed}")
        return float(value)

    def whole(self, name: str, default: int, *, low: int, high: float = math.inf) -> int:
        """Return a whole number; ``3.0`` is one."""
        value = self.number(name, default, low=low, high=high)
        if not value.is_integer():
            raise DefinitionError(self.at(name), f"must be a whole number, not {value:g}")
        return int(value)

    def optional_whole(self, name: str, *, low: int) -> int | None:
        """Return a whole number, None where there is none."""
        if self.values.get(name) is None:
            return None
        return self.whole(name, low, low=low)


def kind(value: object) -> str:
    """Return what ``value`` is, for a complaint."""
    return "nothing" if value is None else f"{type(value).__name__} {value!r}"
