"""Layers of a template: packed, and named by the functions that have them.

``AWS::Serverless::LayerVersion`` goes through the translator as the plain ``AWS::Lambda::LayerVersion`` that it stands
for, under its own logical id: the translator's name for it changes with each content. A layer is content-addressed like
code, and the node publishes a version where content or description are new.

With ``Metadata: {BuildMethod: python3.x}`` the content is what ``sam build`` would build: the directory's files and
what its requirements.txt asks for, below ``python/``. What ``sam build`` has built already is taken as it is, and so is
what is in S3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .archive import Archive, pack, pack_below
from .errors import ArchiveError, TemplateError
from .packaged import LAMBDAS, SAMS, Fetch, archive_of, object_of
from .places import place_of
from .requirements import is_sams
from .resources import Resources
from .supported import LAMBDA_LAYER, SERVERLESS_LAYER, for_translator
from .template import KeyPath, Template
from .versionnumbers import unpublished

PREFIX = "python"
"""Where Python finds packages in a layer."""

_FOUND_BELOW = ("python/", "bin/", "lib/")  # of /opt, by Python, PATH and LD_LIBRARY_PATH
_NAME = re.compile(r"[a-zA-Z0-9_-]{1,140}")
_ARN = re.compile(r"arn:[\w-]+:lambda:[a-z0-9-]+:\d{12}:layer:[a-zA-Z0-9_-]+:\d+")
_PYTHON = re.compile(r"python3\.\d+")
_LONGEST = {"Description": 256, "LicenseInfo": 512}
_LISTS = {"CompatibleRuntimes": 15, "CompatibleArchitectures": 2}
_ARCHITECTURES = ("x86_64", "arm64")


@dataclass(frozen=True, slots=True)
class LayerBuild:
    """What a layer is to be built of: a directory, for the Python of a ``Runtime``."""

    directory: Path
    runtime: str


@dataclass(frozen=True, slots=True)
class Layers:
    """The layers of a template, by logical id: as the node takes them, with their archives by digest.

    ``builds`` are those that want what a requirements.txt asks for; their archives are without it yet.
    """

    definitions: Mapping[str, Mapping[str, Any]]
    archives: Mapping[str, Archive]
    builds: Mapping[str, LayerBuild]
    notes: tuple[str, ...]


def as_lambdas(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document for the translator whose layers are CloudFormation's, their content a path still."""
    resources = {logical_id: _as_lambda(resource) for logical_id, resource in document["Resources"].items()}
    shared = {name: section for name, section in (document.get("Globals") or {}).items() if name != "LayerVersion"}
    return {**document, "Resources": resources} | ({"Globals": shared} if "Globals" in document else {})


def _as_lambda(resource: Any) -> Any:
    kind = resource.get("Type")
    if kind != SERVERLESS_LAYER:
        return resource
    properties = for_translator(kind, resource.get("Properties") or {})
    content = properties.pop("ContentUri", None)
    return {**resource, "Type": LAMBDA_LAYER, "Properties": properties | {"Content": content}}


def layers_of(template: Template, resources: Resources, fetch: Fetch) -> Layers:
    """Pack the layers of a translated template; ``fetch`` reads S3. Raises ``TemplateError`` naming file and line."""
    definitions: dict[str, Mapping[str, Any]] = {}
    archives: dict[str, Archive] = {}
    builds: dict[str, LayerBuild] = {}
    names: dict[str, str] = {}
    notes = []
    for logical_id in resources.of_type(LAMBDA_LAYER):
        path: KeyPath = ("Resources", logical_id, "Properties")
        archive, build = _content(template, resources, logical_id, fetch)
        definition = _definition(template, resources, logical_id)
        name = definition["LayerName"]
        if name in names:
            raise template.error((*path, "LayerName"), f"{name} is already the name of {names[name]}")
        names[name] = logical_id
        definitions[logical_id] = {**definition, "CodeSha256": archive.digest}
        archives[archive.digest] = archive
        if build is not None:
            builds[logical_id] = build
        elif not any(entry.startswith(_FOUND_BELOW) for entry in archive.names):
            notes.append(f"{logical_id}: nothing in {archive.origin} is below python/, where Python looks in a layer")
    return Layers(definitions, archives, builds, tuple(notes))


def content_path(template: Template, logical_id: str) -> KeyPath:
    """Return where the template names a layer's content."""
    sams = template.get(("Resources", logical_id, "Type")) == SERVERLESS_LAYER
    return ("Resources", logical_id, "Properties", "ContentUri" if sams else "Content")


