"""Give a template's Parameters their values, by the rules that CloudFormation states for them."""

from __future__ import annotations

import difflib
import operator
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from .errors import TemplateError
from .template import KeyPath, Template

_KEYS = frozenset(
    "Type Default Description NoEcho AllowedValues AllowedPattern ConstraintDescription "
    "MinLength MaxLength MinValue MaxValue".split()
)
_TYPES = ("String", "Number", "CommaDelimitedList", "List<String>", "List<Number>")


def shared_out(templates: Iterable[Template], given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return for each of several templates the values that are for it: those of the parameters that it has.

    Raises ``TemplateError`` for a name that none of them has. One template alone gets all, and judges them itself.
    """
    known = list(templates)
    if len(known) == 1:
        return [dict(given)]
    shares = [
        {name: value for name, value in given.items() if name in (template.document.get("Parameters") or {})}
        for template in known
    ]
    for name in given:
        if known and not any(name in share for share in shares):
            names = ", ".join(template.name for template in known)
            raise TemplateError(names, 0, f"none of them has a parameter {name}")
    return shares


def resolve(template: Template, given: Mapping[str, str]) -> dict[str, Any]:
    """Return every parameter's value: what was given, or its default. Lists for the list types, text for the others.

    Raises ``TemplateError`` for a parameter without a value, a value outside its constraints, an unknown name, or a
    type that needs AWS (``AWS::SSM::Parameter::Value<...>``).
    """
    section = template.document.get("Parameters") or {}
    if not isinstance(section, Mapping):
        raise template.error(("Parameters",), "must be a mapping")
    for name in given:
        if name not in section:
            near = difflib.get_close_matches(name, map(str, section), 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise template.error(("Parameters",), f"the template has no parameter {name}{hint}")
    return {name: _value(template, name, spec, given.get(name)) for name, spec in section.items()}


def _value(template: Template, name: str, spec: Any, given: str | None) -> Any:
    path: KeyPath = ("Parameters", name)
    if not isinstance(spec, Mapping):
        raise template.error(path, "must be a mapping with a Type")
    for key in spec:
        if key not in _KEYS:
            raise template.error((*path, key), f"unknown key; known: {', '.join(sorted(_KEYS))}")
    kind = spec.get("Type")
    if kind not in _TYPES:
        raise template.error((*path, "Type"), f"{kind!r} is not supported; use one of {', '.join(_TYPES)}")
    if given is None and "Default" not in spec:
        raise template.error(path, "has no Default and no value was given")
    text = given if given is not None else _text(spec["Default"])
    items = [text] if kind in ("String", "Number") else [part.strip() for part in text.split(",")]
    for item in items:
        if kind in ("Number", "List<Number>") and _number(item) is None:
            raise template.error(path, f"{item!r} is not a number")
        _constrain(template, path, spec, item)
    return text if kind in ("String", "Number") else items


def _constrain(template: Template, path: KeyPath, spec: Mapping[str, Any], text: str) -> None:
    """Check one value against AllowedValues, AllowedPattern, lengths and bounds."""
    broken = ""
    allowed = spec.get("AllowedValues")
    if allowed is not None and not isinstance(allowed, list):
        raise template.error((*path, "AllowedValues"), "must be a list")
    if allowed is not None and text not in map(_text, allowed):
        broken = f"is not one of {', '.join(map(_text, allowed))}"
    pattern = spec.get("AllowedPattern")
    try:
        if pattern is not None and not re.fullmatch(str(pattern), text):
            broken = f"does not match {pattern}"
    except re.error as error:
        raise template.error((*path, "AllowedPattern"), f"is not a regular expression: {error}") from None
    for rule, (measure, exceeds) in _BOUNDS.items():
        if rule not in spec:
            continue
        bound, measured = _number(_text(spec[rule])), measure(text)
        if bound is None:
            raise template.error((*path, rule), f"{spec[rule]!r} is not a number")
        if measured is None or exceeds(measured, bound):
            broken = f"breaks {rule} {_text(spec[rule])}"
    if broken:
        shown = "the value" if spec.get("NoEcho") else repr(text)
        said = f" ({spec['ConstraintDescription']})" if spec.get("ConstraintDescription") else ""
        raise template.error(path, f"{shown} {broken}{said}")


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


_BOUNDS: dict[str, tuple[Callable[[str], float | None], Callable[[float, float], bool]]] = {
    "MinLength": (len, operator.lt),
    "MaxLength": (len, operator.gt),
    "MinValue": (_number, operator.lt),
    "MaxValue": (_number, operator.gt),
}
