"""The operations of Lambda's API: where each is, and who answers it (spec 1.4).

Paths are matched raw and each segment is decoded afterwards; one trailing slash is ignored.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from glowplug.runtime.http.messages import Request

from . import (
    account,
    capacityproviders,
    concurrency,
    eventinvoke,
    functions,
    invoke,
    layers,
    mappings,
    permissions,
    tags,
    urls,
    versions,
)
from .call import Operation

_FUNCTION = "/2015-03-31/functions/{FunctionName}"
_CONCURRENCY = "/2017-10-31/functions/{FunctionName}/concurrency"
_PROVISIONED = "/2019-09-30/functions/{FunctionName}/provisioned-concurrency"
_SCALING = "/2025-11-30/functions/{FunctionName}/function-scaling-config"
_EVENT_INVOKE = "/2019-09-25/functions/{FunctionName}/event-invoke-config"
_URL = "/2021-10-31/functions/{FunctionName}/url"
_MAPPINGS = "/2015-03-31/event-source-mappings"
_TAGS = "/2017-03-31/tags/{ARN}"
_LAYER = "/2018-10-31/layers/{LayerName}/versions"
_RECURSION = "/2024-08-31/functions/{FunctionName}/recursion-config"
_RUNTIME = "/2021-07-20/functions/{FunctionName}/runtime-management-config"
_CAPACITY = "/2025-11-30/capacity-providers"
_PROVIDER = f"{_CAPACITY}/{{CapacityProviderName}}"
_SIGNING = "/2020-06-30/functions/{FunctionName}/code-signing-config"


@dataclass(frozen=True, slots=True)
class Route:
    """One operation, and what answers it."""

    method: str
    template: str
    name: str
    answer: Operation


ROUTES: tuple[Route, ...] = (
    Route("POST", f"{_FUNCTION}/invocations", "Invoke", invoke.invoke),
    Route("POST", "/2014-11-13/functions/{FunctionName}/invoke-async", "InvokeAsync", invoke.invoke_async),
    Route("POST", "/2015-03-31/functions", "CreateFunction", functions.create_function),
    Route("GET", "/2015-03-31/functions", "ListFunctions", functions.list_functions),
    Route("GET", _FUNCTION, "GetFunction", functions.get_function),
    Route("DELETE", _FUNCTION, "DeleteFunction", functions.delete_function),
    Route("GET", f"{_FUNCTION}/configuration", "GetFunctionConfiguration", functions.get_function_configuration),
    Route("PUT", f"{_FUNCTION}/configuration", "UpdateFunctionConfiguration", functions.update_function_configuration),
    Route("PUT", f"{_FUNCTION}/code", "UpdateFunctionCode", functions.update_function_code),
    Route("POST", f"{_FUNCTION}/versions", "PublishVersion", versions.publish_version),
    Route("GET", f"{_FUNCTION}/versions", "ListVersionsByFunction", versions.list_versions_by_function),
    Route("POST", f"{_FUNCTION}/aliases", "CreateAlias", versions.create_alias),
    Route("GET", f"{_FUNCTION}/aliases", "ListAliases", versions.list_aliases),
    Route("GET", f"{_FUNCTION}/aliases/{{Name}}", "GetAlias", versions.get_alias),
    Route("PUT", f"{_FUNCTION}/aliases/{{Name}}", "UpdateAlias", versions.update_alias),
    Route("DELETE", f"{_FUNCTION}/aliases/{{Name}}", "DeleteAlias", versions.delete_alias),
    Route("POST", f"{_FUNCTION}/policy", "AddPermission", permissions.add_permission),
    Route("GET", f"{_FUNCTION}/policy", "GetPolicy", permissions.get_policy),
    Route("DELETE", f"{_FUNCTION}/policy/{{StatementId}}", "RemovePermission", permissions.remove_permission),
    Route("PUT", _CONCURRENCY, "PutFunctionConcurrency", concurrency.put_function_concurrency),
    Route("DELETE", _CONCURRENCY, "DeleteFunctionConcurrency", concurrency.delete_function_concurrency),
    Route(
        "GET",
        "/2019-09-30/functions/{FunctionName}/concurrency",
        "GetFunctionConcurrency",
        concurrency.get_function_concurrency,
    ),
    Route("PUT", _PROVISIONED, "PutProvisionedConcurrencyConfig", concurrency.put_provisioned_concurrency_config),
    Route("GET", _PROVISIONED, "GetProvisionedConcurrencyConfig", concurrency.get_provisioned_concurrency_config),
    Route(
        "DELETE", _PROVISIONED, "DeleteProvisionedConcurrencyConfig", concurrency.delete_provisioned_concurrency_config
    ),
    Route("PUT", _SCALING, "PutFunctionScalingConfig", concurrency.put_function_scaling_config),
    Route("GET", _SCALING, "GetFunctionScalingConfig", concurrency.get_function_scaling_config),
    Route("PUT", _EVENT_INVOKE, "PutFunctionEventInvokeConfig", eventinvoke.put_function_event_invoke_config),
    Route("POST", _EVENT_INVOKE, "UpdateFunctionEventInvokeConfig", eventinvoke.update_function_event_invoke_config),
    Route("GET", _EVENT_INVOKE, "GetFunctionEventInvokeConfig", eventinvoke.get_function_event_invoke_config),
    Route("DELETE", _EVENT_INVOKE, "DeleteFunctionEventInvokeConfig", eventinvoke.delete_function_event_invoke_config),
    Route(
        "GET",
        f"{_EVENT_INVOKE}/list",
        "ListFunctionEventInvokeConfigs",
        eventinvoke.list_function_event_invoke_configs,
    ),
    Route("POST", _URL, "CreateFunctionUrlConfig", urls.create_function_url_config),
    Route("GET", _URL, "GetFunctionUrlConfig", urls.get_function_url_config),
    Route("PUT", _URL, "UpdateFunctionUrlConfig", urls.update_function_url_config),
    Route("DELETE", _URL, "DeleteFunctionUrlConfig", urls.delete_function_url_config),
    Route("GET", f"{_URL}s", "ListFunctionUrlConfigs", urls.list_function_url_configs),
    Route("POST", _MAPPINGS, "CreateEventSourceMapping", mappings.create_event_source_mapping),
    Route("GET", _MAPPINGS, "ListEventSourceMappings", mappings.list_event_source_mappings),
    Route("GET", f"{_MAPPINGS}/{{UUID}}", "GetEventSourceMapping", mappings.get_event_source_mapping),
    Route("PUT", f"{_MAPPINGS}/{{UUID}}", "UpdateEventSourceMapping", mappings.update_event_source_mapping),
    Route("DELETE", f"{_MAPPINGS}/{{UUID}}", "DeleteEventSourceMapping", mappings.delete_event_source_mapping),
    Route("GET", _TAGS, "ListTags", tags.list_tags),
    Route("POST", _TAGS, "TagResource", tags.tag_resource),
    Route("DELETE", _TAGS, "UntagResource", tags.untag_resource),
    Route("GET", "/2016-08-19/account-settings", "GetAccountSettings", account.get_account_settings),
    Route("POST", _LAYER, "PublishLayerVersion", layers.publish_layer_version),
    Route("GET", _LAYER, "ListLayerVersions", layers.list_layer_versions),
    Route("GET", "/2018-10-31/layers", "ListLayers", layers.list_layers),
    Route("GET", f"{_LAYER}/{{VersionNumber}}", "GetLayerVersion", layers.get_layer_version),
    Route("DELETE", f"{_LAYER}/{{VersionNumber}}", "DeleteLayerVersion", layers.delete_layer_version),
    Route("GET", _RECURSION, "GetFunctionRecursionConfig", account.get_function_recursion_config),
    Route("PUT", _RECURSION, "PutFunctionRecursionConfig", account.put_function_recursion_config),
    Route("GET", _RUNTIME, "GetRuntimeManagementConfig", account.get_runtime_management_config),
    Route("PUT", _RUNTIME, "PutRuntimeManagementConfig", account.put_runtime_management_config),
    Route("POST", _CAPACITY, "CreateCapacityProvider", capacityproviders.create_capacity_provider),
    Route("GET", _CAPACITY, "ListCapacityProviders", capacityproviders.list_capacity_providers),
    Route("GET", _PROVIDER, "GetCapacityProvider", capacityproviders.get_capacity_provider),
    Route("PUT", _PROVIDER, "UpdateCapacityProvider", capacityproviders.update_capacity_provider),
    Route("DELETE", _PROVIDER, "DeleteCapacityProvider", capacityproviders.delete_capacity_provider),
    Route(
        "GET",
        f"{_PROVIDER}/function-versions",
        "ListFunctionVersionsByCapacityProvider",
        capacityproviders.list_function_versions_by_capacity_provider,
    ),
    Route("GET", _SIGNING, "GetFunctionCodeSigningConfig", account.get_function_code_signing_config),
)


@dataclass(slots=True)
class _Node:
    """A place in the tree of paths: what follows by name, what follows whatever it is called, and what is here."""

    named: dict[str, _Node] = field(default_factory=dict)
    any: _Node | None = None
    routes: dict[str, tuple[Route, tuple[str, ...]]] = field(default_factory=dict)


class RouteTable:
    """Finds the operation of a request."""

    def __init__(self, routes: Iterable[Route] = ROUTES) -> None:
        self._root = _Node()
        for route in routes:
            node, captured = self._root, []
            for segment in route.template.strip("/").split("/"):
                if segment.startswith("{"):
                    captured.append(segment[1:-1])
                    node.any = node = node.any or _Node()
                else:
                    node = node.named.setdefault(segment, _Node())
            node.routes[route.method] = (route, tuple(captured))

    def find(self, request: Request) -> tuple[Route, Mapping[str, str]] | None:
        """Return the operation and what its template captured, None where none is there. Raises ``InvalidParameter``
        for a path that is not UTF-8."""
        node: _Node | None = self._root
        values = []
        for segment in request.segments("/"):
            if node is None:
                break
            following = node.named.get(segment)
            if following is None:
                values.append(segment)
                following = node.any
            node = following
        found = None if node is None else node.routes.get(request.method)
        if found is None:
            return None
        route, captured = found
        return route, dict(zip(captured, values, strict=True))
