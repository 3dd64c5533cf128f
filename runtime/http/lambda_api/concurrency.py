"""Operations on concurrency: reserved, provisioned, and FunctionScalingConfig."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog
from glowplug.runtime.deployments import Allocation
from glowplug.runtime.errors import FunctionNotFound, InvalidParameter
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import concurrency, updates

from .call import Call, Services
from .constraints import between, missing, refuse
from .pages import page


async def put_function_concurrency(services: Services, call: Call) -> Reply:
    """Answer PutFunctionConcurrency."""
    body, site, limits = await services.body(call), services.site(), services.limits
    ref = services.parse_unqualified(call)
    reserved = body.whole("ReservedConcurrentExecutions")
    refuse(missing(reserved, "reservedConcurrentExecutions"), between(reserved, "reservedConcurrentExecutions", 0))
    await services.deployments.change(
        lambda catalog: concurrency.reserve(
            catalog, ref.name, reserved or 0, site, account=limits.account_concurrency,
            unreserved=limits.unreserved_concurrency,
        ),
        about="reserve",
    )  # fmt: skip
    return json_reply({"ReservedConcurrentExecutions": reserved})


async def get_function_concurrency(services: Services, call: Call) -> Reply:
    """Answer GetFunctionConcurrency, with an empty object where nothing is reserved."""
    reserved = services.directory.get(services.parse(call).name).reserved
    return json_reply({} if reserved is None else {"ReservedConcurrentExecutions": reserved})


async def delete_function_concurrency(services: Services, call: Call) -> Reply:
    """Answer DeleteFunctionConcurrency."""
    ref, site = services.parse(call), services.site()
    await services.deployments.change(lambda catalog: concurrency.release(catalog, ref.name, site), about="release")
    return Reply(HTTPStatus.NO_CONTENT)


async def put_provisioned_concurrency_config(services: Services, call: Call) -> Reply:
    """Answer PutProvisionedConcurrencyConfig: 202, nothing allocated yet."""
    body, site, limits = await services.body(call), services.site(), services.limits
    requested = body.whole("ProvisionedConcurrentExecutions")
    refuse(
        missing(requested, "provisionedConcurrentExecutions"),
        between(requested, "provisionedConcurrentExecutions", 1),
        missing(call.query("Qualifier"), "qualifier"),
    )
    ref = services.parse(call)
    made = await services.deployments.change(
        lambda catalog: concurrency.provision(
            catalog, ref.name, ref.qualifier, requested or 1, site, account=limits.account_concurrency,
            unreserved=limits.unreserved_concurrency,
        ),
        about="provision",
    )  # fmt: skip
    return json_reply(_provisioned(Allocation(made.requested, 0, 0, "IN_PROGRESS", "", made.modified)), 202)


async def get_provisioned_concurrency_config(services: Services, call: Call) -> Reply:
    """Answer GetProvisionedConcurrencyConfig, or with ``List=ALL`` ListProvisionedConcurrencyConfigs."""
    if call.query("List") == "ALL":
        return _list(services, call)
    refuse(missing(call.query("Qualifier"), "qualifier"))
    ref = services.parse(call)
    concurrency.provisioned_function(services.deployments.catalog, ref.name, ref.qualifier, services.site())
    allocation = services.deployments.allocation(ref.name, ref.qualifier)
    if allocation is None:
        raise concurrency.not_provisioned()
    return json_reply(_provisioned(allocation))


async def delete_provisioned_concurrency_config(services: Services, call: Call) -> Reply:
    """Answer DeleteProvisionedConcurrencyConfig."""
    refuse(missing(call.query("Qualifier"), "qualifier"))
    ref, site = services.parse(call), services.site()
    await services.deployments.change(
        lambda catalog: concurrency.unprovision(catalog, ref.name, ref.qualifier, site), about="unprovision"
    )
    return Reply(HTTPStatus.NO_CONTENT)


def _list(services: Services, call: Call) -> Reply:
    function = services.directory.get(services.parse(call).name)

    def show(qualifier: str) -> dict[str, Any]:
        allocation = services.deployments.allocation(function.name, qualifier)
        shown = {} if allocation is None else _provisioned(allocation)
        return {"FunctionArn": f"{services.arn_prefix}{function.name}:{qualifier}", **shown}

    return json_reply(page(call, "ProvisionedConcurrencyConfigs", function.provisioned, str, show))


def _provisioned(allocation: Allocation) -> dict[str, Any]:
    shown = {
        "RequestedProvisionedConcurrentExecutions": allocation.requested,
        "AvailableProvisionedConcurrentExecutions": allocation.available,
        "AllocatedProvisionedConcurrentExecutions": allocation.allocated,
        "Status": allocation.status,
        "LastModified": allocation.modified,
    }
    return shown | ({"StatusReason": allocation.reason} if allocation.reason else {})


async def put_function_scaling_config(services: Services, call: Call) -> Reply:
    """Answer PutFunctionScalingConfig: the least and the most instances of a version. An empty one takes it back."""
    body, site = await services.body(call), services.site()
    refuse(missing(call.query("Qualifier"), "qualifier"))
    ref = services.parse(call)
    given = body.section("FunctionScalingConfig")
    least, most = given.whole("MinExecutionEnvironments"), given.whole("MaxExecutionEnvironments")
    refuse(
        between(least, "functionScalingConfig.minExecutionEnvironments", 0, 15000),
        between(most, "functionScalingConfig.maxExecutionEnvironments", 0, 15000),
    )
    if least is not None and most is not None and least > most:
        raise InvalidParameter("MinExecutionEnvironments must not be greater than MaxExecutionEnvironments.")
    bounds = {"MinExecutionEnvironments": least, "MaxExecutionEnvironments": most}
    value = {name: bound for name, bound in bounds.items() if bound is not None}

    def decide(catalog: Catalog) -> tuple[Catalog, None]:
        function = updates.existing(catalog, ref.name, site)
        if not function.versions_of(ref.qualifier):
            raise FunctionNotFound(f"Function not found: {site.function_arn}{ref.name}:{ref.qualifier}")
        return catalog.with_function(function.with_document(f"scaling/{ref.qualifier}", value or None)), None

    await services.deployments.change(decide, about="scale")
    return json_reply({"FunctionState": services.directory.target(ref.name, ref.qualifier).state}, HTTPStatus.ACCEPTED)


async def get_function_scaling_config(services: Services, call: Call) -> Reply:
    """Answer GetFunctionScalingConfig."""
    refuse(missing(call.query("Qualifier"), "qualifier"))
    ref = services.parse(call)
    services.directory.target(ref.name, ref.qualifier)
    config = dict(services.directory.get(ref.name).documents.get(f"scaling/{ref.qualifier}", {}))
    suffix = "" if ref.qualifier == LATEST else f":{ref.qualifier}"
    return json_reply(
        {
            "FunctionArn": f"{services.arn_prefix}{ref.name}{suffix}",
            "AppliedFunctionScalingConfig": config,
            "RequestedFunctionScalingConfig": config,
        }
    )
