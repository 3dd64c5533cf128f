"""Where a stack is said to live, which ARNs and pseudo parameters tell."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from typing import Any


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
            "AWS::StackId": self.arn("cloudformation", f"stack/{stack}/{self._unique(stack)}"),
            "AWS::StackName": stack,
            "AWS::URLSuffix": "amazonaws.com",
        }

    def _unique(self, stack: str) -> uuid.UUID:
        """Return what stands for a stack's unique id, which templates take suffixes of: the same at every deploy."""
        return uuid.uuid5(uuid.NAMESPACE_OID, f"{self.account_id}/{self.region}/{stack}")

    def arn(self, service: str, resource: str, *, regional: bool = True) -> str:
        """Return an ARN; services that are not regional (IAM) leave the region empty."""
        return f"arn:aws:{service}:{self.region if regional else ''}:{self.account_id}:{resource}"
