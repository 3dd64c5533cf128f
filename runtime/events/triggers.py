"""What sends events to functions besides those who invoke them: *triggers*, as a template was turned into.

    {"Type": "AWS::Events::Rule", "Name": "nightly", "State": "ENABLED", "ScheduleExpression": "rate(5 minutes)",
     "Targets": [{"Id": "one", "FunctionName": "embed", "Qualifier": "live", "Input": "{}"}]}
    {"Type": "AWS::Events::Rule", "Name": "orders", "EventBusName": "default", "EventPattern": {"source": ["shop"]}, …}
    {"Type": "AWS::Scheduler::Schedule", "Name": "once", "ScheduleExpression": "at(2030-01-01T00:00:00)", …}
    {"Type": "AWS::S3::Bucket", "Name": "inbox", "Targets": [{…, "Events": ["s3:ObjectCreated:*"], "Prefix": "in/"}]}
    {"Type": "AWS::SNS::Subscription", "Name": "news", "FilterPolicy": {"kind": ["a"]}, "Targets": [{…}]}

Types and names are those of CloudFormation. ``CreationDate`` is added by the node: when the trigger was made, or last
given another time to run at.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from glowplug.runtime.catalog import LATEST
from glowplug.runtime.errors import DefinitionError, InvalidPattern
from glowplug.runtime.reader import Reader, kind
from glowplug.runtime.wanted import WantedFunction

from . import inputs
from .definitions import RULE_TIMING, TIMING, rule_schedule, scheduler_schedule
from .envelopes import Home
from .inputs import Input, input_of
from .patterns import Pattern, compile_pattern
from .schedule import DAY_S, Schedule

RULE: Final = "AWS::Events::Rule"
SCHEDULE: Final = "AWS::Scheduler::Schedule"
BUCKET: Final = "AWS::S3::Bucket"
SUBSCRIPTION: Final = "AWS::SNS::Subscription"
TYPES: Final = (RULE, SCHEDULE, BUCKET, SUBSCRIPTION)

DEFAULT_BUS: Final = "default"
PREFIX: Final = "trigger/"
"""What the keys of triggers in the catalog begin with."""

_ALL: Final = frozenset("Type Name State Targets Stack CreationDate".split())
_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    RULE: _ALL | RULE_TIMING | {"EventPattern", "EventBusName"},
    SCHEDULE: _ALL | TIMING | {"GroupName"},
    BUCKET: _ALL,
    SUBSCRIPTION: _ALL | {"FilterPolicy", "FilterPolicyScope"},
}
_TARGET: Final = frozenset({"Id", "FunctionName", "Qualifier"})
_DELIVERY: Final = frozenset({"RetryPolicy", "DeadLetterConfig"})
_TARGET_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    RULE: _TARGET | inputs.FIELDS | _DELIVERY,
    SCHEDULE: _TARGET | {"Input"} | _DELIVERY,
    BUCKET: _TARGET | {"Events", "Prefix", "Suffix"},
    SUBSCRIPTION: _TARGET,
}
_NAME: Final = re.compile(r"[.\-_A-Za-z0-9]{1,256}")
_QUEUE_ARN: Final = re.compile(r"arn:aws[a-z-]*:sqs:[a-z0-9-]*:\d{12}:(?P<name>[A-Za-z0-9_-]{1,80})")
_S3_EVENTS: Final = frozenset(
    f"s3:{name}"
    for name in "ObjectCreated:* ObjectCreated:Put ObjectCreated:CompleteMultipartUpload ObjectRemoved:* "
    "ObjectRemoved:Delete".split()
)


@dataclass(frozen=True, slots=True)
class Target:
    """A function that gets the events. ``number`` is its place among the targets, from 0.

    ``max_age_s`` is how late an event may be handed over, ``dead_letter`` the name of the queue for one that cannot be.
    ``events``, ``prefix`` and ``suffix`` are a bucket's, events without their ``s3:``.
    """

    number: int
    id: str
    function: str
    qualifier: str
    input: Input = inputs.WHOLE
    max_age_s: int = DAY_S
    dead_letter: str = ""
    events: tuple[str, ...] = ()
    prefix: str = ""
    suffix: str = ""


@dataclass(frozen=True, slots=True)
class Trigger:
    """One trigger. ``id`` is ``<stack>/<logical id>``.

    ``schedule`` and ``pattern`` say when there is an event; a rule may have both. ``pattern`` of a subscription is its
    FilterPolicy, of the message itself where ``body`` is true, else of its attributes. ``bus`` is a rule's.
    """

    id: str
    type: str
    name: str
    targets: tuple[Target, ...]
    enabled: bool = True
    schedule: Schedule | None = None
    pattern: Pattern | None = None
    bus: str = DEFAULT_BUS
    group: str = "default"
    body: bool = False
    expression: str = ""

    @property
    def stack(self) -> str:
        """The stack that it belongs to."""
        return self.id.partition("/")[0]

    def arn(self, home: Home) -> str:
        """Return its ARN; a subscription's is that of its topic."""
        if self.type == BUCKET:
            return f"arn:aws:s3:::{self.name}"
        if self.type == SCHEDULE:
            return f"arn:aws:scheduler:{home.region}:{home.account}:schedule/{self.group}/{self.name}"
        if self.type == SUBSCRIPTION:
            return f"arn:aws:sns:{home.region}:{home.account}:{self.name}"
        bus = "" if self.bus == DEFAULT_BUS else f"{self.bus}/"
        return f"arn:aws:events:{home.region}:{home.account}:rule/{bus}{self.name}"


