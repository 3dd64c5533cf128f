"""Operations on functions: create, describe, change, delete."""

from __future__ import annotations

from dataclasses import replace
from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import LATEST, Version
from glowplug.runtime.definition import spec_of
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.http import names
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import updates
from glowplug.runtime.packages import Package
from glowplug.runtime.spec import FunctionSpec

from . import functioninput as given
from .call import Call, Services
from .constraints import Body, one_of, refuse
from .describe import configuration_of, in_a_list
from .pages import page


async def create_function(services: Services, call: Call) -> Reply:
    """Answer CreateFunction: 201 with a configuration that is Pending."""
    body = await call.body(services.limits.create_request_bytes)
    ref = given.new_name(services, body)
    given.check(body, creating=True, foreign=services.foreign)
    package = await services.packages.take(given.code(body))
    new = updates.NewFunction(
        spec=spec_of(given.definition(body, ref.name, package.digest), foreign=services.foreign),
        layers=given.layers(body),
        code_size=package.size,
        settings=given.settings(body, {}),
        tags=given.tags(body),
        publish=body.flag("Publish"),
    )
    site = services.site()
    shown = await services.deployments.change(lambda catalog: updates.create(catalog, new, site), about="create")
    return json_reply(configuration_of(services, shown, suffix=""), HTTPStatus.CREATED)


async def update_function_code(services: Services, call: Call) -> Reply:
    """Answer UpdateFunctionCode."""
    ref = services.parse_unqualified(call)
    body = await call.body(services.limits.create_request_bytes)
    site = services.site()
    updates.existing(services.deployments.catalog, ref.name, site)
    given.check(body, creating=False)
    if body.text("ImageUri"):
        raise InvalidParameter("Please don't provide ImageUri when updating a function with packageType Zip.")
    package = await services.packages.take(body.values)

    def change(latest: Version) -> Version:
        return _with_code(latest, package, body)

    shown = await services.deployments.change(
        lambda catalog: updates.update(
            catalog, ref.name, change, site, revision_id=body.text("RevisionId"), publish_it=body.flag("Publish"),
            dry=body.flag("DryRun"),
        ),
        about="update code",
    )  # fmt: skip
    return json_reply(configuration_of(services, shown))


def _with_code(latest: Version, package: Package, body: Body) -> Version:
    architectures = body.texts("Architectures")
    settings = dict(latest.settings) | ({"Architectures": architectures} if architectures else {})
    spec = replace(latest.spec, code_digest=package.digest)
    return replace(latest, spec=spec, code_size=package.size, settings=settings)


async def update_function_configuration(services: Services, call: Call) -> Reply:
    """Answer UpdateFunctionConfiguration: what is not given stays as it is."""
    ref = services.parse_unqualified(call)
    body = await services.body(call)
    given.check(body, creating=False, foreign=services.foreign)
    site = services.site()

    def decide(catalog: Any) -> Any:
        layers = None if body.texts("Layers") is None else updates.layers_of(catalog, given.layers(body), site)

        def change(latest: Version) -> Version:
            spec = _changed(latest.spec, body, foreign=services.foreign)
            if layers is not None:
                spec = replace(spec, layers=layers)
            return replace(latest, spec=spec, settings=given.settings(body, latest.settings))

        return updates.update(catalog, ref.name, change, site, revision_id=body.text("RevisionId"))

    shown = await services.deployments.change(decide, about="update configuration")
    return json_reply(configuration_of(services, shown))


def _changed(spec: FunctionSpec, body: Body, *, foreign: bool) -> FunctionSpec:
    """Return ``spec`` with what the request says; validated as a whole new definition is."""
    wanted = spec_of(given.definition(body, spec.name, spec.code_digest, spec), foreign=foreign)
    return replace(
        spec,
        handler=wanted.handler,
        runtime=wanted.runtime,
        description=wanted.description,
        role=wanted.role,
        timeout_s=wanted.timeout_s,
        memory_mb=wanted.memory_mb,
        ephemeral_mb=wanted.ephemeral_mb,
        environment=wanted.environment,
        snap_start=wanted.snap_start,
        log_format=wanted.log_format,
        log_level=wanted.log_level,
        system_log_level=wanted.system_log_level,
    )


async def get_function(services: Services, call: Call) -> Reply:
    """Answer GetFunction: the configuration, where its code can be had, and what belongs to the function."""
    ref = services.parse(call)
    version = _found(services, ref)
    function = services.directory.get(ref.name)
    location = services.downloads.location(call.request, version.spec.code_digest)
    shown: dict[str, Any] = {
        "Configuration": configuration_of(services, version, suffix=ref.given),
        "Code": {"RepositoryType": "S3", "Location": location},
    }
    if function.tags:
        shown["Tags"] = dict(function.tags)
    if function.reserved is not None:
        shown["Concurrency"] = {"ReservedConcurrentExecutions": function.reserved}
    return json_reply(shown)


async def get_function_configuration(services: Services, call: Call) -> Reply:
    """Answer GetFunctionConfiguration."""
    ref = services.parse(call)
    return json_reply(configuration_of(services, _found(services, ref), suffix=ref.given))


async def delete_function(services: Services, call: Call) -> Reply:
    """Answer DeleteFunction: 204, of a version that is not there too."""
    ref = services.parse(call)
    site, qualifier = services.site(), ref.given or None
    await services.deployments.change(
        lambda catalog: updates.delete(catalog, ref.name, qualifier, site), about=f"delete {ref.name}"
    )
    return Reply(HTTPStatus.NO_CONTENT)


async def list_functions(services: Services, call: Call) -> Reply:
    """Answer ListFunctions; with ``FunctionVersion=ALL`` every version."""
    asked = call.query("FunctionVersion")
    refuse(one_of(asked, "functionVersion", ("ALL",)))
    functions = services.deployments.catalog.functions.values()
    versions = [
        version
        for function in functions
        for version in (function.all_versions() if asked == "ALL" else (function.latest,))
    ]

    def show(version: Version) -> dict[str, Any]:
        suffix = version.number if asked == "ALL" else ""
        return in_a_list(configuration_of(services, version, suffix=suffix))

    return json_reply(page(call, "Functions", versions, lambda one: f"{one.spec.name}:{_place(one)}", show))


def _place(version: Version) -> str:
    return "" if version.number == LATEST else version.number.zfill(12)


def _found(services: Services, ref: names.FunctionRef) -> Version:
    """Return the version that is asked for; of an alias with weights the one that it points to."""
    if ref.qualifier == LATEST:
        if ref.given:
            return services.directory.target(ref.name, LATEST)  # raises with the qualified ARN
        return services.directory.get(ref.name).latest
    function = services.deployments.catalog.functions.get(ref.name)
    alias = None if function is None else function.aliases.get(ref.qualifier)
    return services.directory.target(ref.name, ref.qualifier if alias is None else alias.version)
