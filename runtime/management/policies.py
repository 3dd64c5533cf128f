"""Resource policies of functions: statements added and taken away. Whom they allow, ``runtime.policies`` says."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog, Function
from glowplug.runtime.errors import (
    Conflict,
    FunctionNotFound,
    InvalidParameter,
    PolicyTooLong,
    PreconditionFailed,
    ResourceNotFound,
)
from glowplug.runtime.statements import statement_of

from .site import Site

_POLICY_BYTES = 20480
_NO_POLICY = "No policy is associated with the given resource."
_STALE = (
    "The Revision Id provided does not match the latest Revision Id. Call the {0} API to retrieve the latest "
    "Revision Id"
)


def add(
    catalog: Catalog, name: str, qualifier: str, given: Mapping[str, Any], site: Site, *, revision_id: str | None
) -> tuple[Catalog, dict[str, Any]]:
    """Add a statement to the policy of a function, a version or an alias (``qualifier`` empty: the function).

    Raises ``InvalidParameter``, ``FunctionNotFound``, ``Conflict``, ``PreconditionFailed`` or ``PolicyTooLong``.
    """
    function = catalog.functions.get(name)
    arn = f"{site.function_arn}{name}{f':{qualifier}' if qualifier else ''}"
    if function is None:
        raise FunctionNotFound(f"Function not found: {site.function_arn}{name}")
    if qualifier == LATEST:
        raise InvalidParameter("We currently do not support adding policies for $LATEST.")
    _refuse_unknown(function, qualifier, arn)
    statement = statement_of(given, arn)
    policy = function.documents.get(f"policy/{qualifier}")
    statements = [] if policy is None else list(policy["Statement"])
    if revision_id is not None and revision_id != revision_of(function, qualifier):
        raise PreconditionFailed(_STALE.format("GetPolicy" if qualifier else "GetFunction/GetAlias"))
    if any(one["Sid"] == statement["Sid"] for one in statements):
        raise Conflict(
            f"The statement id ({statement['Sid']}) provided already exists. Please provide a new statement id, or "
            "remove the existing statement."
        )
    statements = [*statements, statement]
    return catalog.with_function(with_statements(function, qualifier, statements, site)), statement


def remove(
    catalog: Catalog, name: str, qualifier: str, sid: str, site: Site, *, revision_id: str | None
) -> tuple[Catalog, None]:
    """Take a statement out of a policy. Raises as ``add``, and ``ResourceNotFound`` for one that is not there."""
    function = catalog.functions.get(name)
    arn = f"{site.function_arn}{name}{f':{qualifier}' if qualifier else ''}"
    if function is None:
        raise ResourceNotFound(f"No policy found for: {arn}")
    _refuse_unknown(function, qualifier, arn)
    policy = function.documents.get(f"policy/{qualifier}")
    if policy is None:
        raise ResourceNotFound(_NO_POLICY)
    if not any(one["Sid"] == sid for one in policy["Statement"]):
        raise ResourceNotFound(f"Statement {sid} is not found in resource policy.")
    if revision_id is not None and revision_id != revision_of(function, qualifier):
        raise PreconditionFailed(_STALE.format("GetFunction/GetAlias"))
    left = [one for one in policy["Statement"] if one["Sid"] != sid]
    return catalog.with_function(with_statements(function, qualifier, left, site)), None


def revision_of(function: Function, qualifier: str) -> str:
    """Return the RevisionId that a policy shares with what it is of: the function, a version or an alias."""
    alias = function.aliases.get(qualifier)
    if alias is not None:
        return alias.revision_id
    version = function.version(qualifier or LATEST)
    return "" if version is None else version.revision_id


def with_statements(function: Function, qualifier: str, statements: list[dict[str, Any]], site: Site) -> Function:
    """Return the function with a policy's statements, and a new RevisionId on what the policy is of.

    Raises ``PolicyTooLong``.
    """
    size = len(json.dumps(statements, separators=(",", ":")).encode())
    if size > _POLICY_BYTES:
        raise PolicyTooLong(f"The final policy size ({size}) is bigger than the limit ({_POLICY_BYTES}).")
    value = {"Version": "2012-10-17", "Id": "default", "Statement": statements} if statements else None
    return restamped(function.with_document(f"policy/{qualifier}", value), qualifier, site.new_id())


def restamped(function: Function, qualifier: str, revision_id: str) -> Function:
    """Return the function with a new RevisionId on itself, or on a version or an alias."""
    alias = function.aliases.get(qualifier)
    if alias is not None:
        return replace(function, aliases={**function.aliases, qualifier: replace(alias, revision_id=revision_id)})
    version = function.version(qualifier or LATEST)
    return function if version is None else function.with_version(replace(version, revision_id=revision_id))


def _refuse_unknown(function: Function, qualifier: str, arn: str) -> None:
    if not qualifier or qualifier in function.aliases or function.version(qualifier) is not None:
        return
    if qualifier.isdigit() or "$" in qualifier:
        raise FunctionNotFound(f"Function not found: {arn}")
    raise FunctionNotFound(f"Cannot find alias arn: {arn}")
