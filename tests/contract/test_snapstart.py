"""SnapStart through the API: hooks of ``snapshot_restore_py`` run when a version's snapshot is made, and when it is
restored; what they raise is told as Lambda tells it."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

HOOKED = """
import os, time, uuid
from snapshot_restore_py import register_after_restore, register_before_snapshot

made, log, wait = str(uuid.uuid4()), [], time.sleep
register_before_snapshot(log.append, "before, registered first")
register_before_snapshot(log.append, "before, registered last")
register_after_restore(lambda: log.append(f"restored in {os.getpid()}"))

def handler(event, context):
    wait(event["seconds"])
    return {"made": made, "log": log, "pid": os.getpid(), "type": os.environ["AWS_LAMBDA_INITIALIZATION_TYPE"]}
"""
FAILS = """
from snapshot_restore_py import {hook}

@{hook}
def fails():
    raise OSError("not today")

def handler(event, context):
    return event
"""


@pytest.fixture
def publish(client: Any, zipped: Callable[..., bytes]) -> Callable[[str, str], None]:
    """Create a function with SnapStart and publish its first version."""

    def make(name: str, code: str) -> None:
        client.create_function(
            FunctionName=name, Role="arn:aws:iam::000000000000:role/any", Runtime="python3.11",
            Handler="index.handler", Code={"ZipFile": zipped(index=code)}, Timeout=10,
            SnapStart={"ApplyOn": "PublishedVersions"},
        )  # fmt: skip
        client.get_waiter("function_active_v2").wait(FunctionName=name, WaiterConfig={"Delay": 0, "MaxAttempts": 999})
        assert "Pending" == client.publish_version(FunctionName=name)["State"]

    return make


def settled(client: Any, name: str) -> Any:
    """Return version 1 when its snapshot is there, or could not be made."""
    while True:
        found = client.get_function_configuration(FunctionName=name, Qualifier="1")
        if found["State"] != "Pending":
            return found


def test_before_hooks_run_at_the_snapshot_and_after_hooks_in_every_instance(
    client: Any, publish: Callable[[str, str], None]
) -> None:
    publish("hooked", HOOKED)
    assert "Active" == settled(client, "hooked")["State"]

    def call(_: int) -> Any:
        answer = client.invoke(FunctionName="hooked", Qualifier="1", Payload=b'{"seconds": 0.3}')
        return json.loads(answer["Payload"].read())

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(call, range(2))
    assert one["made"] == other["made"]  # one import, of which both are copies
    assert one["pid"] != other["pid"]
    for answer in (one, other):
        assert "snap-start" == answer["type"]
        assert ["before, registered last", "before, registered first", f"restored in {answer['pid']}"] == answer["log"]


def test_a_before_hook_that_raises_fails_the_version(client: Any, publish: Callable[[str, str], None]) -> None:
    publish("fails-before", FAILS.format(hook="register_before_snapshot"))
    found = settled(client, "fails-before")
    assert ("Failed", "FunctionError") == (found["State"], found["StateReasonCode"])
    assert "not today" in found["StateReason"]


def test_an_after_hook_that_raises_fails_the_request(client: Any, publish: Callable[[str, str], None]) -> None:
    publish("fails-after", FAILS.format(hook="register_after_restore"))
    assert "Active" == settled(client, "fails-after")["State"]
    answer = client.invoke(FunctionName="fails-after", Qualifier="1")
    assert "Unhandled" == answer["FunctionError"]
    error = json.loads(answer["Payload"].read())
    assert ("Runtime.AfterRestoreError", True) == (error["errorType"], "not today" in error["errorMessage"])
