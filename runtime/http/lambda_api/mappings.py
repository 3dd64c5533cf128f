"""Operations on event source mappings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.events.mapping.pollers import MappingStatus
from glowplug.runtime.events.mapping.settings import KIND
from glowplug.runtime.http import names
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import mappings

from .call import Call, Services
from .constraints import ARN, Body, between, matches, missing, no_longer, one_of, refuse
from .pages import page

_PATTERN_MOST = 4096
_POSITIONS = ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON")


async def create_event_source_mapping(services: Services, call: Call) -> Reply:
    """Answer CreateEventSourceMapping. Everything but the queue is checked before anybody is asked for the queue."""
    body, site = await services.body(call), services.site()
    refuse(
        missing(body.text("FunctionName"), "functionName"),
        one_of(body.text("StartingPosition"), "startingPosition", _POSITIONS),
        matches(body.text("EventSourceArn"), "eventSourceArn", ARN),
    )
    _check(body)
    arn = _function_arn(services, body) or ""

    def decide(catalog: Catalog) -> tuple[Catalog, dict[str, Any]]:
        return mappings.create(catalog, body.values, arn, site)

    _, wanted = decide(services.deployments.catalog)
    await _check_queue(services, wanted)
    mapping = await services.deployments.change(decide, about="create mapping")
    state = "Creating" if mapping["State"] == "Enabled" else "Disabled"
    return json_reply({**_shown(mapping), "State": state}, 202)


async def get_event_source_mapping(services: Services, call: Call) -> Reply:
    """Answer GetEventSourceMapping."""
    mapping = mappings.get(services.deployments.catalog, call.path["UUID"])
    return json_reply(_shown(mapping, services.pollers.status(call.path["UUID"])))


async def update_event_source_mapping(services: Services, call: Call) -> Reply:
    """Answer UpdateEventSourceMapping."""
    body, site, uuid = await services.body(call), services.site(), call.path["UUID"]
    _check(body)
    before = mappings.get(services.deployments.catalog, uuid)
    arn = _function_arn(services, body)

    def decide(catalog: Catalog) -> tuple[Catalog, dict[str, Any]]:
        return mappings.update(catalog, uuid, body.values, arn, site)

    _, wanted = decide(services.deployments.catalog)
    if arn is not None or body.flag("Enabled"):
        await _check_queue(services, wanted)
    mapping = await services.deployments.change(decide, about="update mapping")
    state = {"Enabled": "Enabling", "Disabled": "Disabling"}[mapping["State"]]
    return json_reply({**_shown(mapping), "State": "Updating" if mapping["State"] == before["State"] else state}, 202)


async def delete_event_source_mapping(services: Services, call: Call) -> Reply:
    """Answer DeleteEventSourceMapping."""
    uuid = call.path["UUID"]
    mapping = await services.deployments.change(lambda catalog: mappings.delete(catalog, uuid), about="delete mapping")
    return json_reply({**_shown(mapping), "State": "Deleting"}, 202)


async def list_event_source_mappings(services: Services, call: Call) -> Reply:
    """Answer ListEventSourceMappings, of a function or of a source where that is asked for."""
    source, asked = call.query("EventSourceArn"), call.query("FunctionName")
    arn = None
    if asked is not None:
        arn = names.parse(asked, None, region=services.region, account_id=services.account_id).arn
    found = [
        document
        for key, document in services.deployments.catalog.documents.items()
        if key.startswith(f"{KIND}/")
        and source in (None, document["EventSourceArn"])
        and (arn is None or document["FunctionArn"] == arn)
    ]

    def shown(mapping: Mapping[str, Any]) -> dict[str, Any]:
        return _shown(mapping, services.pollers.status(mapping["UUID"]))

    return json_reply(page(call, "EventSourceMappings", found, lambda one: str(one["UUID"]), shown, cap=100))


async def _check_queue(services: Services, mapping: Mapping[str, Any]) -> None:
    name, _, qualifier = str(mapping["FunctionArn"]).removeprefix(services.arn_prefix).partition(":")
    timeout_s = services.directory.target(name, qualifier or LATEST).spec.timeout_s
    await services.sources.check(str(mapping["EventSourceArn"]), timeout_s)


def _check(body: Body) -> None:
    criteria = body.section("FilterCriteria").maps("Filters")
    if criteria is not None and len(criteria) > 5:
        raise InvalidParameter("Filters: 5 at most")
    scaling = body.section("ScalingConfig").whole("MaximumConcurrency")
    refuse(
        *(
            no_longer(Body(one).text("Pattern"), f"filterCriteria.filters.{number}.member.pattern", _PATTERN_MOST)
            for number, one in enumerate(criteria or (), 1)
        ),
        between(body.whole("BatchSize"), "batchSize", 1, 10000),
        between(body.whole("MaximumBatchingWindowInSeconds"), "maximumBatchingWindowInSeconds", 0, 300),
        between(scaling, "scalingConfig.maximumConcurrency", 2, 1000),
        *(
            one_of(kind, "functionResponseTypes", ("ReportBatchItemFailures",))
            for kind in body.texts("FunctionResponseTypes") or ()
        ),
    )


def _function_arn(services: Services, body: Body) -> str | None:
    given = body.text("FunctionName")
    if given is None:
        return None
    return names.parse(given, None, region=services.region, account_id=services.account_id).arn


def _shown(mapping: Mapping[str, Any], status: MappingStatus | None = None) -> dict[str, Any]:
    """Return a mapping as the API shows it; with ``status``, what its poller says of itself."""
    shown = {name: value for name, value in mapping.items() if name not in ("Tags", "Stack")}
    if status is None:
        return shown
    if status.draining and mapping["State"] == "Disabled":
        shown["State"] = "Disabling"
    if status.problem:
        shown["StateTransitionReason"] = status.problem
    if status.last_result:
        shown["LastProcessingResult"] = status.last_result
    return shown
