"""What is wrong with a template, as far as that can be seen without a node: all of it, not the first alone.

A deploy stops at the first problem. Here, what has one is left out, and the rest is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from .errors import StrictRefusal, TemplateError
from .template import Template
from .together import Site, refuse_notes, translated
from .translate import Stack

_ROUNDS = 20  # each translates the template again
_SECTIONS = ("Resources", "Outputs")
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Review:
    """``stack`` is what would be deployed, None where there are problems; ``notes`` are what has no effect."""

    template: Template
    name: str
    stack: Stack | None
    problems: tuple[TemplateError | StrictRefusal, ...]
    notes: tuple[str, ...]


def review(template: Template, name: str, site: Site, *, parameters: Mapping[str, str], strict: bool) -> Review:
    """Look at one template, for the stack ``name``. Never raises for what the template gets wrong."""
    problems: list[TemplateError | StrictRefusal] = []
    rest, left_out = template, set[str]()
    for _ in range(_ROUNDS):
        try:
            [stack] = translated({name: rest}, site, parameters=parameters)
        except TemplateError as error:
            if not left_out & set(_WORD.findall(error.problem)):  # else it follows from another
                problems.append(error)
            found = _at_fault(rest, error)
            if found is None:
                return Review(template, name, None, tuple(problems), ())
            section, key = found
            left_out.add(key)
            kept = {one: value for one, value in rest.document[section].items() if one != key}
            rest = replace(rest, document=MappingProxyType({**rest.document, section: kept}))
        else:
            return _concluded(template, name, stack, site, problems, strict=strict)
    return Review(template, name, None, tuple(problems), ())


def _concluded(
    template: Template,
    name: str,
    stack: Stack,
    site: Site,
    problems: list[TemplateError | StrictRefusal],
    *,
    strict: bool,
) -> Review:
    unknown = [f"what Fn::ImportValue {one} is, a node will say" for one in stack.imports if site.exports is None]
    noted = (*site.notes(stack), *unknown)
    try:
        refuse_notes(template, site.notes(stack) if strict else ())
    except StrictRefusal as error:
        problems.append(error)
    return Review(template, name, None if problems else stack, tuple(problems), noted)


def _at_fault(template: Template, error: TemplateError) -> tuple[str, str] | None:
    """Return section and key of what an error is about, None where the rest cannot be looked at without it."""
    words = [*_WORD.findall(error.problem), "", ""]
    section, key = ("Outputs", words[1]) if words[0] == "Outputs" else ("Resources", words[0])
    if key not in _entries(template, section):
        section, key = _in_line(template, error.line)
    alone = section == "Resources" and len(_entries(template, section)) == 1
    return (section, key) if key in _entries(template, section) and not alone else None


def _in_line(template: Template, line: int) -> tuple[str, str]:
    """Return section and key of what stands in a line: of a loop, whose functions have names of its making."""
    starts = ((found, path) for path, found in template.lines.items() if len(path) <= 2 and found <= line)
    _, path = max(starts, default=(0, ()))
    return (str(path[0]), str(path[1])) if len(path) == 2 and path[0] in _SECTIONS else ("Resources", "")


def _entries(template: Template, section: str) -> Mapping[str, Any]:
    entries = template.document.get(section)
    return entries if isinstance(entries, Mapping) else {}
