"""What a deploy is made of on this machine, and when that has changed: for ``deploy --watch``.

Files are looked at, twice a second, rather than announced: that is the same everywhere (network and container file
systems announce nothing), costs a stat per file, and what is decided is a comparison of two looks. A change counts once
nothing has moved for a moment, since editors and version control write many files one after the other.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from . import parameters as template_parameters
from .account import Account
from .archive import EXCLUDED_DIRECTORIES, EXCLUDED_SUFFIXES
from .errors import TemplateError
from .intrinsics import Intrinsics, NoResources
from .requirements import local_files
from .template import KeyPath, Template, load

LOOK_S = 0.5
"""Between two looks."""

QUIET_S = 0.3
"""How long nothing may have moved before a change counts."""

Look = Mapping[str, tuple[int, int, int]]
"""Files by path, each with its time of modification (ns), size and mode."""

_NAMING = frozenset({"CodeUri", "ContentUri", "DefinitionUri", "Code", "Content", "Event"})
"""Keys of a template whose text is a path."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What was there when the last deploy began, and what the last look saw, first at ``since_s`` (monotonic)."""

    deployed: Look | None = None
    seen: Look = field(default_factory=dict)
    since_s: float = 0.0


def decide(watch: Watch, found: Look, now_s: float) -> tuple[Watch, bool]:
    """Take a new look into account; return whether to deploy now. Pure.

    Deployed is what has changed since the last deploy began, also where that failed or it changed meanwhile.
    """
    if found != watch.seen:
        return replace(watch, seen=found, since_s=now_s), False
    if found == watch.deployed or now_s - watch.since_s < QUIET_S:
        return watch, False
    return replace(watch, deployed=found), True


def changed(before: Look, after: Look) -> list[str]:
    """Return the paths of files that are new, gone or different, sorted."""
    return sorted(path for path in before.keys() | after.keys() if before.get(path) != after.get(path))


def places_of(
    template_path: Path, parameters: Mapping[str, str], known: frozenset[Path] = frozenset()
) -> frozenset[Path]:
    """Return the files and directories that deploying a template reads, whether or not they are there.

    A template that cannot be read is what it was: ``known`` is returned, with its file.
    """
    try:
        template = load(template_path)
        names = template_parameters.resolve(template, parameters) | Account().pseudo_parameters("")
    except TemplateError:
        return known | {template_path.absolute()}
    intrinsics = Intrinsics(template, names, NoResources())
    found = {template.path}
    for path, value in _named(template.document, ()):
        if place := _place(template, intrinsics, path, value):
            found.add(place)
            with suppress(OSError):  # said by the deploy
                found.update(local_files(place))
    return frozenset(found)


def look(places: Sequence[Path] | frozenset[Path]) -> Look:
    """Look at files, and at all that is packed of directories. What is not there is not in the answer."""
    found: dict[str, tuple[int, int, int]] = {}
    for place in places:
        for file in _files(place):
            with suppress(OSError):  # gone between the listing and the look
                seen = os.stat(file)
                found[file] = (seen.st_mtime_ns, seen.st_size, seen.st_mode)
    return found


def _files(place: Path) -> Iterator[str]:
    if not place.is_dir():
        yield str(place)
        return
    for directory, names, files in os.walk(place):
        names[:] = [name for name in names if name not in EXCLUDED_DIRECTORIES]
        for name in files:
            if not name.endswith(EXCLUDED_SUFFIXES):
                yield os.path.join(directory, name)


def _named(value: Any, path: KeyPath) -> Iterator[tuple[KeyPath, Any]]:
    """Yield (where, value) of all that may name a path of this machine."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            if key in _NAMING:
                yield (*path, key), item
            yield from _named(item, (*path, key))
    elif isinstance(value, list):
        for position, item in enumerate(value):
            yield from _named(item, (*path, position))


def _place(template: Template, intrinsics: Intrinsics, path: KeyPath, value: Any) -> Path | None:
    try:
        place = intrinsics.evaluate(value, path)
    except TemplateError:  # said by the deploy
        return None
    return template.path.parent / place if isinstance(place, str) and place and "://" not in place else None
