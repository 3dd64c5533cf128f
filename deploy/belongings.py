"""What belongs to a function and is a resource of its own in CloudFormation: versions, aliases, URLs, permissions,
EventInvokeConfigs. Most of them the translator has made of properties of a SAM function.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from .definitions import typed
from .intrinsics import text
from .places import place_of
from .resources import Resources, Target
from .supported import LAMBDA_ALIAS, LAMBDA_EVENT_INVOKE, LAMBDA_PERMISSION, LAMBDA_URL, LAMBDA_VERSION
from .template import KeyPath, Template
from .versionnumbers import unpublished

_WORDS = {"Versions": "version", "Aliases": "alias", "Urls": "function URL", "EventInvokeConfigs": "EventInvokeConfig"}
Definitions = dict[str, dict[str, Any]]
_LATEST = "$LATEST"
_TEXTS = frozenset({"Description", "Principal", "SourceAccount"})
_PERMISSION = ("Action", "Principal", "FunctionUrlAuthType", "InvokedViaFunctionUrl", "SourceArn", "SourceAccount",
               "PrincipalOrgID", "EventSourceToken")  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Resource:
    """One resource. ``path`` is where its properties are written, ``given`` what they say, ``target`` whose it is."""

    logical_id: str
    path: KeyPath
    target: Target
    given: Mapping[str, Any]

    def chosen(self, *names: str) -> dict[str, Any]:
        """Return the properties of these names that are given."""
        found = {name: self.given[name] for name in names if self.given.get(name) is not None}
        return {name: text(value) if name in _TEXTS else value for name, value in found.items()}


class Belongings:
    """Puts the resources of a template into the definitions of the functions that they belong to.

    ``written`` says afterwards which resource each part of a definition came from, by the function's logical id.
    """

    def __init__(self, template: Template, resources: Resources, definitions: Definitions) -> None:
        self._template = template
        self._resources = resources
        self._definitions = definitions
        self.written: dict[str, dict[str, KeyPath]] = {}

    def put(self) -> None:
        """Put all of them. Raises ``TemplateError`` for one that belongs to no function of the template, or that the
        function has already."""
        kinds: tuple[tuple[str, str, str, Callable[[_Resource], None]], ...] = (
            (LAMBDA_VERSION, "FunctionName", "Versions", self._version),
            (LAMBDA_ALIAS, "FunctionName", "Aliases", self._alias),
            (LAMBDA_URL, "TargetFunctionArn", "Urls", self._url),
            (LAMBDA_EVENT_INVOKE, "FunctionName", "EventInvokeConfigs", self._event_invoke),
            (LAMBDA_PERMISSION, "FunctionName", "Permissions", self._permission),
        )
        for kind, key, section, put in kinds:
            for logical_id in self._resources.of_type(kind):
                put(self._resource(logical_id, key, section))

    def _resource(self, logical_id: str, key: str, section: str) -> _Resource:
        path: KeyPath = ("Resources", logical_id, "Properties")
        target = self._resources.target(logical_id, key)
        if target.logical_id not in self._definitions:
            raise self._template.error((*path, key), f"{target.name or 'it'} is not a function of this template")
        if path[:2] not in self._template.lines:
            path = place_of(self._template, target.logical_id, section)
        given = self._resources.intrinsics.evaluate(dict(self._resources.properties(logical_id)), path)
        return _Resource(logical_id, path, target, typed(given, ""))

    def _version(self, one: _Resource) -> None:
        digest = self._definitions[one.target.logical_id]["CodeSha256"]
        expected = base64.b64encode(bytes.fromhex(digest)).decode()
        if one.given.get("CodeSha256") not in (None, expected):
            raise self._template.error((*one.path, "CodeSha256"), f"is not that of the function's code, {expected}")
        self._set("Versions", one.logical_id, one, one.chosen("Description", "ProvisionedConcurrencyConfig"))

    def _alias(self, one: _Resource) -> None:
        alias = one.chosen("Description", "ProvisionedConcurrencyConfig")
        alias["FunctionVersion"] = _version_of(one.given.get("FunctionVersion"))
        if one.given.get("RoutingConfig") is not None:
            alias["RoutingConfig"] = {"AdditionalVersionWeights": self._weights(one)}
        self._set("Aliases", self._required(one, "Name"), one, alias)

    def _weights(self, one: _Resource) -> dict[str, Any]:
        """Return the share of each version, by number or logical id; CloudFormation has a list of them."""
        path = (*one.path, "RoutingConfig", "AdditionalVersionWeights")
        routing = one.given["RoutingConfig"]
        listed = routing.get("AdditionalVersionWeights", []) if isinstance(routing, Mapping) else None
        keys = {"FunctionVersion", "FunctionWeight"}
        weights = {}
        for item in listed if isinstance(listed, list) else (None,):
            if not isinstance(item, Mapping) or item.keys() != keys:
                raise self._template.error(path, "must be a list of mappings with FunctionVersion and FunctionWeight")
            number = str(text(item["FunctionVersion"]))
            weights[unpublished(number) or number] = item["FunctionWeight"]
        return weights

    def _url(self, one: _Resource) -> None:
        self._set("Urls", one.target.qualifier or _LATEST, one, one.chosen("AuthType", "InvokeMode", "Cors"))

    def _event_invoke(self, one: _Resource) -> None:
        config = one.chosen("MaximumRetryAttempts", "MaximumEventAgeInSeconds", "DestinationConfig")
        self._set("EventInvokeConfigs", one.target.qualifier or _LATEST, one, config)

    def _permission(self, one: _Resource) -> None:
        permission = {"StatementId": self._resources.ref(one.logical_id), **one.chosen(*_PERMISSION)}
        if one.target.qualifier:
            permission["Qualifier"] = one.target.qualifier
        permissions = self._definitions[one.target.logical_id].setdefault("Permissions", [])
        self._note(f"Permissions.{len(permissions)}", one)
        permissions.append(permission)

    def _set(self, section: str, key: str, one: _Resource, value: Mapping[str, Any]) -> None:
        values = self._definitions[one.target.logical_id].setdefault(section, {})
        if key in values:
            raise self._template.error(one.path, f"{one.target.name} has {_WORDS[section]} {key} already")
        values[key] = value
        self._note(f"{section}.{key}", one)

    def _note(self, field: str, one: _Resource) -> None:
        self.written.setdefault(one.target.logical_id, {})[field] = one.path

    def _required(self, one: _Resource, name: str) -> str:
        value = one.given.get(name)
        if not isinstance(value, str) or not value:
            raise self._template.error(one.path, f"{name} is missing")
        return value


def _version_of(given: Any) -> Any:
    """Return the version of an alias as a definition has it: its number, or its logical id until it has one."""
    number = text(given)
    logical_id = unpublished(number)
    return {"Ref": logical_id} if logical_id else number