def trigger_of(trigger_id: str, definition: Mapping[str, Any], path: str = "") -> Trigger:
    """Read a trigger. Raises ``DefinitionError`` naming the first field that cannot be accepted, below ``path``."""
    read = Reader(definition, path)
    type_ = read.choice("Type", TYPES, "")
    read.only(_FIELDS[type_])
    name = read.text("Name", required=True)
    if not _NAME.fullmatch(name):
        raise DefinitionError(read.at("Name"), f"{name!r} is not a name of letters, digits and . - _")
    trigger = Trigger(
        id=trigger_id,
        type=type_,
        name=name,
        targets=_targets(read, type_),
        enabled=read.choice("State", ("ENABLED", "DISABLED"), "ENABLED") == "ENABLED",
        expression=read.text("ScheduleExpression"),
    )
    if type_ == RULE:
        return _rule(trigger, read)
    if type_ == SCHEDULE:
        schedule = scheduler_schedule(trigger_id, _of(read, TIMING), _created(read), path)
        schedule = replace(schedule, max_age_s=trigger.targets[0].max_age_s)
        return replace(trigger, schedule=schedule, group=read.text("GroupName") or "default")
    if type_ == SUBSCRIPTION and read.values.get("FilterPolicy") is not None:
        scope = read.choice("FilterPolicyScope", ("MessageAttributes", "MessageBody"), "MessageAttributes")
        return replace(trigger, pattern=_pattern(read, "FilterPolicy"), body=scope == "MessageBody")
    return trigger


def check_targets(trigger: Trigger, functions: Collection[WantedFunction], path: str = "") -> None:
    """Refuse a target that is no function of the same stack, or no version of it that there is going to be.

    Raises ``DefinitionError``.
    """
    known = {one.spec.name: one for one in functions}
    for target in trigger.targets:
        at = f"{path}.Targets.{target.number}" if path else f"Targets.{target.number}"
        function = known.get(target.function)
        if function is None:
            raise DefinitionError(f"{at}.FunctionName", f"{target.function} is no function of this stack")
        alias = target.qualifier
        if alias != LATEST and not alias.isdigit() and alias not in function.aliases:
            raise DefinitionError(f"{at}.Qualifier", f"{alias} is no alias of {target.function}")


def made(given: Mapping[str, Any], known: Mapping[str, Any] | None, stack: str, now_iso: str) -> dict[str, Any]:
    """Return a trigger's document: what is given, whose it is, and since when it runs at these times.

    Enabling one again counts as making it, so what was due meanwhile is not made up for.
    """
    timed = [*TIMING, "Type", "State"]
    kept = known is not None and all(known.get(name) == given.get(name) for name in timed)
    created = known["CreationDate"] if known is not None and kept and "CreationDate" in known else now_iso
    return {**given, "Stack": stack, "CreationDate": created}


