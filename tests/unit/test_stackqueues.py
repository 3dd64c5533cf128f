"""The queues of a stack: what is decided, what is refused, and that they come and go with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.queue.model import CreateQueue, DeleteQueue, Queue, QueueSettings
from glowplug.runtime.queue.store import QueueStore
from glowplug.runtime.stackqueues import QueuePlan, StackQueues, planned
from glowplug.runtime.testing.clock import ManualClock

PREFIX = "arn:aws:sqs:us-east-1:000000000000:"


def named(arn: str) -> str | None:
    return arn.removeprefix(PREFIX) if arn.startswith(PREFIX) else None


def plan(definitions: dict[str, Any], *there: Queue) -> QueuePlan:
    return planned("shop", definitions, {queue.name: queue for queue in there}, name_of=named)


def queue(name: str, owner: str = "stack:shop", **settings: Any) -> Queue:
    return Queue(1, name, QueueSettings(owner=owner, **settings), 0, 0)


def redrive(name: str) -> str:
    return json.dumps({"deadLetterTargetArn": PREFIX + name, "maxReceiveCount": 3})


def test_queues_are_made_with_their_settings_and_dead_letter_queues_of_the_same_stack() -> None:
    made = plan(
        {
            "Jobs": {"QueueName": "jobs", "Attributes": {"VisibilityTimeout": "60", "RedrivePolicy": redrive("dead")}},
            "Dead": {"QueueName": "dead", "Tags": {"a": "b"}},
        }
    )
    jobs = QueueSettings(visibility_s=60, owner="stack:shop", dead_letter="dead", max_receives=3)
    dead = QueueSettings(owner="stack:shop", tags={"a": "b"})
    assert [CreateQueue("jobs", jobs, replace=True), CreateQueue("dead", dead, replace=True)] == made.make
    assert [DeleteQueue("jobs"), DeleteQueue("dead")] == made.undo


def test_what_is_as_it_should_be_is_left_alone_and_what_is_not_asked_for_any_more_goes() -> None:
    there = (
        queue("jobs"),
        queue("changed", delay_s=5),
        queue("old"),
        queue("other", owner="stack:x"),
        queue("own", owner=""),
    )
    made = plan({"Jobs": {"QueueName": "jobs"}, "Changed": {"QueueName": "changed"}}, *there)
    assert ["changed"] == [step.name for step in made.make]
    assert [CreateQueue("changed", QueueSettings(owner="stack:shop", delay_s=5), replace=True)] == made.undo
    assert [DeleteQueue("old")] == made.remove


@pytest.mark.parametrize(
    ("field", "definition"),
    [
        ("Q.QueueName", {}),
        ("Q.QueueName", {"QueueName": "a b"}),
        ("Q.QueueName", {"QueueName": "taken"}),
        ("Q.Nonsense", {"QueueName": "q", "Nonsense": 1}),
        ("Q.VisibilityTimeout", {"QueueName": "q", "Attributes": {"VisibilityTimeout": "-1"}}),
        ("Q.RedrivePolicy", {"QueueName": "q", "Attributes": {"RedrivePolicy": redrive("none")}}),
        ("Q.FifoQueue", {"QueueName": "q", "Attributes": {"FifoQueue": "true"}}),
        ("Q.FifoQueue", {"QueueName": "q.fifo"}),
    ],
)
def test_what_is_wrong_is_named(field: str, definition: dict[str, Any]) -> None:
    with pytest.raises(DefinitionError) as refused:
        plan({"Q": definition}, queue("taken", owner=""))
    assert field == refused.value.field


async def test_a_stacks_queues_come_and_go_with_it(tmp_path: Path) -> None:
    async with await QueueStore.open(tmp_path / "queue.db", ManualClock()) as store:
        await store.create("mine", QueueSettings())
        queues = StackQueues(store, arn_prefix=PREFIX)
        await queues.make(queues.plan("shop", {"A": {"QueueName": "a"}, "B": {"QueueName": "b"}}))
        await store.send("a", b"kept")
        after = queues.plan(
            "shop", {"A": {"QueueName": "a", "Attributes": {"DelaySeconds": "3"}}, "C": {"QueueName": "c"}}
        )
        await queues.make(after)
        assert (3, 1) == (store.queue("a").settings.delay_s, (await store.counts("a")).total)
        await queues.undo(after)
        assert (0, ["a", "b", "mine"]) == (store.queue("a").settings.delay_s, [one.name for one in store.queues])
        await queues.remove(queues.plan("shop", {}))
        assert ["mine"] == [one.name for one in store.queues]
