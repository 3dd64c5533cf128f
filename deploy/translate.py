"""From a SAM template to definitions: the form in which the node accepts functions.

0. ``expansion`` unrolls loops and fills in what other stacks export.
1. ``supported.check`` refuses, on the template as written, what is not built.
2. Local code is packed, and its place taken by ``s3://glowplug/<digest>``: the translator only knows S3.
3. aws-sam-translator turns SAM into plain CloudFormation. It needs a region and no AWS.
4. What it made is read with our own intrinsics: each AWS::Lambda::Function becomes a definition, each AWS::Lambda::Url
   its FunctionUrlConfig.
5. ``definition.spec_of`` judges each; the field that it refuses is found again in the template.

This file, with ``supported`` and ``resources`` beside it, is the only one that knows SAM's and CloudFormation's names.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import url_id_of
from glowplug.runtime.wanted import wanted_of

from . import parameters as template_parameters
from .archive import Archive, pack, pack_text
from .errors import ArchiveError, TemplateError
from .expansion import expand, exports_of
from .intrinsics import Intrinsics
from .resources import Account, NoResources, Resources
from .supported import LAMBDA_FUNCTION, LAMBDA_URL, SERVERLESS_FUNCTION, check, without_noted
from .template import KeyPath, Template, read_json_file

_BUCKET = "glowplug"
_COPIED = tuple(  # from the Lambda function as it is
    "Handler Runtime Timeout MemorySize Description Environment EphemeralStorage Role ReservedConcurrentExecutions "
    "SnapStart Architectures AcceleratorConfig".split()
)
# CloudFormation takes "30" for 30, which is what a Ref to a parameter gives.
_NUMBERS = frozenset(
    "Timeout MemorySize Size ReservedConcurrentExecutions Concurrency MaxBatchSize MaxWaitMilliseconds "
    "IdleTimeoutSeconds ParkTimeoutSeconds InitTimeoutSeconds HoldTimeoutSeconds MaxHeldRequests MaxInstances "
    "MaxParkedAgeSeconds ColdWeight WarmCalls VramMiB ActiveThreadPercentage AcceleratorMemorySize".split()
)
_NUMBER = re.compile(r"-?\d+(\.\d+)?")
_CAUSE = re.compile(r"Resource with id \[([^\]]+)\] is invalid\. (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a template asks for. ``definitions`` and ``layers`` by logical id, ``archives`` by digest, ``outputs`` by
    name.

    ``notes`` are what the template says that has no effect here, one sentence each. ``exports`` and ``imports`` are
    what it shares with other stacks: text by export name, and the names that it took from them.
    """

    name: str
    template: Template
    definitions: Mapping[str, Mapping[str, Any]]
    archives: Mapping[str, Archive]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()

    def error(self, logical_id: str, error: DefinitionError) -> TemplateError:
        """Return the refusal of a definition as an error of the template: the same problem, with its file and line."""
        return self.template.error(_place(self.template, logical_id, error.field), error.problem)


def translate(
    template: Template,
    *,
    stack: str,
    account: Account | None = None,
    endpoint: str = "http://127.0.0.1:9000",
    parameters: Mapping[str, str] | None = None,
    exports: Mapping[str, str] | None = None,
) -> Stack:
    """Return the functions that ``template`` describes. Raises ``TemplateError`` naming file and line.

    ``endpoint`` is where the node listens, for the function URLs in Outputs. ``exports`` is what the stacks of the node
    export; None where there is no node to ask, and an import stands for its own name.
    """
    account = account or Account()
    names = template_parameters.resolve(template, parameters or {}) | account.pseudo_parameters(stack)
    template, imports = expand(template, names, exports)
    notes = check(template)
    packed, archives = _Packer(template, names).pack()
    translated = _to_cloudformation(template, packed, names)
    resources = Resources(template, translated["Resources"], names, stack=stack, account=account, endpoint=endpoint)
    definitions = {
        logical_id: _definition(template, resources, logical_id) for logical_id in resources.of_type(LAMBDA_FUNCTION)
    }
    for logical_id in resources.of_type(LAMBDA_URL):
        _add_url(template, resources, logical_id, definitions)
    result = Stack(stack, template, definitions, archives, notes=notes)
    _validate(result)
    outputs = _outputs(template, resources.intrinsics)
    return replace(result, outputs=outputs, exports=exports_of(template, names, outputs), imports=imports)


