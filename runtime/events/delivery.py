"""Handing what a trigger has to say over to a function, durably, and what happens to what cannot be handed over.

A function that is gone, or an event that is too large, does not get better by trying again: the event goes to the
target's dead-letter queue where it has one, and is told of in the log else. A full queue and a full disk do get better:
``Throttled`` and ``StateError`` are the caller's, who tries again as long as the target's age allows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Protocol

from glowplug.runtime.errors import (
    FunctionNotFound,
    GlowplugError,
    InvalidEntry,
    RequestError,
    Throttled,
)
from glowplug.runtime.queue.attributes import MessageAttribute, kept
from glowplug.runtime.queue.model import Record
from glowplug.runtime.queue.steps import ScanRecords, Send, Step

from .accepting import Acceptor, NewEvent
from .envelopes import Home
from .triggers import RULE, Target, Trigger

_log = logging.getLogger(__name__)


class Store(Protocol):
    """Records and queues. ``QueueStore`` is one."""

    async def apply(self, *steps: Step) -> list[object]:
        """Carry out steps together or not at all."""

    async def records(self, scan: ScanRecords) -> list[Record]:
        """Return records of an owner."""


@dataclass(frozen=True, slots=True)
class Handed:
    """What became of one event: the id of the request that it is, or why there is none."""

    target: Target
    request_id: str = ""
    error: str = ""


class Delivery:
    """Hands events over to ``acceptor``."""

    def __init__(self, acceptor: Acceptor, store: Store, home: Home) -> None:
        self._acceptor = acceptor
        self._store = store
        self._home = home
        self.failed: dict[str, int] = {}
        """Events that could not be handed over, by trigger."""

    async def hand(self, trigger: Trigger, target: Target, payload: bytes, *also: Step) -> Handed:
        """Hand one event over together with ``also``, which is carried out also where there is nobody to take it.

        Raises ``Throttled`` and ``StateError``, and then nothing was done.
        """
        event = NewEvent(
            function=target.function,
            qualifier=target.qualifier,
            payload=payload,
            source=f"{_WORDS.get(trigger.type, 'trigger')}:{trigger.name}",
        )
        try:
            accepted = await self._acceptor.accept(event, *also)
        except Throttled:
            raise
        except RequestError as error:
            await self.give_up(trigger, target, payload, error, *also)
            return Handed(target, error=f"{type(error).__name__}: {error}")
        return Handed(target, accepted.request_id)

    async def give_up(
        self, trigger: Trigger, target: Target, payload: bytes, error: GlowplugError, *also: Step
    ) -> None:
        """Put an event aside: in the target's dead-letter queue, in one unit with ``also``, or only in the log."""
        steps, kept = list(also), bool(target.dead_letter)
        if target.dead_letter:
            steps.append(Send(target.dead_letter, payload, self._about(trigger, target, error)))
        try:
            if steps:
                await self._store.apply(*steps)
        except RequestError as refusal:
            _log.warning("%s: the dead-letter queue %s did not take it: %s", trigger.id, target.dead_letter, refusal)
            kept = False
            if also:
                await self._store.apply(*also)
        self.failed[trigger.id] = self.failed.get(trigger.id, 0) + 1
        lost = "its dead-letter queue did not take it" if target.dead_letter else "the target has no DeadLetterConfig"
        where = f"is in {target.dead_letter}" if kept else f"is lost: {lost}"
        _log.warning("%s: an event for %s (%s) %s: %s", trigger.id, target.function, target.id, where, error)

    def _about(self, trigger: Trigger, target: Target, error: GlowplugError) -> dict[str, object]:
        """Return the attributes of a dead letter, which are EventBridge's own ("Using dead-letter queues")."""
        home = self._home
        code = "RESOURCE_NOT_FOUND" if isinstance(error, FunctionNotFound) else "INVALID_PARAMETER"
        values = {
            "RULE_ARN" if trigger.type == RULE else "SCHEDULE_ARN": trigger.arn(home),
            "TARGET_ARN": f"arn:aws:lambda:{home.region}:{home.account}:function:{target.function}",
            "ERROR_CODE": error.entry_code if isinstance(error, InvalidEntry) else code,
            "ERROR_MESSAGE": str(error)[:1024],
        }
        return dict(kept({name: MessageAttribute("String", value) for name, value in values.items()}))


_WORDS = {
    "AWS::Events::Rule": "rule",
    "AWS::Scheduler::Schedule": "schedule",
    "AWS::S3::Bucket": "s3",
    "AWS::SNS::Subscription": "sns",
}
