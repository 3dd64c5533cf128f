"""Aliases: names for versions, which one or two of them serve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Function
from glowplug.runtime.errors import Conflict, FunctionNotFound, InvalidParameter, LimitReached

from .site import Site
from .updates import existing, refuse_stale


@dataclass(frozen=True, slots=True)
class AliasChange:
    """What an alias is to be. None: what it is, or Lambda's default."""

    version: str | None
    description: str | None
    weights: Mapping[str, float] | None


def create(catalog: Catalog, function_name: str, name: str, wanted: AliasChange, site: Site) -> tuple[Catalog, Alias]:
    """Make an alias. Raises ``FunctionNotFound``, ``Conflict`` when there is one, ``InvalidParameter``."""
    version, weights = wanted.version or LATEST, dict(wanted.weights or {})
    if function_name not in catalog.functions:
        raise FunctionNotFound(f"Function not found: {site.function_arn}{function_name}:{version}")
    function = catalog.functions[function_name]
    if name in function.aliases:
        raise Conflict(f"Alias already exists: {site.function_arn}{function_name}:{name}")
    check_routing(function, version, weights, site)
    alias = Alias(name, version, site.new_id(), wanted.description or "", weights)
    return _with(catalog, function, alias), alias


def update(
    catalog: Catalog, function_name: str, name: str, change: AliasChange, site: Site, *, revision_id: str | None
) -> tuple[Catalog, Alias]:
    """Change an alias; requests go where it points to from the next one on.

    Raises ``FunctionNotFound``, ``PreconditionFailed`` or ``InvalidParameter``.
    """
    function = existing(catalog, function_name, site)
    alias = function.aliases.get(name)
    if alias is None:
        raise FunctionNotFound(f"Alias not found: {site.function_arn}{function_name}:{name}")
    refuse_stale(replace(function.latest, revision_id=alias.revision_id), revision_id)
    version = alias.version if change.version is None else change.version
    weights = dict(alias.weights if change.weights is None else change.weights)
    check_routing(function, version, weights, site)
    description = alias.description if change.description is None else change.description
    made = Alias(name, version, site.new_id(), description, weights)
    return _with(catalog, function, made), made


def delete(catalog: Catalog, function_name: str, name: str, site: Site) -> tuple[Catalog, None]:
    """Delete an alias with all that is its own; one that is not there is deleted without a word (recorded)."""
    function = existing(catalog, function_name, site)
    if name not in function.aliases:
        return catalog, None
    return catalog.with_function(without_alias(function, name)), None


def without_alias(function: Function, name: str) -> Function:
    """Return a function without an alias and all that is the alias's own."""
    return replace(
        function,
        aliases={known: alias for known, alias in function.aliases.items() if known != name},
        urls={known: url for known, url in function.urls.items() if known != name},
        provisioned={known: one for known, one in function.provisioned.items() if known != name},
        documents={key: value for key, value in function.documents.items() if key.partition("/")[2] != name},
    )


def _with(catalog: Catalog, function: Function, alias: Alias) -> Catalog:
    return catalog.with_function(replace(function, aliases={**function.aliases, alias.name: alias}))


def check_routing(function: Function, version: str, weights: Mapping[str, float], site: Site) -> None:
    """Refuse versions that an alias cannot have.

    Raises ``FunctionNotFound``, ``InvalidParameter``, ``LimitReached``.
    """
    if len(weights) > 1:
        raise InvalidParameter("Number of items in AdditionalVersionWeights cannot be greater than 1")
    if weights and version == LATEST:
        raise LimitReached("$LATEST is not supported for an alias pointing to more than 1 version")
    if version in weights:
        raise InvalidParameter(
            f"Invalid function version {version}. Function version {version} is already included in routing "
            "configuration."
        )
    for number in (version, *weights):
        if function.version(number) is None:
            raise FunctionNotFound(f"Function not found: {site.function_arn}{function.name}:{number}")
