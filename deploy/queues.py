"""Queues of a template, and the event source mappings that it has or SAM makes of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wantedqueues import QUEUE_NUMBERS, mapping_of, queue_of

from .definitions import typed
from .errors import TemplateError
from .resources import Resources, unpublished
from .supported import LAMBDA_MAPPING, QUEUE
from .supported_events import MAPPING_PROPERTIES
from .template import KeyPath, Template

_QUEUE = frozenset({*QUEUE_NUMBERS, "FifoQueue", "ContentBasedDeduplication", "RedrivePolicy", "Tags"})
_POLICIES = ("DeletionPolicy", "UpdateReplacePolicy")


@dataclass(frozen=True, slots=True)
class Queues:
    """The queues and the mappings of a template by logical id, as the node takes them."""

    queues: Mapping[str, Mapping[str, Any]]
    mappings: Mapping[str, Mapping[str, Any]]


def queues_of(template: Template, resources: Resources) -> Queues:
    """Read both. Raises ``TemplateError`` naming file and line."""
    queues = {logical_id: _queue(template, resources, logical_id) for logical_id in resources.of_type(QUEUE)}
    mappings = {
        logical_id: _mapping(template, resources, logical_id) for logical_id in resources.of_type(LAMBDA_MAPPING)
    }
    names: dict[str, str] = {}
    for logical_id, queue in queues.items():
        _checked(template, logical_id, queue, queue_of)
        if (other := names.setdefault(queue["QueueName"], logical_id)) != logical_id:
            problem = f"{queue['QueueName']} is already the name of {other}"
            raise in_template(template, logical_id, DefinitionError("QueueName", problem))
    for logical_id, mapping in mappings.items():
        _checked(template, logical_id, mapping, mapping_of)
    return Queues(queues, mappings)


def in_template(template: Template, logical_id: str, error: DefinitionError) -> TemplateError:
    """Return the refusal of a queue's or a mapping's field as an error of the template: at the resource, or at the
    event that the mapping was made of."""
    parts = tuple(error.field.split("."))
    path = _written(template, logical_id)
    if parts[0] in _POLICIES:
        return template.error((*path[:2], *parts), error.problem)
    if path[2:3] == ("Properties",) and len(path) == 6 and parts[0] in ("EventSourceArn", "FunctionName"):
        parts = ("Queue",)  # of an event, whose function is the one that it stands in
    return template.error((*path, *parts), error.problem)


def _written(template: Template, logical_id: str) -> KeyPath:
    """Return where the properties of a resource are written. SAM calls a mapping by its function and its event."""
    if template.get(("Resources", logical_id)) is None:
        for function, resource in (template.get(("Resources",)) or {}).items():
            for event in (resource.get("Properties") or {}).get("Events") or {}:
                if f"{function}{event}" == logical_id:
                    return ("Resources", function, "Properties", "Events", event, "Properties")
    return ("Resources", logical_id, "Properties")


def _queue(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    path = _written(template, logical_id)
    given = dict(resources.intrinsics.evaluate(dict(resources.properties(logical_id)), path))
    definition = {name: typed(value, name) for name, value in given.items() if name in _QUEUE and value is not None}
    definition["QueueName"] = resources.queue_name(logical_id)
    if isinstance(tags := definition.get("Tags"), list):
        definition["Tags"] = _tags(template, (*path, "Tags"), tags)
    policies = {name: resources.given(logical_id, name) for name in _POLICIES}
    return definition | {name: value for name, value in policies.items() if value is not None}


def _mapping(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    path = _written(template, logical_id)
    given = resources.properties(logical_id)
    target = resources.target(logical_id, "FunctionName")
    names = {"EventSourceArn", *MAPPING_PROPERTIES}
    chosen = {name: value for name, value in given.items() if name in names}
    evaluated = resources.intrinsics.evaluate(chosen, path)
    definition = {name: typed(value, name) for name, value in evaluated.items() if value is not None}
    if unpublished(target.qualifier):
        raise in_template(
            template, logical_id, DefinitionError("FunctionName", "is a version: give an alias, which can move")
        )
    definition["FunctionName"] = f"{target.name}:{target.qualifier}" if target.qualifier else target.name
    tags = resources.intrinsics.evaluate(given.get("Tags"), (*path, "Tags"))
    if tags:
        definition["Tags"] = _tags(template, (*path, "Tags"), tags)
    return definition


def _tags(template: Template, path: KeyPath, tags: Any) -> dict[str, str]:
    if isinstance(tags, Mapping):
        return {str(key): str(value) for key, value in tags.items()}
    if not isinstance(tags, list) or not all(
        isinstance(one, Mapping) and one.keys() == {"Key", "Value"} for one in tags
    ):
        raise template.error(path, "must be a list of mappings with Key and Value")
    return {str(one["Key"]): str(one["Value"]) for one in tags}


def _checked(
    template: Template, logical_id: str, definition: Mapping[str, Any], read: Callable[[Mapping[str, Any]], object]
) -> None:
    try:
        read(definition)
    except DefinitionError as error:
        raise in_template(template, logical_id, error) from error
