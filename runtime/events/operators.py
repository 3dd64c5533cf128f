"""The operators of event patterns, each from its operand to a test of one value.

Operands follow EventBridge's user guide ("Comparison operators for use in event patterns"); what is refused is what
event-ruler refuses. Lists of prefixes, suffixes and wildcards are taken inside `anything-but` only, as there.
"""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Callable, Sequence
from typing import Any, Final

from glowplug.runtime.errors import InvalidPattern

Test = Callable[[Any], bool]

_COMPARE: Final[dict[str, Callable[[float, float], bool]]] = {
    "=": lambda value, bound: value == bound,
    "<": lambda value, bound: value < bound,
    "<=": lambda value, bound: value <= bound,
    ">": lambda value, bound: value > bound,
    ">=": lambda value, bound: value >= bound,
}


def operator(name: str, operand: Any, place: str) -> Test:
    """Return the test of an operator. ``place`` is for the error. Raises ``InvalidPattern``."""
    make = _MAKERS.get(name)
    if make is None:
        known = ", ".join(_MAKERS)
        raise InvalidPattern(place, f"there is no such operator; there are {known}")
    return make(operand, place)


def equals(values: Sequence[Any]) -> Test:
    """Return the test for a value to be one of ``values``: by type, numbers by value."""
    strings = frozenset(one for one in values if isinstance(one, str))
    numbers = frozenset(one for one in values if is_number(one))
    constants = tuple(one for one in values if one is None or isinstance(one, bool))

    def test(value: Any) -> bool:
        if isinstance(value, str):
            return value in strings
        if value is None or isinstance(value, bool):
            return any(value is one for one in constants)
        return value in numbers

    return test


