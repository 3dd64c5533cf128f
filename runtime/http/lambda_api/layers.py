"""Operations on layers."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import Layer, LayerVersion
from glowplug.runtime.errors import InvalidParameter, NotSupported
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import layers

from .call import Call, Services
from .constraints import matches, missing, no_longer, one_of, problem, refuse
from .functioninput import ARCHITECTURES, LAYER_VERSION, RUNTIMES
from .pages import page

_NAME = (
    r"(arn:(aws[a-zA-Z-]*)?:lambda:(eusc-)?[a-z]{2}((-gov)|(-iso([a-z]?)))?-[a-z]+-\d{1}:\d{12}:layer:[a-zA-Z0-9-_]+)"
    r"|[a-zA-Z0-9-_]+"
)
_EVERY_RUNTIME = (  # that layers may be listed by, in AWS's order (recorded)
    "ruby3.5", "ruby2.6", "dotnetcore1.0", "python3.7", "nodejs8.10", "nasa", "ruby2.7", "python2.7-greengrass",
    "dotnetcore2.0", "python3.8", "java21", "dotnet6", "dotnetcore2.1", "python3.9", "java11", "nodejs6.10", "provided",
    "dotnetcore3.1", "dotnet8", "java25", "java17", "nodejs", "nodejs4.3", "java8.al2", "go1.x", "dotnet10",
    "nodejs20.x", "go1.9", "byol", "nodejs10.x", "provided.al2023", "nodejs22.x", "python3.10", "java8", "nodejs12.x",
    "python3.11", "nodejs24.x", "nodejs8.x", "python3.12", "nodejs14.x", "nodejs8.9", "nodejs26.x", "python3.13",
    "python3.14", "nodejs16.x", "python3.15", "provided.al2", "nodejs4.3-edge", "nodejs18.x", "ruby3.2", "python3.4",
    "ruby3.3", "ruby3.4", "ruby2.5", "python3.6", "python2.7",
)  # fmt: skip


async def publish_layer_version(services: Services, call: Call) -> Reply:
    """Answer PublishLayerVersion."""
    body, site = await call.body(services.limits.create_request_bytes), services.site()
    name = call.path["LayerName"]
    runtimes, architectures = body.texts("CompatibleRuntimes"), body.texts("CompatibleArchitectures")
    refuse(
        matches(name, "layerName", _NAME),
        no_longer(name, "layerName", 140),
        missing(body.map("Content"), "content"),
        no_longer(body.text("Description"), "description", 256),
        no_longer(body.text("LicenseInfo"), "licenseInfo", 512),
        _members(runtimes, "compatibleRuntimes", _EVERY_RUNTIME, RUNTIMES),
        _architectures(architectures),
    )
    package = await services.packages.take(body.map("Content") or {})
    new = layers.NewLayer(
        name=_short(services, name),
        digest=package.digest,
        size=package.size,
        description=body.text("Description") or "",
        runtimes=None if runtimes is None else tuple(runtimes),
        architectures=None if architectures is None else tuple(architectures),
        license=body.text("LicenseInfo") or "",
    )
    version = await services.deployments.change(lambda catalog: layers.publish(catalog, new, site), about="layer")
    given = {"CompatibleRuntimes": runtimes, "CompatibleArchitectures": architectures}
    shown = _detail(services, call, new.name, version)
    shown |= {name: value for name, value in given.items() if value is not None}
    return json_reply(shown, HTTPStatus.CREATED)


async def get_layer_version(services: Services, call: Call) -> Reply:
    """Answer GetLayerVersion."""
    name = _short(services, call.path["LayerName"])
    version = layers.get(services.deployments.catalog, name, _number(call))
    return json_reply(_detail(services, call, name, version))


async def list_layers(services: Services, call: Call) -> Reply:
    """Answer ListLayers, or with ``find=LayerVersion`` GetLayerVersionByArn."""
    if call.query("find") == "LayerVersion":
        return _by_arn(services, call)
    runtime, architecture = _wanted(call)

    def newest(layer: Layer) -> LayerVersion | None:
        fitting = [one for one in layer.versions.values() if _fits(one, runtime, architecture)]
        return max(fitting, key=lambda one: one.version, default=None)

    found = [layer for layer in services.deployments.catalog.layers.values() if newest(layer) is not None]

    def show(layer: Layer) -> dict[str, Any]:
        version = newest(layer)
        latest = {} if version is None else {"LatestMatchingVersion": _listed(services, layer.name, version)}
        return {"LayerName": layer.name, "LayerArn": f"{services.layer_prefix}{layer.name}", **latest}

    return json_reply(page(call, "Layers", found, lambda layer: layer.name, show))


async def list_layer_versions(services: Services, call: Call) -> Reply:
    """Answer ListLayerVersions, the newest first."""
    runtime, architecture = _wanted(call)
    name = _short(services, call.path["LayerName"])
    layer = services.deployments.catalog.layers.get(name) or Layer(name)
    found = [one for one in layer.versions.values() if _fits(one, runtime, architecture)]

    def show(version: LayerVersion) -> dict[str, Any]:
        return _listed(services, name, version)

    return json_reply(page(call, "LayerVersions", found, lambda version: -version.version, show))


async def delete_layer_version(services: Services, call: Call) -> Reply:
    """Answer DeleteLayerVersion."""
    name, number = _short(services, call.path["LayerName"]), _number(call)
    await services.deployments.change(lambda catalog: layers.delete(catalog, name, number), about="delete layer")
    return Reply(HTTPStatus.NO_CONTENT)


def _by_arn(services: Services, call: Call) -> Reply:
    arn = call.query("Arn") or ""
    refuse(matches(arn, "arn", LAYER_VERSION))
    name, _, number = arn.removeprefix(services.layer_prefix).rpartition(":")
    version = layers.get(services.deployments.catalog, name, int(number) if number.isdigit() else 0)
    return json_reply(_detail(services, call, name, version))


def _detail(services: Services, call: Call, name: str, version: LayerVersion) -> dict[str, Any]:
    content = {
        "Location": services.downloads.location(call.request, version.digest),
        "CodeSha256": base64.b64encode(bytes.fromhex(version.digest)).decode(),
        "CodeSize": version.size,
    }
    return {"Content": content, "LayerArn": f"{services.layer_prefix}{name}", **_listed(services, name, version)}


def _listed(services: Services, name: str, version: LayerVersion) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "LayerVersionArn": f"{services.layer_prefix}{name}:{version.version}",
        "Version": version.version,
        "Description": version.description,
        "CreatedDate": version.created,
    }
    optional = {
        "CompatibleRuntimes": list(version.runtimes),
        "CompatibleArchitectures": list(version.architectures),
        "LicenseInfo": version.license,
    }
    return shown | {key: value for key, value in optional.items() if value}


def _short(services: Services, given: str) -> str:
    """Return a layer's name from a name or an ARN. Raises ``NotSupported`` for a layer of another account."""
    if given.startswith("arn:") and not given.startswith(services.layer_prefix):
        raise NotSupported(f"{given}: layers of other accounts and regions are not supported")
    return given.removeprefix(services.layer_prefix)


