"""What is told of an asynchronous invocation that is over: the record for destinations, the dead-letter message.

Sources: recorded records (the order of fields is theirs) and Lambda's developer guide, "Capturing records of Lambda
asynchronous invocations" and "Adding a dead-letter queue".
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from glowplug.runtime.queue.attributes import FORBIDDEN

from .envelopes import milliseconds
from .retrying import Finished

MESSAGE_BYTES: Final = 1024
"""How much of an error's message a dead-letter message carries."""


@dataclass(frozen=True, slots=True)
class Response:
    """The last attempt's answer. ``payload`` is JSON as the function gave it, or its error object."""

    payload: bytes
    executed_version: str
    status: int = 200
    function_error: str | None = None
    """`Unhandled` or `Handled`; None if it succeeded."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """An invocation that is over. ``response`` is None where the last attempt did not reach the function."""

    request_id: str
    function_arn: str
    """Qualified: `…:$LATEST`, a version or an alias."""
    payload: bytes
    finished: Finished
    response: Response | None


def invocation_record(invocation: Invocation, now: datetime) -> dict[str, Any]:
    """Return the record that a destination gets: as a message's body, an event, or an object."""
    record: dict[str, Any] = {
        "version": "1.0",
        "timestamp": milliseconds(now),
        "requestContext": {
            "requestId": invocation.request_id,
            "functionArn": invocation.function_arn,
            "condition": invocation.finished.condition.value,
            "approximateInvokeCount": invocation.finished.runs,
        },
        "requestPayload": _parsed(invocation.payload),
    }
    response = invocation.response
    if response is not None:
        context: dict[str, Any] = {"statusCode": response.status, "executedVersion": response.executed_version}
        if response.function_error is not None:
            context["functionError"] = response.function_error
        record["responseContext"] = context
        record["responsePayload"] = _parsed(response.payload)
    return record


def bus_entry(invocation: Invocation, now: datetime, bus_arn: str) -> dict[str, Any]:
    """Return the record as an entry of PutEvents, for a destination that is an event bus."""
    side = "Failure" if invocation.finished.condition.failed else "Success"
    return {
        "Source": "lambda",
        "DetailType": f"Lambda Function Invocation Result - {side}",
        "Resources": [bus_arn, invocation.function_arn],
        "Detail": json.dumps(invocation_record(invocation, now), separators=(",", ":")),
    }


def dead_letter_attributes(invocation: Invocation, status: int) -> dict[str, dict[str, str]]:
    """Return the message attributes of the original event in a dead-letter queue, in the form of SendMessage.

    ``status`` is the HTTP status of the last attempt: 200 for a function error, 429 for a throttle. The message is cut
    after its first 1 KB, between characters; those that no queue takes are replaced, and an empty one is left out,
    because a queue refuses it.
    """
    attributes = {
        "RequestID": {"DataType": "String", "StringValue": invocation.request_id},
        "ErrorCode": {"DataType": "Number", "StringValue": str(status)},
    }
    message = FORBIDDEN.sub("\ufffd", _message(invocation)).encode()[:MESSAGE_BYTES].decode(errors="ignore")
    if message:
        attributes["ErrorMessage"] = {"DataType": "String", "StringValue": message}
    return attributes


def _message(invocation: Invocation) -> str:
    if invocation.response is None:
        return invocation.finished.condition.reason
    error = _parsed(invocation.response.payload)
    if isinstance(error, dict) and isinstance(error.get("errorMessage"), str):
        return str(error["errorMessage"])
    return invocation.response.payload.decode(errors="replace")


def _parsed(payload: bytes) -> Any:
    """Return the value of a payload: null of an empty one, the text of one that is no JSON."""
    if not payload:
        return None
    try:
        return json.loads(payload)
    except (ValueError, RecursionError):
        return payload.decode(errors="replace")
