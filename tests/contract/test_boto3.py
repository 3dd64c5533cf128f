"""boto3's waiters and paginators, all of those that its Lambda client has for what a node answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import boto3
import pytest
from botocore.exceptions import WaiterError
from nodes import ServedNode

ROLE = "arn:aws:iam::000000000000:role/any"
HANDLER = "def handler(event, context):\n    return event\n"
SLOW = "import time\ntime.sleep(0.5)\n" + HANDLER
BROKEN = "raise RuntimeError('no such model')\n"
QUICK = {"Delay": 0, "MaxAttempts": 5000}
PAGED = {
    "list_functions", "list_versions_by_function", "list_aliases", "list_layers", "list_layer_versions",
    "list_event_source_mappings", "list_function_event_invoke_configs", "list_function_url_configs",
    "list_provisioned_concurrency_configs",
}  # fmt: skip
UNSERVED = {
    "get_durable_execution_history", "get_durable_execution_state", "list_capacity_providers",
    "list_code_signing_configs", "list_durable_executions_by_function", "list_function_versions_by_capacity_provider",
    "list_functions_by_code_signing_config",
}  # fmt: skip
"""Paginators of operations that a node has no route for."""


@pytest.fixture
def make(client: Any, zipped: Callable[..., bytes]) -> Callable[..., Any]:
    """Create a function: ``make(name, code, **more)``."""

    def create(name: str, code: str = HANDLER, **more: Any) -> Any:
        return client.create_function(
            FunctionName=name, Role=ROLE, Runtime="python3.11", Handler="index.handler",
            Code={"ZipFile": zipped(index=code)}, **more,
        )  # fmt: skip

    return create


class TestWaiters:
    def test_these_are_all_that_boto3_has(self, client: Any) -> None:
        assert {
            "function_exists", "function_active", "function_active_v2", "function_updated", "function_updated_v2",
            "published_version_active",
        } == set(client.waiter_names)  # fmt: skip

    def test_function_exists_waits_until_it_does(self, client: Any, make: Callable[..., Any]) -> None:
        asked = threading.Event()
        client.meta.events.register("before-call.lambda.GetFunction", lambda **_: asked.set())
        maker = threading.Thread(target=lambda: asked.wait(10) and make("waited"))
        maker.start()
        client.get_waiter("function_exists").wait(FunctionName="waited", WaiterConfig=QUICK)
        maker.join()
        assert "waited" == client.get_function(FunctionName="waited")["Configuration"]["FunctionName"]

    @pytest.mark.parametrize("waiter", ["function_active", "function_active_v2"])
    def test_function_active_ends_when_a_new_function_is(
        self, client: Any, make: Callable[..., Any], waiter: str
    ) -> None:
        assert "Pending" == make("fresh")["State"]
        client.get_waiter(waiter).wait(FunctionName="fresh", WaiterConfig=QUICK)
        assert "Active" == client.get_function_configuration(FunctionName="fresh")["State"]

    @pytest.mark.parametrize("waiter", ["function_updated", "function_updated_v2"])
    def test_function_updated_ends_when_new_code_is_what_runs(
        self, client: Any, make: Callable[..., Any], zipped: Callable[..., bytes], waiter: str
    ) -> None:
        make("changed")
        client.get_waiter("function_active_v2").wait(FunctionName="changed", WaiterConfig=QUICK)
        code = zipped(index="def handler(event, context):\n    return 'new'\n")
        assert "InProgress" == client.update_function_code(FunctionName="changed", ZipFile=code)["LastUpdateStatus"]
        client.get_waiter(waiter).wait(FunctionName="changed", WaiterConfig=QUICK)
        assert b'"new"' == client.invoke(FunctionName="changed")["Payload"].read()

    def test_published_version_active_waits_for_the_snapshot(self, client: Any, make: Callable[..., Any]) -> None:
        make("snapped", SLOW, SnapStart={"ApplyOn": "PublishedVersions"})
        client.get_waiter("function_active_v2").wait(FunctionName="snapped", WaiterConfig=QUICK)
        assert "Pending" == client.publish_version(FunctionName="snapped")["State"]
        version = {"FunctionName": "snapped", "Qualifier": "1"}
        client.get_waiter("published_version_active").wait(**version, WaiterConfig=QUICK)
        assert ("Active", "On") == _snapped(client.get_function_configuration(**version))
        assert ("Active", "Off") == _snapped(client.get_function_configuration(FunctionName="snapped"))

    def test_published_version_active_fails_with_a_version_that_does_not_start(
        self, client: Any, make: Callable[..., Any]
    ) -> None:
        make("broken", BROKEN, SnapStart={"ApplyOn": "PublishedVersions"})
        client.get_waiter("function_active_v2").wait(FunctionName="broken", WaiterConfig=QUICK)
        client.publish_version(FunctionName="broken")
        version = {"FunctionName": "broken", "Qualifier": "1"}
        with pytest.raises(WaiterError, match="terminal failure"):
            client.get_waiter("published_version_active").wait(**version, WaiterConfig=QUICK)
        failed = client.get_function_configuration(**version)
        assert ("Failed", "FunctionError") == (failed["State"], failed["StateReasonCode"])
        assert "no such model" in failed["StateReason"]


def _snapped(configuration: Any) -> tuple[str, str]:
    return configuration["State"], configuration["SnapStart"]["OptimizationStatus"]


class TestPaginators:
    def test_these_are_all_that_boto3_has_for_what_is_served(self, client: Any) -> None:
        names = client.meta.method_to_api_mapping
        assert PAGED == {name for name in names if client.can_paginate(name)} - UNSERVED

    @pytest.fixture
    def found(self, client: Any, make: Callable[..., Any]) -> Callable[..., list[Any]]:
        """Return what a paginator brings with two items a page, having seen that each page but the last is full."""

        def every(name: str, key: str, **given: Any) -> list[Any]:
            given["PaginationConfig"] = {"PageSize": 2}
            pages = [page[key] for page in client.get_paginator(name).paginate(**given)]
            items = [item for page in pages for item in page]
            assert len(pages) == -(-len(items) // 2)
            assert all(len(page) == 2 for page in pages[:-1])
            return items

        make("paged")
        client.get_waiter("function_active_v2").wait(FunctionName="paged", WaiterConfig=QUICK)
        return every

    def test_functions(self, client: Any, make: Callable[..., Any], found: Callable[..., list[Any]]) -> None:
        for name in ("a", "z", "b", "y"):
            make(name)
        assert ["a", "b", "paged", "y", "z"] == [one["FunctionName"] for one in found("list_functions", "Functions")]

    def test_functions_with_their_versions(self, client: Any, found: Callable[..., list[Any]]) -> None:
        _publish(client, 2)
        listed = found("list_functions", "Functions", FunctionVersion="ALL")
        assert ["$LATEST", "1", "2"] == [one["Version"] for one in listed]

    def test_versions_aliases_urls_event_invoke_configs_and_provisioned_concurrency(
        self, client: Any, found: Callable[..., list[Any]]
    ) -> None:
        name = {"FunctionName": "paged"}
        _publish(client, 3)
        qualifiers = ["one", "three", "two"]
        for number, alias in zip((1, 3, 2), qualifiers, strict=True):
            client.create_alias(**name, Name=alias, FunctionVersion=str(number))
            client.create_function_url_config(**name, Qualifier=alias, AuthType="NONE")
            client.put_function_event_invoke_config(**name, Qualifier=alias, MaximumRetryAttempts=number % 3)
            given = {"ProvisionedConcurrentExecutions": 1}
            client.put_provisioned_concurrency_config(**name, Qualifier=alias, **given)
        versions = found("list_versions_by_function", "Versions", **name)
        assert ["$LATEST", "1", "2", "3"] == [one["Version"] for one in versions]
        assert qualifiers == [one["Name"] for one in found("list_aliases", "Aliases", **name)]
        assert ["two"] == [one["Name"] for one in found("list_aliases", "Aliases", **name, FunctionVersion="2")]
        for paginator, key in (
            ("list_function_url_configs", "FunctionUrlConfigs"),
            ("list_function_event_invoke_configs", "FunctionEventInvokeConfigs"),
            ("list_provisioned_concurrency_configs", "ProvisionedConcurrencyConfigs"),
        ):
            assert qualifiers == [one["FunctionArn"].rpartition(":")[2] for one in found(paginator, key, **name)], key

    def test_layers_and_their_versions(
        self, client: Any, found: Callable[..., list[Any]], zipped: Callable[..., bytes]
    ) -> None:
        names = ["paged-a", "paged-b", "paged-c"]
        for name in [*names, "paged-b", "paged-b"]:
            client.publish_layer_version(LayerName=name, Content={"ZipFile": zipped(brought="")})
        assert names == [one["LayerName"] for one in found("list_layers", "Layers")]
        versions = found("list_layer_versions", "LayerVersions", LayerName="paged-b")
        assert [3, 2, 1] == [one["Version"] for one in versions]

    def test_event_source_mappings(self, client: Any, empty: ServedNode, found: Callable[..., list[Any]]) -> None:
        sqs = boto3.client(
            "sqs",
            endpoint_url=empty.endpoint,
            region_name="us-east-1",
            aws_access_key_id="a",
            aws_secret_access_key="b",
        )
        for number in range(5):
            sqs.create_queue(QueueName=f"queue-{number}")
        queues = [f"arn:aws:sqs:us-east-1:000000000000:queue-{number}" for number in range(5)]
        for arn in queues:
            client.create_event_source_mapping(FunctionName="paged", EventSourceArn=arn, Enabled=False)
        listed = found("list_event_source_mappings", "EventSourceMappings", FunctionName="paged")
        assert queues == sorted(one["EventSourceArn"] for one in listed)


def _publish(client: Any, count: int) -> None:
    """Publish versions of ``paged``, which differ in their description alone."""
    for number in range(count):
        client.update_function_configuration(FunctionName="paged", Description=f"version {number}")
        client.get_waiter("function_updated_v2").wait(FunctionName="paged", WaiterConfig=QUICK)
        client.publish_version(FunctionName="paged")
