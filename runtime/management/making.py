"""Making one function of what a template asks for. What the template has never named stays as it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from glowplug.runtime.catalog import LATEST, Alias, Catalog, Function, Provisioned, Url, Version
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import FunctionSpec, LayerSpec, url_id_of
from glowplug.runtime.wanted import WantedFunction, WantedUrl

from .publishing import publish
from .site import Site


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
        spec = replace(wanted.spec, layers=tuple(self._layer(logical_id, *layer) for layer in wanted.layers))
        latest = self._latest(spec, wanted, old)
        made = Function(spec.name, slot, latest) if old is None else replace(old, latest=latest)
        made = replace(
            made,
            stack=stack,
            logical_id=logical_id,
            tags=dict(wanted.tags),
            reserved=wanted.reserved,
            documents=self._documents(wanted, made),
        )
        made = self._aliased(logical_id, wanted, self._published(wanted, made))
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

    def _documents(self, wanted: WantedFunction, made: Function) -> dict[str, Mapping[str, Any]]:
        ours = {f"event-invoke/{qualifier}" for qualifier in self.was.get("EventInvokeConfigs") or ()}
        if self.was.get("FunctionScalingConfig"):
            ours.add(f"scaling/{LATEST}")
        documents = {key: value for key, value in made.documents.items() if key not in ours}
        for qualifier, config in wanted.event_invoke.items():
            documents[f"event-invoke/{qualifier}"] = dict(config)
        if wanted.scaling is not None:
            named = zip(("MinExecutionEnvironments", "MaxExecutionEnvironments"), wanted.scaling, strict=True)
            documents[f"scaling/{LATEST}"] = {name: value for name, value in named if value is not None}
        return documents

    def _published(self, wanted: WantedFunction, made: Function) -> Function:
        publications = {one: number for one, number in made.publications.items() if made.version(number) is not None}
        provisioned = dict(made.provisioned)
        for name, version in wanted.versions.items():
            number = publications.get(name)
            if number is None:
                made, published = publish(
                    made, description=version.description, revision_id=self.site.new_id(), now=self.site.now
                )
                number = publications[name] = published.number
            self._provision(provisioned, number, version.provisioned)
        return replace(made, publications=publications, provisioned=provisioned)

    def _aliased(self, logical_id: str, wanted: WantedFunction, made: Function) -> Function:
        gone = (self.was.get("Aliases") or {}).keys() - wanted.aliases.keys()
        aliases = {name: alias for name, alias in made.aliases.items() if name not in gone}
        provisioned = {name: one for name, one in made.provisioned.items() if name not in gone}
        for name, alias in wanted.aliases.items():
            number = made.publications[alias.version] if alias.by_id else alias.version
            for version in (number, *alias.weights):
                if made.version(version) is None:
                    raise DefinitionError(f"{logical_id}.Aliases.{name}", f"there is no version {version}")
            known = aliases.get(name)
            new = Alias(name, number, "", alias.description, dict(alias.weights))
            if known is None or replace(known, revision_id="") != new:
                aliases[name] = replace(new, revision_id=self.site.new_id())
            self._provision(provisioned, name, alias.provisioned)
        return replace(made, aliases=aliases, provisioned=provisioned)

    def _provision(self, provisioned: dict[str, Provisioned], qualifier: str, requested: int | None) -> None:
        known = provisioned.get(qualifier)
        if requested is None:
            provisioned.pop(qualifier, None)
        elif known is None or known.requested != requested:
            provisioned[qualifier] = Provisioned(requested, self.site.now)

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
