"""What a template asks for of queues and of event source mappings, read and checked; fields are CloudFormation's.

``deploy`` reads the same, so that a template is refused with file and line before anything is sent. A queue's
definition is ``{"QueueName": …, "VisibilityTimeout": 60, "RedrivePolicy": {"deadLetterTargetArn": …}, "DeletionPolicy":
"Retain"}``, a mapping's ``{"FunctionName": "jobs:live", "EventSourceArn": …, "BatchSize": 10, "Enabled": true}``.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from .errors import DefinitionError, InvalidPattern
from .events.patterns import compile_pattern
from .queue.model import QueueSettings
from .reader import Reader, kind

_NAME = re.compile(r"[A-Za-z0-9_-]{1,80}")
_ARN = re.compile(r"arn:aws[a-z-]*:(?P<service>[a-z0-9-]+):(?P<region>[a-z0-9-]*):(?P<account>\d*):(?P<name>.+)")
_FUNCTION = re.compile(r"[a-zA-Z0-9-_]{1,64}(:(\$LATEST|[a-zA-Z0-9-_]+))?")
QUEUE_NUMBERS: Mapping[str, tuple[str, int, int]] = {
    "VisibilityTimeout": ("visibility_s", 0, 43_200),
    "DelaySeconds": ("delay_s", 0, 900),
    "MessageRetentionPeriod": ("retention_s", 60, 1_209_600),
    "ReceiveMessageWaitTimeSeconds": ("wait_s", 0, 20),
    "MaximumMessageSize": ("max_message_bytes", 1_024, 1_048_576),
}
"""Properties that are numbers: the field of ``QueueSettings``, and SQS's bounds."""
_QUEUE = frozenset(
    {
        *QUEUE_NUMBERS, "QueueName", "FifoQueue", "ContentBasedDeduplication", "RedrivePolicy", "Tags",
        "DeletionPolicy", "UpdateReplacePolicy",
    }
)  # fmt: skip
_REDRIVE = frozenset({"deadLetterTargetArn", "maxReceiveCount"})
_MAPPING = frozenset(
    "FunctionName EventSourceArn BatchSize Enabled FilterCriteria FunctionResponseTypes "
    "MaximumBatchingWindowInSeconds ScalingConfig Tags".split()
)
_POLICIES = ("Delete", "Retain", "RetainExceptOnCreate")


@dataclass(frozen=True, slots=True)
class WantedQueue:
    """A queue of a template. ``dead_letter_arn`` is where messages go that were received too often, empty for nowhere;
    ``settings`` lack it. ``kept``: it stays, with its messages, when its stack names it no longer."""

    name: str
    settings: QueueSettings
    dead_letter_arn: str
    kept: bool


@dataclass(frozen=True, slots=True)
class WantedMapping:
    """A mapping of a template. ``function`` is a name, with a qualifier where one was given."""

    function: str
    source: str
    enabled: bool
    tags: Mapping[str, str]
    #: What the API calls it: BatchSize, FilterCriteria, ….
    settings: Mapping[str, Any]


def queue_of(definition: Mapping[str, Any], path: str = "") -> WantedQueue:
    """Read a queue. Raises ``DefinitionError`` with the field, below ``path``."""
    read = Reader(definition, path)
    read.only(_QUEUE)
    name = read.text("QueueName", required=True)
    fifo = _flag(read, "FifoQueue")
    if not _NAME.fullmatch(name.removesuffix(".fifo")) or len(name) > 80:
        raise DefinitionError(read.at("QueueName"), f"{name!r} does not match {_NAME.pattern}")
    if fifo != name.endswith(".fifo"):
        problem = "the name of a FIFO queue ends in .fifo, and no other queue's does"
        raise DefinitionError(read.at("QueueName"), problem)
    content = _flag(read, "ContentBasedDeduplication")
    if content and not fifo:
        raise DefinitionError(read.at("ContentBasedDeduplication"), "belongs to a FIFO queue")
    defaults = QueueSettings()
    numbers: dict[str, Any] = {
        field: read.whole(key, round(getattr(defaults, field)), low=low, high=high)
        for key, (field, low, high) in QUEUE_NUMBERS.items()
    }
    policies = [read.choice(name, _POLICIES, "Delete") for name in ("DeletionPolicy", "UpdateReplacePolicy")]
    redrive = read.section("RedrivePolicy", _REDRIVE)
    arn, most = "", None
    if redrive.values:
        arn = redrive.text("deadLetterTargetArn", required=True)
        if not arn.startswith("arn:"):
            raise DefinitionError(redrive.at("deadLetterTargetArn"), f"{arn!r} is not the ARN of a queue")
        if arn.endswith(".fifo") != fifo:
            raise DefinitionError(redrive.at("deadLetterTargetArn"), "must be a queue of the same type")
        if "maxReceiveCount" not in redrive.values:
            raise DefinitionError(redrive.at("maxReceiveCount"), "is missing")
        most = redrive.whole("maxReceiveCount", 1, low=1, high=1000)
    settings = replace(
        defaults, **numbers, fifo=fifo, content_deduplication=content, max_receives=most, tags=_texts(read, "Tags")
    )
    return WantedQueue(name, settings, arn, kept=any(policy != "Delete" for policy in policies))


