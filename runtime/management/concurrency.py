"""Reserved and provisioned concurrency: how many instances a function may have, and how many it keeps."""

from __future__ import annotations

from dataclasses import replace

from glowplug.runtime.catalog import LATEST, Catalog, Function, Provisioned
from glowplug.runtime.errors import Conflict, FunctionNotFound, InvalidParameter, LimitReached, ProvisionedNotFound

from .site import Site
from .updates import existing

_OVER_RESERVED = (
    "Requested Provisioned Concurrency should not be greater than the reservedConcurrentExecution for function"
)
_PROVISIONED_VERSION = "Alias can't be used for Provisioned Concurrency configuration on an already Provisioned version"


def reserve(
    catalog: Catalog, name: str, reserved: int, site: Site, *, account: int, unreserved: int
) -> tuple[Catalog, None]:
    """Reserve instances for a function, 0 to let it have none.

    ``account`` is how many the node counts as its own, ``unreserved`` how many of them no function may reserve; 0 for
    both: there is no such limit. Raises ``FunctionNotFound`` or ``InvalidParameter``.
    """
    function = existing(catalog, name, site, f":{LATEST}")
    provisioned = sum(one.requested for one in function.provisioned.values())
    if reserved < provisioned:
        raise InvalidParameter(
            f" ReservedConcurrentExecutions  {reserved} should not be lower than function's total provisioned "
            f"concurrency [{provisioned}]."
        )
    if account and account - reserved - _reserved(catalog, but=name) < unreserved:
        raise LimitReached(
            "Specified ReservedConcurrentExecutions for function decreases account's UnreservedConcurrentExecution "
            f"below its minimum value of [{unreserved}]."
        )
    return catalog.with_function(replace(function, reserved=reserved)), None


def release(catalog: Catalog, name: str, site: Site) -> tuple[Catalog, None]:
    """Take a reservation back. Raises ``FunctionNotFound``."""
    function = existing(catalog, name, site, f":{LATEST}")
    return catalog.with_function(replace(function, reserved=None)), None


def provision(
    catalog: Catalog, name: str, qualifier: str, requested: int, site: Site, *, account: int, unreserved: int
) -> tuple[Catalog, Provisioned]:
    """Keep instances for a version or an alias; one of the two for each version.

    Raises ``InvalidParameter``, ``FunctionNotFound`` or ``Conflict``.
    """
    if qualifier == LATEST:
        raise InvalidParameter("Provisioned Concurrency Configs cannot be applied to unpublished function versions.")
    function = _qualified(catalog, name, qualifier, site)
    alias = function.aliases.get(qualifier)
    if alias is not None and alias.version in function.provisioned:
        raise Conflict(_PROVISIONED_VERSION)
    if alias is None and any(
        qualifier in function.versions_of(other) for other in function.provisioned if other in function.aliases
    ):
        raise Conflict("Version is pointed by a Provisioned Concurrency alias")
    others = sum(one.requested for known, one in function.provisioned.items() if known != qualifier)
    if function.reserved is not None and others + requested > function.reserved:
        raise InvalidParameter(_OVER_RESERVED)
    if account and function.reserved is None:
        free = account - _reserved(catalog) - _provisioned(catalog, but=name)
        if requested > free:
            raise LimitReached(
                "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency "
                f"[{free}]."
            )
        if free - requested < unreserved:
            raise LimitReached(
                "Specified ConcurrentExecutions for function decreases account's UnreservedConcurrentExecution below "
                f"its minimum value of [{unreserved}]."
            )
    made = Provisioned(requested, site.now)
    function = replace(function, provisioned={**function.provisioned, qualifier: made})
    return catalog.with_function(function), made


def check_provisioned(function: Function) -> None:
    """Refuse more provisioned than reserved instances, and a version that has some of its own and of an alias.

    Raises ``InvalidParameter`` or ``Conflict``.
    """
    provisioned = sum(one.requested for one in function.provisioned.values())
    if function.reserved is not None and provisioned > function.reserved:
        raise InvalidParameter(_OVER_RESERVED)
    both = (alias for alias in function.aliases.values() if alias.name in function.provisioned)
    if any(alias.version in function.provisioned for alias in both):
        raise Conflict(_PROVISIONED_VERSION)


def unprovision(catalog: Catalog, name: str, qualifier: str, site: Site) -> tuple[Catalog, None]:
    """Keep instances for a version or an alias no longer. Raises ``InvalidParameter`` or ``FunctionNotFound``."""
    function = provisioned_function(catalog, name, qualifier, site)
    kept = {known: one for known, one in function.provisioned.items() if known != qualifier}
    return catalog.with_function(replace(function, provisioned=kept)), None


def provisioned_function(catalog: Catalog, name: str, qualifier: str, site: Site) -> Function:
    """Return the function whose provisioned concurrency is asked for. Raises as ``unprovision``."""
    if qualifier == LATEST:
        raise InvalidParameter("The function resource provided must be an alias or a published version.")
    return _qualified(catalog, name, qualifier, site)


def not_provisioned() -> ProvisionedNotFound:
    """Return the error of a version or an alias for which nothing is provisioned."""
    return ProvisionedNotFound("No Provisioned Concurrency Config found for this function")


def _qualified(catalog: Catalog, name: str, qualifier: str, site: Site) -> Function:
    function = catalog.functions.get(name)
    arn = f"{site.function_arn}{name}:{qualifier}"
    if not qualifier.isdigit():
        if function is None or qualifier not in function.aliases:
            raise FunctionNotFound(f"Cannot find alias arn: {arn}")
    elif function is None or function.version(qualifier) is None:
        raise FunctionNotFound(f"Function not found: {arn}")
    return function


def _reserved(catalog: Catalog, but: str = "") -> int:
    return sum(one.reserved or 0 for one in catalog.functions.values() if one.name != but)


def _provisioned(catalog: Catalog, but: str = "") -> int:
    return sum(
        sum(one.requested for one in function.provisioned.values())
        for function in catalog.functions.values()
        if function.name != but and function.reserved is None
    )
