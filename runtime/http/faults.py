"""The one place where an error becomes a response: status, ``x-amzn-ErrorType`` and a body with AWS's spelling."""

from __future__ import annotations

import math
from http import HTTPStatus

from glowplug.runtime.errors import (
    DefinitionError,
    FunctionFault,
    GlowplugError,
    RequestError,
    Throttled,
    ValidationFailed,
)

from .messages import Reply, json_reply


def error_reply(error: GlowplugError) -> Reply:
    """Return the AWS-shaped response for ``error`` (spec 1.2).

    ``Type`` says whose fault it is and is absent from a ValidationException (recorded). A throttled caller is told
    why and when to come back. A ``FunctionFault`` that got here was raised outside an invocation (warm, bake): it is
    reported with its Lambda body and status 502, since 200 would look like success.
    """
    if isinstance(error, FunctionFault):
        return Reply(HTTPStatus.BAD_GATEWAY, error.body(), (("x-amzn-ErrorType", type(error).__name__),))
    body: dict[str, str] = {}
    headers = [("x-amzn-ErrorType", error.code)]
    if isinstance(error, Throttled):
        body["Reason"] = error.reason
        headers.append(("Retry-After", str(max(1, math.ceil(error.retry_after_s)))))
    if not isinstance(error, ValidationFailed):
        body["Type"] = "User" if isinstance(error, RequestError | DefinitionError) else "Service"
    body[error.message_key] = str(error)
    if isinstance(error, DefinitionError):
        body["field"] = error.field
    return json_reply(body, error.status, headers)
