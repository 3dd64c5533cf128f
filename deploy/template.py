"""Read a template and remember where everything stands.

``load`` gives the document as plain Python values with CloudFormation's short tags in their long form (``!Ref X`` is
``{"Ref": "X"}``), and the line of every key and list item, so that whatever is found wrong later can be named as
``template.yaml:23``. YAML as CloudFormation reads it: dates stay text, a key that is given twice is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from .errors import TemplateError

KeyPath = tuple[str | int, ...]
"""Where a value stands in the document: keys and list positions from the top."""

MAX_VALUES = 100_000
"""The most values of a template, as written and with its loops unrolled: aliases share nodes and loops repeat them, so
that a few lines can stand for billions."""

_MAX_DEPTH = 100
_TEMPLATE_BYTES = 1_000_000  # CloudFormation's limit for a template is 1 MB
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_MERGE = "tag:yaml.org,2002:merge"


@dataclass(frozen=True, slots=True)
class Template:
    """A template as written. ``name`` is the path as the user gave it, for messages; ``lines`` count from 1."""

    path: Path
    name: str
    text: str
    document: Mapping[str, Any]
    lines: Mapping[KeyPath, int]

    def line(self, path: KeyPath) -> int:
        """Return the line of ``path``, or of its nearest ancestor that the file spells out."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return self.lines[path[:length]]
        return 1

    def error(self, path: KeyPath, problem: str) -> TemplateError:
        """Return (not raise) the error that names ``path`` and its line."""
        label = ".".join(str(part) for part in (path[1:] if path[:1] == ("Resources",) and len(path) > 1 else path))
        return TemplateError(self.name, self.line(path), f"{label}: {problem}" if label else problem)

    def get(self, path: KeyPath) -> Any:
        """Return the value at ``path`` of mapping keys, or None where there is none."""
        value: Any = self.document
        for part in path:
            if not isinstance(value, Mapping) or part not in value:
                return None
            value = value[part]
        return value


def load(path: Path | str) -> Template:
    """Read the template at ``path``. Raises ``TemplateError`` naming file, line and column of what cannot be read."""
    name = str(path)
    try:
        raw = Path(path).read_bytes()
    except OSError as error:
        raise TemplateError(name, 0, f"cannot be read: {error.strerror}") from error
    if len(raw) > _TEMPLATE_BYTES:
        raise TemplateError(name, 0, f"{len(raw)} bytes; a template may have {_TEMPLATE_BYTES}")
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise TemplateError(name, line, f"is not UTF-8 text (byte 0x{raw[error.start]:02x})") from error
    return parse(text, path=Path(path), name=name)


def parse(text: str, *, path: Path, name: str) -> Template:
    """Read a template from its text; ``path`` is where relative file names start from. Raises ``TemplateError``."""
    reader = _NodeReader(text, name)
    document = reader.read()
    if not isinstance(document, dict):
        raise TemplateError(name, 1, "a template is a mapping with a Resources section")
    return Template(path.absolute(), name, text, MappingProxyType(document), MappingProxyType(reader.lines))


class _NodeReader:
    """Turns YAML nodes into values, noting the line of each on the way."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._constructor = yaml.constructor.SafeConstructor()
        self._nodes = 0
        self.lines: dict[KeyPath, int] = {}

    def read(self) -> Any:
        try:
            node = yaml.compose(self._text, yaml.SafeLoader)
            if node is None:
                raise TemplateError(self._name, 1, "is empty")
            return self._value(node, ())
        except yaml.reader.ReaderError as error:  # carries a position in the text where the others carry a mark
            line = self._text.count("\n", 0, error.position) + 1
            problem = f"character U+{error.character:04X} is not allowed in YAML"
            raise TemplateError(self._name, line, problem) from None
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            context = f" ({error.context})" if error.context else ""
            problem = f"not valid YAML: {error.problem}{context}"
            raise TemplateError(self._name, mark.line + 1, problem, column=mark.column + 1) from None
        except RecursionError:
            raise TemplateError(self._name, 0, f"nested more than {_MAX_DEPTH} deep") from None

    def _value(self, node: yaml.Node, path: KeyPath) -> Any:
        self._nodes += 1
        if self._nodes > MAX_VALUES:
            raise self._error(node, f"more than {MAX_VALUES} values; aliases multiply them")
        if len(path) > _MAX_DEPTH:
            raise self._error(node, f"nested more than {_MAX_DEPTH} deep (an alias that contains itself?)")
        if node.tag.startswith("!") and len(node.tag) > 1:
            return self._intrinsic(node, path)
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, path)
        if isinstance(node, yaml.SequenceNode):
            return self._sequence(node, path)
        if node.tag == _TIMESTAMP:
            return node.value  # AWSTemplateFormatVersion: 2010-09-09 is text to CloudFormation
        try:
            return self._constructor.construct_object(node)
        except ValueError as error:  # such as 0x or 1e999999 under a numeric tag
            raise self._error(node, f"{node.value!r}: {error}") from None

    def _mapping(self, node: yaml.MappingNode, path: KeyPath) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                raise self._error(key_node, "<< is not read by CloudFormation; write the keys out")
            if not isinstance(key_node, yaml.ScalarNode):
                raise self._error(key_node, "a key must be text")
            key = key_node.value
            if key in out:
                first = self.lines[(*path, key)]
                raise self._error(key_node, f"{key} is given twice (first in line {first})")
            self.lines[(*path, key)] = key_node.start_mark.line + 1
            out[key] = self._value(value_node, (*path, key))
        return out

    def _sequence(self, node: yaml.SequenceNode, path: KeyPath) -> list[Any]:
        out = []
        for position, child in enumerate(node.value):
            self.lines[(*path, position)] = child.start_mark.line + 1
            out.append(self._value(child, (*path, position)))
        return out

    def _intrinsic(self, node: yaml.Node, path: KeyPath) -> dict[str, Any]:
        """Spell a short tag out: ``!Sub x`` is ``{"Fn::Sub": "x"}``; Ref and Condition have no prefix."""
        short = node.tag[1:]
        name = short if short in ("Ref", "Condition") else f"Fn::{short}"
        self.lines.setdefault((*path, name), node.start_mark.line + 1)
        if isinstance(node, yaml.ScalarNode):
            # !GetAtt Logical.Attribute is short for a list of two; attributes may hold dots themselves.
            return {name: node.value.split(".", 1) if name == "Fn::GetAtt" else node.value}
        if isinstance(node, yaml.SequenceNode):
            return {name: self._sequence(node, (*path, name))}
        return {name: self._mapping(node, (*path, name))}

    def _error(self, node: yaml.Node, problem: str) -> TemplateError:
        return TemplateError(self._name, node.start_mark.line + 1, problem, column=node.start_mark.column + 1)


def read_json_file(template: Template, path: KeyPath, relative: object) -> str:
    """Return the text of a JSON file that the template names at ``path``, relative to the template.

    Raises ``TemplateError`` when it is not a path, cannot be read or is not JSON.
    """
    if not isinstance(relative, str) or not relative:
        raise template.error(path, f"must be the path of a JSON file, not {relative!r}")
    try:
        text = (template.path.parent / relative).read_text(encoding="utf-8")
        json.loads(text)
    except OSError as error:
        raise template.error(path, f"{relative} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise template.error(path, f"{relative} is not UTF-8 text") from error
    except json.JSONDecodeError as error:
        raise template.error(path, f"{relative}:{error.lineno}:{error.colno} is not JSON: {error.msg}") from error
    return text
