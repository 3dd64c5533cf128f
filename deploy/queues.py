"""Queues of a template, and the event source mappings that it has or SAM makes of events."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.wantedqueues import mapping_of, queue_of

from .definitions import tags_of, typed
from .errors import TemplateError
from .places import of_an_event, properties_at
from .resources import Resources
from .supported import LAMBDA_MAPPING, QUEUE, QUEUE_PROPERTIES
from .supported_events import MAPPING_PROPERTIES
from .template import Template
from .versionnumbers import unpublished

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
    path = properties_at(template, logical_id)
    if parts[0] in _POLICIES:
        return template.error((*path[:2], *parts), error.problem)
    if of_an_event(path) and parts[0] in ("EventSourceArn", "FunctionName"):
        parts = ("Queue",)  # of an event, whose function is the one that it stands in
    return template.error((*path, *parts), error.problem)


def _queue(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    path = properties_at(template, logical_id)
    properties = resources.properties(logical_id)
    chosen = {name: value for name, value in properties.items() if name in QUEUE_PROPERTIES - {"QueueName", "Tags"}}
    evaluated = resources.intrinsics.evaluate(chosen, path)
    definition = {name: typed(value, name) for name, value in evaluated.items() if value is not None}
    definition["QueueName"] = resources.queue_name(logical_id)
    if tags := tags_of(template, resources, logical_id, path):
        definition["Tags"] = tags
    policies = {name: resources.given(logical_id, name) for name in _POLICIES}
    return definition | {name: value for name, value in policies.items() if value is not None}


def _mapping(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    path = properties_at(template, logical_id)
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
    if tags := tags_of(template, resources, logical_id, path):
        definition["Tags"] = tags
    return definition


def _checked(
    template: Template, logical_id: str, definition: Mapping[str, Any], read: Callable[[Mapping[str, Any]], object]
) -> None:
    try:
        read(definition)
    except DefinitionError as error:
        raise in_template(template, logical_id, error) from error
