"""From rules, schedules, buckets and subscriptions of a translated template to triggers that the node runs.

SAM's events (``Schedule``, ``ScheduleV2``, ``EventBridgeRule``, ``CloudWatchEvent``, ``S3``, ``SNS``) have become these
resources by now. A target that is no function of this template is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.events.definitions import RULE_TIMING, TIMING
from glowplug.runtime.events.triggers import check_targets, trigger_of
from glowplug.runtime.wanted import wanted_of

from .errors import TemplateError
from .places import of_an_event, properties_at
from .resources import Resources
from .supported_triggers import BUCKET, RULE, SCHEDULE, SUBSCRIPTION
from .template import KeyPath, Template

_RULE = tuple(sorted({*RULE_TIMING, "EventBusName", "EventPattern", "State"}))
_SCHEDULE = tuple(sorted({*TIMING, "GroupName", "State"}))
_TARGET = ("Id", "Input", "InputPath", "InputTransformer", "RetryPolicy", "DeadLetterConfig")
_WITHOUT_EFFECT = ("RoleArn",)
_NUMBERS = ("MaximumWindowInMinutes", "MaximumEventAgeInSeconds", "MaximumRetryAttempts")
_SPELLED = {  # what a field of a trigger is called in the events of a function
    "ScheduleExpression": ("ScheduleExpression", "Schedule"),
    "EventPattern": ("Pattern",),
    "Name": ("Name", "RuleName"),
}


def triggers_of(
    template: Template, resources: Resources, definitions: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return the definitions of a template's triggers, by logical id; ``definitions`` are those of its functions.

    Raises ``TemplateError`` for what cannot be run.
    """
    functions = [wanted_of(definition) for definition in definitions.values()]
    reading = _Reading(template, resources)
    found = {}
    for kind, read in (
        (RULE, reading.rule), (SCHEDULE, reading.schedule), (BUCKET, reading.bucket),
        (SUBSCRIPTION, reading.subscription),
    ):  # fmt: skip
        for logical_id in resources.of_type(kind):
            definition = read(logical_id)
            if definition is None:
                continue
            found[logical_id] = {"Type": kind, **definition}
            try:
                trigger = trigger_of(f"{resources.stack}/{logical_id}", found[logical_id])
                check_targets(trigger, functions)
            except DefinitionError as error:
                raise trigger_in_template(template, logical_id, error) from error
    return found


def trigger_in_template(template: Template, logical_id: str, error: DefinitionError) -> TemplateError:
    """Return the refusal of a trigger's field (``Targets.0.Input``) as an error of the template: at the event that it
    was made of, or at its own resource."""
    parts = [part for part in error.field.split(".") if part]
    base = properties_at(template, logical_id)
    if parts[:1] == ["Targets"]:
        parts = parts[2:] if of_an_event(base) else [*_targets_of(template, base), *parts[1:]]
    spellings = [[name, *parts[1:]] for name in _SPELLED.get(parts[0], (parts[0],))] if parts else [[]]
    spelled = [one for one in spellings if one and (*base, one[0]) in template.lines]
    return template.error((*base, *(spelled or spellings)[0]), error.problem)


def _targets_of(template: Template, base: KeyPath) -> list[str]:
    kind = template.get((*base[:2], "Type"))
    return {SCHEDULE: ["Target"], BUCKET: ["NotificationConfiguration", "LambdaConfigurations"]}.get(kind, ["Targets"])