def of_function(template: Template, resources: Resources, logical_id: str) -> list[Any]:
    """Return the ``Layers`` of a function: ARNs, and ``{"Ref": …}`` for layers of the template. Raises
    ``TemplateError``."""
    path: KeyPath = ("Resources", logical_id, "Properties", "Layers")
    given = resources.intrinsics.evaluate(resources.properties(logical_id).get("Layers"), path) or []
    where = place_of(template, logical_id, "Layers")
    layers = resources.of_type(LAMBDA_LAYER)
    if not isinstance(given, list):
        raise template.error(where, f"must be a list, not {given!r}")
    found: list[Any] = []
    for item in given:
        if not isinstance(item, str):
            raise template.error(where, f"{item!r} is not the ARN of a layer's version")
        own = unpublished(item)
        if own in layers and item == resources.ref(own):
            found.append({"Ref": own})
        elif _ARN.fullmatch(item):
            found.append(item)
        else:
            raise template.error(
                where, f"{item!r} is not the ARN of a layer's version, nor a !Ref to a layer of this template"
            )
    return found


def _definition(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    path: KeyPath = ("Resources", logical_id, "Properties")
    given = resources.properties(logical_id)
    definition: dict[str, Any] = {"LayerName": resources.layer_name(logical_id)}
    if not isinstance(definition["LayerName"], str) or not _NAME.fullmatch(definition["LayerName"]):
        problem = f"{definition['LayerName']!r} is not a layer's name: {_NAME.pattern}"
        raise template.error((*path, "LayerName"), problem)
    for name, longest in _LONGEST.items():
        value = resources.intrinsics.evaluate(given.get(name), (*path, name))
        if value is None:
            continue
        if not isinstance(value, str) or len(value) > longest:
            raise template.error((*path, name), f"must be text of at most {longest} characters")
        definition[name] = value
    for name, most in _LISTS.items():
        value = resources.intrinsics.evaluate(given.get(name), (*path, name))
        if value is None:
            continue
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value) or len(value) > most:
            raise template.error((*path, name), f"must be a list of at most {most} names, not {value!r}")
        definition[name] = value
    for architecture in definition.get("CompatibleArchitectures", ()):
        if architecture not in _ARCHITECTURES:
            problem = f"{architecture!r} is none of {', '.join(_ARCHITECTURES)}"
            raise template.error((*path, "CompatibleArchitectures"), problem)
    return definition


def _content(
    template: Template, resources: Resources, logical_id: str, fetch: Fetch
) -> tuple[Archive, LayerBuild | None]:
    """Return what a layer holds before anything is installed into it, and what it is to be built of."""
    path = content_path(template, logical_id)
    given = resources.intrinsics.evaluate(resources.properties(logical_id).get("Content"), path)
    if given is None:
        raise template.error(path, "is missing: a directory, a .zip or s3://bucket/key")
    place = object_of(template, path, given, SAMS if path[-1] == "ContentUri" else LAMBDAS)
    try:
        archive, build = _local(template, logical_id, given) if place is None else (archive_of(place, fetch), None)
        if not archive.names:
            raise ArchiveError(f"{archive.origin} holds no files")
    except ArchiveError as error:
        raise template.error(path, str(error)) from error
    return archive, build


def _local(template: Template, logical_id: str, place: Any) -> tuple[Archive, LayerBuild | None]:
    """Return ``_content`` of a file or directory of this machine. Raises ``ArchiveError`` as well."""
    path = content_path(template, logical_id)
    if not isinstance(place, str) or not place or "://" in place:
        problem = f"{place!r} is not supported yet; give a local directory or .zip, or s3://bucket/key"
        raise template.error(path, problem)
    content = template.path.parent / place
    if content.is_file() and content.suffix != ".zip":
        raise template.error(path, f"{place} is a file; a layer is a directory or a .zip")
    runtime = _build_runtime(template, logical_id)
    if runtime and content.is_dir() and not is_sams(content):
        return pack_below(PREFIX, content, origin=str(content)), LayerBuild(content, runtime)
    return pack(content), None


def _build_runtime(template: Template, logical_id: str) -> str:
    """Return the Runtime that a layer is to be built for; empty where it is taken as it is."""
    path: KeyPath = ("Resources", logical_id, "Metadata")
    metadata = template.get(path) or {}
    method = metadata.get("BuildMethod")
    if method is None or str(metadata.get("SkipBuild", False)).lower() == "true":
        return ""
    if not isinstance(method, str) or not _PYTHON.fullmatch(method):
        raise _no_method(template, (*path, "BuildMethod"), method)
    return method


def _no_method(template: Template, path: KeyPath, method: object) -> TemplateError:
    return template.error(
        path, f"{method!r} is not supported, python3.x is; or run `sam build` and deploy .aws-sam/build/template.yaml"
    )
