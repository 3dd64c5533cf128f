"""What is written when an event is over: its record, and what is sent of it, in the unit that deletes its message."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from glowplug.runtime.catalog import LATEST, Function, Version
from glowplug.runtime.clock import Clock
from glowplug.runtime.config import NodeConfig
from glowplug.runtime.errors import QueueNotFound
from glowplug.runtime.invocation import Outcome
from glowplug.runtime.queue.attributes import MessageAttribute, kept
from glowplug.runtime.queue.model import NOTHING, Record
from glowplug.runtime.queue.steps import PutRecord, Send, Step
from glowplug.runtime.queue.store import QueueStore

from .accepting import NewEvent
from .deliveries import Delivery, Home, compact, deliveries
from .outcomes import Invocation, Response
from .records import record_of, shown
from .retrying import MOST_PASSES, Finished, Limits
from .stored import StoredEvent, function_of, queue_of

OUTBOX: Final = "outbox:deliveries"
"""The queue of what goes to other hosts. SQS knows no name with a colon."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What holds for an event of one qualifier. ``version`` is the one that an attempt runs on; with ``loops`` none is
    made: the event goes round in a loop of destinations."""

    version: Version | None
    limits: Limits
    destinations: Mapping[str, Any]
    dead_letter: str
    loops: bool = False


def rules_of(function: Function | None, event: StoredEvent) -> Rules:
    """Return the rules for one attempt: EventInvokeConfig is that of the qualifier, as is the version, drawn anew.

    A function that is not deployed any more has none: only the age counts, and nothing is sent.
    """
    if function is None:
        return Rules(None, Limits(maximum_event_age_s=event.max_age_s or Limits().maximum_event_age_s), {}, "")
    qualifier = event.qualifier or LATEST
    version = function.qualified(qualifier)
    config = function.documents.get(f"event-invoke/{qualifier}") or {}
    retries = config.get("MaximumRetryAttempts") if event.retries is None else event.retries
    age_s = config.get("MaximumEventAgeInSeconds") if event.max_age_s is None else event.max_age_s
    default = Limits()
    limits = Limits(
        default.maximum_retry_attempts if retries is None else retries,
        default.maximum_event_age_s if age_s is None else age_s,
    )
    dead_letter = {} if version is None else version.settings.get("DeadLetterConfig") or {}
    destinations, target = config.get("DestinationConfig") or {}, dead_letter.get("TargetArn") or ""
    looped = event.lineage.get(event.function, 0) >= MOST_PASSES
    allowed = looped and function.documents.get("recursion/", {}).get("RecursiveLoop") == "Allow"
    return Rules(version, limits, destinations, target, looped and not allowed)


@dataclass(frozen=True, slots=True)
class Ending:
    """The steps that end an event, its message's deletion aside, and what they do: for figures and for who waits.
    ``followers`` are the functions that get an event by these steps."""

    steps: tuple[Step, ...]
    record: Record
    sent: tuple[Delivery, ...]
    unsent: tuple[Delivery, ...]
    followers: tuple[str, ...]


class Endings:
    """Makes endings. ``keep`` returns the step that accepts an event for another function."""

    def __init__(
        self, store: QueueStore, config: NodeConfig, clock: Clock, *, keep: Callable[[NewEvent], Send]
    ) -> None:
        self._store = store
        self._config = config
        self._clock = clock
        self._keep = keep
        self._home = Home(
            region=config.region,
            account_id=config.account_id,
            arn_prefix=config.arn_prefix,
            queues=store.known,
            webhooks=config.webhooks,
            sqs=bool(config.sqs_endpoint),
            s3=bool(config.s3_endpoint),
        )

    def of(
        self,
        event: StoredEvent,
        finished: Finished | None,
        outcome: Outcome | None,
        rules: Rules,
        *,
        status: int,
        outbox: bool = False,
    ) -> Ending:
        """Return how an event ends. ``finished`` of None: it was cancelled. ``outbox``: what is sent goes there first,
        because it could not be sent together with the rest."""
        now_s = self._clock.time()
        planned = []
        if finished is not None:
            invocation = Invocation(
                request_id=event.request_id,
                function_arn=f"{self._config.arn_prefix}{event.function}:{event.qualifier or LATEST}",
                payload=event.payload,
                finished=finished,
                response=None if outcome is None else _response(outcome),
            )
            planned = deliveries(
                invocation,
                now_s=now_s,
                destinations=rules.destinations,
                dead_letter=rules.dead_letter,
                status=status,
                home=self._home,
            )
        steps: list[Step] = []
        sent, unsent = [], []
        for delivery in planned:
            step = self._step(delivery, event, outbox=outbox)
            if step is None:
                unsent.append(delivery)
            else:
                steps.append(step)
                sent.append(delivery)
        record = record_of(
            event,
            finished,
            outcome,
            now_s=now_s,
            retention_s=self._config.async_retention_s,
            most_bytes=self._config.limits.async_result_bytes,
            undelivered=tuple(one.arn for one in unsent),
        )
        steps.append(PutRecord(record))
        if event.webhook:
            told = Delivery("webhook", event.webhook, event.webhook, compact(shown(record)))
            steps.append(outgoing(told, event.function, event.request_id))
        followers = tuple(name for step in steps if isinstance(step, Send) and (name := function_of(step.queue)))
        return Ending(tuple(steps), record, tuple(sent), tuple(unsent), followers)

    def _step(self, delivery: Delivery, event: StoredEvent, *, outbox: bool) -> Send | None:
        """Return the step that sends a delivery, None where nothing can."""
        limits = self._config.limits
        if delivery.way == "none":
            return None
        if delivery.way == "queue":
            if not self._takes(delivery):
                return None
            if not outbox:
                return queue_step(delivery)
        if delivery.way == "function":
            function, _, qualifier = delivery.target.partition(":")
            if len(delivery.body) > limits.async_request_bytes:
                return None
            if not outbox and self._store.known(queue_of(function)):
                source = f"destination:{event.function}"
                return self._keep(NewEvent(function, qualifier, delivery.body, source=source, lineage=event.followed))
        return outgoing(delivery, event.function, event.request_id, event.followed)

    def _takes(self, delivery: Delivery) -> bool:
        try:
            settings = self._store.queue(delivery.target).settings
        except QueueNotFound:  # deleted at this moment
            return False
        return not settings.fifo and len(delivery.body) <= settings.max_message_bytes


def queue_step(delivery: Delivery) -> Send:
    """Return the step that sends a delivery to a queue of this node."""
    attributes = {
        name: MessageAttribute(one["DataType"], one["StringValue"]) for name, one in delivery.attributes.items()
    }
    return Send(delivery.target, delivery.body, kept(attributes))


def outgoing(delivery: Delivery, function: str, request_id: str, lineage: Mapping[str, int] = NOTHING) -> Send:
    """Return the step that gives a delivery to the outbox. ``lineage`` is that of an event which it becomes here."""
    attributes = {
        "w": delivery.way,
        "a": delivery.arn,
        "t": delivery.target,
        "f": function,
        "i": request_id,
        "m": {name: dict(one) for name, one in delivery.attributes.items()} or None,
        "d": delivery.dead_letter or None,
        "l": lineage if delivery.way == "function" else None,
    }
    return Send(OUTBOX, delivery.body, {key: value for key, value in attributes.items() if value is not None})


def _response(outcome: Outcome) -> Response:
    return Response(outcome.payload, outcome.executed_version, 200, outcome.function_error)
