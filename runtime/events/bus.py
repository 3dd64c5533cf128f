"""Events that are posted to the node: matched against the rules that are deployed, and handed to their targets.

An entry that is answered with an EventId is on disk for all targets of all rules that match it; one that matches none
is accepted too, as on AWS. All of a request go to the disk together. An entry of which one target could not be given
its event is reported as failed, and whoever sends it again sends it to all of them again: delivery is at least once.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError, InvalidEntry, StateError, Throttled, ValidationFailed

from .delivery import Delivery
from .deployed import DeployedTriggers
from .envelopes import Home, bus_event, entry_bytes
from .inputs import About
from .triggers import DEFAULT_BUS, RULE, Target, Trigger

MOST_ENTRIES = 10
"""Of one request, as on AWS."""
MOST_BYTES = 2**20
"""Of all entries of a request, as on AWS. What is larger would be too large for any function, and lost."""


class Bus:
    """Takes entries of PutEvents."""

    def __init__(self, triggers: DeployedTriggers, delivery: Delivery, home: Home, clock: Clock) -> None:
        self._triggers = triggers
        self._delivery = delivery
        self._home = home
        self._clock = clock

    async def put(self, entries: Any) -> dict[str, Any]:
        """Return PutEvents' answer: FailedEntryCount, and an EventId or an ErrorCode for each entry.

        Raises ``ValidationFailed`` for a request that is none.
        """
        if not isinstance(entries, list) or not all(isinstance(one, Mapping) for one in entries):
            raise ValidationFailed("Value at 'entries' failed to satisfy constraint: Member must be a list of entries")
        if not 1 <= len(entries) <= MOST_ENTRIES:
            bound = "greater than or equal to 1" if not entries else f"less than or equal to {MOST_ENTRIES}"
            raise ValidationFailed(f"Value at 'entries' failed to satisfy constraint: Member must have length {bound}")
        if sum(entry_bytes(one) for one in entries) > MOST_BYTES:
            raise ValidationFailed("Total size of the entries in the request is over the limit.")
        answers = await asyncio.gather(*(self._put(entry) for entry in entries))
        return {"FailedEntryCount": sum("ErrorCode" in one for one in answers), "Entries": answers}

    async def _put(self, entry: Mapping[str, Any]) -> dict[str, str]:
        event_id = str(uuid.uuid4())
        now = datetime.fromtimestamp(self._clock.time(), UTC)
        try:
            event = bus_event(entry, event_id, now, self._home)
            bus = str(entry.get("EventBusName") or DEFAULT_BUS).rpartition("/")[2]
            await self._hand_over(self.matching(event, bus), event, now)
        except InvalidEntry as error:
            return {"ErrorCode": error.entry_code, "ErrorMessage": str(error)}
        except Throttled as error:
            return {"ErrorCode": "ThrottlingException", "ErrorMessage": str(error)}
        except StateError as error:
            return {"ErrorCode": "InternalFailure", "ErrorMessage": str(error)}
        return {"EventId": event_id}

    def matching(self, event: Mapping[str, Any], bus: str) -> list[Trigger]:
        """Return the rules of a bus that an event matches."""
        rules = self._triggers.of_type(RULE)
        return [one for one in rules if one.bus == bus and one.pattern is not None and one.pattern.matches(event)]

    async def _hand_over(self, rules: Sequence[Trigger], event: Mapping[str, Any], now: datetime) -> None:
        """Hand an event to all targets; raises what kept one of them from being given it, once all were tried."""
        ends = await asyncio.gather(
            *(self._hand(rule, target, event, now) for rule in rules for target in rule.targets),
            return_exceptions=True,
        )
        for end in ends:
            if isinstance(end, BaseException):
                raise end

    async def _hand(self, rule: Trigger, target: Target, event: Mapping[str, Any], now: datetime) -> None:
        try:
            payload = target.input.payload(event, About(rule.arn(self._home), rule.name, now))
        except InvalidEntry as error:
            await self._delivery.give_up(rule, target, b"{}", _not_json(error))
            return
        await self._delivery.hand(rule, target, payload)


def _not_json(error: InvalidEntry) -> GlowplugError:
    """Return the error of an input that could not be made: the target's fault, not the entry's."""
    return InvalidEntry("INVALID_JSON", str(error))
