"""Event source mappings: which queue feeds which function."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from glowplug.runtime.catalog import Catalog, Stack
from glowplug.runtime.contents import Definition
from glowplug.runtime.errors import (
    Conflict,
    DefinitionError,
    InvalidParameter,
    InvalidPattern,
    NotSupported,
    ResourceNotFound,
)
from glowplug.runtime.events.mapping.settings import KIND
from glowplug.runtime.events.patterns import compile_pattern
from glowplug.runtime.wantedqueues import WantedMapping, mapping_id_of, mapping_of

from .site import Site

_STREAMS = ("kinesis", "dynamodb")
_POSITIONS = {"kinesis": ("LATEST", "AT_TIMESTAMP", "TRIM_HORIZON"), "dynamodb": ("LATEST", "TRIM_HORIZON")}
_SETTINGS = tuple(
    "BatchSize MaximumBatchingWindowInSeconds FilterCriteria FunctionResponseTypes ScalingConfig "
    "KMSKeyArn MetricsConfig ProvisionedPollerConfig".split()
)


_NOT_OF_QUEUES = tuple(
    "DestinationConfig ParallelizationFactor StartingPosition StartingPositionTimestamp MaximumRecordAgeInSeconds "
    "BisectBatchOnFunctionError MaximumRetryAttempts TumblingWindowInSeconds Topics Queues SourceAccessConfigurations "
    "SelfManagedEventSource AmazonManagedKafkaEventSourceConfig SelfManagedKafkaEventSourceConfig "
    "DocumentDBEventSourceConfig LoggingConfig".split()
)


def create(catalog: Catalog, given: Mapping[str, Any], function_arn: str, site: Site) -> tuple[Catalog, dict[str, Any]]:
    """Make a mapping; ``function_arn`` is as the caller qualified it. Raises ``InvalidParameter``, ``Conflict``, or
    ``NotSupported`` for a source that nothing here polls."""
    name = function_arn.removeprefix(site.function_arn).partition(":")[0]
    source = given.get("EventSourceArn")
    kafka = given.get("SelfManagedEventSource")
    if not source and not kafka:
        raise InvalidParameter("Unrecognized event source.")
    if kafka and not given.get("SourceAccessConfigurations"):
        raise InvalidParameter("Required 'sourceAccessConfigurations' parameter is missing.")
    service = str(source).split(":")[2] if source else "kafka"
    if service in _STREAMS:
        _check_position(service, str(source), given.get("StartingPosition"))
    if name not in catalog.functions:
        raise InvalidParameter("Function does not exist")
    if service == "sqs":
        _refuse_others(given)
    else:
        raise NotSupported(f"Event source mappings of {service} are not supported: sqs is")
    _check_batches(given)
    check_filters(given)
    _refuse_second(catalog, str(source), function_arn, name)
    uuid = site.new_id()
    mapping = {
        "UUID": uuid,
        "BatchSize": 10,
        "MaximumBatchingWindowInSeconds": 0,
        "FunctionResponseTypes": [],
        **{key: given[key] for key in _SETTINGS if given.get(key) is not None},
        "EventSourceArn": source,
        "EventSourceMappingArn": _arn(site, uuid),
        "FunctionArn": function_arn,
        "LastModified": site.unix_s,
        "State": "Enabled" if given.get("Enabled", True) else "Disabled",
        "StateTransitionReason": "USER_INITIATED",
        "Tags": dict(given.get("Tags") or {}),
    }
    return catalog.with_document(f"{KIND}/{uuid}", mapping), mapping


def update(
    catalog: Catalog, uuid: str, given: Mapping[str, Any], function_arn: str | None, site: Site
) -> tuple[Catalog, dict[str, Any]]:
    """Change a mapping: what is not given stays. Raises ``ResourceNotFound``, ``InvalidParameter`` or ``Conflict``."""
    known = get(catalog, uuid)
    name = (function_arn or known["FunctionArn"]).removeprefix(site.function_arn).partition(":")[0]
    if function_arn is not None and name not in catalog.functions:
        raise InvalidParameter("Function does not exist")
    _refuse_others(given)
    chosen = {key: given[key] for key in _SETTINGS if given.get(key) is not None}
    mapping = {**known, **chosen, "LastModified": site.unix_s}
    _check_batches(mapping)
    check_filters(mapping)
    if function_arn is not None:
        _refuse_second(catalog, known["EventSourceArn"], function_arn, name, but=uuid)
        mapping["FunctionArn"] = function_arn
    if given.get("Enabled") is not None:
        mapping["State"] = "Enabled" if given["Enabled"] else "Disabled"
    return catalog.with_document(f"{KIND}/{uuid}", mapping), mapping


def delete(catalog: Catalog, uuid: str) -> tuple[Catalog, dict[str, Any]]:
    """Delete a mapping and return it as it was. Raises ``ResourceNotFound``."""
    known = get(catalog, uuid)
    return catalog.with_document(f"{KIND}/{uuid}", None), dict(known)


def get(catalog: Catalog, uuid: str) -> Mapping[str, Any]:
    """Return a mapping. Raises ``ResourceNotFound``."""
    known = catalog.documents.get(f"{KIND}/{uuid}")
    if known is None:
        raise ResourceNotFound("The resource you requested does not exist.")
    return known


def _refuse_second(catalog: Catalog, source: str, function_arn: str, name: str, but: str = "") -> None:
    """Refuse a second mapping of the same queue and function, ``but`` for the mapping that is changed."""
    for one in _all(catalog):
        if one["UUID"] != but and _same(one, source, function_arn):
            raise Conflict(
                f'An event source mapping with SQS arn (" {source} ") and function (" {name} ") already exists. Please '
                f"update or delete the existing mapping with UUID {one['UUID']}"
            )


def put_mappings(
    catalog: Catalog, stack: str, wanted: Mapping[str, Definition], before: Stack | None, site: Site
) -> tuple[Catalog, dict[str, str]]:
    """Make a stack's mappings what its template says; return their UUIDs by logical id.

    Raises ``DefinitionError`` for a function that is not there, ``Conflict`` where another mapping has the same queue
    and function.
    """
    ids = {logical_id: mapping_id_of(stack, logical_id) for logical_id in wanted}
    catalog = without_mappings(catalog, set(before.names.mappings.values()) - set(ids.values()) if before else ())
    for logical_id, definition in wanted.items():
        one, uuid = mapping_of(definition, logical_id), ids[logical_id]
        name, _, qualifier = one.function.partition(":")
        function = catalog.functions.get(name)
        if function is None or (qualifier and not function.versions_of(qualifier)):
            raise DefinitionError(f"{logical_id}.FunctionName", f"there is no function {one.function}")
        made = of_stack(stack, uuid, one, site)
        others = [
            known for known in _all(catalog) if known["UUID"] != uuid and _same(known, one.source, made["FunctionArn"])
        ]
        if others:
            raise Conflict(f"{logical_id}: the mapping {others[0]['UUID']} has this queue and function already")
        known = catalog.documents.get(f"{KIND}/{uuid}")
        if known is None or {**known, "LastModified": None} != {**made, "LastModified": None}:
            catalog = catalog.with_document(f"{KIND}/{uuid}", {**made, "LastModified": site.unix_s})
    return catalog, ids


def of_stack(stack: str, uuid: str, wanted: WantedMapping, site: Site) -> dict[str, Any]:
    """Return what a mapping of a stack is, but for its time."""
    return {
        "UUID": uuid,
        **wanted.settings,
        "EventSourceArn": wanted.source,
        "EventSourceMappingArn": _arn(site, uuid),
        "FunctionArn": f"{site.function_arn}{wanted.function}",
        "State": "Enabled" if wanted.enabled else "Disabled",
        "StateTransitionReason": "USER_INITIATED",
        "Tags": dict(wanted.tags),
        "Stack": stack,
    }


def without_mappings(catalog: Catalog, uuids: Iterable[str]) -> Catalog:
    """Return the catalog without these mappings."""
    for uuid in uuids:
        catalog = catalog.with_document(f"{KIND}/{uuid}", None)
    return catalog


def _all(catalog: Catalog) -> Iterator[Mapping[str, Any]]:
    return (one for key, one in catalog.documents.items() if key.startswith(f"{KIND}/"))


def _arn(site: Site, uuid: str) -> str:
    return f"{site.function_arn.removesuffix('function:')}{KIND}:{uuid}"


def check_filters(given: Mapping[str, Any]) -> None:
    """Raise ``InvalidParameter`` for a filter that is no EventBridge pattern: AWS's sentence, and where it is wrong."""
    for one in (given.get("FilterCriteria") or {}).get("Filters") or ():
        try:
            compile_pattern(one.get("Pattern") or "{}")
        except InvalidPattern as error:
            place = f"{error.place}: " if error.place else ""
            raise InvalidParameter(f"Invalid filter pattern definition. {place}{error.problem}") from error


