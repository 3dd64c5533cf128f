"""Evaluate CloudFormation's intrinsic functions in a template, by CloudFormation's rules.

An intrinsic is a mapping with one key: ``Ref`` or a name that starts with ``Fn::``. Arguments are evaluated first,
except that ``Fn::If`` only evaluates the branch it takes. ``AWS::NoValue`` removes the key or the item it stands for.
What is not known here is an error that names the function, the file and the line; nothing is passed through.

``expansion`` has been there before: no ``Fn::ForEach`` is left, and of ``Fn::ImportValue`` only what nobody exports.
"""

from __future__ import annotations

import base64
import ipaddress
import json
import re
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from .errors import TemplateError
from .template import KeyPath, Template

_PLACEHOLDER = re.compile(r"\$\{(!?)([^{}]*)\}")
_REFUSED = frozenset(
    "Fn::GetStackOutput Fn::Transform Fn::Contains Fn::EachMemberEquals Fn::EachMemberIn Fn::RefAll Fn::ValueOf "
    "Fn::ValueOfAll".split()
)
_ZONES = "abc"  # what every region but a few has; one machine has none of its own
_SUBNETS = 256  # as many as Fn::Cidr gives


class References(Protocol):
    """What the names of a stack's resources stand for."""

    def ref(self, logical_id: str) -> Any:
        """Return the value of ``Ref``. Raises ``LookupError`` saying why when there is none."""

    def attribute(self, logical_id: str, attribute: str) -> Any:
        """Return the value of ``Fn::GetAtt``. Raises ``LookupError`` saying why when there is none."""


class NoResources:
    """References where only parameters may be named, such as in CodeUri."""

    def ref(self, logical_id: str) -> Any:
        """Raise ``LookupError``."""
        raise LookupError(f"no parameter {logical_id}")

    def attribute(self, logical_id: str, attribute: str) -> Any:
        """Raise ``LookupError``."""
        raise LookupError(f"{logical_id}.{attribute} is not known before the stack is translated")


class _NoValue:
    """Stands for AWS::NoValue until the container that holds it leaves it out."""


_NO_VALUE = _NoValue()


