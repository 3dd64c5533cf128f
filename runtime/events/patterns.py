"""Event patterns of EventBridge: read once, then asked whether an event matches.

Rules and the FilterCriteria of event source mappings are written in it. Sources: EventBridge's user guide ("Comparison
operators for use in event patterns", "Arrays in event patterns") and, where that is silent, the documented behaviour of
AWS's event-ruler, which EventBridge runs.

- A pattern is an object with the event's structure. Its leaves are lists; a field matches if **any** entry of its list
  does, a pattern if **all** its fields do. `$or` with two or more objects matches if one of these does.
- Arrays in events vanish: a leaf list matches if any of its elements does, and of a list of objects one must match all
  that the pattern says of its fields (not one this and another that).
- Fields are leaves (strings, numbers, booleans, null). `exists: true` needs one, and `exists: false` is true of a field
  that is missing, an object, or an empty list. Of fields inside a list of objects that are only said not to exist, no
  object may have them.
- Numbers match by value: 300 is 3.0e2. True is not 1. Strings match character by character.
- `anything-but` needs the field, and is true of any value of it that is not excluded, whatever its type.

The first mistake in a pattern raises ``InvalidPattern`` with the place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from glowplug.runtime.errors import InvalidPattern

from .operators import OPERATORS, Test, equals, operator

DEPTH: Final = 100
"""Levels of a pattern; matching takes a few frames of Python's stack for each."""
_EMPTY: Final[Mapping[str, Any]] = {}


@dataclass(frozen=True, slots=True)
class Leaf:
    """What a pattern says of one field: any of ``tests`` holds for one of its values, or it is not there."""

    tests: tuple[Test, ...]
    absent: bool

    @property
    def needs(self) -> bool:
        """Whether the field has to be there."""
        return not self.absent

    def matches(self, value: Any) -> bool:
        """Return whether the field's value, which may be a list, matches. What is missing is an empty list."""
        if isinstance(value, list):
            values = [one for one in _elements(value) if not isinstance(one, dict)]
        elif isinstance(value, dict):
            values = []
        else:
            return any(test(value) for test in self.tests)
        return (self.absent and not values) or any(test(one) for one in values for test in self.tests)


@dataclass(frozen=True, slots=True)
class Node:
    """What a pattern says of an object: of each field, and of each `$or` that one of its alternatives matches."""

    fields: tuple[tuple[str, Leaf | Node], ...]
    choices: tuple[tuple[Node, ...], ...]
    needs: bool
    """Whether some field below has to be there; else all the pattern says is what must not be."""

    def matches(self, value: Any) -> bool:
        """Return whether an object, or one of a list of objects, matches. Anything else is an object without fields."""
        if isinstance(value, dict):
            return self._matches_object(value)
        if isinstance(value, list) and (elements := _elements(value)):
            found = (self._matches_object(one if isinstance(one, dict) else _EMPTY) for one in elements)
            return any(found) if self.needs else all(found)
        return self._matches_object(_EMPTY)

    def _matches_object(self, value: Mapping[str, Any]) -> bool:
        for key, wanted in self.fields:
            if not wanted.matches(value.get(key, [])):
                return False
        return all(any(one.matches(value) for one in choice) for choice in self.choices)


@dataclass(frozen=True, slots=True)
class Pattern:
    """A pattern that was read."""

    root: Node

    def matches(self, event: Mapping[str, Any]) -> bool:
        """Return whether an event, as JSON was parsed, matches."""
        return self.root.matches(event)

    def inside(self, key: str) -> frozenset[type[Leaf] | type[Node]]:
        """Return how the pattern looks at a top-level field, also in alternatives: as a leaf, as an object, or not."""
        return frozenset(_kinds(self.root, key))


def compile_pattern(text: str | bytes | Mapping[str, Any]) -> Pattern:
    """Read a pattern: JSON, or what was parsed from it. `{}` matches everything. Raises ``InvalidPattern``."""
    if isinstance(text, Mapping):
        parsed: Any = text
    else:
        try:
            parsed = json.loads(text, parse_constant=_no_constant)
        except RecursionError as error:
            raise InvalidPattern("", "it is nested too deeply") from error
        except ValueError as error:
            raise InvalidPattern("", f"it is not JSON: {error}") from error
    if not isinstance(parsed, Mapping):
        raise InvalidPattern("", "it has to be an object")
    return Pattern(_node(parsed, "", 0))


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _node(pattern: Mapping[str, Any], place: str, depth: int) -> Node:
    if depth > DEPTH:
        raise InvalidPattern("", f"it is nested too deeply: {DEPTH} levels are taken")
    if not pattern and place:
        raise InvalidPattern(place, "an empty object says nothing")
    fields: list[tuple[str, Leaf | Node]] = []
    choices: list[tuple[Node, ...]] = []
    for key, value in pattern.items():
        where = f"{place}.{key}" if place else key
        if key == "$or" and _is_choice(value):
            choices.append(tuple(_node(one, f"{where}[{index}]", depth + 1) for index, one in enumerate(value)))
        elif isinstance(value, Mapping):
            fields.append((key, _node(value, where, depth + 1)))
        elif isinstance(value, list):
            fields.append((key, _leaf(value, where)))
        else:
            raise InvalidPattern(where, "a field has a list of what matches, or an object of fields")
    return Node(
        fields=tuple(fields),
        choices=tuple(choices),
        needs=any(wanted.needs for _, wanted in fields) or any(one.needs for choice in choices for one in choice),
    )


def _is_choice(value: Any) -> bool:
    """Return whether the value of `$or` makes it the operator (event-ruler's three conditions); else it is a field."""
    return (
        isinstance(value, list)
        and len(value) >= 2
        and all(isinstance(one, Mapping) and not OPERATORS & one.keys() for one in value)
    )


def _leaf(entries: Sequence[Any], place: str) -> Leaf:
    if not entries:
        raise InvalidPattern(place, "an empty list matches nothing")
    tests: list[Test] = []
    values: list[Any] = []
    absent = False
    for index, entry in enumerate(entries):
        where = f"{place}[{index}]"
        if isinstance(entry, Mapping):
            if len(entry) != 1:
                raise InvalidPattern(where, "a match expression has one operator")
            ((name, operand),) = entry.items()
            if name == "exists" and operand is False:
                absent = True
            else:
                tests.append(operator(name, operand, f"{where}.{name}"))
        elif isinstance(entry, list):
            raise InvalidPattern(where, "a list in a list; strings, numbers, true, false, null and operators are taken")
        elif isinstance(entry, float) and not math.isfinite(entry):
            raise InvalidPattern(where, "the number is too large")
        else:
            values.append(entry)
    if values:
        tests.insert(0, equals(values))
    return Leaf(tuple(tests), absent)


def _elements(values: Sequence[Any]) -> list[Any]:
    """Return what is in a list and in the lists in it, however deep: an event must not exhaust the stack."""
    found: list[Any] = []
    rest = list(reversed(values))
    while rest:
        value = rest.pop()
        if isinstance(value, list):
            rest += reversed(value)
        else:
            found.append(value)
    return found


def _kinds(node: Node, key: str) -> set[type[Leaf] | type[Node]]:
    kinds: set[type[Leaf] | type[Node]] = {type(wanted) for name, wanted in node.fields if name == key}
    for choice in node.choices:
        for one in choice:
            kinds |= _kinds(one, key)
    return kinds
