"""What the resources of a translated stack are called: the values of ``Ref`` and ``Fn::GetAtt``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from glowplug.runtime.apis import api_id_of
from glowplug.runtime.spec import url_id_of
from glowplug.runtime.wantedqueues import mapping_id_of

from .account import Account
from .intrinsics import Intrinsics
from .supported import (
    LAMBDA_ALIAS,
    LAMBDA_FUNCTION,
    LAMBDA_LAYER,
    LAMBDA_MAPPING,
    LAMBDA_PERMISSION,
    LAMBDA_URL,
    LAMBDA_VERSION,
    QUEUE,
)
from .supported_triggers import BUCKET, RULE, SCHEDULE, TOPIC
from .template import KeyPath, Template
from .versionnumbers import number_of

HTTP_API, HTTP_STAGE = "AWS::ApiGatewayV2::Api", "AWS::ApiGatewayV2::Stage"
REST_API, REST_STAGE = "AWS::ApiGateway::RestApi", "AWS::ApiGateway::Stage"
_BUS = "AWS::Events::EventBus"
_OWN_NAMES = {RULE: "Name", SCHEDULE: "Name", _BUS: "Name", BUCKET: "BucketName", TOPIC: "TopicName"}
_ARNS = {  # service, resource, and the property with the name of what it is in
    RULE: ("events", "rule", "EventBusName"), SCHEDULE: ("scheduler", "schedule", "GroupName"),
    _BUS: ("events", "event-bus", ""), BUCKET: ("s3", "", ""),
}  # fmt: skip
_STAGES = {HTTP_API: (HTTP_STAGE, "ApiId"), REST_API: (REST_STAGE, "RestApiId")}
_FUNCTION = re.compile(
    r"(?:(?:arn:[^:]+:lambda:[^:]*:)?\d{12}:function:)?(?P<name>[a-zA-Z0-9-_]+)(?::(?P<qualifier>.+))?"
)
_NAMES = ("FunctionName", "RoleName", "LogGroupName", "ManagedPolicyName", "PolicyName")


@dataclass(frozen=True, slots=True)
class Target:
    """The function that a resource belongs to: its name, a qualifier where one is meant, and its logical id, empty for
    a function of another stack."""

    name: str
    qualifier: str
    logical_id: str


class Resources:
    """The resources of one translated template whose conditions hold, and how they refer to each other."""

    def __init__(
        self,
        template: Template,
        resources: Mapping[str, Any],
        names: Mapping[str, Any],
        *,
        stack: str,
        account: Account,
        endpoint: str,
    ) -> None:
        self.stack = stack
        self._account = account
        self._endpoint = endpoint
        self._template = template
        self._naming: list[KeyPath] = []
        self.intrinsics = Intrinsics(template, names, self)
        self._resources: Mapping[str, Any] = {}  # while conditions are decided: they may name parameters only
        self._resources = {
            logical_id: resource
            for logical_id, resource in resources.items()
            if "Condition" not in resource
            or self.intrinsics.condition(resource["Condition"], ("Resources", logical_id, "Condition"))
        }

    def of_type(self, kind: str) -> list[str]:
        """Return the logical ids of one resource type, in the template's order."""
        return [logical_id for logical_id, resource in self._resources.items() if resource["Type"] == kind]

    def properties(self, logical_id: str) -> Mapping[str, Any]:
        """Return the properties of a resource, not evaluated."""
        properties: Mapping[str, Any] = self._resources[logical_id].get("Properties") or {}
        return properties

    def ref(self, logical_id: str) -> Any:
        """Return the value of ``Ref``: a function's or a role's name, an alias's or a version's ARN, the ARN of a URL's
        function or of a layer's version, a permission's statement id, an API's id, a queue's URL, a mapping's UUID."""
        if logical_id.endswith(".Stage"):  # SAM's name for the stage that it makes
            return self.attribute(logical_id.removesuffix(".Stage"), "Stage")
        kind = self._kind(logical_id)
        if kind == LAMBDA_URL:
            return self.attribute(logical_id, "FunctionArn")
        if kind in (LAMBDA_ALIAS, LAMBDA_VERSION):
            return self._arn(self.target(logical_id, "FunctionName").name, self._qualifier(logical_id))
        if kind in (HTTP_API, REST_API):
            return api_id_of(self.stack, logical_id)
        if kind in (HTTP_STAGE, REST_STAGE):
            return self._named(logical_id, "StageName")
        if kind == QUEUE:
            return f"{self._endpoint}/{self._account.account_id}/{self.queue_name(logical_id)}"
        if kind == LAMBDA_MAPPING:
            return mapping_id_of(self.stack, logical_id)
        if kind in _OWN_NAMES:
            return self._own_name(logical_id, kind)
        if kind == LAMBDA_LAYER:
            return self._account.arn("lambda", f"layer:{self.layer_name(logical_id)}:{number_of(logical_id)}")
        if kind != LAMBDA_PERMISSION:
            for key in _NAMES:
                if key in self.properties(logical_id) and (name := self._named(logical_id, key)):
                    return name
        return f"{self.stack}-{logical_id}"

    def _own_name(self, logical_id: str, kind: str) -> str:
        """Return the ``Ref`` of a rule, a schedule, a bus, a bucket (its name) or a topic (its ARN)."""
        key = _OWN_NAMES[kind]
        named = str(
            (key in self.properties(logical_id) and self._named(logical_id, key)) or f"{self.stack}-{logical_id}"
        )
        if kind == BUCKET:
            return named.lower()
        return self._account.arn("sns", named) if kind == TOPIC else named

    def layer_name(self, logical_id: str) -> Any:
        """Return the name of a layer; one that the template does not name is the stack's own, as functions are."""
        named = "LayerName" in self.properties(logical_id) and self._named(logical_id, "LayerName")
        return named or f"{self.stack}-{logical_id}"

    def queue_name(self, logical_id: str) -> Any:
        """Return the name of a queue; one that the template does not name is the stack's own, as functions are."""
        given = self.properties(logical_id)
        if "QueueName" in given and (name := self._named(logical_id, "QueueName")):
            return name
        fifo = self._named(logical_id, "FifoQueue") if "FifoQueue" in given else False
        return f"{self.stack}-{logical_id}{'.fifo' if fifo in (True, 'true') else ''}"

    def given(self, logical_id: str, name: str) -> Any:
        """Return what stands beside the properties of a resource, such as its DeletionPolicy; or None."""
        return self._resources[logical_id].get(name)

    def attribute(self, logical_id: str, attribute: str) -> Any:
        """Return the value of ``Fn::GetAtt``. Raises ``LookupError`` for an attribute that is not provided."""
        kind = self._kind(logical_id)
        if kind == LAMBDA_FUNCTION:
            if attribute == "Arn":
                return self._arn(self.ref(logical_id))
            if attribute in ("SnapStartResponse.ApplyOn", "SnapStartResponse.OptimizationStatus"):
                return "Off" if attribute.endswith("Status") else self._apply_on(logical_id)
        if kind == QUEUE and attribute in ("Arn", "QueueName", "QueueUrl"):
            name = self.queue_name(logical_id)
            return {"Arn": self._account.arn("sqs", name), "QueueName": name}.get(attribute, self.ref(logical_id))
        if (kind, attribute) == (LAMBDA_MAPPING, "Id"):
            return self.ref(logical_id)
        if (kind, attribute) == (LAMBDA_MAPPING, "EventSourceMappingArn"):
            return self._account.arn("lambda", f"event-source-mapping:{self.ref(logical_id)}")
        if (kind, attribute) == ("AWS::IAM::Role", "Arn"):
            return self._account.arn("iam", f"role/{self.ref(logical_id)}", regional=False)
        if attribute == "Arn" and kind in _ARNS:
            return self._arn_of(logical_id, kind)
        if (kind, attribute) == (TOPIC, "TopicName"):
            return str(self.ref(logical_id)).rpartition(":")[2]
        if (kind, attribute) == (TOPIC, "TopicArn"):
            return self.ref(logical_id)
        if (kind, attribute) == ("AWS::Logs::LogGroup", "Arn"):
            return self._account.arn("logs", f"log-group:{self.ref(logical_id)}:*")
        if (kind, attribute) == (LAMBDA_LAYER, "LayerVersionArn"):
            return self.ref(logical_id)
        if (kind, attribute) in ((LAMBDA_ALIAS, "AliasArn"), (LAMBDA_VERSION, "FunctionArn")):
            return self.ref(logical_id)
        if (kind, attribute) == (LAMBDA_VERSION, "Version"):
            return self._qualifier(logical_id)
        if kind == LAMBDA_URL and attribute in ("FunctionArn", "FunctionUrl"):
            target = self.target(logical_id, "TargetFunctionArn")
            if attribute == "FunctionArn":
                return self._arn(target.name, target.qualifier)
            return f"{self._endpoint}/_url/{url_id_of(target.name, target.qualifier)}/"
        if attribute == "Stage" and kind in _STAGES:
            return self.ref(self.stage_of(logical_id))
        if (kind, attribute) == (HTTP_API, "ApiEndpoint"):
            return f"{self._endpoint}/_apis/{self.ref(logical_id)}"
        if (kind, attribute) in ((HTTP_API, "ApiId"), (REST_API, "RestApiId")):
            return self.ref(logical_id)
        if (kind, attribute) == (REST_API, "RootResourceId"):
            return f"{self.ref(logical_id)}-root"
        raise LookupError(f"{logical_id} ({kind}) has no attribute {attribute}")

    def _arn_of(self, logical_id: str, kind: str) -> str:
        if kind == BUCKET:
            return f"arn:aws:s3:::{self.ref(logical_id)}"
        service, resource, above = _ARNS[kind]
        group = str((above and self._named(logical_id, above)) or "default")
        within = f"{group}/" if kind == SCHEDULE or (above and group != "default") else ""
        return self._account.arn(service, f"{resource}/{within}{self.ref(logical_id)}")

    def function_of(self, value: Any, path: KeyPath) -> Target:
        """Return the function that ``value``, as written at ``path``, stands for: by reference, name or ARN.

        Its ``logical_id`` is empty where it is none of this template.
        """
        return Target(*self._function(value, path))

    def target(self, logical_id: str, key: str) -> Target:
        """Return the function that a resource names at ``key``, by name or ARN. Its own Qualifier wins.

        Raises ``TemplateError``.
        """
        properties, path = self.properties(logical_id), (*_properties(logical_id), key)
        if path in self._naming:
            raise self._template.error(path, "depends on itself")
        self._naming.append(path)
        try:
            name, qualifier, function = self._function(properties.get(key), path)
        finally:
            self._naming.pop()
        own = self.intrinsics.evaluate(properties.get("Qualifier"), (*_properties(logical_id), "Qualifier"))
        return Target(name, str(own or qualifier), function)

    def _function(self, value: Any, path: KeyPath) -> tuple[str, str, str]:
        """Return the name, the qualifier and the logical id of the function that ``value`` stands for.

        A reference to a resource is followed, so that no other resource need be named for it.
        """
        referred = value.get("Ref") if isinstance(value, Mapping) else None
        kind = self._resources[referred]["Type"] if isinstance(referred, str) and referred in self._resources else ""
        if kind == LAMBDA_FUNCTION:
            return str(self.ref(str(referred))), "", str(referred)
        if kind in (LAMBDA_ALIAS, LAMBDA_VERSION):
            target = self.target(str(referred), "FunctionName")
            return target.name, self._qualifier(str(referred)), target.logical_id
        found = _FUNCTION.fullmatch(str(self.intrinsics.evaluate(value, path)))
        if found is None:
            return "", "", ""
        return found["name"], found["qualifier"] or "", self._by_name.get(found["name"], "")

    @cached_property
    def _by_name(self) -> Mapping[str, str]:
        return {str(self.ref(function)): function for function in reversed(self.of_type(LAMBDA_FUNCTION))}

    def _qualifier(self, logical_id: str) -> str:
        """Return the name of an alias, or what stands for the number of a version until it is published."""
        if self._kind(logical_id) == LAMBDA_VERSION:
            return number_of(logical_id)
        return str(self._named(logical_id, "Name"))

    def _arn(self, name: str, qualifier: str = "") -> str:
        return self._account.arn("lambda", f"function:{name}{f':{qualifier}' if qualifier else ''}")

    def _apply_on(self, logical_id: str) -> str:
        path = (*_properties(logical_id), "SnapStart")
        given = self.intrinsics.evaluate(self.properties(logical_id).get("SnapStart"), path)
        return str(given["ApplyOn"]) if isinstance(given, Mapping) and "ApplyOn" in given else "None"

    def stage_of(self, logical_id: str) -> str:
        """Return the logical id of an API's stage. Raises ``LookupError``."""
        kind, key = _STAGES[self._kind(logical_id)]
        for stage in self.of_type(kind):
            if self.properties(stage).get(key) == {"Ref": logical_id}:
                return stage
        raise LookupError(f"{logical_id} has no stage")

    def _kind(self, logical_id: str) -> str:
        if logical_id not in self._resources:
            raise LookupError(f"no parameter or resource {logical_id}")
        return str(self._resources[logical_id]["Type"])

    def _named(self, logical_id: str, key: str) -> Any:
        path = (*_properties(logical_id), key)
        if path in self._naming:
            raise LookupError(f"the name of {logical_id} depends on itself")
        self._naming.append(path)
        try:
            return self.intrinsics.evaluate(self.properties(logical_id).get(key), path)
        finally:
            self._naming.pop()


def _properties(logical_id: str) -> KeyPath:
    return ("Resources", logical_id, "Properties")