class _Packer:
    """Packs the code of every function and rewrites the document to name it by digest."""

    def __init__(self, template: Template, names: Mapping[str, Any]) -> None:
        self._template = template
        self._intrinsics = Intrinsics(template, names, NoResources())
        self._packed: dict[str, Archive] = {}

    def pack(self) -> tuple[dict[str, Any], dict[str, Archive]]:
        """Return the document for the translator, and the archives by digest."""
        document = copy.deepcopy(dict(self._template.document))
        shared = (document.get("Globals") or {}).get("Function")
        if shared:
            shared = document["Globals"]["Function"] = without_noted(SERVERLESS_FUNCTION, shared)
            if "CodeUri" in shared:
                shared["CodeUri"] = self._local(shared["CodeUri"], ("Globals", "Function", "CodeUri"))
        for logical_id, resource in document["Resources"].items():
            path: KeyPath = ("Resources", logical_id, "Properties")
            if resource.get("Type") == SERVERLESS_FUNCTION:
                resource["Properties"] = without_noted(SERVERLESS_FUNCTION, resource.get("Properties") or {})
                self._serverless(resource["Properties"], path, inherits="CodeUri" in (shared or {}))
            elif resource.get("Type") == LAMBDA_FUNCTION:
                resource["Properties"] = without_noted(LAMBDA_FUNCTION, resource.get("Properties") or {})
                code = self._lambda(resource["Properties"].get("Code"), (*path, "Code"))
                resource["Properties"]["Code"] = {"S3Bucket": _BUCKET, "S3Key": code.digest}
        return document, {archive.digest: archive for archive in self._packed.values()}

    def _serverless(self, properties: dict[str, Any], path: KeyPath, *, inherits: bool) -> None:
        if "InlineCode" in properties:
            text = self._intrinsics.evaluate(properties.pop("InlineCode"), (*path, "InlineCode"))
            properties["CodeUri"] = _uri(self._inline(text, (*path, "InlineCode")))
        elif "CodeUri" in properties:
            properties["CodeUri"] = self._local(properties["CodeUri"], (*path, "CodeUri"))
        elif not inherits:
            raise self._template.error(path, "CodeUri is missing: a directory, a file or a .zip")

    def _lambda(self, code: Any, path: KeyPath) -> Archive:
        if isinstance(code, Mapping) and "ZipFile" in code:
            return self._inline(self._intrinsics.evaluate(code["ZipFile"], (*path, "ZipFile")), (*path, "ZipFile"))
        return self._archive(code, path)

    def _local(self, value: Any, path: KeyPath) -> str:
        return _uri(self._archive(value, path))

    def _archive(self, value: Any, path: KeyPath) -> Archive:
        place = self._intrinsics.evaluate(value, path)
        if not isinstance(place, str) or not place or "://" in place:
            raise self._template.error(path, f"{place!r} is not supported yet; give a local directory, file or .zip")
        try:
            if place not in self._packed:
                self._packed[place] = pack(self._template.path.parent / place)
            return self._packed[place]
        except ArchiveError as error:
            raise self._template.error(path, str(error)) from error

    def _inline(self, text: Any, path: KeyPath) -> Archive:
        if not isinstance(text, str):
            raise self._template.error(path, "must be the text of index.py")
        label = ".".join(map(str, path[1:]))
        return self._packed.setdefault(f"inline:{label}", pack_text("index.py", text, origin=label))


def _uri(archive: Archive) -> str:
    return f"s3://{_BUCKET}/{archive.digest}"


@dataclass(frozen=True, slots=True)
class _Region:
    """All that the translator wants of a boto3 session. A real one would read the operator's AWS configuration."""

    region_name: str


def _to_cloudformation(template: Template, document: dict[str, Any], names: Mapping[str, Any]) -> dict[str, Any]:
    """Run aws-sam-translator. Raises ``TemplateError`` with the line of the resource that it complains about."""
    # Imported here: half a second (it imports boto3), which commands that deploy nothing should not pay.
    from samtranslator.metrics.metrics import DummyMetricsPublisher, Metrics
    from samtranslator.model.exceptions import ExceptionWithMessage
    from samtranslator.parser.parser import Parser
    from samtranslator.translator.translator import Translator

    metrics = Metrics("ServerlessTransform", DummyMetricsPublisher())
    translator = Translator({}, Parser(), boto_session=_Region(names["AWS::Region"]), metrics=metrics)
    try:
        return dict(translator.translate(document, dict(names)))
    except ExceptionWithMessage as error:
        messages = [cause.message for cause in getattr(error, "causes", [error])]
        found = _CAUSE.match(messages[0])
        path: KeyPath = ("Resources", found[1]) if found else ()
        raise template.error(path, found[2] if found else messages[0]) from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:  # its own, on shapes it never met
        raise template.error((), f"the SAM translator cannot read this template: {error!r}") from error
    finally:
        metrics.publish()  # to nobody; unpublished ones are complained about on stderr


def _definition(template: Template, resources: Resources, logical_id: str) -> dict[str, Any]:
    """Return the definition of one translated AWS::Lambda::Function."""
    given: Mapping[str, Any] = resources.properties(logical_id)
    path: KeyPath = ("Resources", logical_id, "Properties")
    definition: dict[str, Any] = {
        "FunctionName": resources.ref(logical_id),
        "CodeSha256": given["Code"]["S3Key"],
    }
    for name in _COPIED:
        value = resources.intrinsics.evaluate(given.get(name), (*path, name))
        if value is not None:
            definition[name] = value if name == "Environment" else _numbers(value, name)
    glowplug = _glowplug(template, resources, logical_id)
    if glowplug:
        definition["Glowplug"] = glowplug
    return definition


