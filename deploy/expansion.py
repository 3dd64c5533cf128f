"""What is done to a template before it is translated: loops are unrolled, other stacks' outputs filled in.

``Fn::ForEach`` (of the transform AWS::LanguageExtensions) stands for the keys that it makes, in Resources, Outputs,
Conditions and anywhere inside them. ``${Name}`` in keys and texts and ``Ref: Name`` become the value at hand,
``&{Name}`` what of it is a letter or a digit. What a loop makes keeps the line of what it was made from.

``Fn::ImportValue`` becomes what is exported under that name. One that nobody exports stays: it is an error when it is
evaluated, and may stand where a condition does not hold.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from .errors import TemplateError
from .intrinsics import Intrinsics, NoResources, text
from .template import MAX_VALUES, KeyPath, Template
from .versionnumbers import unpublished

EXTENSIONS = "AWS::LanguageExtensions"
_LOOP = "Fn::ForEach"
_IMPORT = "Fn::ImportValue"
_LOOPED = ("Conditions", "Resources", "Outputs")
_LITERAL = ("Parameters", "Mappings")
_PLACEHOLDER = re.compile(r"([$&])\{([A-Za-z0-9]+)\}")
_NAME = re.compile(r"[A-Za-z0-9]+")
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9]")

Bound = Mapping[str, str]
"""The values that the loops around a place have given to their identifiers."""


def expand(
    template: Template, names: Mapping[str, Any], exports: Mapping[str, str] | None
) -> tuple[Template, tuple[str, ...]]:
    """Return the template with its loops unrolled and its imports filled in, and the names of those.

    ``names`` are parameters, resolved. With ``exports`` of None, where there is no node to ask, an import stands for
    its own name. Raises ``TemplateError`` for a loop that is none, that makes one key twice, or that the template has
    no transform for, and for a condition that cannot be decided.
    """
    expander = _Expander(template, names, exports)
    document = {section: expander.section(section, value) for section, value in template.document.items()}
    lines = {path: line for path, line in template.lines.items() if len(path) == 1 or path[0] in _LITERAL}
    expanded = replace(template, document=MappingProxyType(document), lines=MappingProxyType(lines | expander.lines))
    _decide_all(expanded, names)
    return expanded, tuple(sorted(expander.imports))


def _decide_all(template: Template, names: Mapping[str, Any]) -> None:
    """Refuse a condition that cannot be decided, also one that nothing asks for: CloudFormation decides all."""
    conditions = template.document.get("Conditions")
    intrinsics = Intrinsics(template, names, NoResources())
    for name in conditions if isinstance(conditions, Mapping) else ():
        intrinsics.condition(name, ("Conditions", name))


def exports_of(template: Template, names: Mapping[str, Any], outputs: Mapping[str, Any]) -> dict[str, str]:
    """Return what the template exports, by export name; ``outputs`` are the values that it has.

    Raises ``TemplateError`` for an export without a name, one of a list or a mapping, and for a name used twice.
    """
    intrinsics = Intrinsics(template, names, NoResources())
    found: dict[str, str] = {}
    for output, value in outputs.items():
        path: KeyPath = ("Outputs", output, "Export")
        export = template.document["Outputs"][output].get("Export")
        if export is None:
            continue
        name = intrinsics.evaluate(export.get("Name"), (*path, "Name")) if isinstance(export, Mapping) else None
        if not isinstance(name, str) or not name:
            raise template.error(path, "takes a Name, which is text")
        if name in found:
            raise template.error(path, f"{name} is exported twice")
        if not isinstance(value, str | int | float):
            raise template.error(path, f"exports text, not {value!r}")
        if unpublished(value):
            raise template.error(path, "exports the number of a version, which is known only when that is published")
        found[name] = text(value)
    return found


class _Expander:
    """Copies values of a template. ``old`` is where a value was written, ``new`` where it stands in the copy."""

    def __init__(self, template: Template, names: Mapping[str, Any], exports: Mapping[str, str] | None) -> None:
        self._template = template
        self._names = names
        self._exports = exports
        self._intrinsics = Intrinsics(template, names, NoResources())
        self._values = 0
        self.lines: dict[KeyPath, int] = {}
        self.imports: set[str] = set()

    def section(self, name: str, value: Any) -> Any:
        return value if name in _LITERAL else self._copy(value, (name,), (name,), {})

    def _copy(self, value: Any, old: KeyPath, new: KeyPath, bound: Bound) -> Any:
        self._count(old)
        if isinstance(value, str):
            return _filled(value, bound)
        if isinstance(value, list):
            for position in range(len(value)):
                self._note((*old, position), (*new, position))
            return [self._copy(item, (*old, at), (*new, at), bound) for at, item in enumerate(value)]
        if not isinstance(value, Mapping):
            return value
        if len(value) == 1:
            [(key, argument)] = value.items()
            if key == "Ref" and isinstance(argument, str) and argument in bound:
                return bound[argument]
            if key == _IMPORT:
                return self._imported(argument, old, new, bound)
        out: dict[str, Any] = {}
        self._copy_into(out, value, old, new, bound)
        return out

    def _copy_into(
        self, out: dict[str, Any], value: Mapping[Any, Any], old: KeyPath, new: KeyPath, bound: Bound
    ) -> None:
        for written, item in value.items():
            if written == "Fn::Transform":
                name = item.get("Name") if isinstance(item, Mapping) else item
                raise self._error((*old, written), f"{written} ({name}) is not supported: macros run at AWS")
            if str(written).startswith(_LOOP):
                self._unroll(out, item, (*old, written), new, bound)
                continue
            key = _filled(written, bound) if isinstance(written, str) else written
            if key in out:
                raise self._error((*old, written), f"{key} is made twice")
            if bound and key != written and len(new) == 1 and not _NAME.fullmatch(key):
                hint = f"; write &{{…}} in place of ${{…}} in {written}"
                raise self._error((*old, written), f"{key!r} is no logical ID: those are letters and digits{hint}")
            self._note((*old, written), (*new, key))
            out[key] = self._copy(item, (*old, written), (*new, key), bound)

    def _unroll(self, out: dict[str, Any], loop: Any, old: KeyPath, new: KeyPath, bound: Bound) -> None:
        """Write what a loop makes beside the keys around it."""
        if EXTENSIONS not in _transforms(self._template):
            raise self._error(old, f"needs `Transform: {EXTENSIONS}` at the top of the template")
        if new[0] not in _LOOPED:
            raise self._error(old, f"stands in {', '.join(_LOOPED)} or below them")
        if not _NAME.fullmatch(str(old[-1]).removeprefix(f"{_LOOP}::")):
            raise self._error(old, f"needs a name of letters and digits, such as {_LOOP}::Functions")
        shape = "takes an identifier, a list of values, and a mapping with keys that hold ${identifier}"
        if not isinstance(loop, list) or len(loop) != 3 or not isinstance(loop[2], Mapping):
            raise self._error(old, shape)
        identifier, collection, body = loop
        if not isinstance(identifier, str) or not _NAME.fullmatch(identifier):
            raise self._error((*old, 0), f"{identifier!r} is no identifier: those are letters and digits")
        if identifier in bound or identifier in self._names:
            raise self._error(
                (*old, 0), f"{identifier} is already the name of a parameter or of a loop around this one"
            )
        for written in body:
            held = {found[2] for found in _PLACEHOLDER.finditer(str(written))}
            if not str(written).startswith(_LOOP) and identifier not in held:
                raise self._error((*old, 2, written), f"must hold ${{{identifier}}}, or every round makes the same key")
        for value in self._collection(collection, (*old, 1), bound):
            self._count(old)
            self._copy_into(out, body, (*old, 2), new, {**bound, identifier: value})

    def _collection(self, collection: Any, path: KeyPath, bound: Bound) -> list[str]:
        values = self._evaluated(collection, path, bound)
        if not isinstance(values, list) or not all(isinstance(one, str | int | float) for one in values):
            raise self._error(path, f"takes a list of texts, or a Ref to a parameter that is one, not {values!r}")
        return [text(value) for value in values]

    def _imported(self, argument: Any, old: KeyPath, new: KeyPath, bound: Bound) -> Any:
        self._note((*old, _IMPORT), (*new, _IMPORT))
        try:
            name = self._evaluated(argument, (*old, _IMPORT), bound)
        except TemplateError:
            name = None  # said where it is evaluated, if it is: its condition may not hold
        known = isinstance(name, str) and (self._exports is None or name in self._exports)
        if not known:
            return {_IMPORT: self._copy(argument, (*old, _IMPORT), (*new, _IMPORT), bound)}
        self.imports.add(name)
        return name if self._exports is None else self._exports[name]

    def _evaluated(self, value: Any, path: KeyPath, bound: Bound) -> Any:
        """Return a value that names parameters only. What is copied for it leaves no lines behind."""
        kept = self.lines
        self.lines = {}
        try:
            return self._intrinsics.evaluate(self._copy(value, path, path, bound), path)
        finally:
            self.lines = kept

    def _count(self, old: KeyPath) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise self._error(old, f"loops make more than {MAX_VALUES} values of this template")

    def _note(self, old: KeyPath, new: KeyPath) -> None:
        if old in self._template.lines:
            self.lines[new] = self._template.lines[old]

    def _error(self, path: KeyPath, problem: str) -> TemplateError:
        return self._template.error(path, problem)


def _transforms(template: Template) -> list[Any]:
    transforms = template.document.get("Transform") or []
    return transforms if isinstance(transforms, list) else [transforms]


def _filled(text: str, bound: Bound) -> str:
    """Return ``text`` with the identifiers of loops replaced. Other placeholders are ``Fn::Sub``'s."""

    def fill(found: re.Match[str]) -> str:
        if found[2] not in bound:
            return found[0]
        value = bound[found[2]]
        return value if found[1] == "$" else _NOT_IN_NAMES.sub("", value)

    return _PLACEHOLDER.sub(fill, text) if bound else text
