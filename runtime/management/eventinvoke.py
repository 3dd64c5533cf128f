"""EventInvokeConfig: how asynchronous invocations of a function, a version or an alias are retried, and where their
records go."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from glowplug.runtime.catalog import Catalog, Function
from glowplug.runtime.errors import InvalidParameter, ResourceNotFound
from glowplug.runtime.reader import IS_FIFO

from .site import Site

_DESTINATION = re.compile(r"arn:aws[a-zA-Z-]*:(lambda|sqs|sns|events|s3):[^:]*:\d{0,12}:.+|kafka://.+")


def put(
    catalog: Catalog, name: str, qualifier: str, given: Mapping[str, Any], site: Site
) -> tuple[Catalog, Mapping[str, Any]]:
    """Set the configuration to what is given and nothing else. Raises ``ResourceNotFound`` or ``InvalidParameter``."""
    if not given:
        raise InvalidParameter("You must specify at least one of error handling or destination setting.")
    function = _function(catalog, name, qualifier)
    return _with(catalog, function, qualifier, given, site)


def update(
    catalog: Catalog, name: str, qualifier: str, given: Mapping[str, Any], site: Site
) -> tuple[Catalog, Mapping[str, Any]]:
    """Change what is given and leave the rest. Raises as ``put``, and where there is no configuration yet."""
    function = _function(catalog, name, qualifier)
    known = function.documents.get(f"event-invoke/{qualifier}")
    if known is None:
        raise missing(name, qualifier, site)
    before = {key: value for key, value in known.items() if key != "LastModified"}
    return _with(catalog, function, qualifier, {**before, **given}, site)


def delete(catalog: Catalog, name: str, qualifier: str, site: Site) -> tuple[Catalog, None]:
    """Take the configuration back. Raises ``ResourceNotFound``."""
    function = catalog.functions.get(name)
    key = f"event-invoke/{qualifier}"
    if function is None or key not in function.documents:
        raise missing(name, qualifier, site)
    return catalog.with_function(function.with_document(key, None)), None


def missing(name: str, qualifier: str, site: Site) -> ResourceNotFound:
    """Return the error of what has no configuration."""
    return ResourceNotFound(f"The function {site.function_arn}{name}:{qualifier} doesn't have an EventInvokeConfig")


def _function(catalog: Catalog, name: str, qualifier: str) -> Function:
    function = catalog.functions.get(name)
    if function is None or not function.versions_of(qualifier):
        raise ResourceNotFound("The function doesn't exist.")
    return function


def _with(
    catalog: Catalog, function: Function, qualifier: str, given: Mapping[str, Any], site: Site
) -> tuple[Catalog, Mapping[str, Any]]:
    destinations = given.get("DestinationConfig") or {}
    for side in ("OnSuccess", "OnFailure"):
        arn = (destinations.get(side) or {}).get("Destination")
        if arn:
            _check(catalog, function, side, destinations, site)
            if arn.endswith(".fifo"):
                raise InvalidParameter(f"DestinationConfig.{side}.Destination: {arn} {IS_FIFO}")
    value = {**given, "LastModified": site.unix_s}
    return catalog.with_function(function.with_document(f"event-invoke/{qualifier}", value)), value


def _check(catalog: Catalog, function: Function, side: str, config: Mapping[str, Any], site: Site) -> None:
    arn = config[side]["Destination"]
    found = _DESTINATION.fullmatch(arn)
    if found is None or (side == "OnSuccess" and found[1] == "s3"):  # a bucket takes failures alone
        raise InvalidParameter(f"The provided destination config {_java(config)} is invalid.")
    if arn.startswith(site.function_arn):
        target = arn.removeprefix(site.function_arn).partition(":")[0]
        if target == function.name:
            raise InvalidParameter("You can't specify the function as a destination for itself.")
        if target not in catalog.functions:
            raise InvalidParameter(f"The destination ARN {arn} is invalid.")


def _java(config: Mapping[str, Any]) -> str:
    """Return a DestinationConfig as AWS prints it."""
    sides = []
    for name in ("OnSuccess", "OnFailure"):
        side = config.get(name)
        shown = "null" if side is None else f"{name}(destination={side.get('Destination')})"
        sides.append(f"{name[0].lower()}{name[1:]}={shown}")
    return f"DestinationConfig({', '.join(sides)})"
