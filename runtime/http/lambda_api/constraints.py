"""Checks of single parameters, in the sentences of AWS's ValidationException.

Clients match on them, so they are AWS's to the letter, its ``Member must …`` and its list order included. A check
returns the sentence that a value breaks, or nothing; ``refuse`` raises all of them at once, as AWS does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TypeVar

from glowplug.runtime.errors import InvalidRequestContent, ValidationFailed

T = TypeVar("T")

ARN = r"arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
"""The API's pattern of the ARN of anything (botocore's model of Lambda)."""


def refuse(*problems: str) -> None:
    """Raise ``ValidationFailed`` unless every one of ``problems`` is empty."""
    found = [problem for problem in problems if problem]
    if found:
        raise ValidationFailed(*found)


def problem(value: object, field: str, constraint: str) -> str:
    """Return AWS's sentence about a value that breaks a constraint."""
    return f"Value '{shown(value)}' at '{field}' failed to satisfy constraint: {constraint}"


def missing(value: object, field: str) -> str:
    """Return what is wrong with a required value that is not there."""
    if value is not None:
        return ""
    return f"Value null at '{field}' failed to satisfy constraint: Member must not be null"


def matches(value: str | None, field: str, pattern: str) -> str:
    """Return what is wrong with a text that does not match ``pattern`` as a whole."""
    if value is None or _compiled(pattern).fullmatch(value):
        return ""
    return problem(value, field, f"Member must satisfy regular expression pattern: {pattern}")


def one_of(value: object, field: str, allowed: Sequence[str]) -> str:
    """Return what is wrong with a value that is not one of ``allowed``."""
    if value is None or value in allowed:
        return ""
    return problem(value, field, f"Member must satisfy enum value set: [{', '.join(allowed)}]")


def between(value: float | None, field: str, low: float | None = None, high: float | None = None) -> str:
    """Return what is wrong with a number that is out of bounds."""
    if value is None:
        return ""
    if high is not None and value > high:
        return problem(value, field, f"Member must have value less than or equal to {high}")
    if low is not None and value < low:
        return problem(value, field, f"Member must have value greater than or equal to {low}")
    return ""


def no_longer(value: Sequence[Any] | str | None, field: str, most: int) -> str:
    """Return what is wrong with a text or a list that is longer than ``most``."""
    if value is None or len(value) <= most:
        return ""
    return problem(value, field, f"Member must have length less than or equal to {most}")


def shown(value: object) -> str:
    """Return a value as AWS prints it: lists and maps in Java's way."""
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(shown, value))}]"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}={shown(item)}" for key, item in value.items()) + "}"
    return "null" if value is None else str(value)


class Body:
    """Typed values out of a request's JSON. All methods raise ``InvalidRequestContent`` for a value of another kind,
    as AWS does when it cannot deserialise a body."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.values = values

    def text(self, name: str) -> str | None:
        """Return a string, or None."""
        return self._of(name, str)

    def whole(self, name: str) -> int | None:
        """Return a whole number, or None."""
        value = self.values.get(name)
        if isinstance(value, float) and value.is_integer():
            return int(value)
        if isinstance(value, bool):
            raise _wrong(name, value)
        return self._of(name, int)

    def flag(self, name: str) -> bool:
        """Return true or false; false where it is not there."""
        return bool(self._of(name, bool))

    def map(self, name: str) -> dict[str, Any] | None:
        """Return an object, or None."""
        return self._of(name, dict)

    def texts(self, name: str) -> list[str] | None:
        """Return a list of strings, or None."""
        values = self._of(name, list)
        if values is not None and not all(isinstance(value, str) for value in values):
            raise _wrong(name, values)
        return values

    def maps(self, name: str) -> list[dict[str, Any]] | None:
        """Return a list of objects, or None."""
        values = self._of(name, list)
        if values is not None and not all(isinstance(value, dict) for value in values):
            raise _wrong(name, values)
        return values

    def section(self, name: str) -> Body:
        """Return the object at ``name`` for reading, an empty one for none."""
        return Body(self.map(name) or {})

    def string_map(self, name: str) -> dict[str, str] | None:
        """Return an object of strings, or None."""
        values = self.map(name)
        if values is not None and not all(isinstance(value, str) for value in values.values()):
            raise _wrong(name, values)
        return values

    def chosen(self, names: Iterable[str]) -> dict[str, Any]:
        """Return those of ``names`` that have a value."""
        return {name: self.values[name] for name in names if self.values.get(name) is not None}

    def _of(self, name: str, kind: type[T]) -> T | None:
        value = self.values.get(name)
        if value is not None and not isinstance(value, kind):
            raise _wrong(name, value)
        return value


def _wrong(name: str, value: object) -> InvalidRequestContent:
    return InvalidRequestContent(f"Could not parse request body into json: {name}: {str(value)[:60]!r} is of no use")


@lru_cache(maxsize=64)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(pattern, re.ASCII)