def _glowplug(template: Template, resources: Resources, logical_id: str) -> Any:
    """Return a function's Glowplug metadata over the template's, with the warm-up event read in."""
    path: KeyPath = ("Resources", logical_id, "Metadata", "Glowplug")
    own = resources.intrinsics.evaluate(template.get(path), path)
    shared_path: KeyPath = ("Metadata", "Glowplug")
    shared = resources.intrinsics.evaluate(template.get(shared_path), shared_path)
    for value, where in ((own, path), (shared, shared_path)):
        if value is not None and not isinstance(value, Mapping):
            raise template.error(where, f"must be a mapping, not {value!r}")
    shared, own = dict(shared or {}), dict(own or {})
    if "Model" not in own and isinstance(shared.get("Model"), Mapping) and "Source" not in shared["Model"]:
        del shared["Model"]  # defaults of models (an engine): nothing to a function that has none
    merged = _numbers(_merged(shared, own), "Glowplug")
    if isinstance(merged.get("Warmup"), Mapping) and "Event" in merged["Warmup"]:
        where = _place(template, logical_id, "Glowplug.Warmup.Event")
        merged["Warmup"]["Event"] = read_json_file(template, where, merged["Warmup"]["Event"])
    return merged


def _merged(defaults: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    """Merge as SAM merges Globals: mappings merge, anything else is overridden."""
    out = dict(defaults)
    for key, value in own.items():
        both = isinstance(out.get(key), Mapping) and isinstance(value, Mapping)
        out[key] = _merged(out[key], value) if both else value
    return out


def _numbers(value: Any, name: str) -> Any:
    """Return ``value`` with the text of every number-valued setting in it read as a number."""
    if isinstance(value, Mapping):
        return {key: _numbers(item, key) for key, item in value.items()}
    if name in _NUMBERS and isinstance(value, str) and _NUMBER.fullmatch(value):
        return float(value) if "." in value else int(value)
    return value


def _add_url(template: Template, resources: Resources, logical_id: str, definitions: dict[str, dict[str, Any]]) -> None:
    """Give the function that an AWS::Lambda::Url points to its FunctionUrlConfig."""
    path: KeyPath = ("Resources", logical_id, "Properties")
    given = resources.intrinsics.evaluate(dict(resources.properties(logical_id)), path)
    target = resources.url_target(logical_id)
    if target not in definitions:
        raise template.error((*path, "TargetFunctionArn"), "is not a function of this template")
    definitions[target]["Urls"] = {
        "$LATEST": {name: given[name] for name in ("AuthType", "InvokeMode", "Cors") if name in given}
    }


def _validate(stack: Stack) -> None:
    """Refuse what the node would refuse, and names that two functions claim."""
    names: dict[str, str] = {}
    urls: dict[str, str] = {}
    for logical_id, definition in stack.definitions.items():
        try:
            wanted = wanted_of(definition)
            spec = wanted.spec
        except DefinitionError as error:
            raise stack.error(logical_id, error) from error
        if spec.name in names:
            problem = f"{spec.name} is already the name of {names[spec.name]}"
            raise stack.error(logical_id, DefinitionError("FunctionName", problem))
        names[spec.name] = logical_id
        for qualifier in wanted.urls:
            url_id = url_id_of(spec.name, "" if qualifier == "$LATEST" else qualifier)
            if url_id in urls:
                problem = f"its URL id {url_id} is already that of {urls[url_id]}"
                raise stack.error(logical_id, DefinitionError("FunctionUrlConfig", problem))
            urls[url_id] = logical_id


def _place(template: Template, logical_id: str, field_path: str) -> KeyPath:
    """Return where in the template a definition's field was written: at the function, or in what it inherits."""
    parts = tuple(field_path.split("."))
    function: KeyPath = ("Resources", logical_id)
    if parts[0] == "Glowplug":
        candidates: list[KeyPath] = [(*function, "Metadata", *parts), ("Metadata", *parts)]
    else:
        parts = ("CodeUri",) if parts[0] == "CodeSha256" else parts
        candidates = [(*function, "Properties", *parts), ("Globals", "Function", *parts)]
    return max(candidates, key=lambda path: _spelled(template, path, len(parts)))


def _spelled(template: Template, path: KeyPath, field_length: int) -> int:
    """Count how many of the field's own keys the file spells out at ``path``."""
    base = len(path) - field_length
    return sum(path[: base + count] in template.lines for count in range(1, field_length + 1))


def _outputs(template: Template, intrinsics: Intrinsics) -> dict[str, Any]:
    out = {}
    for name, spec in (template.document.get("Outputs") or {}).items():
        path: KeyPath = ("Outputs", name)
        if not isinstance(spec, Mapping) or "Value" not in spec:
            raise template.error(path, "must be a mapping with a Value")
        if "Condition" in spec and not intrinsics.condition(spec["Condition"], (*path, "Condition")):
            continue
        out[name] = intrinsics.evaluate(spec["Value"], (*path, "Value"))
    return out
