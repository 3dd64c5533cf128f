"""Operations on EventInvokeConfig."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from glowplug.runtime.errors import ResourceNotFound
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import eventinvoke

from .call import Call, Services
from .constraints import Body, between, matches, refuse
from .pages import page

_DESTINATION = (
    r"$|kafka://([^.]([a-zA-Z0-9\-_.]{0,248}))|arn:(aws[a-zA-Z0-9-]*):([a-zA-Z0-9\-])+:"
    r"((eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1})?:(\d{12})?:(.*)"
)


async def put_function_event_invoke_config(services: Services, call: Call) -> Reply:
    """Answer PutFunctionEventInvokeConfig."""
    ref, given, site = services.parse(call), await _given(services, call), services.site()
    stored = await services.deployments.change(
        lambda catalog: eventinvoke.put(catalog, ref.name, ref.qualifier, given, site), about="event invoke config"
    )
    return json_reply(_shown(services, ref.name, ref.qualifier, stored))


async def update_function_event_invoke_config(services: Services, call: Call) -> Reply:
    """Answer UpdateFunctionEventInvokeConfig."""
    ref, given, site = services.parse(call), await _given(services, call), services.site()
    stored = await services.deployments.change(
        lambda catalog: eventinvoke.update(catalog, ref.name, ref.qualifier, given, site), about="event invoke config"
    )
    return json_reply(_shown(services, ref.name, ref.qualifier, stored))


async def get_function_event_invoke_config(services: Services, call: Call) -> Reply:
    """Answer GetFunctionEventInvokeConfig."""
    ref = services.parse(call)
    function = services.deployments.catalog.functions.get(ref.name)
    stored = None if function is None else function.documents.get(f"event-invoke/{ref.qualifier}")
    if stored is None:
        raise eventinvoke.missing(ref.name, ref.qualifier, services.site())
    return json_reply(_shown(services, ref.name, ref.qualifier, stored))


async def delete_function_event_invoke_config(services: Services, call: Call) -> Reply:
    """Answer DeleteFunctionEventInvokeConfig."""
    ref, site = services.parse(call), services.site()
    await services.deployments.change(
        lambda catalog: eventinvoke.delete(catalog, ref.name, ref.qualifier, site), about="event invoke config"
    )
    return Reply(HTTPStatus.NO_CONTENT)


async def list_function_event_invoke_configs(services: Services, call: Call) -> Reply:
    """Answer ListFunctionEventInvokeConfigs."""
    ref = services.parse(call)
    function = services.deployments.catalog.functions.get(ref.name)
    if function is None:
        raise ResourceNotFound("The function doesn't exist.")
    stored = {
        key.partition("/")[2]: value for key, value in function.documents.items() if key.startswith("event-invoke/")
    }

    def show(qualifier: str) -> dict[str, Any]:
        return _shown(services, ref.name, qualifier, stored[qualifier])

    return json_reply(page(call, "FunctionEventInvokeConfigs", stored, str, show))


async def _given(services: Services, call: Call) -> dict[str, Any]:
    body = await services.body(call)
    retries, age = body.whole("MaximumRetryAttempts"), body.whole("MaximumEventAgeInSeconds")
    config = body.map("DestinationConfig")
    success, failure = _destination(body, "OnSuccess"), _destination(body, "OnFailure")
    refuse(
        between(retries, "maximumRetryAttempts", 0, 2),
        between(age, "maximumEventAgeInSeconds", 60, 21600),
        matches(success, "destinationConfig.onSuccess.destination", _DESTINATION),
        matches(failure, "destinationConfig.onFailure.destination", _DESTINATION),
    )
    given = {"MaximumRetryAttempts": retries, "MaximumEventAgeInSeconds": age, "DestinationConfig": config}
    return {name: value for name, value in given.items() if value is not None}


def _destination(body: Body, side: str) -> str | None:
    return body.section("DestinationConfig").section(side).text("Destination")


def _shown(services: Services, name: str, qualifier: str, stored: Mapping[str, Any]) -> dict[str, Any]:
    destinations = stored.get("DestinationConfig") or {}
    return {
        **{key: value for key, value in stored.items() if key != "DestinationConfig"},
        "LastModified": stored.get("LastModified", 0),
        "FunctionArn": f"{services.arn_prefix}{name}:{qualifier}",
        "DestinationConfig": {side: destinations.get(side) or {} for side in ("OnSuccess", "OnFailure")},
    }
