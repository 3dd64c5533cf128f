"""What is wrong with a template, as far as that can be seen without a node: all of it, not the first alone.

A deploy stops at the first problem. Here, a stand-in takes the place of what has one, and the rest is looked at again.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from types import MappingProxyType
from typing import Any

from .errors import TemplateError
from .packaged import fetched
from .template import Template
from .together import Site, translated
from .translate import Stack

_ROUNDS = 20  # each translates the template again
_SECTIONS = ("Resources", "Outputs")
_STAND_IN = {"Type": "AWS::IAM::Role"}  # has a Ref and an Arn, and nothing that could be wrong
_WORD = re.compile(r"[A-Za-z0-9]+")


@dataclass(frozen=True, slots=True)
class Review:
    """What is found in one file, for the stack ``name``.

    ``stack`` is what would be deployed, None where there are problems, which are in the order of their lines. ``notes``
    are what has no effect; they are looked for where there is no problem.
    """

    file: str
    name: str
    stack: Stack | None
    problems: tuple[TemplateError, ...] = ()
    notes: tuple[str, ...] = ()


def review(template: Template, name: str, site: Site, *, parameters: Mapping[str, str], strict: bool) -> Review:
    """Look at one template, for the stack ``name``. Never raises for what the template gets wrong.

    With ``strict`` what would be noted is a problem.
    """
    problems: list[TemplateError] = []
    fetch = cache(fetched)  # each round asks for the same code
    rest, replaced = template, set[str]()
    for _ in range(_ROUNDS):
        try:
            [stack] = translated({name: rest}, site, parameters=parameters, fetch=fetch)
        except TemplateError as error:
            if not _follows(template, error, replaced):
                problems.append(error)
            found = _at_fault(rest, error)
            without = None if found is None else _without(rest, *found)
            if found is None or without is None:
                break
            rest = without
            replaced.add(found[1])
        else:
            if not problems:
                return _well(stack, site, strict=strict)
            break
    return Review(template.name, name, None, tuple(sorted(problems, key=lambda error: error.line)))


def _follows(template: Template, error: TemplateError, replaced: set[str]) -> bool:
    """Return whether an error names what was replaced, or what would have been made of it: of Embed that is EmbedUrl,
    unless the template has an EmbedUrl of its own."""
    own = _entries(template, "Resources").keys() - replaced
    words = set(_WORD.findall(error.problem)) - own
    return any(word.startswith(tuple(replaced)) for word in words)


def _well(stack: Stack, site: Site, *, strict: bool) -> Review:
    """Return the review of a template that can be deployed, as far as can be seen."""
    file, noted = stack.template.name, site.notes(stack)
    if strict and noted:
        refused = (TemplateError(file, 0, f"{note} (refused: --strict)") for note in noted)
        return Review(file, stack.name, None, tuple(refused))
    return Review(file, stack.name, stack, (), noted)


def _at_fault(template: Template, error: TemplateError) -> tuple[str, str] | None:
    """Return section and key of what an error is about, None where the rest cannot be looked at without it."""
    words = [*_WORD.findall(error.problem), "", ""]
    section, key = ("Outputs", words[1]) if words[0] == "Outputs" else ("Resources", words[0])
    if key not in _entries(template, section):
        section, key = _in_line(template, error.line)
    return (section, key) if key in _entries(template, section) else None


def _in_line(template: Template, line: int) -> tuple[str, str]:
    """Return section and key of what stands in a line: of a loop, whose functions have names of its making."""
    starts = ((found, path) for path, found in template.lines.items() if len(path) <= 2 and found <= line)
    _, path = max(starts, default=(0, ()))
    return (str(path[0]), str(path[1])) if len(path) == 2 and path[0] in _SECTIONS else ("Resources", "")


def _without(template: Template, section: str, key: str) -> Template | None:
    """Return the template with a stand-in for one resource, or without one output; None where nothing is left."""
    entries = dict(_entries(template, section))
    if section == "Resources" and _WORD.fullmatch(key):
        if entries[key] == _STAND_IN:
            return None
        entries[key] = _STAND_IN
    else:
        del entries[key]
    if section == "Resources" and not entries:
        return None
    return replace(template, document=MappingProxyType({**template.document, section: entries}))


def _entries(template: Template, section: str) -> Mapping[str, Any]:
    entries = template.document.get(section)
    return entries if isinstance(entries, Mapping) else {}
