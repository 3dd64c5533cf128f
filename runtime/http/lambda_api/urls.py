"""Operations on function URLs."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import LATEST, Url
from glowplug.runtime.errors import FunctionNotFound
from glowplug.runtime.http import names
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import urls

from .call import Call, Services
from .constraints import Body, between, matches, missing, no_longer, one_of, refuse
from .pages import page

_QUALIFIER = r"((?!^\d+$)^[0-9a-zA-Z-_]+$)"


async def create_function_url_config(services: Services, call: Call) -> Reply:
    """Answer CreateFunctionUrlConfig."""
    ref = _parse(services, call)
    body, site = await services.body(call), services.site()
    refuse(missing(body.text("AuthType"), "authType"))
    wanted = _change(body)
    url = await services.deployments.change(
        lambda catalog: urls.create(catalog, ref.name, ref.qualifier, wanted, site), about="create url"
    )
    shown = _shown(services, url)
    del shown["LastModifiedTime"]
    if body.text("InvokeMode") is None:
        del shown["InvokeMode"]
    return json_reply(shown, HTTPStatus.CREATED)


async def get_function_url_config(services: Services, call: Call) -> Reply:
    """Answer GetFunctionUrlConfig."""
    ref = _parse(services, call)
    function = services.deployments.catalog.functions.get(ref.name)
    url = None if function is None else function.urls.get(ref.qualifier)
    if url is None:
        raise urls.not_there()
    return json_reply(_shown(services, url))


async def update_function_url_config(services: Services, call: Call) -> Reply:
    """Answer UpdateFunctionUrlConfig."""
    ref = _parse(services, call)
    body, site = await services.body(call), services.site()
    change = _change(body)
    url = await services.deployments.change(
        lambda catalog: urls.update(catalog, ref.name, ref.qualifier, change, site), about="update url"
    )
    shown = _shown(services, url)
    if body.text("InvokeMode") is None:
        del shown["InvokeMode"]
    return json_reply(shown)


async def delete_function_url_config(services: Services, call: Call) -> Reply:
    """Answer DeleteFunctionUrlConfig."""
    ref = _parse(services, call)
    await services.deployments.change(lambda catalog: urls.delete(catalog, ref.name, ref.qualifier), about="delete url")
    return Reply(HTTPStatus.NO_CONTENT)


async def list_function_url_configs(services: Services, call: Call) -> Reply:
    """Answer ListFunctionUrlConfigs."""
    function = services.deployments.catalog.functions.get(services.parse(call).name)
    if function is None:
        raise FunctionNotFound("Function does not exist")

    def place(url: Url) -> str:
        return "" if url.qualifier == LATEST else url.qualifier

    found = page(call, "FunctionUrlConfigs", function.urls.values(), place, lambda url: _shown(services, url))
    return json_reply(found)


def _parse(services: Services, call: Call) -> names.FunctionRef:
    qualifier = call.query("Qualifier")
    refuse(no_longer(qualifier, "qualifier", 128), matches(qualifier, "qualifier", _QUALIFIER))
    return services.parse(call)


def _change(body: Body) -> urls.UrlChange:
    auth_type, invoke_mode, cors = body.text("AuthType"), body.text("InvokeMode"), body.section("Cors")
    for name in ("AllowHeaders", "AllowMethods", "AllowOrigins", "ExposeHeaders"):
        cors.texts(name)
    cors.flag("AllowCredentials")
    refuse(
        one_of(auth_type, "authType", ("NONE", "AWS_IAM")),
        one_of(invoke_mode, "invokeMode", ("RESPONSE_STREAM", "BUFFERED")),
        between(cors.whole("MaxAge"), "cors.maxAge", 0, 86400),
    )
    return urls.UrlChange(auth_type, invoke_mode, body.map("Cors"))


def _shown(services: Services, url: Url) -> dict[str, Any]:
    suffix = "" if url.qualifier == LATEST else f":{url.qualifier}"
    return {
        "FunctionUrl": f"{services.endpoint()}/_url/{url.url_id}/",
        "FunctionArn": f"{services.arn_prefix}{url.function}{suffix}",
        "AuthType": url.auth_type,
        **({"Cors": dict(url.cors)} if url.cors else {}),
        "CreationTime": url.created,
        "LastModifiedTime": url.modified,
        "InvokeMode": url.invoke_mode,
    }