class Intrinsics:
    """Evaluates values of one template. ``names`` are parameters and pseudo parameters, resolved."""

    def __init__(self, template: Template, names: Mapping[str, Any], references: References) -> None:
        self._template = template
        self._names = names
        self._references = references
        self._mappings: Any = template.document.get("Mappings") or {}
        self._conditions: Any = template.document.get("Conditions") or {}
        self._deciding: list[str] = []
        self._functions: dict[str, Callable[[Any, KeyPath], Any]] = {
            "Ref": self._ref,
            "Fn::GetAtt": self._get_att,
            "Fn::Sub": self._sub,
            "Fn::Join": self._join,
            "Fn::Split": self._split,
            "Fn::Select": self._select,
            "Fn::FindInMap": self._find_in_map,
            "Fn::Base64": lambda argument, path: base64.b64encode(self._text(argument, path).encode()).decode(),
            "Fn::If": self._if,
            "Fn::Length": lambda argument, path: len(self._list(argument, path)),
            "Fn::ToJsonString": lambda argument, path: json.dumps(self._value(argument, path), separators=(",", ":")),
            "Fn::GetAZs": self._get_azs,
            "Fn::Cidr": self._cidr,
            "Fn::ImportValue": self._import_value,
        }
        self._decisions: dict[str, Callable[[Any, KeyPath], bool]] = {
            "Condition": self._named_condition,
            "Fn::Equals": self._equals,
            "Fn::And": lambda argument, path: all(self._decisions_of(argument, path, 2)),
            "Fn::Or": lambda argument, path: any(self._decisions_of(argument, path, 2)),
            "Fn::Not": lambda argument, path: not self._decisions_of(argument, path, 1)[0],
        }

    def evaluate(self, value: Any, path: KeyPath) -> Any:
        """Return ``value`` with every intrinsic replaced; None where it is AWS::NoValue. Raises ``TemplateError``."""
        result = self._value(value, path)
        return None if result is _NO_VALUE else result

    def condition(self, name: Any, path: KeyPath) -> bool:
        """Return whether the named condition holds. Raises ``TemplateError``."""
        return self._named_condition(name, path)

    def _value(self, value: Any, path: KeyPath) -> Any:
        if isinstance(value, list):
            items = [self._value(item, (*path, position)) for position, item in enumerate(value)]
            return [item for item in items if item is not _NO_VALUE]
        if not isinstance(value, Mapping):
            return value
        name = next((key for key in value if key == "Ref" or str(key).startswith("Fn::")), None)
        if name is None:
            pairs = ((key, self._value(item, (*path, key))) for key, item in value.items())
            return {key: item for key, item in pairs if item is not _NO_VALUE}
        if len(value) > 1:
            raise self._error(path, f"{name} cannot stand beside other keys ({', '.join(map(str, value))})")
        if name in self._decisions:
            raise self._error(path, f"{name} decides a condition; it gives no value here")
        if name not in self._functions:
            known = "is not supported" if name in _REFUSED else "is no intrinsic function"
            raise self._error(path, f"{name} {known}")
        return self._functions[name](value[name], (*path, name))

    def _ref(self, argument: Any, path: KeyPath) -> Any:
        if not isinstance(argument, str):
            raise self._error(path, "takes the name of a parameter or resource")
        return self._named(argument, path)

    def _named(self, name: str, path: KeyPath) -> Any:
        if name == "AWS::NoValue":
            return _NO_VALUE
        if name in self._names:
            return self._names[name]
        return self._referred(lambda: self._references.ref(name), path)

    def _get_att(self, argument: Any, path: KeyPath) -> Any:
        parts = argument.split(".", 1) if isinstance(argument, str) else self._list(argument, path)
        if len(parts) != 2 or not all(isinstance(part, str) for part in parts):
            raise self._error(path, "takes a resource and an attribute")
        return self._attribute(parts[0], parts[1], path)

    def _attribute(self, logical_id: str, attribute: str, path: KeyPath) -> Any:
        return self._referred(lambda: self._references.attribute(logical_id, attribute), path)

    def _referred(self, look_up: Callable[[], Any], path: KeyPath) -> Any:
        try:
            return look_up()
        except LookupError as error:
            raise self._error(path, str(error.args[0])) from None

    def _sub(self, argument: Any, path: KeyPath) -> str:
        text, given = argument, {}
        if isinstance(argument, list):
            if len(argument) != 2 or not isinstance(argument[1], Mapping):
                raise self._error(path, "takes a text, or a text and a mapping of its variables")
            text, given = argument
        if not isinstance(text, str):
            raise self._error(path, f"takes a text, not {text!r}")

        def fill(found: re.Match[str]) -> str:
            literal, name = found[1], found[2]
            if literal:
                return f"${{{name}}}"
            if name in given:
                return self._text(given[name], (*path, 1, name))
            logical_id, _, attribute = name.partition(".")
            value = self._attribute(logical_id, attribute, path) if attribute else self._named(name, path)
            return self._as_text(value, path, f"${{{name}}}")

        return _PLACEHOLDER.sub(fill, text)

    def _join(self, argument: Any, path: KeyPath) -> str:
        delimiter, items = self._arguments(argument, path, 2, "a delimiter and a list")
        texts = [self._as_text(item, path, "an item") for item in self._list(items, (*path, 1))]
        return self._text(delimiter, path).join(texts)

    def _split(self, argument: Any, path: KeyPath) -> list[str]:
        delimiter, text = self._arguments(argument, path, 2, "a delimiter and a text")
        if not self._text(delimiter, path):
            raise self._error(path, "takes a delimiter that is not empty")
        return self._text(text, (*path, 1)).split(self._text(delimiter, path))

    def _select(self, argument: Any, path: KeyPath) -> Any:
        index, items = self._arguments(argument, path, 2, "an index and a list")
        choices, position = self._list(items, (*path, 1)), self._text(index, (*path, 0))
        if not position.isdecimal() or int(position) >= len(choices):
            raise self._error(path, f"index {position} of a list of {len(choices)}")
        return choices[int(position)]

    def _find_in_map(self, argument: Any, path: KeyPath) -> Any:
        parts = argument if isinstance(argument, list) else []
        default = parts[3] if len(parts) == 4 and isinstance(parts[3], Mapping) else {}
        if len(parts) != 3 and "DefaultValue" not in default:
            raise self._error(path, "takes a mapping's name, a top-level key and a second-level key")
        found: Any = self._mappings
        for position, part in enumerate(parts[:3]):
            key = self._text(part, (*path, position))
            if not isinstance(found, Mapping) or key not in found:
                if "DefaultValue" in default:
                    return self._value(default["DefaultValue"], (*path, 3, "DefaultValue"))
                raise self._error(path, f"no {key!r} in {'Mappings' if position == 0 else 'that mapping'}")
            found = found[key]
        return found

    def _get_azs(self, argument: Any, path: KeyPath) -> list[str]:
        region = self._text(argument, path) or self._as_text(self._names.get("AWS::Region"), path, "AWS::Region")
        return [f"{region}{zone}" for zone in _ZONES]

    def _cidr(self, argument: Any, path: KeyPath) -> list[str]:
        block, *numbers = self._arguments(argument, path, 3, "a block of addresses, a count and subnet bits")
        texts = [self._text(number, (*path, position)) for position, number in enumerate(numbers, 1)]
        if not all(text.isdecimal() for text in texts) or not 1 <= int(texts[0]) <= _SUBNETS:
            raise self._error(path, f"takes a count of 1 to {_SUBNETS} and a number of bits, not {', '.join(texts)}")
        count, bits = map(int, texts)
        try:
            network = ipaddress.ip_network(self._text(block, (*path, 0)))
            subnets = network.subnets(new_prefix=network.max_prefixlen - bits)
            made = [str(subnet) for subnet, _ in zip(subnets, range(count), strict=False)]
        except ValueError as error:
            raise self._error(path, str(error)) from None
        if len(made) < count:
            raise self._error(path, f"{network} has {len(made)} subnets of {bits} bits, not {count}")
        return made

    def _import_value(self, argument: Any, path: KeyPath) -> Any:
        name = self._text(argument, path)
        problem = f"{name!r} is exported by no stack of the node and no template before this one; see `glowplug stacks`"
        raise self._error(path, problem)

    def _if(self, argument: Any, path: KeyPath) -> Any:
        name, _, _ = self._arguments(argument, path, 3, "a condition, a value if true and a value if false")
        taken = 1 if self._named_condition(name, (*path, 0)) else 2
        return self._value(argument[taken], (*path, taken))

    def _decide(self, value: Any, path: KeyPath) -> bool:
        if isinstance(value, Mapping) and len(value) == 1:
            [(name, argument)] = value.items()
            if name in self._decisions:
                return self._decisions[name](argument, (*path, name))
        raise self._error(path, f"a condition is one of {', '.join(self._decisions)}")

    def _decisions_of(self, argument: Any, path: KeyPath, least: int) -> list[bool]:
        most = 10 if least > 1 else 1
        if not isinstance(argument, list) or not least <= len(argument) <= most:
            raise self._error(path, f"takes a list of {least} to {most} conditions")
        return [self._decide(item, (*path, position)) for position, item in enumerate(argument)]

    def _named_condition(self, name: Any, path: KeyPath) -> bool:
        if not isinstance(name, str) or name not in self._conditions:
            raise self._error(path, f"no condition {name!r} in Conditions")
        if name in self._deciding:
            raise self._error(("Conditions", name), f"depends on itself ({' -> '.join([*self._deciding, name])})")
        self._deciding.append(name)
        try:
            return self._decide(self._conditions[name], ("Conditions", name))
        finally:
            self._deciding.pop()

    def _equals(self, argument: Any, path: KeyPath) -> bool:
        left, right = (self._value(side, path) for side in self._arguments(argument, path, 2, "two values"))
        return bool(text(left) == text(right))

    def _arguments(self, argument: Any, path: KeyPath, count: int, what: str) -> list[Any]:
        if not isinstance(argument, list) or len(argument) != count:
            raise self._error(path, f"takes {what}")
        return argument

    def _list(self, argument: Any, path: KeyPath) -> list[Any]:
        value = self._value(argument, path)
        if not isinstance(value, list):
            raise self._error(path, f"takes a list, not {value!r}")
        return value

    def _text(self, argument: Any, path: KeyPath) -> str:
        return self._as_text(self._value(argument, path), path, "the argument")

    def _as_text(self, value: Any, path: KeyPath, what: str) -> str:
        scalar = text(value)
        if not isinstance(scalar, str):
            raise self._error(path, f"{what} is not text but {'AWS::NoValue' if value is _NO_VALUE else repr(value)}")
        return scalar

    def _error(self, path: KeyPath, problem: str) -> TemplateError:
        return self._template.error(path, problem)


def text(value: Any) -> Any:
    """Return a scalar as the text that CloudFormation makes of it, to compare and to join; anything else as it is."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value
