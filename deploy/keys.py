"""Refuse keys of a template that mean nothing here, each with its line."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from .template import KeyPath, Template


def only(template: Template, path: KeyPath, values: Any, known: Collection[str], not_yet: Collection[str]) -> None:
    """Refuse a key that is not known, with the nearest known name, or that is known but not built."""
    if not isinstance(values, Mapping):
        raise template.error(path, f"must be a mapping, not {values!r}")
    for name in values:
        if name in not_yet:
            raise template.error((*path, name), "is not supported yet")
        if name not in known:
            near = difflib.get_close_matches(str(name), [*known, *not_yet], 1)
            hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(sorted(known))}"
            raise template.error((*path, name), f"unknown key; {hint}")
