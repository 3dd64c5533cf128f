"""Layers: versions published and deleted. A deleted version stays with the functions that have it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from glowplug.runtime.catalog import Catalog, Layer, LayerVersion
from glowplug.runtime.errors import InvalidParameter, ResourceNotFound

from .site import Site


@dataclass(frozen=True, slots=True)
class NewLayer:
    """What PublishLayerVersion asks for; ``digest`` and ``size`` are of its zip."""

    name: str
    digest: str
    size: int
    description: str
    runtimes: tuple[str, ...] | None
    architectures: tuple[str, ...] | None
    license: str


def publish(catalog: Catalog, new: NewLayer, site: Site) -> tuple[Catalog, LayerVersion]:
    """Publish a version; unlike a function's it is a new one each time."""
    layer = catalog.layers.get(new.name) or Layer(new.name)
    version = LayerVersion(
        version=layer.next_version,
        digest=new.digest,
        size=new.size,
        created=site.now,
        description=new.description,
        runtimes=new.runtimes or (),
        architectures=new.architectures or (),
        license=new.license,
    )
    versions = {**layer.versions, version.version: version}
    return catalog.with_layer(replace(layer, next_version=version.version + 1, versions=versions)), version


def delete(catalog: Catalog, name: str, number: int) -> tuple[Catalog, None]:
    """Delete a version; one that is not there is deleted without a word (recorded). Raises ``InvalidParameter``."""
    check_number(number)
    layer = catalog.layers.get(name)
    if layer is None or number not in layer.versions:
        return catalog, None
    kept = {known: version for known, version in layer.versions.items() if known != number}
    return catalog.with_layer(replace(layer, versions=kept)), None


def get(catalog: Catalog, name: str, number: int) -> LayerVersion:
    """Return a version. Raises ``InvalidParameter`` or ``ResourceNotFound``."""
    check_number(number)
    layer = catalog.layers.get(name)
    version = None if layer is None else layer.versions.get(number)
    if version is None:
        raise ResourceNotFound("The resource you requested does not exist.")
    return version


def of_stack(catalog: Catalog, name: str) -> dict[str, str]:
    """Return the numbers of the versions that a stack's layers are at, by logical id."""
    stack = catalog.stacks.get(name)
    found = {} if stack is None else {key: catalog.layers[layer] for key, layer in stack.names.layers.items()}
    return {key: str(max(one.versions)) for key, one in found.items() if one.versions}


def check_number(number: int) -> None:
    """Raise ``InvalidParameter`` for a number that no version can have."""
    if number < 1:
        raise InvalidParameter("Layer Version Cannot be less than 1")
