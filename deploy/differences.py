"""What differs between two definitions, field by field. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

_NAMES = {"CodeSha256": "Code", "Urls": "FunctionUrlConfig", "EventInvokeConfigs": "EventInvokeConfig"}
_WHOLE = frozenset({"Code", "Versions"})  # of these it is enough that they differ
_SHOWN_CHARACTERS = 60


@dataclass(frozen=True, slots=True)
class Difference:
    """One field that differs. ``before`` and ``after`` are None where there is none, or it is not for showing."""

    field: str
    before: Any = None
    after: Any = None

    def __str__(self) -> str:
        if self.before is None and self.after is None:
            return self.field
        before, after = ("none" if value is None else str(value) for value in (self.before, self.after))
        return f"{self.field}: {before} -> {after}"

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        values = {"before": self.before, "after": self.after}
        return {"field": self.field} | (values if any(value is not None for value in values.values()) else {})


def differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[Difference, ...]:
    """Return what differs, at the places where it does, by the names that a template has for them.

    What a variable of the environment holds is not told.
    """
    found: dict[str, Difference] = {}
    for path, old, new in _changed((), before, after):
        name = ".".join(path)
        if path[0] in _WHOLE:
            name, old, new = path[0], None, None
        showable = path[0] != "Environment" and _showable(old) and _showable(new)
        found.setdefault(name, Difference(name, old, new) if showable else Difference(name))
    if not found:  # nothing but an empty mapping where there was none
        found = {key: Difference(key) for key in {**before, **after} if before.get(key) != after.get(key)}
    return tuple(found.values())


def _changed(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    if _are_mappings(before, after):
        old, new = before or {}, after or {}
        for key in dict.fromkeys((*old, *new)):
            if path == () and key == "Settings":
                below: tuple[str, ...] = ()
            else:
                below = (*path, _NAMES.get(key, key) if path == () else str(key))
            yield from _changed(below, old.get(key), new.get(key))
    elif _are_lists_alike(before, after):
        for position, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _changed((*path, str(position)), old, new)
    elif before != after:
        yield path, before, after


def _are_mappings(before: Any, after: Any) -> bool:
    """Return whether both can be compared key by key: a reference is one value."""
    nested = isinstance(before, Mapping | None) and isinstance(after, Mapping | None)
    return nested and (before or after) is not None and "Ref" not in {**(before or {}), **(after or {})}


def _are_lists_alike(before: Any, after: Any) -> bool:
    """Return whether both are lists of as many mappings, such as targets, to be compared one by one."""
    both = isinstance(before, list) and isinstance(after, list) and len(before) == len(after)
    return both and all(isinstance(one, Mapping) and "Ref" not in one for one in (*before, *after))


def _showable(value: Any) -> bool:
    """Return whether a value fits a line."""
    return value is None or (isinstance(value, str | int | float) and len(str(value)) <= _SHOWN_CHARACTERS)