def _rule(trigger: Trigger, read: Reader) -> Trigger:
    timed, matched = (read.values.get(name) is not None for name in ("ScheduleExpression", "EventPattern"))
    if not timed and not matched:
        raise DefinitionError(read.path or "Rule", "has neither a ScheduleExpression nor an EventPattern")
    bus = (read.text("EventBusName") or DEFAULT_BUS).rpartition("/")[2]
    if timed and bus != DEFAULT_BUS:
        raise DefinitionError(read.at("EventBusName"), "a rule with a ScheduleExpression is on the default bus")
    schedule = None
    if timed:
        schedule = rule_schedule(trigger.id, _of(read, RULE_TIMING), _created(read), read.path)
        schedule = replace(schedule, max_age_s=max(target.max_age_s for target in trigger.targets))
    return replace(trigger, schedule=schedule, pattern=_pattern(read, "EventPattern") if matched else None, bus=bus)


def _pattern(read: Reader, name: str) -> Pattern:
    value = read.values[name]
    if not isinstance(value, Mapping | str):
        raise DefinitionError(read.at(name), f"must be a mapping, not {kind(value)}")
    try:
        return compile_pattern(value)
    except InvalidPattern as error:
        raise DefinitionError(read.at(name), str(error)) from error


def _created(read: Reader) -> datetime:
    """Return since when the trigger is there; without a date, as where it is only checked, the year 2000."""
    return datetime.fromisoformat(read.text("CreationDate") or "2000-01-01T00:00:00Z")


def _of(read: Reader, names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in read.values.items() if name in names}


def _targets(read: Reader, type_: str) -> tuple[Target, ...]:
    given = read.values.get("Targets")
    if not isinstance(given, list) or not given:
        raise DefinitionError(read.at("Targets"), f"must be a list of one or more targets, not {kind(given)}")
    if type_ == SCHEDULE and len(given) > 1:
        raise DefinitionError(read.at("Targets"), "a schedule has one target")
    found = [_target(Reader(one, f"{read.at('Targets')}.{number}"), type_, number) for number, one in enumerate(given)]
    ids = [target.id for target in found]
    for number, one in enumerate(ids):
        if one in ids[:number]:
            raise DefinitionError(f"{read.at('Targets')}.{number}.Id", f"{one!r} is there twice")
    return tuple(found)


def _target(read: Reader, type_: str, number: int) -> Target:
    read.only(_TARGET_FIELDS[type_])
    retry = read.section("RetryPolicy", {"MaximumEventAgeInSeconds", "MaximumRetryAttempts"})
    retry.whole("MaximumRetryAttempts", 185, low=0, high=185)
    return Target(
        number=number,
        id=read.text("Id") or f"target-{number}",
        function=read.text("FunctionName", required=True),
        qualifier=read.text("Qualifier") or LATEST,
        input=input_of(read),
        max_age_s=retry.whole("MaximumEventAgeInSeconds", DAY_S, low=60, high=DAY_S),
        dead_letter=_dead_letter(read.section("DeadLetterConfig", {"Arn"})),
        events=_events(read) if type_ == BUCKET else (),
        prefix=read.text("Prefix"),
        suffix=read.text("Suffix"),
    )


def _dead_letter(read: Reader) -> str:
    arn = read.unordered_arn("Arn")
    if not arn:
        return ""
    found = _QUEUE_ARN.fullmatch(arn)
    if found is None:
        raise DefinitionError(read.at("Arn"), f"{arn!r} is not the ARN of an SQS queue")
    return found["name"]


def _events(read: Reader) -> tuple[str, ...]:
    value = read.values.get("Events")
    if not isinstance(value, list) or not value:
        raise DefinitionError(read.at("Events"), f"must be a list of events, not {kind(value)}")
    for name in value:
        if not isinstance(name, str) or name not in _S3_EVENTS:
            allowed = ", ".join(sorted(_S3_EVENTS))
            raise DefinitionError(read.at("Events"), f"{name!r} is not seen by comparing listings; known: {allowed}")
    return tuple(name.removeprefix("s3:") for name in value)
