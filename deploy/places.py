"""Where in a template something was written that is refused later, as part of a definition."""

from __future__ import annotations

from .template import KeyPath, Template


def place_of(template: Template, logical_id: str, field_path: str) -> KeyPath:
    """Return where in the template a definition's field was written: at the function, or in what it inherits."""
    parts = tuple(field_path.split("."))
    function: KeyPath = ("Resources", logical_id)
    if parts[0] == "Glowplug":
        candidates: list[KeyPath] = [(*function, "Metadata", *parts), ("Metadata", *parts)]
    else:
        parts = ("CodeUri",) if parts[0] == "CodeSha256" else parts
        candidates = [(*function, "Properties", *parts), ("Globals", "Function", *parts)]
    return max(candidates, key=lambda path: _spelled(template, path, len(parts)))


def _spelled(template: Template, path: KeyPath, field_length: int) -> int:
    """Count how many of the field's own keys the file spells out at ``path``."""
    base = len(path) - field_length
    return sum(path[: base + count] in template.lines for count in range(1, field_length + 1))
