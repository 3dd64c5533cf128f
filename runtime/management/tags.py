"""Tags of functions."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import InvalidParameter

from .site import Site
from .updates import existing

MAX_TAGS = 50


def tag(catalog: Catalog, name: str, tags: Mapping[str, str], site: Site) -> tuple[Catalog, None]:
    """Add tags to a function, over those of the same key. Raises ``FunctionNotFound`` or ``InvalidParameter``."""
    function = existing(catalog, name, site)
    if not tags:
        raise InvalidParameter("An error occurred and the request cannot be processed.")
    merged = {**function.tags, **tags}
    if len(merged) > MAX_TAGS:
        raise InvalidParameter("Number of tags exceeds resource tag limit.")
    latest = replace(function.latest, revision_id=site.new_id())
    return catalog.with_function(replace(function, tags=merged, latest=latest)), None


def untag(catalog: Catalog, name: str, keys: Collection[str], site: Site) -> tuple[Catalog, None]:
    """Take tags from a function; those that it has not are no matter. Raises ``FunctionNotFound``."""
    function = existing(catalog, name, site)
    left = {key: value for key, value in function.tags.items() if key not in keys}
    latest = replace(function.latest, revision_id=site.new_id())
    return catalog.with_function(replace(function, tags=left, latest=latest)), None
