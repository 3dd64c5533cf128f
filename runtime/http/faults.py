"""The one place where an error becomes a response: status, ``x-amzn-ErrorType`` and a body with AWS's spelling."""

from __future__ import annotations

import json
import math
from http import HTTPStatus
from typing import Any

from glowplug.runtime.errors import (
    DefinitionError,
    FunctionFault,
    GlowplugError,
    LimitReached,
    NotAuthenticated,
    RequestError,
    Throttled,
    ValidationFailed,
)

from .messages import Reply, json_reply


def error_reply(error: GlowplugError) -> Reply:
    """Return the AWS-shaped response for ``error`` (spec 1.2); a throttled caller is told when to come back.

    A ``FunctionFault`` that gets here was raised outside of an invocation (warm, bake): it is reported with its Lambda
    body and status 502, as 200 would look like success.
    """
    if isinstance(error, FunctionFault):
        return Reply(HTTPStatus.BAD_GATEWAY, error.body(), (("x-amzn-ErrorType", type(error).__name__),))
    headers = [("x-amzn-ErrorType", error.code)]
    if isinstance(error, Throttled):
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_s)))))
    return json_reply(error_fields(error), error.status, headers)


def error_fields(error: GlowplugError) -> dict[str, Any]:
    """Return the body of an error as AWS spells it, or Lambda's error body for a ``FunctionFault``.

    ``Type`` says whose fault it is and is absent from a ValidationException and where a limit is reached (recorded),
    and where nobody signed; ``field`` is ours.
    """
    if isinstance(error, FunctionFault):
        return dict(json.loads(error.body()))
    fields: dict[str, Any] = {}
    if isinstance(error, Throttled):
        fields["Reason"] = error.reason
    if not isinstance(error, ValidationFailed | LimitReached | NotAuthenticated):
        fields["Type"] = "User" if isinstance(error, RequestError | DefinitionError) else "Service"
    fields[error.message_key] = str(error) or None  # null where AWS says nothing (recorded)
    if isinstance(error, DefinitionError):
        fields["field"] = error.field
    return fields
