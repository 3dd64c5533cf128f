"""Operations on versions and aliases."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Version
from glowplug.runtime.errors import FunctionNotFound, InvalidParameter, UpdateInProgress
from glowplug.runtime.http.messages import Reply, json_reply
from glowplug.runtime.management import aliases, publishing, updates

from .call import Call, Services
from .constraints import Body, matches, missing, problem, refuse
from .describe import alias_of, configuration_of, in_a_list
from .pages import page

_ALIAS_NAME = r"(?!^[0-9]+$)([a-zA-Z0-9-_]+)"
_VERSION = r"(\$LATEST(\.PUBLISHED)?|[0-9]+)"
_WEIGHT = (
    "Map value must satisfy constraint: [Member must have value less than or equal to 1.0, Member must have value "
    "greater than or equal to 0.0, Member must not be null]"
)
_WEIGHED = (
    "Map keys must satisfy constraint: [Member must have length less than or equal to 1024, Member must have length "
    "greater than or equal to 1, Member must satisfy regular expression pattern: [0-9]+]"
)


async def publish_version(services: Services, call: Call) -> Reply:
    """Answer PublishVersion: 201 with the version, the last one again where nothing has changed since."""
    ref = services.parse_unqualified(call)
    body = await services.body(call)
    sha256, site = body.text("CodeSha256"), services.site()

    def decide(catalog: Catalog) -> tuple[Catalog, Version]:
        function = updates.existing(catalog, ref.name, site)
        updates.refuse_stale(function.latest, body.text("RevisionId"))
        current = configuration_of(services, function.latest)["CodeSha256"]
        if sha256 and sha256 != current:
            raise InvalidParameter(
                f"CodeSHA256 ({sha256}) is different from current CodeSHA256 in $LATEST ({current}). Please try again "
                "with the CodeSHA256 in $LATEST."
            )
        if not function.latest.settled:
            raise UpdateInProgress(
                "The operation cannot be performed at this time. An update is in progress for resource: "
                f"{site.function_arn}{ref.name}"
            )
        function, version = publishing.publish(
            function, description=body.text("Description"), new_id=site.new_id, now=site.now
        )
        return catalog.with_function(function), version

    version = await services.deployments.change(decide, about="publish")
    return json_reply(configuration_of(services, version), HTTPStatus.CREATED)


async def list_versions_by_function(services: Services, call: Call) -> Reply:
    """Answer ListVersionsByFunction, ``$LATEST`` first."""
    function = services.directory.get(services.parse(call).name)

    def show(version: Version) -> dict[str, Any]:
        return in_a_list(configuration_of(services, version, suffix=version.number))

    return json_reply(page(call, "Versions", function.all_versions(), _place, show))


def _place(version: Version) -> int:
    return 0 if version.number == LATEST else int(version.number)


async def create_alias(services: Services, call: Call) -> Reply:
    """Answer CreateAlias."""
    ref = services.parse_unqualified(call)
    body, site = await services.body(call), services.site()
    name = body.text("Name")
    refuse(
        missing(name, "name"),
        missing(body.text("FunctionVersion"), "functionVersion"),
        matches(name, "name", _ALIAS_NAME),
        matches(body.text("FunctionVersion"), "functionVersion", _VERSION),
    )
    wanted = aliases.AliasChange(body.text("FunctionVersion"), body.text("Description"), _weights(body))
    alias = await services.deployments.change(
        lambda catalog: aliases.create(catalog, ref.name, name or "", wanted, site), about="create alias"
    )
    return json_reply(alias_of(services, services.directory.get(ref.name), alias), HTTPStatus.CREATED)


async def get_alias(services: Services, call: Call) -> Reply:
    """Answer GetAlias."""
    ref, name = services.parse(call), call.path["Name"]
    function = services.directory.get(ref.name)
    alias = function.aliases.get(name)
    if alias is None:
        raise FunctionNotFound(f"Cannot find alias arn: {services.arn_prefix}{ref.name}:{name}")
    return json_reply(alias_of(services, function, alias))


async def update_alias(services: Services, call: Call) -> Reply:
    """Answer UpdateAlias."""
    ref, name = services.parse(call), call.path["Name"]
    body, site = await services.body(call), services.site()
    refuse(matches(body.text("FunctionVersion"), "functionVersion", _VERSION))
    change = aliases.AliasChange(body.text("FunctionVersion"), body.text("Description"), _weights(body))
    alias = await services.deployments.change(
        lambda catalog: aliases.update(catalog, ref.name, name, change, site, revision_id=body.text("RevisionId")),
        about="update alias",
    )
    return json_reply(alias_of(services, services.directory.get(ref.name), alias))


async def delete_alias(services: Services, call: Call) -> Reply:
    """Answer DeleteAlias."""
    ref, name, site = services.parse(call), call.path["Name"], services.site()
    await services.deployments.change(
        lambda catalog: aliases.delete(catalog, ref.name, name, site), about="delete alias"
    )
    return Reply(HTTPStatus.NO_CONTENT)


async def list_aliases(services: Services, call: Call) -> Reply:
    """Answer ListAliases, of one version where that is asked for."""
    function = services.directory.get(services.parse(call).name)
    version = call.query("FunctionVersion")
    found = [
        alias
        for alias in function.aliases.values()
        if version is None or version == alias.version or version in alias.weights
    ]

    def show(alias: Alias) -> dict[str, Any]:
        return alias_of(services, function, alias)

    return json_reply(page(call, "Aliases", found, lambda alias: alias.name, show))


def _weights(body: Body) -> dict[str, float] | None:
    """Return AdditionalVersionWeights; None where no routing is given."""
    if body.map("RoutingConfig") is None:
        return None
    given = body.section("RoutingConfig").map("AdditionalVersionWeights") or {}
    problems = []
    for number, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 <= weight <= 1:
            problems.append(problem(_floats(given), "routingConfig.additionalVersionWeights", _WEIGHT))
        if not (number.isascii() and number.isdigit()):
            problems.append(problem(_floats(given), "routingConfig.additionalVersionWeights", _WEIGHED))
    refuse(*problems)
    return {number: float(weight) for number, weight in given.items()}


def _floats(weights: dict[str, Any]) -> dict[str, Any]:
    return {number: float(weight) if isinstance(weight, int) else weight for number, weight in weights.items()}