def is_number(value: Any) -> bool:
    """Return whether a value is a JSON number, which True is not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _text(operand: Any, place: str, *, empty: bool = True) -> str:
    if not isinstance(operand, str):
        raise InvalidPattern(place, "it takes a string")
    if not operand and not empty:
        raise InvalidPattern(place, "it takes a string that is not empty")
    return operand


def _prefix(operand: Any, place: str) -> Test:
    if (folded := _ignoring_case(operand, place)) is not None:
        return lambda value: isinstance(value, str) and value.lower().startswith(folded)
    start = _text(operand, place)
    return lambda value: isinstance(value, str) and value.startswith(start)


def _suffix(operand: Any, place: str) -> Test:
    if (folded := _ignoring_case(operand, place)) is not None:
        return lambda value: isinstance(value, str) and value.lower().endswith(folded)
    end = _text(operand, place)
    return lambda value: isinstance(value, str) and value.endswith(end)


def _ignoring_case(operand: Any, place: str) -> str | None:
    """Return the text of ``{"equals-ignore-case": text}`` in lower case, None if the operand is no object."""
    if not isinstance(operand, dict):
        return None
    if list(operand) != ["equals-ignore-case"]:
        raise InvalidPattern(place, "it takes a string, or an object with equals-ignore-case alone")
    return _text(operand["equals-ignore-case"], f"{place}.equals-ignore-case").lower()


def _equals_ignore_case(operand: Any, place: str) -> Test:
    folded = _text(operand, place).lower()
    return lambda value: isinstance(value, str) and value.lower() == folded


def _wildcard(operand: Any, place: str) -> Test:
    """`*` is any number of characters, `\\*` and `\\\\` stand for themselves. Matching takes linear time per part."""
    parts = _parts(_text(operand, place), place)
    if len(parts) == 1:
        return lambda value: bool(value == parts[0])
    first, *middle, last = parts

    def test(value: Any) -> bool:
        if not isinstance(value, str) or len(value) < len(first) + len(last):
            return False
        if not value.startswith(first) or not value.endswith(last):
            return False
        at, end = len(first), len(value) - len(last)
        for part in middle:  # the leftmost place for each part leaves the most room for those behind it
            at = value.find(part, at, end)
            if at < 0:
                return False
            at += len(part)
        return True

    return test


def _parts(text: str, place: str) -> list[str]:
    """Return what stands between the asterisks, without backslashes."""
    parts = [""]
    signs = iter(text)
    before = ""
    for sign in signs:
        if sign == "\\":
            escaped = next(signs, "")
            if escaped not in ("*", "\\"):
                raise InvalidPattern(place, "a backslash stands before '*' or another backslash only")
            parts[-1] += escaped
            before = ""
        elif sign == "*":
            if before == "*":
                raise InvalidPattern(place, "two '*' in a row are not taken")
            parts.append("")
            before = sign
        else:
            parts[-1] += sign
            before = ""
    return parts


def _numeric(operand: Any, place: str) -> Test:
    if not isinstance(operand, list) or len(operand) not in (2, 4):
        raise InvalidPattern(place, 'it takes one comparison or the two ends of a range, as [">", 0, "<=", 5]')
    signs, bounds = operand[::2], operand[1::2]
    for sign, bound in zip(signs, bounds, strict=True):
        if not isinstance(sign, str) or sign not in _COMPARE:
            raise InvalidPattern(place, f"{sign!r} is no comparison: =, <, <=, > and >= are")
        if not is_number(bound) or (isinstance(bound, float) and not math.isfinite(bound)):
            raise InvalidPattern(place, f"{bound!r} is no number")
    if len(signs) == 2:
        if not (signs[0][0] == ">" and signs[1][0] == "<"):
            raise InvalidPattern(place, "a range has its lower end first: > or >=, then < or <=")
        if bounds[0] >= bounds[1]:
            raise InvalidPattern(place, "the lower end of a range is less than the upper one")
    checks = tuple((_COMPARE[sign], bound) for sign, bound in zip(signs, bounds, strict=True))
    return lambda value: is_number(value) and all(compare(value, bound) for compare, bound in checks)


def _exists(operand: Any, place: str) -> Test:
    if operand is not True:  # false concerns the field and not a value of it: patterns.py
        raise InvalidPattern(place, "it takes true or false")
    return lambda value: True


def _cidr(operand: Any, place: str) -> Test:
    text = _text(operand, place)
    try:
        if "/" not in text:
            raise ValueError("the length of the prefix is missing")
        network = ipaddress.ip_network(text, strict=False)
    except ValueError as error:
        raise InvalidPattern(place, f"{text!r} is no block of addresses such as 10.0.0.0/24: {error}") from error

    def test(value: Any) -> bool:
        if not isinstance(value, str):
            return False
        try:
            return ipaddress.ip_address(value) in network
        except ValueError:
            return False

    return test


def _anything_but(operand: Any, place: str) -> Test:
    excluded = _excluded(operand, place)
    return lambda value: not any(test(value) for test in excluded)


def _excluded(operand: Any, place: str) -> tuple[Test, ...]:
    if not isinstance(operand, dict):
        values = operand if isinstance(operand, list) else [operand]
        if not values or not (all(isinstance(one, str) for one in values) or all(map(is_number, values))):
            raise InvalidPattern(place, "it takes a string, a number, a list of one of them, or an operator")
        return (equals(values),)
    if len(operand) != 1:
        raise InvalidPattern(place, "it takes one operator")
    ((name, inner),) = operand.items()
    where = f"{place}.{name}"
    if name not in _EXCLUDING:
        raise InvalidPattern(where, f"inside anything-but stand {', '.join(_EXCLUDING)} and no other operator")
    texts = inner if isinstance(inner, list) else [inner]
    if not texts:
        raise InvalidPattern(where, "an empty list excludes nothing")
    for text in texts:
        _text(text, where, empty=name == "equals-ignore-case")
    return tuple(_MAKERS[name](text, where) for text in texts)


_EXCLUDING: Final = ("prefix", "suffix", "equals-ignore-case", "wildcard")
_MAKERS: Final[dict[str, Callable[[Any, str], Test]]] = {
    "prefix": _prefix,
    "suffix": _suffix,
    "equals-ignore-case": _equals_ignore_case,
    "wildcard": _wildcard,
    "anything-but": _anything_but,
    "numeric": _numeric,
    "exists": _exists,
    "cidr": _cidr,
}
OPERATORS: Final = frozenset(_MAKERS)