@dataclass(frozen=True, slots=True)
class _Reading:
    """Reads triggers, each by its logical id."""

    template: Template
    resources: Resources

    def rule(self, logical_id: str) -> dict[str, Any]:
        given, base = self._properties(logical_id)
        targets = given.get("Targets")
        if not isinstance(targets, list) or not targets:
            raise self.template.error((*base, "Targets"), "a rule without targets does nothing")
        raw = self.resources.properties(logical_id)["Targets"]
        found = [
            self._target(one, raw[number] if isinstance(raw, list) and number < len(raw) else one, logical_id, number)
            for number, one in enumerate(targets)
        ]
        return {"Name": self.resources.ref(logical_id), **_chosen(given, _RULE), "Targets": found}

    def schedule(self, logical_id: str) -> dict[str, Any]:
        given, _ = self._properties(logical_id)
        raw = self.resources.properties(logical_id).get("Target")
        target = self._target(given.get("Target"), raw, logical_id, 0)
        name = given.get("Name") or f"{self.resources.stack}-{logical_id}"
        return {"Name": name, **_chosen(given, _SCHEDULE), "Targets": [target]}

    def bucket(self, logical_id: str) -> dict[str, Any] | None:
        """Return what the bucket notifies of; None where that is nothing."""
        given, base = self._properties(logical_id)
        at: KeyPath = (*base, "NotificationConfiguration")
        notifications = self._mapping(given.get("NotificationConfiguration"), at)
        for name in notifications:
            if name != "LambdaConfigurations":
                raise self.template.error((*at, name), "is not supported yet; LambdaConfigurations is")
        at = (*at, "LambdaConfigurations")
        listed = self._listed(notifications.get("LambdaConfigurations"), at)
        written = self.resources.properties(logical_id).get("NotificationConfiguration")
        raw = written.get("LambdaConfigurations") if isinstance(written, Mapping) else None
        raw = raw if isinstance(raw, list) and len(raw) == len(listed) else listed
        targets = [
            self._notified(one, self._mapping(raw[number], (*at, number)), number, (*at, number))
            for number, one in enumerate(listed)
        ]
        return {"Name": self.resources.ref(logical_id), "Targets": targets} if targets else None

    def _notified(self, given: Any, raw: Mapping[str, Any], number: int, at: KeyPath) -> dict[str, Any]:
        """Return the target of one notification."""
        one = self._mapping(given, at)
        function = self._function(raw.get("Function"), (*at, "Function"))
        target = {"Id": f"notification-{number}", **function, "Events": [one.get("Event")]}
        at = (*at, "Filter", "S3Key")
        key = self._mapping(self._mapping(one.get("Filter"), at[:-1]).get("S3Key"), at)
        for position, rule in enumerate(self._listed(key.get("Rules"), (*at, "Rules"))):
            path = (*at, "Rules", position)
            name = str(self._mapping(rule, path).get("Name", "")).capitalize()
            if name not in ("Prefix", "Suffix") or name in target:
                raise self.template.error(path, f"{name!r} is neither a prefix nor a suffix, or is there twice")
            target[name] = str(rule.get("Value", ""))
        return target

    def _mapping(self, value: Any, path: KeyPath) -> Mapping[str, Any]:
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.template.error(path, f"must be a mapping, not {value!r}")
        return value

    def _listed(self, value: Any, path: KeyPath) -> list[Any]:
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.template.error(path, f"must be a list, not {value!r}")
        return value

    def subscription(self, logical_id: str) -> dict[str, Any]:
        given, base = self._properties(logical_id)
        if given.get("Protocol") != "lambda":
            raise self.template.error(
                (*base, "Protocol"), f"{given.get('Protocol')!r} is not supported yet; use lambda"
            )
        function = self._function(self.resources.properties(logical_id).get("Endpoint"), (*base, "Endpoint"))
        topic = str(given.get("TopicArn", "")).rpartition(":")[2]
        return {
            "Name": topic,
            **_chosen(given, ("FilterPolicy", "FilterPolicyScope")),
            "Targets": [{"Id": logical_id, **function}],
        }

    def _properties(self, logical_id: str) -> tuple[Mapping[str, Any], KeyPath]:
        base = properties_at(self.template, logical_id)
        given = self.resources.intrinsics.evaluate(dict(self.resources.properties(logical_id)), base)
        return _whole(given), base

    def _target(self, given: Any, raw: Any, logical_id: str, number: int) -> dict[str, Any]:
        base = properties_at(self.template, logical_id)
        at = base if of_an_event(base) else (*base, *_targets_of(self.template, base))
        if at[-1] == "Targets":
            at = (*at, number)
        if not isinstance(given, Mapping) or not isinstance(raw, Mapping):
            raise self.template.error(at, f"must be a mapping, not {given!r}")
        for name in given:
            if name not in (*_TARGET, *_WITHOUT_EFFECT, "Arn"):
                raise self.template.error((*at, name), "is not supported yet: targets are functions")
        return {**self._function(raw.get("Arn"), (*at, "Arn")), **_chosen(given, _TARGET)}

    def _function(self, value: Any, path: KeyPath) -> dict[str, str]:
        target = self.resources.function_of(value, path)
        if not target.logical_id:
            named = self.resources.intrinsics.evaluate(value, path)
            raise self.template.error(path, f"{named} is not a function of this template")
        found = {"FunctionName": target.name}
        return found | {"Qualifier": target.qualifier} if target.qualifier else found


def _chosen(given: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: given[name] for name in names if given.get(name) is not None}


def _whole(value: Any, name: str = "") -> Any:
    """Return ``value`` with the text of numbers, as parameters give them, read as what it says."""
    if isinstance(value, Mapping) and name != "EventPattern":
        return {key: _whole(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_whole(item, name) for item in value]
    return int(value) if name in _NUMBERS and isinstance(value, str) and value.isdigit() else value
