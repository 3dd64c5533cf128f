"""Statements of resource policies, as AddPermission makes them. Whom they allow, ``policies`` says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from .errors import InvalidParameter

STATEMENT_ID = r"([a-zA-Z0-9-_]+)"
ACTION = r"(lambda:[*]|lambda:[a-zA-Z]+|[*])"
_PRINCIPAL = re.compile(
    r"\*|\d{12}|arn:aws[a-zA-Z-]*:iam::\d{12}:[a-zA-Z0-9+=,.@_/-]+|[a-z0-9-]+(\.[a-z0-9-]+)*\.amazonaws\.com|"
    r"alexa-appkit\.amazon\.com"
)


def statement_of(given: Mapping[str, Any], resource: str) -> dict[str, Any]:
    """Return the statement of an AddPermission input. Raises ``InvalidParameter`` for a principal that is none."""
    condition: dict[str, dict[str, str]] = {}
    for operator, key, value in (
        ("StringEquals", "AWS:SourceAccount", given.get("SourceAccount")),
        ("StringEquals", "lambda:FunctionUrlAuthType", given.get("FunctionUrlAuthType")),
        ("StringEquals", "lambda:EventSourceToken", given.get("EventSourceToken")),
        ("StringEquals", "aws:PrincipalOrgID", given.get("PrincipalOrgID")),
        ("ArnLike", "AWS:SourceArn", given.get("SourceArn")),
        ("Bool", "lambda:InvokedViaFunctionUrl", _bool(given.get("InvokedViaFunctionUrl"))),
    ):
        if value:
            condition.setdefault(operator, {})[key] = str(value)
    statement = {
        "Sid": given["StatementId"],
        "Effect": "Allow",
        "Principal": _principal(str(given["Principal"])),
        "Action": given["Action"],
        "Resource": resource,
    }
    return statement | ({"Condition": condition} if condition else {})


def _principal(given: str) -> str | dict[str, str]:
    if not _PRINCIPAL.fullmatch(given):
        raise InvalidParameter("The provided principal was invalid. Please check the principal and try again.")
    if given == "*":
        return given
    if given.isdigit():
        return {"AWS": f"arn:aws:iam::{given}:root"}
    return {"AWS": given} if given.startswith("arn:") else {"Service": given}


def _bool(value: object) -> str:
    return "" if value is None else str(value).lower()
