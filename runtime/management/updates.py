"""Creating, changing and deleting functions: what CreateFunction, UpdateFunction* and DeleteFunction decide."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog, Function, Version
from glowplug.runtime.errors import Conflict, FunctionNotFound, InvalidParameter, PreconditionFailed, UpdateInProgress
from glowplug.runtime.spec import FunctionSpec, LayerSpec

from .publishing import publish
from .site import Site

CREATING = "The function is being created."
_STALE = (
    "The Revision Id provided does not match the latest Revision Id. Call the Get{0} API to retrieve the latest "
    "Revision Id"
)


@dataclass(frozen=True, slots=True)
class NewFunction:
    """What CreateFunction asks for. ``layers`` are ARNs of layer versions."""

    spec: FunctionSpec
    layers: tuple[str, ...]
    code_size: int
    settings: Mapping[str, Any]
    tags: Mapping[str, str]
    publish: bool


def create(catalog: Catalog, new: NewFunction, site: Site) -> tuple[Catalog, Version]:
    """Make a function; return its first version, or ``$LATEST``. Raises ``Conflict`` when its name is taken."""
    name = new.spec.name
    if name in catalog.functions:
        raise Conflict(f"Function already exist: {name}")
    spec = replace(new.spec, layers=layers_of(catalog, new.layers, site))
    latest = Version(
        spec=spec,
        revision_id=site.new_id(),
        modified=site.now,
        code_size=new.code_size,
        state="Pending",
        state_reason=CREATING,
        state_reason_code="Creating",
        update="",
        settings=new.settings,
    )
    made = Function(name, catalog.slot_for(name), latest, tags=dict(new.tags))
    shown = latest
    if new.publish:
        made, shown = publish(made, revision_id=site.new_id(), now=site.now)
    return catalog.with_function(made), shown


def update(
    catalog: Catalog,
    name: str,
    change: Callable[[Version], Version],
    site: Site,
    *,
    revision_id: str | None,
    publish_it: bool = False,
    dry: bool = False,
) -> tuple[Catalog, Version]:
    """Change ``$LATEST`` of a function by ``change``, which returns its new spec and settings; return what it is then,
    or the version that was published.

    Raises ``FunctionNotFound``, ``PreconditionFailed`` and, while another change is under way, ``UpdateInProgress``.
    """
    function = existing(catalog, name, site)
    refuse_stale(function.latest, revision_id)
    if not function.latest.settled:
        raise UpdateInProgress(
            "The operation cannot be performed at this time. An update is in progress for resource: "
            f"{site.function_arn}{name}"
        )
    changed = replace(
        change(function.latest),
        revision_id=site.new_id(),
        modified=site.now,
        update="InProgress",
        update_reason=CREATING,
        update_reason_code="Creating",
    )
    if dry:
        return catalog, changed
    function = replace(function, latest=changed)
    shown = changed
    if publish_it:
        function, shown = publish(function, revision_id=site.new_id(), now=site.now)
    return catalog.with_function(function), shown


def delete(catalog: Catalog, name: str, qualifier: str | None, site: Site) -> tuple[Catalog, None]:
    """Delete a function, or one published version that no alias points to. Raises ``FunctionNotFound``,
    ``InvalidParameter`` or ``Conflict``."""
    if qualifier == LATEST:
        raise InvalidParameter("$LATEST version cannot be deleted without deleting the function.")
    if qualifier is not None and not qualifier.isdigit() and not qualifier.startswith("$"):
        raise InvalidParameter("Deletion of aliases is not currently supported.")
    function = existing(catalog, name, site)
    if qualifier is None:
        return catalog.without_function(name), None
    number = int(qualifier) if qualifier.isdigit() else -1
    if number not in function.versions:
        return catalog, None  # recorded: a version that is not there is deleted without a word
    users = sorted(alias.name for alias in function.aliases.values() if qualifier in (alias.version, *alias.weights))
    if users:
        raise Conflict(f"Version {qualifier} of function {name} is referenced by alias {', '.join(users)}")
    kept = {known: version for known, version in function.versions.items() if known != number}
    documents = {key: value for key, value in function.documents.items() if key.partition("/")[2] != qualifier}
    provisioned = {key: value for key, value in function.provisioned.items() if key != qualifier}
    publications = {key: value for key, value in function.publications.items() if value != qualifier}
    function = replace(function, versions=kept, documents=documents, provisioned=provisioned, publications=publications)
    return catalog.with_function(function), None


def existing(catalog: Catalog, name: str, site: Site, suffix: str = "") -> Function:
    """Return a function. Raises ``FunctionNotFound`` naming it, with ``suffix`` behind its ARN."""
    function = catalog.functions.get(name)
    if function is None:
        raise FunctionNotFound(f"Function not found: {site.function_arn}{name}{suffix}")
    return function


def refuse_stale(version: Version, revision_id: str | None, what: str = "Function/GetAlias") -> None:
    """Raise ``PreconditionFailed`` when a caller has seen another revision than what is there."""
    if revision_id is not None and revision_id != version.revision_id:
        raise PreconditionFailed(_STALE.format(what))


def layers_of(catalog: Catalog, arns: tuple[str, ...], site: Site) -> tuple[LayerSpec, ...]:
    """Return the layers that ``arns`` name. Raises ``InvalidParameter`` with Lambda's sentences."""
    if len(arns) > 5:
        raise InvalidParameter("Cannot reference more than 5 layers.")
    region = site.layer_arn.split(":")[3]
    seen: dict[str, str] = {}
    found = []
    for arn in arns:
        if arn.split(":")[3] != region:
            raise InvalidParameter(
                f"Layers are not in the same region as the function. Layers are expected to be in region {region}."
            )
        base, _, number = arn.rpartition(":")
        layer = catalog.layers.get(base.removeprefix(site.layer_arn))
        version = layer.versions.get(int(number)) if layer is not None else None
        if version is None:
            raise InvalidParameter(f"Layer version {arn} does not exist.")
        if base in seen:
            raise InvalidParameter(
                "Two different versions of the same layer are not allowed to be referenced in the same function. "
                f"{seen[base]} and {arn} are versions of the same layer."
            )
        seen[base] = arn
        found.append(LayerSpec(arn, version.digest, version.size))
    return tuple(found)
