"""Triggers as they are kept: what of a target is read, and errors that name the field."""

from __future__ import annotations

from typing import Any

import pytest

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.events.triggers import RULE, SCHEDULE, Trigger, trigger_of


def trigger(*targets: dict[str, Any], kind: str = RULE) -> Trigger:
    return trigger_of("main/Tick", {
        "Type": kind, "Name": "tick", "ScheduleExpression": "rate(1 day)",
        "Targets": [{"Id": str(number), "FunctionName": "work", **one} for number, one in enumerate(targets)],
    })  # fmt: skip


def aged(seconds: int) -> dict[str, Any]:
    return {"RetryPolicy": {"MaximumEventAgeInSeconds": seconds, "MaximumRetryAttempts": 0}}


def test_a_schedule_fires_for_as_long_as_one_of_its_targets_takes_the_event() -> None:
    rule, schedule = trigger(aged(60), aged(3600)), trigger(aged(600), kind=SCHEDULE)
    assert rule.schedule is not None
    assert schedule.schedule is not None
    assert ([60, 3600], 3600) == ([target.max_age_s for target in rule.targets], rule.schedule.max_age_s)
    assert 600 == schedule.schedule.max_age_s


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        (
            {"RetryPolicy": {"MaximumEventAgeInSeconds": 59}},
            "RetryPolicy.MaximumEventAgeInSeconds: 59 is not between 60 and 86400",
        ),
        (
            {"RetryPolicy": {"MaximumRetryAttempts": 186}},
            "RetryPolicy.MaximumRetryAttempts: 186 is not between 0 and 185",
        ),
        (
            {"DeadLetterConfig": {"Arn": "arn:aws:sqs:us-east-1:000000000000:dead.fifo"}},
            "DeadLetterConfig.Arn: arn:aws:sqs:us-east-1:000000000000:dead.fifo is FIFO; only standard queues",
        ),
    ],
)
@pytest.mark.parametrize("kind", [RULE, SCHEDULE])
def test_a_target_that_cannot_be_accepted_is_refused_by_its_field(
    kind: str, target: dict[str, Any], problem: str
) -> None:
    with pytest.raises(DefinitionError) as refused:
        trigger(target, kind=kind)
    assert f"Targets.0.{problem}" in str(refused.value)
