"""Posted events and published messages: who gets them, and what is reported of each."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

import pytest

from glowplug.runtime.catalog import Catalog
from glowplug.runtime.errors import FunctionNotFound, InvalidParameter, ResourceNotFound, Throttled, ValidationFailed
from glowplug.runtime.events.accepting import Accepted, NewEvent
from glowplug.runtime.events.bus import Bus
from glowplug.runtime.events.delivery import Delivery
from glowplug.runtime.events.deployed import DeployedTriggers
from glowplug.runtime.events.envelopes import Home
from glowplug.runtime.events.topics import Published, Topics
from glowplug.runtime.queue.model import Record
from glowplug.runtime.queue.steps import ScanRecords, Send, Step
from glowplug.runtime.testing.clock import ManualClock

HOME = Home("000000000000", "us-east-1")


def rule(pattern: dict[str, Any], *functions: str, **more: Any) -> dict[str, Any]:
    target = more.pop("target", {})
    return {"Type": "AWS::Events::Rule", "Name": "rule", "EventPattern": pattern, **more,
            "Targets": [{"Id": name, "FunctionName": name, **target} for name in functions]}  # fmt: skip


def subscription(function: str, **more: Any) -> dict[str, Any]:
    return {"Type": "AWS::SNS::Subscription", "Name": "news", "Targets": [{"FunctionName": function}], **more}


@dataclass
class Node:
    """What the two need of a node."""

    documents: dict[str, Any]
    events: list[NewEvent] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    refusals: dict[str, Exception] = field(default_factory=dict)

    @property
    def catalog(self) -> Catalog:
        return Catalog(documents={f"trigger/main/{name}": one for name, one in self.documents.items()})

    async def accept(self, event: NewEvent, *also: Step) -> Accepted:
        if event.function in self.refusals:
            raise self.refusals[event.function]
        self.events.append(event)
        return Accepted(f"id-{len(self.events)}")

    async def apply(self, *steps: Step) -> list[object]:
        self.steps += steps
        return []

    async def records(self, scan: ScanRecords) -> list[Record]:
        return []

    def bus(self) -> Bus:
        return Bus(DeployedTriggers(self), Delivery(self, self, HOME), HOME, ManualClock())

    def topics(self) -> Topics:
        return Topics(DeployedTriggers(self), Delivery(self, self, HOME), HOME, ManualClock())

    @property
    def told(self) -> list[str]:
        return sorted(event.function for event in self.events)


def entry(source: str = "shop", detail: str = '{"n": 1}', **more: Any) -> dict[str, Any]:
    return {"Source": source, "DetailType": "order", "Detail": detail, **more}


async def test_an_event_goes_to_every_target_of_every_rule_that_matches() -> None:
    node = Node({
        "One": rule({"source": ["shop"]}, "first", "second"),
        "Two": rule({"detail": {"n": [1]}}, "third", target={"InputPath": "$.detail"}),
        "Other": rule({"source": ["bank"]}, "never"),
        "Off": rule({"source": ["shop"]}, "never", State="DISABLED"),
        "Bus": rule({"source": ["shop"]}, "never", EventBusName="another"),
    })  # fmt: skip
    answer = await node.bus().put([entry()])
    assert (0, ["first", "second", "third"]) == (answer["FailedEntryCount"], node.told)
    payloads = {event.function: json.loads(event.payload) for event in node.events}
    assert ({"n": 1}, answer["Entries"][0]["EventId"]) == (payloads["third"], payloads["first"]["id"])


async def test_a_rule_of_another_bus_gets_what_is_sent_to_it_by_name_or_arn() -> None:
    node = Node({"Bus": rule({"source": ["shop"]}, "work", EventBusName="orders")})
    arn = "arn:aws:events:us-east-1:000000000000:event-bus/orders"
    await node.bus().put([entry(), entry(EventBusName="orders"), entry(EventBusName=arn)])
    assert ["work", "work"] == node.told


async def test_each_entry_is_reported_for_itself() -> None:
    node = Node({"One": rule({"source": ["shop"]}, "work"), "Two": rule({"source": ["full"]}, "busy", "work")})
    node.refusals["busy"] = Throttled("Rate Exceeded", reason="", retry_after_s=1)
    answer = await node.bus().put([entry(), entry("full"), entry("nobody"), entry(detail="[]"), {"Source": "shop"}])
    assert [None, "ThrottlingException", None, "MalformedDetail", "InvalidArgument"] == [
        one.get("ErrorCode") for one in answer["Entries"]
    ]
    assert (3, ["work", "work"]) == (answer["FailedEntryCount"], node.told)


async def test_a_request_that_is_too_large_is_refused_as_a_whole() -> None:
    """An entry that no function could take must not be answered with an EventId."""
    node = Node({"One": rule({"source": ["shop"]}, "work")})
    half = json.dumps({"n": "x" * (2**19 - 20)})
    await node.bus().put([entry(detail=half)] * 2)
    with pytest.raises(ValidationFailed, match=r"Total size of the entries in the request is over the limit\."):
        await node.bus().put([entry(detail=half)] * 3)
    assert ["work", "work"] == node.told


@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"n": ("Number", "9" * 5000)}, []),
        ({"n": ("String.Array", "[" * 100_000)}, []),
        ({"n": ("String.Array", "[5]")}, ["work"]),
        ({"\ud800": ("String", "x"), "n": ("Number", "5")}, ["work"]),
        ({"n": ("Number.\ud800", "5")}, []),
    ],
)
async def test_attributes_that_are_odd_are_handed_on_or_match_nothing(
    attributes: dict[str, tuple[str, str]], told: list[str]
) -> None:
    node = Node({"One": subscription("work", FilterPolicy={"n": [5]})})
    assert await node.topics().publish(Published("news", "m", None, attributes))
    assert told == node.told


async def test_a_target_that_cannot_take_an_event_does_not_fail_the_entry_but_has_a_dead_letter() -> None:
    letters = {"DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:000000000000:dead"}}
    node = Node({"One": rule({"source": ["shop"]}, "gone", target=letters)})
    node.refusals["gone"] = FunctionNotFound("Function not found: gone")
    assert 0 == (await node.bus().put([entry()]))["FailedEntryCount"]
    (sent,) = node.steps
    assert isinstance(sent, Send)
    assert ("dead", "shop") == (sent.queue, json.loads(sent.body)["source"])
    assert ["String", "arn:aws:events:us-east-1:000000000000:rule/rule"] == sent.attributes["m"]["RULE_ARN"]


@pytest.mark.parametrize("entries", [None, [], [entry()] * 11, [1], {"Source": "x"}])
async def test_what_are_no_entries_is_refused(entries: Any) -> None:
    with pytest.raises(ValidationFailed, match="entries"):
        await Node({}).bus().put(entries)


async def test_a_message_goes_to_the_subscriptions_whose_policy_it_matches() -> None:
    node = Node({
        "All": subscription("all"),
        "Red": subscription("red", FilterPolicy={"colour": ["red"], "size": [{"numeric": [">", 3]}]}),
        "List": subscription("list", FilterPolicy={"tags": ["b"]}),
        "Body": subscription("body", FilterPolicy={"kind": ["x"]}, FilterPolicyScope="MessageBody"),
        "Else": {**subscription("else"), "Name": "other"},
    })  # fmt: skip
    attributes = {"colour": ("String", "red"), "size": ("Number", "4"), "tags": ("String.Array", '["a", "b"]')}
    await node.topics().publish(Published("news", '{"kind": "x"}', attributes=attributes))
    assert ["all", "body", "list", "red"] == node.told
    node.events.clear()
    await node.topics().publish(Published("news", "no json", attributes={"size": ("Number", "much")}))
    assert ["all"] == node.told


async def test_messages_that_sns_does_not_take_are_refused() -> None:
    topics = Node({"All": subscription("all")}).topics()
    for published in (
        Published("news", ""),
        Published("news", "x" * 262_145),
        Published("news", "x", subject="s" * 101),
        Published("news", "x", attributes={"a": ("Text", "x")}),
    ):
        with pytest.raises(InvalidParameter, match="Invalid parameter"):
            await topics.publish(published)
    with pytest.raises(ResourceNotFound):
        await topics.publish(Published("none", "x"))
