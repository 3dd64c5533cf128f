"""Operations on capacity providers, which are kept and shown (spec 1.4, tier 3)."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import Function, Version
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import capacity

from .call import Call, Services
from .constraints import Body, between, matches, missing, no_longer, one_of, refuse
from .pages import page

_NAME = (
    r"(arn:aws[a-zA-Z-]*:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:capacity-provider:"
    r"[a-zA-Z0-9-_]+)|[a-zA-Z0-9-_]+"
)
_ROLE = r"arn:(aws[a-zA-Z-]*)?:iam::\d{12}:role/?[a-zA-Z_0-9+=,.@\-_/]+"
_STATES = ("Pending", "Active", "Failed", "Deleting")
_KEPT = tuple(
    "VpcConfig PermissionsConfig InstanceRequirements CapacityProviderScalingConfig KmsKeyArn PropagateTags "
    "TelemetryConfig".split()
)
_CHANGED = tuple("CapacityProviderScalingConfig PropagateTags TelemetryConfig".split())


async def create_capacity_provider(services: Services, call: Call) -> Reply:
    """Answer CreateCapacityProvider."""
    body, site = await services.body(call), services.site()
    given, network = body.text("CapacityProviderName"), body.map("VpcConfig")
    permissions = body.map("PermissionsConfig")
    role = body.section("PermissionsConfig").text("CapacityProviderOperatorRoleArn")
    refuse(
        missing(given, "capacityProviderName"),
        _name_problem(given),
        missing(network, "vpcConfig"),
        "" if network is None else missing(network.get("SubnetIds"), "vpcConfig.subnetIds"),
        "" if network is None else missing(network.get("SecurityGroupIds"), "vpcConfig.securityGroupIds"),
        missing(permissions, "permissionsConfig"),
        "" if permissions is None else missing(role, "permissionsConfig.capacityProviderOperatorRoleArn"),
        matches(role, "permissionsConfig.capacityProviderOperatorRoleArn", _ROLE),
        *_scaling_problems(body),
    )
    name = _name(services, given or "")
    kept = body.chosen((*_KEPT, "Tags"))
    stored = await services.deployments.change(
        lambda catalog: capacity.create(catalog, name, kept, site), about="capacity provider"
    )
    return _one(services, name, stored, HTTPStatus.ACCEPTED)


async def get_capacity_provider(services: Services, call: Call) -> Reply:
    """Answer GetCapacityProvider."""
    name = _called(services, call)
    return _one(services, name, capacity.find(services.deployments.catalog, name, services.site()), HTTPStatus.OK)


async def update_capacity_provider(services: Services, call: Call) -> Reply:
    """Answer UpdateCapacityProvider."""
    name, body, site = _called(services, call), await services.body(call), services.site()
    refuse(*_scaling_problems(body))
    stored = await services.deployments.change(
        lambda catalog: capacity.update(catalog, name, body.chosen(_CHANGED), site), about="capacity provider"
    )
    return _one(services, name, stored, HTTPStatus.ACCEPTED)


async def delete_capacity_provider(services: Services, call: Call) -> Reply:
    """Answer DeleteCapacityProvider."""
    name, site = _called(services, call), services.site()
    was = await services.deployments.change(
        lambda catalog: capacity.delete(catalog, name, site), about="capacity provider"
    )
    return _one(services, name, was, HTTPStatus.ACCEPTED, state="Deleting")


async def list_capacity_providers(services: Services, call: Call) -> Reply:
    """Answer ListCapacityProviders."""
    state = call.query("State")
    refuse(one_of(state, "state", _STATES))
    stored = {
        key.partition("/")[2]: document
        for key, document in services.deployments.catalog.documents.items()
        if key.startswith("capacity-provider/") and state in (None, "Active")
    }
    return json_reply(
        page(call, "CapacityProviders", stored, str, lambda name: _shown(services, name, stored[name], "Active"))
    )


async def list_function_versions_by_capacity_provider(services: Services, call: Call) -> Reply:
    """Answer ListFunctionVersionsByCapacityProvider."""
    name, site, catalog = _called(services, call), services.site(), services.deployments.catalog
    capacity.find(catalog, name, site)

    def arn(user: tuple[Function, Version]) -> str:
        return f"{services.arn_prefix}{user[0].name}:{user[1].number}"

    users = capacity.users_of(catalog, name, site)
    listed = page(call, "FunctionVersions", users, arn, lambda user: {"FunctionArn": arn(user), "State": user[1].state})
    return json_reply({"CapacityProviderArn": capacity.arn_of(site, name), **listed})


def _called(services: Services, call: Call) -> str:
    given = call.path["CapacityProviderName"]
    refuse(_name_problem(given))
    return _name(services, given)


def _name_problem(given: str | None) -> str:
    return no_longer(given, "capacityProviderName", 140) or matches(given, "capacityProviderName", _NAME)


def _name(services: Services, given: str) -> str:
    """Return the name of what a name or an ARN names. Raises ``InvalidParameter`` for an ARN of another place."""
    prefix = capacity.arn_of(services.site(), "")
    if given.startswith("arn:") and not given.startswith(prefix):
        raise InvalidParameter(f"The capacity provider {given} is not reachable in this account and region")
    return given.removeprefix(prefix)


def _scaling_problems(body: Body) -> list[str]:
    scaling = body.section("CapacityProviderScalingConfig")
    where = "capacityProviderScalingConfig"
    return [
        between(scaling.whole("MaxVCpuCount"), f"{where}.maxVCpuCount", 2, 15000),
        one_of(scaling.text("ScalingMode"), f"{where}.scalingMode", ("Auto", "Manual")),
        no_longer(scaling.maps("ScalingPolicies"), f"{where}.scalingPolicies", 10),
    ]


def _one(
    services: Services, name: str, stored: capacity.Document, status: HTTPStatus, *, state: str = "Active"
) -> Reply:
    return json_reply({"CapacityProvider": _shown(services, name, stored, state)}, status)


def _shown(services: Services, name: str, stored: capacity.Document, state: str) -> dict[str, Any]:
    return {
        "CapacityProviderArn": capacity.arn_of(services.site(), name),
        "State": state,
        **{key: stored[key] for key in (*_KEPT, "LastModified") if key in stored},
    }
