"""Reserved and provisioned concurrency and FunctionScalingConfig, by counting the processes that there are."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError
from nodes import ServedNode

HANDLER = """
import os, time

def handler(event, context):
    time.sleep(event["seconds"])
    return os.getpid()
"""
NAME = {"FunctionName": "counted"}
ONE = {**NAME, "Qualifier": "1"}
TWO = {**NAME, "Qualifier": "2"}


def children(pid: int) -> list[int]:
    """Return a process's children; none when it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


class Counted:
    """A function with versions 1 and 2 on a node that has no other."""

    def __init__(self, node: ServedNode, client: Any) -> None:
        self.node, self.client = node, client

    def workers(self) -> list[int]:
        """Return the processes that run the handler: the node's zygotes fork one of the function's, that forks them."""
        zygotes = [pid for base in children(self.node.pid) for pid in children(base)]
        return [pid for zygote in zygotes for pid in children(zygote)]

    def stay(self, count: int) -> bool:
        """Return whether there come to be so many workers, and whether there are so many a while later."""
        end = time.monotonic() + 20
        while len(self.workers()) != count and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.7)  # the node looks for instances to stop twice a second
        return len(self.workers()) == count

    def at_once(self, count: int, seconds: float, **more: Any) -> list[Any]:
        """Call so many times at once; return the pid of each answer, or the code of a refusal."""

        def call(_: int) -> Any:
            given = {**NAME, "Payload": json.dumps({"seconds": seconds}), **more}
            try:
                return json.loads(self.client.invoke(**given)["Payload"].read())
            except ClientError as error:
                return error.response["Error"]["Code"]

        with ThreadPoolExecutor(count) as pool:
            return list(pool.map(call, range(count)))

    def refusal(self, requested: int) -> tuple[str, str]:
        """Return the code and the sentence with which so many provisioned instances are refused."""
        with pytest.raises(ClientError) as refused:
            self.client.put_provisioned_concurrency_config(**ONE, ProvisionedConcurrentExecutions=requested)
        return refused.value.response["Error"]["Code"], refused.value.response["Error"]["Message"]


@pytest.fixture
def counted(empty: ServedNode, client: Any, zipped: Callable[..., bytes]) -> Iterator[Counted]:
    client.create_function(
        **NAME, Role="arn:aws:iam::000000000000:role/any", Runtime="python3.11", Handler="index.handler",
        Code={"ZipFile": zipped(index=HANDLER)}, Timeout=10, Publish=True,
    )  # fmt: skip
    waiter = client.get_waiter("function_updated_v2")
    waiter.wait(**NAME, WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    client.update_function_configuration(**NAME, Description="the second")
    waiter.wait(**NAME, WaiterConfig={"Delay": 0, "MaxAttempts": 999})
    client.publish_version(**NAME)
    counted = Counted(empty, client)
    yield counted
    client.delete_function(**NAME)
    assert counted.stay(0)


def test_no_more_processes_than_are_reserved_and_none_at_all_with_zero(counted: Counted) -> None:
    counted.client.put_function_concurrency(**NAME, ReservedConcurrentExecutions=2)
    assert 2 == len(set(counted.at_once(6, 0.2)))
    assert 2 == len(counted.workers())
    counted.client.put_function_concurrency(**NAME, ReservedConcurrentExecutions=1)
    assert counted.stay(1)
    counted.client.put_function_concurrency(**NAME, ReservedConcurrentExecutions=0)
    assert ["TooManyRequestsException"] == counted.at_once(1, 0)
    assert counted.stay(0)
    counted.client.delete_function_concurrency(**NAME)
    assert 3 == len(set(counted.at_once(3, 0.3)))
    assert 3 == len(counted.workers())


def test_provisioned_processes_are_there_before_a_request_and_move_with_the_alias(counted: Counted) -> None:
    client = counted.client
    client.create_alias(**NAME, Name="live", FunctionVersion="1")
    live = {**NAME, "Qualifier": "live"}
    client.put_provisioned_concurrency_config(**live, ProvisionedConcurrentExecutions=2)
    assert counted.stay(2)
    ready = client.get_provisioned_concurrency_config(**live)
    assert ("READY", 2) == (ready["Status"], ready["AvailableProvisionedConcurrentExecutions"])
    before = set(counted.workers())
    assert set(counted.at_once(2, 0.2, Qualifier="live")) == before
    client.update_alias(**NAME, Name="live", FunctionVersion="2")
    moved = client.get_provisioned_concurrency_config(**live)
    while moved["Status"] != "READY":
        moved = client.get_provisioned_concurrency_config(**live)
    assert not before & set(counted.at_once(2, 0.2, Qualifier="live"))
    client.delete_provisioned_concurrency_config(**live)
    with pytest.raises(client.exceptions.ProvisionedConcurrencyConfigNotFoundException):
        client.get_provisioned_concurrency_config(**live)


def test_more_than_an_account_has_is_refused_and_starts_nothing(counted: Counted) -> None:
    client = counted.client
    for requested in (1001, 2_000_000_000):
        assert (
            "InvalidParameterValueException",
            "Specified ConcurrentExecutions for function is greater than account's unreserved concurrency [1000].",
        ) == counted.refusal(requested)
    client.put_function_concurrency(**NAME, ReservedConcurrentExecutions=5000)  # reserved is only allowed
    assert "InvalidParameterValueException" == counted.refusal(1001)[0]
    assert "InvalidParameterValueException" == counted.refusal(5001)[0]
    client.put_provisioned_concurrency_config(**TWO, ProvisionedConcurrentExecutions=1)
    assert "unreserved concurrency [999]" in counted.refusal(1000)[1]
    assert counted.stay(1)


def test_a_scaling_config_keeps_its_least_and_stops_at_its_most(counted: Counted) -> None:
    put = counted.client.put_function_scaling_config
    bounds = {"MinExecutionEnvironments": 1, "MaxExecutionEnvironments": 2}
    put(**ONE, FunctionScalingConfig=bounds)
    assert counted.stay(1)
    assert 2 == len(set(counted.at_once(5, 0.2, Qualifier="1")))
    assert 2 == len(counted.workers())
    put(**ONE, FunctionScalingConfig={"MinExecutionEnvironments": 3, "MaxExecutionEnvironments": 3})
    assert counted.stay(3)
