"""What the resources of a translated stack are called: the values of ``Ref`` and ``Fn::GetAtt``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from glowplug.runtime.spec import url_id_of

from .intrinsics import Intrinsics
from .pending import pending_arn
from .supported import LAMBDA_FUNCTION, LAMBDA_LAYER, LAMBDA_URL
from .template import KeyPath, Template


@dataclass(frozen=True, slots=True)
class Account:
    """Where a stack is said to live. The defaults are the node's."""

    account_id: str = "000000000000"
    region: str = "us-east-1"

    def pseudo_parameters(self, stack: str) -> dict[str, Any]:
        """Return the pseudo parameters of a stack (AWS::NoValue is the evaluator's own)."""
        return {
            "AWS::AccountId": self.account_id,
            "AWS::NotificationARNs": [],
            "AWS::Partition": "aws",
            "AWS::Region": self.region,
            "AWS::StackId": self.arn("cloudformation", f"stack/{stack}/{stack}"),
            "AWS::StackName": stack,
            "AWS::URLSuffix": "amazonaws.com",
        }

    def arn(self, service: str, resource: str, *, regional: bool = True) -> str:
        """Return an ARN; services that are not regional (IAM) leave the region empty."""
        return f"arn:aws:{service}:{self.region if regional else ''}:{self.account_id}:{resource}"


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
        self._stack = stack
        self._account = account
        self._endpoint = endpoint
        self._naming: list[str] = []
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
        """Return the value of ``Ref``: a function's name, a role's name, a URL's function, a layer's version."""
        kind = self._kind(logical_id)
        if kind == LAMBDA_URL:
            return self.attribute(logical_id, "FunctionArn")
        if kind == LAMBDA_LAYER:
            return pending_arn(self._account.arn("lambda", f"layer:{self.layer_name(logical_id)}"), logical_id)
        for key in ("FunctionName", "RoleName", "LogGroupName", "ManagedPolicyName", "PolicyName"):
            if key in self.properties(logical_id) and (name := self._named(logical_id, key)):
                return name
        return f"{self._stack}-{logical_id}"

    def layer_name(self, logical_id: str) -> Any:
        """Return the name of a layer; one that the template does not name is the stack's own, as functions are."""
        named = "LayerName" in self.properties(logical_id) and self._named(logical_id, "LayerName")
        return named or f"{self._stack}-{logical_id}"

    def attribute(self, logical_id: str, attribute: str) -> Any:
        """Return the value of ``Fn::GetAtt``. Raises ``LookupError`` for an attribute that is not provided."""
        kind = self._kind(logical_id)
        if (kind, attribute) == (LAMBDA_FUNCTION, "Arn"):
            return self._account.arn("lambda", f"function:{self.ref(logical_id)}")
        if (kind, attribute) == ("AWS::IAM::Role", "Arn"):
            return self._account.arn("iam", f"role/{self.ref(logical_id)}", regional=False)
        if (kind, attribute) == ("AWS::Logs::LogGroup", "Arn"):
            return self._account.arn("logs", f"log-group:{self.ref(logical_id)}:*")
        if (kind, attribute) == (LAMBDA_LAYER, "LayerVersionArn"):
            return self.ref(logical_id)
        if kind == LAMBDA_URL and attribute in ("FunctionArn", "FunctionUrl"):
            target = self.url_target(logical_id)
            if attribute == "FunctionArn":
                return self.attribute(target, "Arn")
            return f"{self._endpoint}/_url/{url_id_of(self.ref(target))}/"
        raise LookupError(f"{logical_id} ({kind}) has no attribute {attribute}")

    def url_target(self, logical_id: str) -> str:
        """Return the logical id of the function that an AWS::Lambda::Url belongs to; empty when there is none."""
        path: KeyPath = ("Resources", logical_id, "Properties", "TargetFunctionArn")
        target = self.intrinsics.evaluate(self.properties(logical_id).get("TargetFunctionArn"), path)
        name = str(target).rpartition(":")[2]
        return next((function for function in self.of_type(LAMBDA_FUNCTION) if self.ref(function) == name), "")

    def _kind(self, logical_id: str) -> str:
        if logical_id not in self._resources:
            raise LookupError(f"no parameter or resource {logical_id}")
        return str(self._resources[logical_id]["Type"])

    def _named(self, logical_id: str, key: str) -> Any:
        if logical_id in self._naming:
            raise LookupError(f"the name of {logical_id} depends on itself")
        self._naming.append(logical_id)
        try:
            return self.intrinsics.evaluate(
                self.properties(logical_id)[key], ("Resources", logical_id, "Properties", key)
            )
        finally:
            self._naming.pop()


class NoResources:
    """References where only parameters may be named, such as in CodeUri."""

    def ref(self, logical_id: str) -> Any:
        """Raise ``LookupError``."""
        raise LookupError(f"no parameter {logical_id}")

    def attribute(self, logical_id: str, attribute: str) -> Any:
        """Raise ``LookupError``."""
        raise LookupError(f"{logical_id}.{attribute} is not known before the stack is translated")
