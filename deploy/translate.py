"""From a SAM template to definitions: the form in which the node accepts functions.

0. ``expansion`` unrolls loops and fills in what other stacks export.
1. ``supported.check`` refuses, on the template as written, what is not built.
2. Code is packed, or read where it is in S3 (``packaged``), and its place taken by ``s3://glowplug/<digest>``: the
   translator only knows S3.
3. aws-sam-translator turns SAM into plain CloudFormation. It needs a region and no AWS.
4. What it made is read with our own intrinsics: each AWS::Lambda::Function becomes a definition, and what belongs to it
   (versions, aliases, URLs, permissions, ...) a part of that; each AWS::Lambda::LayerVersion becomes a layer; each
   API is read from its OpenAPI document (``apis``); ``queues`` reads queues and what is mapped to functions; rules,
   schedules, buckets and subscriptions become triggers.
5. ``wanted.wanted_of`` judges each; the field that it refuses is found again in the template.

This file and those beside it that it imports are the only ones that know SAM's and CloudFormation's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glowplug.runtime.contents import Contents, Definition
from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import url_id_of
from glowplug.runtime.wanted import wanted_of

from . import parameters as template_parameters
from .account import Account
from .apis import apis_of, callable_here
from .archive import Archive
from .belongings import Belongings
from .definitions import definition_of
from .errors import TemplateError
from .expansion import expand, exports_of
from .intrinsics import Intrinsics
from .layers import LayerBuild, as_lambdas, layers_of
from .packaged import Fetch, fetched
from .packing import Packer
from .places import Written, of_an_event, place_of, properties_at
from .queues import queues_of
from .resources import Resources
from .supported import LAMBDA_FUNCTION, check
from .template import KeyPath, Template
from .triggers import triggers_of
from .versionnumbers import unpublished

_PROPERTY = re.compile(r"\b[Pp]roperty '(\w+)'")
_CAUSE = re.compile(r"Resource with id \[([^\]]+)\] is invalid\. (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a template asks for, with ``archives`` by digest and ``outputs`` by name.

    ``notes`` are what the template says that has no effect here, one sentence each. ``written`` says which resources
    a definition's parts came from. ``outputs`` lack the numbers of versions: ``numbered`` fills them in.
    ``exports`` and ``imports`` are what it shares with other stacks: text by export name, and the names that it took
    from them.
    ``builds`` are the layers that are to hold what a requirements.txt asks for.
    """

    name: str
    template: Template
    definitions: Contents[Definition]
    archives: Mapping[str, Archive]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    written: Mapping[str, Written] = field(default_factory=dict)
    exports: Mapping[str, str] = field(default_factory=dict)
    imports: tuple[str, ...] = ()
    builds: Mapping[str, LayerBuild] = field(default_factory=dict)

    def error(self, logical_id: str, error: DefinitionError) -> TemplateError:
        """Return the refusal of a definition as an error of the template: the same problem, with its file and line."""
        place = place_of(self.template, logical_id, error.field, self.written.get(logical_id))
        return self.template.error(place, error.problem)


def translate(
    template: Template,
    *,
    stack: str,
    account: Account | None = None,
    endpoint: str = "http://127.0.0.1:9000",
    parameters: Mapping[str, str] | None = None,
    exports: Mapping[str, str] | None = None,
    fetch: Fetch = fetched,
) -> Stack:
    """Return the functions that ``template`` describes. Raises ``TemplateError`` naming file and line.

    ``endpoint`` is where the node listens, for the URLs of functions and APIs in Outputs. ``exports`` is what the
    stacks of the node export; None where there is no node to ask, and an import stands for its own name. ``fetch``
    reads code that is in S3.
    """
    account = account or Account()
    names = template_parameters.resolve(template, parameters or {}) | account.pseudo_parameters(stack)
    template, imports = expand(template, names, exports)
    notes = check(template)
    packed, archives = Packer(template, names, fetch).pack()
    translated = _to_cloudformation(template, as_lambdas(packed), names)
    resources = Resources(template, translated["Resources"], names, stack=stack, account=account, endpoint=endpoint)
    functions = {
        logical_id: definition_of(template, resources, logical_id) for logical_id in resources.of_type(LAMBDA_FUNCTION)
    }
    belongings = Belongings(template, resources, functions)
    belongings.put()
    layers = layers_of(template, resources, fetch)
    result = Stack(
        stack, template, Contents(functions, layers.definitions), {**archives, **layers.archives},
        notes=(*notes, *layers.notes), written=belongings.written, builds=layers.builds,
    )  # fmt: skip
    _refuse_numbers(result)
    _validate(result)
    apis = apis_of(template, resources, functions)
    found = queues_of(template, resources)
    triggers = triggers_of(template, resources, functions)
    outputs = {
        name: callable_here(value, stack, apis, endpoint)
        for name, value in _outputs(template, resources.intrinsics, translated.get("Outputs") or {}).items()
    }
    exports = exports_of(template, names, outputs)
    definitions = replace(
        result.definitions, apis=apis, queues=found.queues, mappings=found.mappings, triggers=triggers
    )
    return replace(result, definitions=definitions, outputs=outputs, exports=exports, imports=imports)


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
        path: KeyPath = _complained_of(template, found[1], found[2]) if found else ()
        raise template.error(path, found[2] if found else messages[0]) from error
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:  # its own, on shapes it never met
        raise template.error((), f"the SAM translator cannot read this template: {error!r}") from error
    finally:
        metrics.publish()  # to nobody; unpublished ones are complained about on stderr


def _complained_of(template: Template, logical_id: str, message: str) -> KeyPath:
    """Return what a complaint of the translator is about: a resource, or the event of which it was about to make one
    of that name, and there the property that the message names."""
    path = properties_at(template, logical_id)
    if not of_an_event(path):
        return path[:2]
    named = _PROPERTY.search(message)
    return (*path, named[1]) if named else path


def _refuse_numbers(stack: Stack) -> None:
    """Refuse the number of a version but in an alias, Layers and Outputs: it is given when the stack is put."""

    def look(logical_id: str, value: Any, field_path: str) -> None:
        if version := unpublished(value):
            problem = f"the number of {version} is known when it is published: an alias, Layers and Outputs can have it"
            raise stack.error(logical_id, DefinitionError(field_path, problem))
        items = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
        for key, item in items:
            place = f"{field_path}.{key}" if field_path else str(key)
            look(logical_id, str(key), place)
            look(logical_id, item, place)

    for logical_id, definition in {**stack.definitions.functions, **stack.definitions.layers}.items():
        look(logical_id, definition, "")


def _validate(stack: Stack) -> None:
    """Refuse what the node would refuse, and names that two functions claim."""
    names: dict[str, str] = {}
    urls: dict[str, str] = {}
    for logical_id, definition in stack.definitions.functions.items():
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
                raise stack.error(logical_id, DefinitionError(f"Urls.{qualifier}", problem))
            urls[url_id] = logical_id


def _outputs(template: Template, intrinsics: Intrinsics, translated: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of Outputs, as translated: SAM's own references (``Embed.Version``) are resolved there."""
    out = {}
    for name, spec in translated.items():
        path: KeyPath = ("Outputs", name)
        if not isinstance(spec, Mapping) or "Value" not in spec:
            raise template.error(path, "must be a mapping with a Value")
        if "Condition" in spec and not intrinsics.condition(spec["Condition"], (*path, "Condition")):
            continue
        out[name] = intrinsics.evaluate(spec["Value"], (*path, "Value"))
    return out
