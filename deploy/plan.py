"""What a deploy will change: the node's stack against the template's. Pure, and printable before anything happens.

Two differences come together: what the template says otherwise than when it was last put, and what somebody has changed
on the node since (*drift*), which a deploy sets back. Fields have the names that they have in a template.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from glowplug.runtime.contents import NAMED, SECTIONS, Contents, Definition
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.management.drift import DELETED
from glowplug.runtime.wanted import wanted_of
from glowplug.runtime.wantedqueues import mapping_of, queue_of

from .differences import Difference, differences
from .words import NOUNS, words_of

Action = Literal["create", "update", "delete", "retain", "unchanged"]
_SIGNS: dict[Action, str] = {"create": "+", "update": "~", "delete": "-", "retain": "-", "unchanged": "="}
_MEANINGS: Mapping[str, Callable[[Definition], object]] = {
    "Functions": wanted_of,
    "Queues": queue_of,
    "Mappings": mapping_of,
}
"""What definitions of a section mean, where they may leave out what is so anyway."""

_UNKNOWN: Definition = {}  # of a part that was put by a release that kept no definitions of its kind
_NOT_KNOWN = Difference("what it was is not known: an earlier release put it")


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one part of a stack.

    ``name`` tells it from others of its section, ``words`` say what it is and which. ``differences`` are of an update;
    ``drift`` names what was changed on the node. What is retained leaves the stack and stays on the node.
    """

    action: Action
    section: str
    logical_id: str
    name: str
    words: str
    differences: tuple[Difference, ...] = ()
    drift: tuple[str, ...] = ()

    @property
    def fields(self) -> tuple[str, ...]:
        """The names of all that a deploy changes."""
        return tuple(dict.fromkeys((*(one.field for one in self.differences), *self.drift)))

    @property
    def shown(self) -> str:
        """What it is called in a plan: a function by its name alone."""
        return self.name if self.section == "Functions" else self.words

    @property
    def line(self) -> str:
        """The change in a line, without what differs."""
        stays = ", which stays with its messages (Retain)" if self.action == "retain" else ""
        return f"{_SIGNS[self.action]} {self.shown}{stays}"

    @property
    def drifted(self) -> str:
        """What was changed on the node, in words; empty where nothing was."""
        if self.drift == (DELETED,):
            return "was deleted through the API"
        return f"was changed through the API: {', '.join(self.drift)}" if self.drift else ""

    def __str__(self) -> str:
        return f"{self.line} ({', '.join(self.fields)})" if self.fields and self.action == "update" else self.line

    def to_json(self) -> dict[str, Any]:
        """Return it as JSON-able values."""
        return {
            "type": NOUNS[self.section], "logical_id": self.logical_id, "name": self.name, "change": self.action,
            "fields": [one.to_json() for one in self.differences], "drift": list(self.drift),
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Part:
    """A part of a stack, on the node or in the template."""

    section: str
    logical_id: str
    name: str
    definition: Definition

    def change(self, action: Action, found: Sequence[Difference] = (), drift: tuple[str, ...] = ()) -> Change:
        words = words_of(self.section, self.name, self.logical_id, self.definition)
        if action == "delete" and self.section == "Queues" and self.definition is _UNKNOWN:
            words += ", unless its DeletionPolicy is Retain"
        return Change(action, self.section, self.logical_id, self.name, words, tuple(found), drift)


_Parts = Mapping[str, _Part]  # by what tells them apart
_Differing = Callable[[Definition, Definition], Sequence[Difference]]


def plan(held: Mapping[str, Any] | None, wanted: Contents[Definition]) -> list[Change]:
    """Return the changes that make ``held``, the node's answer about the stack, into ``wanted``, section by section.

    In each of them deletions come first, so that a function that is renamed frees what it held; the others in the
    template's order. Where a model's files were pinned is the node's knowledge and no difference.
    """
    held = held or {}
    drift = {key: tuple(fields) for key, fields in (held.get("Drift") or {}).items()}
    parts = {section: (_held(section, held), _wanted(section, wanted)) for section in SECTIONS}
    layers = list(_changes(*parts["Layers"], drift, partial(_differing, "Layers")))
    found: list[Change] = []
    for section in SECTIONS:
        differing: _Differing = partial(_differing, section)
        if section == "Functions":
            differing = _Layers(*parts["Layers"], layers).differing
        found += layers if section == "Layers" else _changes(*parts[section], drift, differing)
    return found


def _held(section: str, held: Mapping[str, Any]) -> _Parts:
    """Return the parts that the node has of a section."""
    definitions: Mapping[str, Definition] = (held.get("Definitions") or {}).get(section) or {}
    named = {
        logical_id: name if section in NAMED else logical_id for logical_id, name in (held.get(section) or {}).items()
    }
    return {name: _Part(section, key, name, definitions.get(key, _UNKNOWN)) for key, name in named.items()}


def _wanted(section: str, wanted: Contents[Definition]) -> _Parts:
    """Return the parts that the template has of a section."""
    named = {
        logical_id: str(definition[NAMED[section]]) if section in NAMED else logical_id
        for logical_id, definition in wanted[section].items()
    }
    return {name: _Part(section, key, name, wanted[section][key]) for key, name in named.items()}


def _changes(
    before: _Parts, after: _Parts, drift: Mapping[str, tuple[str, ...]], differing: _Differing
) -> Iterator[Change]:
    for name, part in before.items():
        drifted = drift.get(part.logical_id, ())
        if name not in after and drifted != (DELETED,):
            yield part.change("retain" if _is_kept(part) else "delete", drift=drifted)
    for name, part in after.items():
        old = before.get(name)
        drifted = () if old is None else drift.get(old.logical_id, ())
        if old is None or drifted == (DELETED,):
            yield part.change("create", drift=drifted)
            continue
        found = [_NOT_KNOWN] if old.definition is _UNKNOWN else differing(old.definition, part.definition)
        yield part.change("update" if found or drifted else "unchanged", found, drifted)


def _is_kept(part: _Part) -> bool:
    """Return whether a part stays on the node when its stack has it no longer: a queue that its policies keep."""
    if part.section != "Queues":
        return False
    try:
        return queue_of(part.definition).kept
    except DefinitionError:  # put by another release
        return False


def _differing(section: str, before: Definition, after: Definition) -> Sequence[Difference]:
    """Return what differs between two definitions in what they mean: a default that is written out is no difference."""
    meaning = _MEANINGS.get(section)
    try:
        if before == after or (meaning is not None and meaning(before) == meaning(after)):
            return ()
    except DefinitionError:  # put by another release
        pass
    return differences(before, after)


class _Layers:
    """The layers of a stack, as far as its functions are concerned."""

    def __init__(self, before: _Parts, after: _Parts, changes: Sequence[Change]) -> None:
        self._before = {part.logical_id: name for name, part in before.items()}
        self._after = {part.logical_id: name for name, part in after.items()}
        self._moved = {one.name for one in changes if one.action in ("create", "update")}

    def differing(self, before: Definition, after: Definition) -> Sequence[Difference]:
        """Return what differs between a function's definitions: of its layers, which they are and their versions."""
        had, gets = _named(before, self._before), _named(after, self._after)
        other = had != gets or not self._moved.isdisjoint(gets)
        found = [one for one in _differing("Functions", before, after) if one.field != "Layers"]
        return [*found, Difference("Layers")] if other else found


def _named(definition: Definition, names: Mapping[str, str]) -> list[str]:
    """Return the layers of a function, those of its template by their names."""
    layers = definition.get("Layers") or ()
    return [names.get(one["Ref"], "") if isinstance(one, Mapping) else str(one) for one in layers]
