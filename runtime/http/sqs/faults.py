"""Errors as SQS sends them: ``__type`` names the shape, ``x-amzn-query-error`` the code that boto3 shows.

Shapes are those of botocore's service model; the codes are those of the older query protocol, which
``awsQueryCompatible`` services repeat in the header (smithy.io, "AWS query compatible").
"""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.errors import (
    Forbidden,
    GlowplugError,
    InvalidParameter,
    QueueFull,
    QueueNotFound,
    RequestError,
    RequestTooLarge,
)
from glowplug.runtime.http.messages import Reply, json_reply

JSON_TYPE = "application/x-amz-json-1.0"
_SQS = "com.amazonaws.sqs#"
_CORAL = "com.amazon.coral.service#"
_PREFIX = "AWS.SimpleQueueService."

# shape -> (namespace, code)
_CODES = {
    "QueueDoesNotExist": (_SQS, _PREFIX + "NonExistentQueue"),
    "QueueNameExists": (_SQS, "QueueAlreadyExists"),
    "ReceiptHandleIsInvalid": (_SQS, "ReceiptHandleIsInvalid"),
    "MessageNotInflight": (_SQS, _PREFIX + "MessageNotInflight"),
    "InvalidAttributeName": (_SQS, "InvalidAttributeName"),
    "InvalidAttributeValue": (_SQS, "InvalidAttributeValue"),
    "InvalidMessageContents": (_SQS, "InvalidMessageContents"),
    "EmptyBatchRequest": (_SQS, _PREFIX + "EmptyBatchRequest"),
    "TooManyEntriesInBatchRequest": (_SQS, _PREFIX + "TooManyEntriesInBatchRequest"),
    "BatchEntryIdsNotDistinct": (_SQS, _PREFIX + "BatchEntryIdsNotDistinct"),
    "BatchRequestTooLong": (_SQS, _PREFIX + "BatchRequestTooLong"),
    "InvalidBatchEntryId": (_SQS, _PREFIX + "InvalidBatchEntryId"),
    "InvalidAddress": (_SQS, "InvalidAddress"),
    "UnsupportedOperation": (_SQS, _PREFIX + "UnsupportedOperation"),
    "ResourceNotFoundException": (_SQS, "ResourceNotFoundException"),
    "RequestThrottled": (_SQS, "RequestThrottled"),
    "InvalidParameterValueException": (_CORAL, "InvalidParameterValue"),
    "MissingRequiredParameterException": (_CORAL, "MissingParameter"),
    "UnknownOperationException": (_CORAL, "InvalidAction"),
    "SerializationException": (_CORAL, "MalformedInput"),
    "AccessDeniedException": (_CORAL, "AccessDenied"),
    "InternalFailure": (_CORAL, "InternalFailure"),
}


class SqsError(RequestError):
    """A request that SQS refuses. ``shape`` is one of its error shapes."""

    def __init__(self, shape: str, message: str, *, status: int = HTTPStatus.BAD_REQUEST) -> None:
        super().__init__(message)
        self.shape = shape
        self.http_status = status

    @property
    def query_code(self) -> str:
        """The code that boto3 shows."""
        return _CODES[self.shape][1]


def invalid(message: str) -> SqsError:
    """Return the error for a parameter with a wrong value."""
    return SqsError("InvalidParameterValueException", message)


def missing(name: str) -> SqsError:
    """Return the error for a parameter that is not there."""
    return SqsError("MissingRequiredParameterException", f"The request must contain the parameter {name}.")


def translated(error: GlowplugError) -> SqsError:
    """Return an error of the runtime in SQS's words."""
    if isinstance(error, SqsError):
        return error
    if isinstance(error, QueueNotFound):
        return SqsError("QueueDoesNotExist", "The specified queue does not exist.")
    if isinstance(error, QueueFull):
        return SqsError("RequestThrottled", str(error), status=HTTPStatus.TOO_MANY_REQUESTS)
    if isinstance(error, RequestTooLarge | InvalidParameter):
        return invalid(str(error))
    if isinstance(error, Forbidden):
        return SqsError("AccessDeniedException", str(error), status=HTTPStatus.FORBIDDEN)
    if error.status < 500:
        return invalid(str(error))
    return SqsError("InternalFailure", str(error), status=HTTPStatus.INTERNAL_SERVER_ERROR)


def fault_reply(error: SqsError) -> Reply:
    """Return the response for an error."""
    namespace, code = _CODES[error.shape]
    fault = "Sender" if error.http_status < 500 else "Receiver"
    body = {"__type": namespace + error.shape, "message": str(error)}
    headers = (("x-amzn-query-error", f"{code};{fault}"),)
    reply = json_reply(body, error.http_status, headers)
    return Reply(reply.status, reply.body, reply.headers, JSON_TYPE)


def entry_fault(entry_id: str, error: SqsError) -> dict[str, Any]:
    """Return one entry of a batch's ``Failed``."""
    return {
        "Id": entry_id,
        "SenderFault": error.http_status < 500,
        "Code": error.query_code,
        "Message": str(error),
    }
