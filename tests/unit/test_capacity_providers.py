"""Capacity providers through the Lambda API: kept, shown, listed, forgotten."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import Conflict, InvalidParameter, ResourceNotFound, ValidationFailed
from glowplug.runtime.http.lambda_api.api import LambdaApi
from glowplug.runtime.http.lambda_api.call import Services
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.http.messages import Request
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import ManualClock
from glowplug.runtime.testing.deployed import Deployed, a_function

ARN = "arn:aws:lambda:us-east-1:000000000000:capacity-provider:"
GIVEN = {
    "CapacityProviderName": "gpus",
    "VpcConfig": {"SubnetIds": ["subnet-1"], "SecurityGroupIds": []},
    "PermissionsConfig": {"CapacityProviderOperatorRoleArn": "arn:aws:iam::000000000000:role/operator"},
    "CapacityProviderScalingConfig": {"MaxVCpuCount": 8, "ScalingMode": "Auto"},
    "Tags": {"team": "ml"},
}
SHOWN = {
    "CapacityProviderArn": f"{ARN}gpus",
    "State": "Active",
    "VpcConfig": GIVEN["VpcConfig"],
    "PermissionsConfig": GIVEN["PermissionsConfig"],
    "CapacityProviderScalingConfig": GIVEN["CapacityProviderScalingConfig"],
    "LastModified": "2026-01-01T00:00:00.000+0000",
}
ECHO = FunctionSpec(name="echo", handler="echo.handler", runtime="python3.11", code_digest="ab" * 32)
UNUSED: Any = None  # nothing is invoked, and no code is taken in


class Api:
    """The Lambda API in memory."""

    def __init__(self) -> None:
        echo = a_function(ECHO)
        config = {"LambdaManagedInstancesCapacityProviderConfig": {"CapacityProviderArn": f"{ARN}gpus"}}
        self.deployed = Deployed(
            replace(echo, latest=replace(echo.latest, settings={"CapacityProviderConfig": config}))
        )
        self._api = LambdaApi(
            Services(
                directory=self.deployed, deployments=self.deployed, invoke=UNUSED, events=UNUSED, retries=Retries(ManualClock()),
                clock=ManualClock(), limits=Limits(), region="us-east-1", account_id="000000000000",
                endpoint=lambda: "http://127.0.0.1:9000", packages=UNUSED, downloads=UNUSED,
            )
        )  # fmt: skip

    async def ask(self, method: str, name: str = "", body: Any = None, query: str = "") -> tuple[int, Any]:
        path = "/2025-11-30/capacity-providers" + (f"/{name}" if name else "")
        data = b"" if body is None else json.dumps(body).encode()
        request = Request("r-1", method, path, query, "localhost", {}, "HTTP/1.1", "127.0.0.1", 9000, 0.0, body=data)
        reply = await self._api.answer(request)
        return reply.status, json.loads(reply.body)


@pytest.fixture
def api() -> Api:
    return Api()


async def test_one_is_kept_shown_listed_and_changed(api: Api) -> None:
    assert await api.ask("POST", body=GIVEN) == (202, {"CapacityProvider": SHOWN})
    assert await api.ask("GET", "gpus") == (200, {"CapacityProvider": SHOWN})
    assert await api.ask("GET", f"{ARN}gpus".replace(":", "%3A")) == (200, {"CapacityProvider": SHOWN})
    assert await api.ask("GET") == (200, {"CapacityProviders": [SHOWN]})
    assert await api.ask("GET", query="State=Failed") == (200, {"CapacityProviders": []})
    scaling = {"MaxVCpuCount": 16}
    changed = {**SHOWN, "CapacityProviderScalingConfig": scaling}
    assert await api.ask("PUT", "gpus", {"CapacityProviderScalingConfig": scaling}) == (
        202,
        {"CapacityProvider": changed},
    )
    assert api.deployed.catalog.documents["capacity-provider/gpus"]["Tags"] == {"team": "ml"}


async def test_one_that_functions_name_cannot_be_deleted(api: Api) -> None:
    await api.ask("POST", body=GIVEN)
    assert await api.ask("GET", "gpus/function-versions") == (
        200,
        {
            "CapacityProviderArn": f"{ARN}gpus",
            "FunctionVersions": [
                {"FunctionArn": "arn:aws:lambda:us-east-1:000000000000:function:echo:$LATEST", "State": "Active"}
            ],
        },
    )
    with pytest.raises(Conflict, match=r"in use by echo:\$LATEST"):
        await api.ask("DELETE", "gpus")


async def test_one_that_nobody_names_is_forgotten(api: Api) -> None:
    await api.ask("POST", body={**GIVEN, "CapacityProviderName": "cpus"})
    status, answer = await api.ask("DELETE", "cpus")
    assert (status, answer["CapacityProvider"]["State"]) == (202, "Deleting")
    with pytest.raises(ResourceNotFound, match=f"Capacity provider not found: {ARN}cpus"):
        await api.ask("GET", "cpus")


async def test_what_is_refused(api: Api) -> None:
    await api.ask("POST", body=GIVEN)
    with pytest.raises(Conflict, match="already exists"):
        await api.ask("POST", body=GIVEN)
    with pytest.raises(ValidationFailed) as refused:
        await api.ask("POST", body={"CapacityProviderName": "a b"})
    for field in ("capacityProviderName", "vpcConfig", "permissionsConfig"):
        assert field in str(refused.value)
    with pytest.raises(ValidationFailed, match="maxVCpuCount"):
        await api.ask("PUT", "gpus", {"CapacityProviderScalingConfig": {"MaxVCpuCount": 1}})
    with pytest.raises(ResourceNotFound):
        await api.ask("PUT", "none", {})
    with pytest.raises(InvalidParameter, match="not reachable"):
        await api.ask("GET", f"{ARN}gpus".replace("us-east-1", "eu-west-1").replace(":", "%3A"))
