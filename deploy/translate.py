"""From a SAM template to definitions: the form in which the node accepts functions.

1. ``supported.check`` refuses, on the template as written, what is not built.
2. Local code is packed, and its place taken by ``s3://glowplug/<digest>``: the translator only knows S3.
3. aws-sam-translator turns SAM into plain CloudFormation. It needs a region and no AWS.
4. What it made is read with our own intrinsics: each AWS::Lambda::Function becomes a definition, each AWS::Lambda::Url
   its FunctionUrlConfig, each AWS::Lambda::LayerVersion a layer.
5. ``definition.spec_of`` judges each; the field that it refuses is found again in the template.

This file, with ``layers``, ``supported`` and ``resources`` beside it, is the only one that knows SAM's and
CloudFormation's names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from glowplug.runtime.errors import DefinitionError
from glowplug.runtime.spec import url_id_of
from glowplug.runtime.wanted import wanted_of

from . import parameters as template_parameters
from .archive import Archive
from .definitions import definition_of
from .errors import TemplateError
from .intrinsics import Intrinsics
from .layers import LayerBuild, as_lambdas, layers_of, refuse_pending
from .packing import Packer
from .places import place_of
from .resources import Account, Resources
from .supported import LAMBDA_FUNCTION, LAMBDA_URL, check
from .template import KeyPath, Template

_CAUSE = re.compile(r"Resource with id \[([^\]]+)\] is invalid\. (.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Stack:
    """What a template asks for. ``definitions`` and ``layers`` by logical id, ``archives`` by digest, ``outputs`` by
    name.

    ``notes`` are what the template says that has no effect here, one sentence each. ``builds`` are the layers that are
    to hold what a requirements.txt asks for. Outputs may name versions that are known after the deploy (``pending``).
    """

    name: str
    template: Template
    definitions: Mapping[str, Mapping[str, Any]]
    archives: Mapping[str, Archive]
    outputs: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    layers: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    builds: Mapping[str, LayerBuild] = field(default_factory=dict)

    def error(self, logical_id: str, error: DefinitionError) -> TemplateError:
        """Return the refusal of a definition as an error of the template: the same problem, with its file and line."""
        return self.template.error(place_of(self.template, logical_id, error.field), error.problem)


def translate(
    template: Template,
    *,
    stack: str,
    account: Account | None = None,
    endpoint: str = "http://127.0.0.1:9000",
    parameters: Mapping[str, str] | None = None,
) -> Stack:
    """Return the functions that ``template`` describes. Raises ``TemplateError`` naming file and line.

    ``endpoint`` is where the node listens, for the function URLs in Outputs.
    """
    account = account or Account()
    notes = check(template)
    names = template_parameters.resolve(template, parameters or {}) | account.pseudo_parameters(stack)
    packed, archives = Packer(template, names).pack()
    translated = _to_cloudformation(template, as_lambdas(packed), names)
    resources = Resources(template, translated["Resources"], names, stack=stack, account=account, endpoint=endpoint)
    definitions = {
        logical_id: definition_of(template, resources, logical_id) for logical_id in resources.of_type(LAMBDA_FUNCTION)
    }
    for logical_id in resources.of_type(LAMBDA_URL):
        _add_url(template, resources, logical_id, definitions)
    refuse_pending(template, definitions)
    layers = layers_of(template, resources)
    result = Stack(
        stack, template, definitions, {**archives, **layers.archives}, notes=(*notes, *layers.notes),
        layers=layers.definitions, builds=layers.builds,
    )  # fmt: skip
    _validate(result)
    return replace(result, outputs=_outputs(template, resources.intrinsics))


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