def _refuse_others(given: Mapping[str, Any]) -> None:
    """Raise ``InvalidParameter`` for what only mappings of streams and of Kafka have."""
    for name in _NOT_OF_QUEUES:
        if given.get(name) is not None:
            raise InvalidParameter(f"Unsupported {name} parameter for given event source mapping type.")


def _check_position(service: str, source: str, position: object) -> None:
    if position is None:
        raise InvalidParameter(
            "1 validation error detected: Value null at 'startingPosition' failed to satisfy constraint: Member must "
            "not be null."
        )
    if position not in _POSITIONS[service]:
        raise InvalidParameter(f"Unsupported starting position for arn type: {source}")


def _check_batches(given: Mapping[str, Any]) -> None:
    size, window = given.get("BatchSize") or 10, given.get("MaximumBatchingWindowInSeconds") or 0
    if str(given.get("EventSourceArn")).endswith(".fifo"):
        if size > 10:
            raise InvalidParameter("Batch size must be less than or equal to 10 for FIFO queues.")
        if window:
            raise InvalidParameter("Maximum batch window in seconds is not supported for FIFO queues.")
    elif size > 10 and not window:
        raise InvalidParameter(
            "Maximum batch window in seconds must be greater than 0 if maximum batch size is greater than 10"
        )
    if given.get("ProvisionedPollerConfig") and given.get("ScalingConfig"):
        raise InvalidParameter("ProvisionedPollerConfig and MaximumConcurrency exclude each other.")


def _same(mapping: Mapping[str, Any], source: object, function_arn: str) -> bool:
    return (mapping["EventSourceArn"], mapping["FunctionArn"]) == (source, function_arn)
