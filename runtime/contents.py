"""What a stack has, in one value: something of each of its functions, layers, APIs, queues, mappings and triggers.

It is the same value all the way. A template becomes the definitions of a stack's parts, a request carries them, and the
record of a stack keeps them beside the names that its parts have got. What walks all parts of a stack (plan, deploy,
drift, the listing of stacks, ``destroy``) walks ``SECTIONS``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")

SECTIONS: Final[Mapping[str, str]] = {
    "Functions": "functions",
    "Layers": "layers",
    "Apis": "apis",
    "Queues": "queues",
    "Mappings": "mappings",
    "Triggers": "triggers",
}
"""The sections of a stack, as JSON calls them, and their fields of ``Contents``."""

NAMED: Final[Mapping[str, str]] = {"Functions": "FunctionName", "Layers": "LayerName", "Queues": "QueueName"}
"""Sections whose parts are told apart by a name of their own, and the key of a definition that has it: under another
name a part is another one. Parts of the other sections are told apart by their logical ids."""

Definition = Mapping[str, Any]
"""What is asked for of one part, as JSON."""

_NOTHING: Final[Mapping[str, Any]] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Contents(Generic[T]):
    """Something of each part of a stack, by logical id.

    ``mappings`` are those of event sources; ``triggers`` are schedules, rules, notifications of buckets, subscriptions.
    """

    functions: Mapping[str, T] = field(default_factory=lambda: _NOTHING)
    layers: Mapping[str, T] = field(default_factory=lambda: _NOTHING)
    apis: Mapping[str, T] = field(default_factory=lambda: _NOTHING)
    queues: Mapping[str, T] = field(default_factory=lambda: _NOTHING)
    mappings: Mapping[str, T] = field(default_factory=lambda: _NOTHING)
    triggers: Mapping[str, T] = field(default_factory=lambda: _NOTHING)

    @classmethod
    def of(cls, sections: Mapping[str, Mapping[str, T]]) -> Contents[T]:
        """Return contents of JSON; a section that is not there is empty."""
        return cls(**{name: sections.get(section) or _NOTHING for section, name in SECTIONS.items()})

    def __getitem__(self, section: str) -> Mapping[str, T]:
        """Return the section that JSON calls so."""
        found: Mapping[str, T] = getattr(self, SECTIONS[section])
        return found

    def __iter__(self) -> Iterator[tuple[str, Mapping[str, T]]]:
        """Yield each section with its name in JSON."""
        return ((section, self[section]) for section in SECTIONS)

    def to_json(self) -> dict[str, dict[str, T]]:
        """Return all sections as JSON has them."""
        return {section: dict(parts) for section, parts in self}
