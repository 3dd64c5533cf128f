"""Operations on event source mappings: which states they answer with, and what they refuse."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import GlowplugError
from glowplug.runtime.events.mapping.pollers import MappingStatus
from glowplug.runtime.http.lambda_api.api import LambdaApi
from glowplug.runtime.http.lambda_api.call import Services
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.http.messages import Request
from glowplug.runtime.testing import FakeMappings, ManualClock, a_spec
from glowplug.runtime.testing.deployed import Deployed, a_function

UNUSED: Any = None
JOBS = "arn:aws:sqs:us-east-1:000000000000:jobs"
GIVEN = {"FunctionName": "echo", "EventSourceArn": JOBS}


class Api:
    """Lambda's API over a catalog with one function, and one queue that takes functions of up to 30 seconds."""

    def __init__(self) -> None:
        self.mappings = FakeMappings({JOBS: 30.0})
        self.deployed = Deployed(a_function(a_spec("echo")))
        self._api = LambdaApi(
            Services(
                directory=self.deployed, deployments=self.deployed, invoke=UNUSED, events=UNUSED, streams=UNUSED, retries=Retries(ManualClock()),
                clock=ManualClock(), limits=Limits(), region="us-east-1", account_id="000000000000",
                endpoint=lambda: "http://127.0.0.1:9000", packages=UNUSED, downloads=UNUSED, sources=self.mappings,
                pollers=self.mappings,
            )
        )  # fmt: skip

    async def ask(self, method: str, uuid: str = "", body: Any = None) -> tuple[int, Any]:
        path = f"/2015-03-31/event-source-mappings/{uuid}"
        data = b"" if body is None else json.dumps(body).encode()
        request = Request("r-1", method, path, "", "localhost", {}, "HTTP/1.1", "127.0.0.1", 9000, 0.0, body=data)
        try:
            reply = await self._api.answer(request)
        except GlowplugError as error:
            return error.status, str(error)
        return reply.status, json.loads(reply.body)


@pytest.fixture
def api() -> Api:
    return Api()


async def test_states_are_those_of_lambda(api: Api) -> None:
    status, made = await api.ask("POST", body=GIVEN)
    assert (202, "Creating", "USER_INITIATED") == (status, made["State"], made["StateTransitionReason"])
    uuid = made["UUID"]
    assert "Enabled" == (await api.ask("GET", uuid))[1]["State"]
    assert "Updating" == (await api.ask("PUT", uuid, {"BatchSize": 5}))[1]["State"]
    assert "Disabling" == (await api.ask("PUT", uuid, {"Enabled": False}))[1]["State"]
    api.mappings.statuses[uuid] = MappingStatus(draining=True)
    assert "Disabling" == (await api.ask("GET", uuid))[1]["State"]
    api.mappings.statuses[uuid] = MappingStatus()
    assert "Disabled" == (await api.ask("GET", uuid))[1]["State"]
    assert "Enabling" == (await api.ask("PUT", uuid, {"Enabled": True}))[1]["State"]
    assert "Deleting" == (await api.ask("DELETE", uuid))[1]["State"]
    assert 404 == (await api.ask("GET", uuid))[0]


async def test_a_mapping_that_is_made_disabled_is_so_at_once(api: Api) -> None:
    made = (await api.ask("POST", body=GIVEN | {"Enabled": False}))[1]
    assert ("Disabled", "Disabled") == (made["State"], (await api.ask("GET", made["UUID"]))[1]["State"])


async def test_a_mapping_says_why_it_does_not_receive(api: Api) -> None:
    uuid = (await api.ask("POST", body=GIVEN))[1]["UUID"]
    api.mappings.statuses[uuid] = MappingStatus(problem="Queue not found: jobs", last_result="OK")
    shown = (await api.ask("GET", uuid))[1]
    assert ("Queue not found: jobs", "OK") == (shown["StateTransitionReason"], shown["LastProcessingResult"])
    (listed,) = (await api.ask("GET"))[1]["EventSourceMappings"]
    assert shown == listed


async def test_a_queue_that_cannot_be_is_refused_and_nothing_is_stored(api: Api) -> None:
    status, answer = await api.ask("POST", body=GIVEN | {"EventSourceArn": f"{JOBS}-other"})
    assert (400, f"{JOBS}-other: no such queue") == (status, answer)
    assert ({}, 0) == (api.deployed.catalog.documents, api.deployed.changed)


async def test_the_same_queue_and_function_twice_conflict_before_the_queue_is_asked_for(api: Api) -> None:
    await api.ask("POST", body=GIVEN)
    api.mappings.timeouts = {}
    status, answer = await api.ask("POST", body=GIVEN)
    assert 409 == status
    assert "already exists" in answer


async def test_a_queue_that_has_gone_does_not_hinder_a_mapping_from_being_disabled(api: Api) -> None:
    uuid = (await api.ask("POST", body=GIVEN))[1]["UUID"]
    api.mappings.timeouts = {}
    assert 202 == (await api.ask("PUT", uuid, {"Enabled": False}))[0]
    assert 400 == (await api.ask("PUT", uuid, {"Enabled": True}))[0]
