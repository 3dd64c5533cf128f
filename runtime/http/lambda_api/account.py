"""Operations on the account, and settings of functions that are stored and have no effect here (spec 1.4, tier 3)."""

from __future__ import annotations

from typing import Any

from glowplug.runtime.catalog import LATEST, Catalog
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import concurrency, updates
from glowplug.runtime.wanted import RECURSION

from .call import Call, Services
from .constraints import missing, one_of, refuse

_TOTAL_CODE_BYTES = 80_530_636_800  # what AWS answers; nothing is refused for it here


async def get_account_settings(services: Services, call: Call) -> Reply:
    """Answer GetAccountSettings."""
    catalog, limits = services.deployments.catalog, services.limits
    account = limits.account_concurrency or concurrency.DEFAULT_ACCOUNT
    reserved = sum(function.reserved or 0 for function in catalog.functions.values())
    return json_reply(
        {
            "AccountLimit": {
                "TotalCodeSize": _TOTAL_CODE_BYTES,
                "CodeSizeUnzipped": limits.code_unzipped_bytes,
                "CodeSizeZipped": limits.code_zipped_bytes,
                "ConcurrentExecutions": account,
                "UnreservedConcurrentExecutions": max(0, account - reserved),
            },
            "AccountUsage": {"TotalCodeSize": _code_bytes(catalog), "FunctionCount": len(catalog.functions)},
        }
    )


def _code_bytes(catalog: Catalog) -> int:
    versions = [version for function in catalog.functions.values() for version in function.all_versions()]
    layers = [version for layer in catalog.layers.values() for version in layer.versions.values()]
    return sum(version.code_size for version in versions) + sum(layer.size for layer in layers)


async def get_function_recursion_config(services: Services, call: Call) -> Reply:
    """Answer GetFunctionRecursionConfig."""
    function = services.directory.get(services.parse(call).name)
    return json_reply(dict(function.documents.get("recursion/", {"RecursiveLoop": "Terminate"})))


async def put_function_recursion_config(services: Services, call: Call) -> Reply:
    """Answer PutFunctionRecursionConfig. It is for loops of destinations; no others are ended."""
    ref, body = services.parse(call), await services.body(call)
    loop = body.text("RecursiveLoop")
    refuse(missing(loop, "recursiveLoop"), one_of(loop, "recursiveLoop", RECURSION))
    await _store(services, ref.name, "recursion/", {"RecursiveLoop": loop})
    return json_reply({"RecursiveLoop": loop})


async def get_runtime_management_config(services: Services, call: Call) -> Reply:
    """Answer GetRuntimeManagementConfig."""
    ref = services.parse(call)
    services.directory.target(ref.name, ref.qualifier)
    stored = services.directory.get(ref.name).documents.get(f"runtime-management/{ref.qualifier}", {})
    return json_reply({"UpdateRuntimeOn": "Auto", **stored, "FunctionArn": _arn(services, ref.name, ref.qualifier)})


async def put_runtime_management_config(services: Services, call: Call) -> Reply:
    """Answer PutRuntimeManagementConfig. The runtime is the node's, whatever it says."""
    ref, body = services.parse(call), await services.body(call)
    on, arn = body.text("UpdateRuntimeOn"), body.text("RuntimeVersionArn")
    refuse(missing(on, "updateRuntimeOn"), one_of(on, "updateRuntimeOn", ("Auto", "Manual", "FunctionUpdate")))
    if (on == "Manual") != (arn is not None):
        raise InvalidParameter("RuntimeVersionArn is given with UpdateRuntimeOn Manual, and only then.")
    services.directory.target(ref.name, ref.qualifier)
    value: dict[str, Any] = {"UpdateRuntimeOn": on, **({} if arn is None else {"RuntimeVersionArn": arn})}
    await _store(services, ref.name, f"runtime-management/{ref.qualifier}", value)
    return json_reply({**value, "FunctionArn": _arn(services, ref.name, ref.qualifier)})


async def get_function_code_signing_config(services: Services, call: Call) -> Reply:
    """Answer GetFunctionCodeSigningConfig: no function has one."""
    function = services.directory.get(services.parse(call).name)
    return json_reply({"FunctionName": function.name})


async def _store(services: Services, name: str, key: str, value: dict[str, Any]) -> None:
    site = services.site()

    def decide(catalog: Catalog) -> tuple[Catalog, None]:
        return catalog.with_function(updates.existing(catalog, name, site).with_document(key, value)), None

    await services.deployments.change(decide, about=key)


def _arn(services: Services, name: str, qualifier: str) -> str:
    return f"{services.arn_prefix}{name}" + ("" if qualifier == LATEST else f":{qualifier}")
