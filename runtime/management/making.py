"""Making one function of what a template asks for. What the template has never named stays as it is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Function, Provisioned, Url, Version
from glowplug.runtime.errors import DefinitionError, GlowplugError
from glowplug.runtime.spec import FunctionSpec, LayerSpec, url_id_of
from glowplug.runtime.statements import statement_of
from glowplug.runtime.wanted import WantedFunction, WantedUrl

from .aliases import check_routing, without_alias
from .concurrency import check_provisioned
from .policies import with_statements
from .publishing import publish
from .site import Site

_NOTHING: Mapping[str, Any] = {}


@dataclass(frozen=True, slots=True)
class StackLayers:
    """The layers of the stack: their names and the versions that they are at, by logical id."""

    names: Mapping[str, str]
    versions: Mapping[str, LayerSpec]


@dataclass(frozen=True, slots=True)
class Making:
    """Makes one function of what a template asks for. ``was`` is the definition that the stack had of it before."""

    catalog: Catalog
    site: Site
    layers: StackLayers
    sizes: Mapping[str, int]
    was: Mapping[str, Any]

    def function(
        self, slot: int, stack: str, logical_id: str, wanted: WantedFunction, old: Function | None
    ) -> Function:
        """Return the function as it is to be. Raises ``DefinitionError``, ``PolicyTooLong``."""
        spec = replace(wanted.spec, layers=tuple(self._layer(logical_id, *layer) for layer in wanted.layers))
        latest = self._latest(spec, wanted, old)
        made = Function(spec.name, slot, latest) if old is None else replace(old, latest=latest)
        kept = {key: value for key, value in made.tags.items() if key not in (self.was.get("Tags") or ())}
        reserved = wanted.reserved
        if reserved is None and self.was.get("ReservedConcurrentExecutions") is None:
            reserved = made.reserved
        made = replace(made, stack=stack, logical_id=logical_id, tags={**kept, **wanted.tags}, reserved=reserved)
        made = self._aliased(logical_id, wanted, self._published(wanted, made))
        try:
            check_provisioned(made)
        except GlowplugError as error:
            raise DefinitionError(f"{logical_id}.ProvisionedConcurrencyConfig", str(error)) from error
        made = replace(made, documents=self._documents(logical_id, wanted, made))
        made = self._permitted(logical_id, wanted, made)
        return replace(made, urls=self._urls(wanted, made))

    def _latest(self, spec: FunctionSpec, wanted: WantedFunction, old: Function | None) -> Version:
        if old is not None and old.spec == spec and dict(old.latest.settings) == dict(wanted.settings):
            return old.latest
        size = self.sizes.get(spec.code_digest, 0 if old is None else old.latest.code_size)
        return Version(spec, self.site.new_id(), self.site.now, code_size=size, settings=dict(wanted.settings))

    def _layer(self, logical_id: str, given: str, by_id: bool) -> LayerSpec:
        if by_id:
            if given not in self.layers.versions:
                raise DefinitionError(f"{logical_id}.Layers", f"{given} is no layer of this template")
            return self.layers.versions[given]
        arn, _, number = given.rpartition(":")
        layer = self.catalog.layers.get(arn.removeprefix(self.site.layer_arn))
        version = layer.versions.get(int(number)) if layer is not None and number.isdigit() else None
        if version is None:
            raise DefinitionError(f"{logical_id}.Layers", f"Layer version {given} does not exist.")
        return LayerSpec(given, version.digest, version.size)

    def _published(self, wanted: WantedFunction, made: Function) -> Function:
        """Publish what has a logical id that the stack did not have. One that it has no more may be published again:
        code that comes back is a new version, as with CloudFormation."""
        publications = {
            one: number
            for one, number in made.publications.items()
            if one in wanted.versions and made.version(number) is not None
        }
        provisioned = dict(made.provisioned)
        had = self.was.get("Versions") or _NOTHING
        for name in had.keys() - wanted.versions.keys():
            self._provision(provisioned, made.publications.get(name, ""), None, had[name])
        for name, version in wanted.versions.items():
            number = publications.get(name)
            if number is None:
                made, published = publish(
                    made, description=version.description, new_id=self.site.new_id, now=self.site.now
                )
                number = publications[name] = published.number
            self._provision(provisioned, number, version.provisioned, had.get(name))
        return replace(made, publications=publications, provisioned=provisioned)

    def _aliased(self, logical_id: str, wanted: WantedFunction, made: Function) -> Function:
        had = self.was.get("Aliases") or _NOTHING
        for gone in had.keys() - wanted.aliases.keys():
            made = without_alias(made, gone)
        aliases, provisioned = dict(made.aliases), dict(made.provisioned)
        for name, alias in wanted.aliases.items():
            number = made.publications[alias.version] if alias.by_id else alias.version
            weights = {made.publications.get(version, version): share for version, share in alias.weights.items()}
            try:
                check_routing(made, number, weights, self.site)
            except GlowplugError as error:
                raise DefinitionError(f"{logical_id}.Aliases.{name}", str(error)) from error
            known = aliases.get(name)
            new = Alias(name, number, "", alias.description, weights)
            if known is None or replace(known, revision_id="") != new:
                aliases[name] = replace(new, revision_id=self.site.new_id())
            self._provision(provisioned, name, alias.provisioned, had.get(name))
        return replace(made, aliases=aliases, provisioned=provisioned)

    def _provision(
        self,
        provisioned: dict[str, Provisioned],
        qualifier: str,
        requested: int | None,
        had: Mapping[str, Any] | None,
    ) -> None:
        known = provisioned.get(qualifier)
        if requested is None:
            if (had or _NOTHING).get("ProvisionedConcurrencyConfig"):
                provisioned.pop(qualifier, None)
        elif known is None or known.requested != requested:
            provisioned[qualifier] = Provisioned(requested, self.site.now)

    def _documents(self, logical_id: str, wanted: WantedFunction, made: Function) -> dict[str, Mapping[str, Any]]:
        ours = {f"event-invoke/{qualifier}" for qualifier in self.was.get("EventInvokeConfigs") or ()}
        if self.was.get("FunctionScalingConfig"):
            ours.update(_scaled(self.was.get("Aliases") or ()))
        if self.was.get("RecursiveLoop"):
            ours.add("recursion/")
        documents = {key: value for key, value in made.documents.items() if key not in ours}
        for qualifier, config in wanted.event_invoke.items():
            if not made.versions_of(qualifier):
                field = f"{logical_id}.EventInvokeConfigs.{qualifier}"
                raise DefinitionError(field, f"{qualifier} is no alias or version of this function")
            known = made.documents.get(f"event-invoke/{qualifier}", _NOTHING)
            same = {key: value for key, value in known.items() if key != "LastModified"} == dict(config)
            stamped = {**config, "LastModified": self.site.unix_s}
            documents[f"event-invoke/{qualifier}"] = known if known and same else stamped
        if wanted.scaling is not None:
            named = zip(("MinExecutionEnvironments", "MaxExecutionEnvironments"), wanted.scaling, strict=True)
            bounds = {name: value for name, value in named if value is not None}
            documents |= dict.fromkeys(_scaled(wanted.aliases), bounds)
        if wanted.recursion:
            documents["recursion/"] = {"RecursiveLoop": wanted.recursion}
        return documents

    def _permitted(self, logical_id: str, wanted: WantedFunction, made: Function) -> Function:
        """Put the template's statements into the policies in which they belong; what the API added stays there."""
        ours = {(one.get("Qualifier", ""), one["StatementId"]) for one in self.was.get("Permissions") or ()}
        new: dict[str, dict[str, Any]] = {qualifier: {} for qualifier, _ in sorted(ours)}
        for number, given in enumerate(wanted.permissions):
            qualifier, sid = given.get("Qualifier", ""), given["StatementId"]
            field = f"{logical_id}.Permissions.{number}"
            if qualifier == LATEST:
                raise DefinitionError(field, "$LATEST has no policy of its own; the function has one")
            if qualifier and not made.versions_of(qualifier):
                raise DefinitionError(field, f"{qualifier} is no alias or version of this function")
            held = made.documents.get(f"policy/{qualifier}", _NOTHING).get("Statement", ())
            if (qualifier, sid) not in ours and any(one["Sid"] == sid for one in held):
                raise DefinitionError(field, f"the API has added a statement {sid} already")
            resource = f"{self.site.function_arn}{made.name}{f':{qualifier}' if qualifier else ''}"
            new.setdefault(qualifier, {})[sid] = statement_of(given, resource)
        for qualifier, statements in new.items():
            held = made.documents.get(f"policy/{qualifier}", _NOTHING).get("Statement", ())
            kept = [
                statements.pop(one["Sid"], one)
                for one in held
                if one["Sid"] in statements or (qualifier, one["Sid"]) not in ours
            ]
            if (policy := [*kept, *statements.values()]) != list(held):
                made = with_statements(made, qualifier, policy, self.site)
        return made

    def _urls(self, wanted: WantedFunction, made: Function) -> dict[str, Url]:
        gone = (self.was.get("Urls") or {}).keys() - wanted.urls.keys()
        urls = {
            qualifier: url
            for qualifier, url in made.urls.items()
            if qualifier not in gone and (qualifier == LATEST or qualifier in made.aliases)
        }
        for qualifier, url in wanted.urls.items():
            if qualifier != LATEST and qualifier not in made.aliases:
                raise DefinitionError(f"{made.logical_id}.Urls.{qualifier}", "is no alias of this function")
            urls[qualifier] = self._url(made, qualifier, url)
        return urls

    def _url(self, made: Function, qualifier: str, wanted: WantedUrl) -> Url:
        known = made.urls.get(qualifier)
        new = Url(
            url_id=url_id_of(made.name, "" if qualifier == LATEST else qualifier) if known is None else known.url_id,
            function=made.name,
            qualifier=qualifier,
            auth_type=wanted.auth_type,
            invoke_mode=wanted.invoke_mode,
            cors=dict(wanted.cors),
            created=self.site.iso if known is None else known.created,
            modified=self.site.iso if known is None else known.modified,
        )
        return new if new == known else replace(new, modified=self.site.iso)


def _scaled(aliases: Iterable[str]) -> tuple[str, ...]:
    """Return the documents that a FunctionScalingConfig is: of the aliases, where there are any."""
    return tuple(f"scaling/{name}" for name in aliases) or (f"scaling/{LATEST}",)
