"""What a deploy will change: the node's stack against the template's. Pure, and printable before anything happens.

Two differences come together: what the template says otherwise than when it was last put, and what somebody has changed
on the node since (*drift*), which a deploy sets back. Fields have the names that they have in a template.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from glowplug.runtime.contents import Contents, Definition
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.management.drift import DELETED
from glowplug.runtime.wanted import wanted_of

from .translate import Stack

Action = Literal["create", "update", "delete", "unchanged"]
_SIGNS: dict[Action, str] = {"create": "+", "update": "~", "delete": "-", "unchanged": "="}
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


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one function. ``differences`` are of an update; ``drift`` names what was changed on the node."""

    action: Action
    logical_id: str
    function: str
    differences: tuple[Difference, ...] = ()
    drift: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all that a deploy changes."""
        return tuple(dict.fromkeys((*(one.field for one in self.differences), *self.drift)))

    def __str__(self) -> str:
        detail = f" ({', '.join(self.fields)})" if self.fields and self.action == "update" else ""
        return f"{_SIGNS[self.action]} {self.function}{detail}"

    @property
    def drifted(self) -> str:
        """What was changed on the node, in words; empty where nothing was."""
        if self.drift == (DELETED,):
            return f"{self.function} was deleted through the API"
        return f"{self.function} was changed through the API: {', '.join(self.drift)}" if self.drift else ""


def plan(held: Mapping[str, Any] | None, wanted: Stack) -> list[Change]:
    """Return the changes that make ``held``, the node's answer about the stack, into ``wanted``.

    Deletions come first, so that a function that is renamed frees what it held; the others in the template's order.
    Where a model's files were pinned is the node's knowledge and no difference.
    """
    held = held or {}
    drift = {key: tuple(fields) for key, fields in (held.get("Drift") or {}).items()}
    before = {asked["FunctionName"]: (key, asked) for key, asked in _asked(held).functions.items()}
    kept = {definition["FunctionName"] for definition in wanted.definitions.functions.values()}
    changes = [
        Change("delete", key, name, drift=drift.get(key, ()))
        for name, (key, _) in before.items()
        if name not in kept and drift.get(key) != (DELETED,)
    ]
    for logical_id, definition in wanted.definitions.functions.items():
        name = definition["FunctionName"]
        key, asked = before.get(name, ("", {}))
        drifted = drift.get(key, ())
        if not key or drifted == (DELETED,):
            changes.append(Change("create", logical_id, name, drift=drifted))
            continue
        differences = tuple(_differences(asked, definition)) if _means_another(asked, definition) else ()
        if _other_layers((held.get("Functions") or {}).get(key, {}), definition, wanted):
            differences = (*(one for one in differences if one.field != "Layers"), Difference("Layers"))
        action: Action = "update" if differences or drifted else "unchanged"
        changes.append(Change(action, logical_id, name, differences, drifted))
    return changes


def plan_apis(held: Mapping[str, Any] | None, wanted: Stack) -> list[Change]:
    """Return what happens to the stack's APIs, by logical id: these have no other name."""
    before, after = _asked(held or {}).apis, wanted.definitions.apis
    changes = [Change("delete", key, f"API {key}") for key in before if key not in after]
    for key, api in after.items():
        if key not in before:
            changes.append(Change("create", key, f"API {key}"))
        else:
            differences = tuple(_differences(before[key], api))
            changes.append(Change("update" if differences else "unchanged", key, f"API {key}", differences))
    return changes


def _asked(held: Mapping[str, Any]) -> Contents[Definition]:
    """Return what the node's stack was asked to be."""
    return Contents.of(held.get("Definitions") or {})


def _means_another(asked: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    """Return whether two definitions differ in what they mean: a default that is written out is no difference."""
    if asked == wanted:
        return False
    try:
        return wanted_of(asked) != wanted_of(wanted)
    except DefinitionError:  # put by another release
        return True


def _differences(before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Difference]:
    """Yield what differs, at the places where it does."""
    told: set[str] = set()
    for path, old, new in _changed((), before, after):
        name = ".".join(path)
        if path[0] in _WHOLE:
            name, old, new = path[0], None, None
        if name not in told:
            told.add(name)
            showable = path[0] != "Environment" and _showable(old) and _showable(new)
            yield Difference(name, old, new) if showable else Difference(name)


def _changed(path: tuple[str, ...], before: Any, after: Any) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    nested = isinstance(before, Mapping | None) and isinstance(after, Mapping | None)
    if nested and (before or after) is not None and "Ref" not in {**(before or {}), **(after or {})}:
        old, new = before or {}, after or {}
        for key in dict.fromkeys((*old, *new)):
            if path == () and key == "Settings":
                below: tuple[str, ...] = ()
            else:
                below = (*path, _NAMES.get(key, key) if path == () else str(key))
            yield from _changed(below, old.get(key), new.get(key))
    elif before != after:
        yield path, before, after


def _showable(value: Any) -> bool:
    """Return whether a value fits a line. What a variable of the environment holds never gets here."""
    return value is None or (isinstance(value, str | int | float) and len(str(value)) <= _SHOWN_CHARACTERS)


def _other_layers(held: Mapping[str, Any], wanted: Mapping[str, Any], stack: Stack) -> bool:
    """Return whether one of the layers that a function is to have has other contents, or stands elsewhere."""
    known = [(arn, digest) for arn, digest, _ in held.get("layers") or ()]
    layers = wanted.get("Layers") or ()
    if len(known) != len(layers):
        return True
    return any(
        digest != stack.definitions.layers.get(layer["Ref"], {}).get("CodeSha256")
        if isinstance(layer, Mapping)
        else arn != layer
        for layer, (arn, digest) in zip(layers, known, strict=True)
    )