def differing_settings(held: QueueSettings, wanted: QueueSettings) -> tuple[str, ...]:
    """Return the names of what differs between two queues that a stack can have, as a template calls it."""
    names = {field: name for name, (field, _, _) in QUEUE_NUMBERS.items()} | {
        "max_receives": "RedrivePolicy", "dead_letter": "RedrivePolicy", "fifo": "FifoQueue",
        "content_deduplication": "ContentBasedDeduplication", "owner": "DeletionPolicy",
    }  # fmt: skip
    found = [name for field, name in names.items() if getattr(held, field) != getattr(wanted, field)]
    for prefix, before, after in (("Tags.", held.tags, wanted.tags), ("", held.extra, wanted.extra)):
        found += sorted(f"{prefix}{key}" for key in before.keys() | after.keys() if before.get(key) != after.get(key))
    return tuple(dict.fromkeys(found))


def mapping_of(definition: Mapping[str, Any], path: str = "") -> WantedMapping:
    """Read a mapping. Raises ``DefinitionError`` with the field, below ``path``."""
    read = Reader(definition, path)
    read.only(_MAPPING)
    function = read.text("FunctionName", required=True)
    if not _FUNCTION.fullmatch(function):
        raise DefinitionError(read.at("FunctionName"), f"{function!r} is no function's name")
    source = read.text("EventSourceArn", required=True)
    found = _ARN.fullmatch(source)
    if found is None:
        raise DefinitionError(read.at("EventSourceArn"), f"{source!r} is not the ARN of a queue")
    if found["service"] != "sqs":
        raise DefinitionError(
            read.at("EventSourceArn"), f"event sources of {found['service']} are not supported; sqs is"
        )
    fifo = source.endswith(".fifo")
    size = read.whole("BatchSize", 10, low=1, high=10 if fifo else 10_000)
    window = read.whole("MaximumBatchingWindowInSeconds", 0, low=0, high=300)
    if window and fifo:
        raise DefinitionError(read.at("MaximumBatchingWindowInSeconds"), "is not supported for FIFO queues")
    if size > 10 and not window:
        problem = "more than 10 need a MaximumBatchingWindowInSeconds of 1 or more"
        raise DefinitionError(read.at("BatchSize"), problem)
    settings: dict[str, Any] = {"BatchSize": size, "MaximumBatchingWindowInSeconds": window}
    types = read.values.get("FunctionResponseTypes") or []
    if types not in ([], ["ReportBatchItemFailures"]):
        raise DefinitionError(read.at("FunctionResponseTypes"), f"must be [ReportBatchItemFailures], not {types!r}")
    settings["FunctionResponseTypes"] = types
    scaling = read.section("ScalingConfig", frozenset({"MaximumConcurrency"}))
    if scaling.values.get("MaximumConcurrency") is not None:
        settings["ScalingConfig"] = {"MaximumConcurrency": scaling.whole("MaximumConcurrency", 2, low=2, high=1000)}
    if filters := _filters(read.section("FilterCriteria", frozenset({"Filters"}))):
        settings["FilterCriteria"] = {"Filters": filters}
    return WantedMapping(function, source, _flag(read, "Enabled", default=True), _texts(read, "Tags"), settings)


def mapping_id_of(stack: str, logical_id: str) -> str:
    """Return the UUID of the mapping that a template calls ``logical_id``: the same at every deploy."""
    return str(uuid.uuid5(uuid.NAMESPACE_OID, f"event-source-mapping/{stack}/{logical_id}"))


def _filters(criteria: Reader) -> list[dict[str, str]]:
    """Return the filters of a FilterCriteria. A pattern may be text or, as YAML allows it, an object."""
    given = criteria.values.get("Filters") or []
    if not isinstance(given, list) or len(given) > 5:
        raise DefinitionError(criteria.at("Filters"), "must be a list of at most 5")
    found = []
    for number, one in enumerate(given):
        section = Reader(one, f"{criteria.at('Filters')}.{number}")
        section.only({"Pattern"})
        pattern = section.values.get("Pattern")
        text = pattern if isinstance(pattern, str) else json.dumps(pattern)
        try:
            compile_pattern(text)
        except InvalidPattern as error:
            place = f"{error.place}: " if error.place else ""
            raise DefinitionError(section.at("Pattern"), f"{place}{error.problem}") from error
        found.append({"Pattern": text})
    return found


def _flag(read: Reader, name: str, *, default: bool = False) -> bool:
    value = read.values.get(name, default)
    if not isinstance(value, bool):
        raise DefinitionError(read.at(name), f"must be true or false, not {kind(value)}")
    return value


def _texts(read: Reader, name: str) -> dict[str, str]:
    values = Reader(read.values.get(name) or {}, read.at(name))
    return {key: values.text(key) for key in values.values}
