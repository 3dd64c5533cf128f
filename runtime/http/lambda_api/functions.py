"""Operations on functions: what there is, and how it is configured."""

from __future__ import annotations

from glowplug.runtime.catalog import Version
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http import names
from glowplug.runtime.http.messages import Reply, json_reply

from .call import Call, Services
from .describe import configuration_of

_PAGE = 50  # ListFunctions' default and cap (botocore model)


async def list_functions(services: Services, call: Call) -> Reply:
    """Answer ListFunctions. The marker is the name of the last function of the page before."""
    asked = call.query("MaxItems")
    try:
        size = _PAGE if asked is None else min(int(asked), _PAGE)
    except ValueError:
        raise InvalidParameter(f"MaxItems: {asked!r} is not a number") from None
    if size < 1:
        raise InvalidParameter(f"MaxItems: {size} is less than 1")
    marker = call.query("Marker") or ""
    catalog = services.deployments.catalog
    left = [catalog.functions[name] for name in sorted(catalog.functions) if name > marker]
    page: dict[str, object] = {"Functions": [_describe(services, one.latest, "") for one in left[:size]]}
    if len(left) > size:
        page["NextMarker"] = left[size - 1].name
    return json_reply(page)


async def get_function(services: Services, call: Call) -> Reply:
    """Answer GetFunction."""
    return json_reply({"Configuration": _configuration(services, call), "Code": {"RepositoryType": "S3"}})


async def get_function_configuration(services: Services, call: Call) -> Reply:
    """Answer GetFunctionConfiguration."""
    return json_reply(_configuration(services, call))


def _configuration(services: Services, call: Call) -> dict[str, object]:
    ref = services.parse(call)
    suffix = f":{ref.qualifier}" if ref.arn.endswith(f":{ref.qualifier}") else ""
    if ref.qualifier == names.LATEST:
        return _describe(services, services.directory.get(ref.name).latest, suffix)
    return _describe(services, services.directory.target(ref.name, ref.qualifier), suffix)


def _describe(services: Services, version: Version, suffix: str) -> dict[str, object]:
    arn = f"{services.arn_prefix}{version.spec.name}{suffix}"
    return configuration_of(version, arn, region=services.region, account_id=services.account_id)
