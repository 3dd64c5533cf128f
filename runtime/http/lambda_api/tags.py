"""Operations on tags: of functions, of event source mappings, of capacity providers."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import InvalidParameter, NotSupported, ResourceNotFound
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import tags

from .call import Call, Services
from .constraints import matches, missing, refuse

_ARN = (
    r"arn:(aws[a-zA-Z-]*):lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:"
    r"(function:[a-zA-Z0-9-_]+(:(\$LATEST|[a-zA-Z0-9-_]+))?|layer:([a-zA-Z0-9-_]+)|"
    r"code-signing-config:csc-[a-z0-9]{17}|"
    r"event-source-mapping:[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}|"
    r"capacity-provider:[a-zA-Z0-9-_]+)"
)
_NAMES = {"event-source-mapping": "Event source mapping", "capacity-provider": "Capacity provider"}
_KIND = re.compile(r"arn:[^:]*:lambda:[^:]*:\d{12}:([a-z-]+):(.*)")


async def list_tags(services: Services, call: Call) -> Reply:
    """Answer ListTags."""
    kind, name = _target(call)
    if kind == "function":
        return json_reply({"Tags": dict(services.directory.get(name).tags)})
    return json_reply({"Tags": dict(_document(services.deployments.catalog, call, kind, name).get("Tags") or {})})


async def tag_resource(services: Services, call: Call) -> Reply:
    """Answer TagResource."""
    body = await services.body(call)
    given = body.string_map("Tags")
    refuse(missing(given, "tags"))
    kind, name = _target(call)
    site = services.site()
    if kind == "function":
        await services.deployments.change(lambda catalog: tags.tag(catalog, name, given or {}, site), about="tag")
    else:
        await _change(services, call, kind, name, lambda known: {**known, **(given or {})})
    return Reply(HTTPStatus.NO_CONTENT)


async def untag_resource(services: Services, call: Call) -> Reply:
    """Answer UntagResource."""
    keys = call.queries.get("tagKeys")
    refuse(missing(keys or None, "tagKeys"))
    kind, name = _target(call)
    site, gone = services.site(), set(keys or ())
    if kind == "function":
        await services.deployments.change(lambda catalog: tags.untag(catalog, name, gone, site), about="untag")
    else:
        await _change(services, call, kind, name, lambda known: {k: v for k, v in known.items() if k not in gone})
    return Reply(HTTPStatus.NO_CONTENT)


def _target(call: Call) -> tuple[str, str]:
    """Return (kind, name) of what an ARN names. Raises ``InvalidParameter`` for versions and aliases."""
    arn = call.path["ARN"]
    refuse(matches(arn, "resource", _ARN))
    found = _KIND.fullmatch(arn)
    kind, name = (found[1], found[2]) if found else ("", "")
    if kind == "function" and ":" in name:
        raise InvalidParameter(
            "Tags on function aliases and versions are not supported. Please specify a function ARN."
        )
    if kind not in ("function", *_NAMES):
        raise NotSupported(f"Tags of {kind} are not supported")
    return kind, name


def _document(catalog: Catalog, call: Call, kind: str, name: str) -> Mapping[str, Any]:
    document = catalog.documents.get(f"{kind}/{name}")
    if document is None:
        raise ResourceNotFound(f"{_NAMES[kind]} not found: {call.path['ARN']}")
    return document


async def _change(
    services: Services, call: Call, kind: str, name: str, change: Callable[[dict[str, str]], dict[str, str]]
) -> None:
    def decide(catalog: Catalog) -> tuple[Catalog, None]:
        document = _document(catalog, call, kind, name)
        merged = change(dict(document.get("Tags") or {}))
        return catalog.with_document(f"{kind}/{name}", {**document, "Tags": merged}), None

    await services.deployments.change(decide, about="tag")
