"""Function URLs: made, changed and taken back through the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog, Function, Url
from glowplug.runtime.errors import Conflict, FunctionNotFound, ResourceNotFound
from glowplug.runtime.spec import url_id_of

from .site import Site

CUSTOM_ID = "_custom_id_"
"""A tag of a function that fixes the id of its URL."""


@dataclass(frozen=True, slots=True)
class UrlChange:
    """What a URL is to be. None: what it is, or Lambda's default."""

    auth_type: str | None
    invoke_mode: str | None
    cors: Mapping[str, Any] | None


def create(catalog: Catalog, name: str, qualifier: str, wanted: UrlChange, site: Site) -> tuple[Catalog, Url]:
    """Give a function, or an alias, its URL. Raises ``FunctionNotFound``, or ``Conflict`` where it has one or its id
    is another's."""
    function = _function(catalog, name, qualifier)
    if qualifier in function.urls:
        arn = f"{site.function_arn}{name}{'' if qualifier == LATEST else f':{qualifier}'}"
        raise Conflict(
            f"Failed to create function url config for [functionArn = {arn}]. Error message:  "
            "FunctionUrlConfig exists for this Lambda function"
        )
    url = Url(
        url_id=url_id_for(function, qualifier),
        function=name,
        qualifier=qualifier,
        auth_type=wanted.auth_type or "NONE",
        invoke_mode=wanted.invoke_mode or "BUFFERED",
        cors=dict(wanted.cors or {}),
        created=site.iso,
        modified=site.iso,
    )
    taken = catalog.urls.get(url.url_id)
    if taken is not None:
        raise Conflict(f"The URL id {url.url_id} is taken by the function {taken.function}")
    return catalog.with_function(replace(function, urls={**function.urls, qualifier: url})), url


def update(catalog: Catalog, name: str, qualifier: str, change: UrlChange, site: Site) -> tuple[Catalog, Url]:
    """Change a URL; its id stays. Raises ``FunctionNotFound`` or ``ResourceNotFound``."""
    function = _function(catalog, name, qualifier)
    url = function.urls.get(qualifier)
    if url is None:
        raise not_there()
    made = replace(
        url,
        auth_type=url.auth_type if change.auth_type is None else change.auth_type,
        invoke_mode=url.invoke_mode if change.invoke_mode is None else change.invoke_mode,
        cors=url.cors if change.cors is None else dict(change.cors),
        modified=site.iso,
    )
    return catalog.with_function(replace(function, urls={**function.urls, qualifier: made})), made


def delete(catalog: Catalog, name: str, qualifier: str) -> tuple[Catalog, None]:
    """Take a URL back. Raises ``ResourceNotFound``."""
    function = catalog.functions.get(name)
    if function is None or qualifier not in function.urls:
        raise not_there()
    kept = {known: url for known, url in function.urls.items() if known != qualifier}
    return catalog.with_function(replace(function, urls=kept)), None


def not_there() -> ResourceNotFound:
    """Return the error of a URL that there is not."""
    return ResourceNotFound("The resource you requested does not exist.")


def url_id_for(function: Function, qualifier: str) -> str:
    """Return the id of the URL of a function's qualifier: of its name and alias, or what its tag says."""
    alias = "" if qualifier == LATEST else qualifier
    chosen = function.tags.get(CUSTOM_ID)
    return url_id_of(chosen or function.name, alias)


def _function(catalog: Catalog, name: str, qualifier: str) -> Function:
    function = catalog.functions.get(name)
    if function is None or (qualifier != LATEST and qualifier not in function.aliases):
        raise FunctionNotFound("Function does not exist")
    return function