def _number(call: Call) -> int:
    given = call.path["VersionNumber"]
    try:
        return int(given)
    except ValueError:
        raise InvalidParameter(f"Value {given} at 'versionNumber' is not a number") from None


def _wanted(call: Call) -> tuple[str | None, str | None]:
    runtime, architecture = call.query("CompatibleRuntime"), call.query("CompatibleArchitecture")
    refuse(
        one_of(runtime, "compatibleRuntime", _EVERY_RUNTIME),
        one_of(architecture, "compatibleArchitecture", ARCHITECTURES),
    )
    return runtime, architecture


def _fits(version: LayerVersion, runtime: str | None, architecture: str | None) -> bool:
    return (runtime is None or runtime in version.runtimes) and (
        architecture is None or architecture in version.architectures
    )


def _members(given: Sequence[str] | None, field: str, allowed: Sequence[str], shown: Sequence[str]) -> str:
    if given is None or all(value in allowed for value in given):
        return ""
    return problem(given, field, f"Member must satisfy enum value set: [{', '.join(shown)}]")


def _architectures(given: Sequence[str] | None) -> str:
    if given is None or all(value in ARCHITECTURES for value in given):
        return ""
    rule = f"[Member must satisfy enum value set: [{', '.join(ARCHITECTURES)}], Member must not be null]"
    return problem(given, "compatibleArchitectures", f"Member must satisfy constraint: {rule}")
