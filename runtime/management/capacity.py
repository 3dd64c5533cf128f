"""Capacity providers: kept for tools that manage them. A node has one machine, so they change nothing here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glowplug.runtime.catalog import Catalog, Function, Version
from glowplug.runtime.errors import Conflict, ResourceNotFound

from .site import Site

Document = Mapping[str, Any]


def arn_of(site: Site, name: str) -> str:
    """Return the ARN of the capacity provider ``name``."""
    return f"{site.function_arn.removesuffix('function:')}capacity-provider:{name}"


def find(catalog: Catalog, name: str, site: Site) -> Document:
    """Return what is kept of a capacity provider. Raises ``ResourceNotFound``."""
    document = catalog.documents.get(f"capacity-provider/{name}")
    if document is None:
        raise ResourceNotFound(f"Capacity provider not found: {arn_of(site, name)}")
    return document


def create(catalog: Catalog, name: str, given: Document, site: Site) -> tuple[Catalog, Document]:
    """Keep a new one. Raises ``Conflict`` where there is one of that name."""
    if f"capacity-provider/{name}" in catalog.documents:
        raise Conflict(f"Capacity provider already exists: {arn_of(site, name)}")
    document = {**given, "LastModified": site.now}
    return catalog.with_document(f"capacity-provider/{name}", document), document


def update(catalog: Catalog, name: str, given: Document, site: Site) -> tuple[Catalog, Document]:
    """Replace the parts that are given. Raises ``ResourceNotFound``."""
    document = {**find(catalog, name, site), **given, "LastModified": site.now}
    return catalog.with_document(f"capacity-provider/{name}", document), document


def delete(catalog: Catalog, name: str, site: Site) -> tuple[Catalog, Document]:
    """Forget one, and return what it was. Raises ``ResourceNotFound``, and ``Conflict`` while a function names it."""
    document = find(catalog, name, site)
    users = users_of(catalog, name, site)
    if users:
        function, version = users[0]
        raise Conflict(f"Capacity provider {arn_of(site, name)} is in use by {function.name}:{version.number}")
    return catalog.with_document(f"capacity-provider/{name}", None), document


def users_of(catalog: Catalog, name: str, site: Site) -> list[tuple[Function, Version]]:
    """Return the functions' versions whose CapacityProviderConfig names this one."""
    arn = arn_of(site, name)
    return [
        (function, version)
        for _, function in sorted(catalog.functions.items())
        for version in function.all_versions()
        if _named(version.settings) in (arn, name)
    ]


def _named(settings: Mapping[str, Any]) -> Any:
    config = settings.get("CapacityProviderConfig") or {}
    managed = config.get("LambdaManagedInstancesCapacityProviderConfig") or config
    return managed.get("CapacityProviderArn") or managed.get("Arn")
