"""Every error of the runtime, as one tree. Each class carries what the edge needs.

    GlowplugError
    ├── RequestError                        the caller can mend it
    │   ├── FunctionNotFound                404 ResourceNotFoundException
    │   ├── ResourceNotFound                404 ResourceNotFoundException      (a start record, stack or path)
    │   │   └── QueueNotFound                   …: no queue of that name
    │   ├── InvalidParameter                400 InvalidParameterValueException
    │   │   ├── LimitReached                …: does not fit with what there is  (body without Type, recorded)
    │   │   ├── LayersRefused               …: a function's layers are too large, or are not here
    │   │   ├── InvalidSchedule             …: no schedule expression, or no time zone
    │   │   ├── InvalidPattern              …: no event pattern
    │   │   └── InvalidEntry                …: an event that was posted is not one
    │   ├── ValidationFailed                400 ValidationException            (body without Type, recorded)
    │   ├── InvalidRequestContent           400 InvalidRequestContentException
    │   ├── UnsupportedMediaType            415 UnsupportedMediaTypeException
    │   ├── RequestTooLarge                 413 RequestEntityTooLargeException
    │   ├── Conflict                        409 ResourceConflictException
    │   │   ├── UpdateInProgress                …: another change of the function is being carried out
    │   │   ├── QueueExists                     …: a queue of that name with other settings
    │   │   ├── StaleLease                      …: the message was received again, or is gone
    │   │   └── RecordExists                    …: a record of that id is kept already
    │   ├── PreconditionFailed              412 PreconditionFailedException    (RevisionId)
    │   ├── PolicyTooLong                   400 PolicyLengthExceededException
    │   ├── ProvisionedNotFound             404 ProvisionedConcurrencyConfigNotFoundException
    │   ├── NotSupported                    400 InvalidParameterValueException
    │   ├── MethodNotAllowed                405 of the admin API
    │   ├── Forbidden                       403 AccessDeniedException
    │   │   └── NotAuthenticated                …: nobody whom the node knows signed the request
    │   │       ├── MissingAuthenticationToken  403 MissingAuthenticationTokenException
    │   │       ├── IncompleteSignature         403 IncompleteSignatureException
    │   │       ├── UnrecognizedClient          403 UnrecognizedClientException
    │   │       └── InvalidSignature            403 InvalidSignatureException
    │   └── Throttled                       429 TooManyRequestsException      (retryable, Retry-After)
    │       └── QueueFull                       …: the queue holds as many messages as it may
    ├── DefinitionError                     400 InvalidParameterValueException: names the function and the field
    ├── FunctionFault                       200, X-Amz-Function-Error and Lambda's error body
    │   ├── StartError                      the function could not be started
    │   │   ├── LoadFailed                  the handler's import raised, or its name is wrong
    │   │   ├── RestoreFailed               weights or engine could not be bound
    │   │   ├── CheckFailed                 the engine's output was not the recorded one
    │   │   ├── DeviceFull                  not enough free memory on the GPU
    │   │   └── StartTimeout                InitTimeoutSeconds passed
    │   └── InvocationError                 the handler ran, or began to
    │       ├── HandlerTimeout              Sandbox.Timedout
    │       ├── InvocationCancelled         Glowplug.Cancelled
    │       ├── WorkerExited                Runtime.ExitError
    │       ├── OutOfMemory                 Runtime.OutOfMemory
    │       └── ResponseTooLarge            Function.ResponseSizeTooLarge
    ├── ResourceNotReady                    502 ResourceNotReadyException: the version could not be made
    ├── QueueUnreachable                    502 ServiceException: a queue that is not this node's did not answer
    ├── InvalidRuntime                      502 InvalidRuntimeException: stored here, and of a runtime that is not
    ├── HoldTimeout                         504: HoldTimeoutSeconds passed before an instance was ready
    ├── StateError                          500: the state directory cannot be used (locked, read-only, full)
    └── InternalError                       500 ServiceException: ours

``status`` is the HTTP status of the Lambda API, ``code`` its ``x-amzn-ErrorType``, ``error_type`` the ``errorType`` of
a function error body, ``message_key`` the case in which AWS spells the body's message
(botocore's Lambda model and recorded exchanges differ per exception), ``retryable`` whether the same request may
succeed later. Lower layers (``cache.errors``, ``snapshot.errors``) have trees of their own; ``routing.policy`` maps
them, and a test fails on a class without a mapping.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, ClassVar


class GlowplugError(Exception):
    """Base of all errors that the runtime raises on purpose."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "ServiceException"
    message_key: ClassVar[str] = "Message"
    error_type: ClassVar[str] = ""
    retryable: ClassVar[bool] = False


class RequestError(GlowplugError):
    """The request is wrong; nothing was run."""

    status = 400
    code = "InvalidParameterValueException"
    message_key = "message"


class FunctionNotFound(RequestError):
    """No function, version, alias or URL of that name."""

    status = 404
    code = "ResourceNotFoundException"
    message_key = "Message"


class ResourceNotFound(RequestError):
    """No start record, stack, code or path of that name."""

    status = 404
    code = "ResourceNotFoundException"
    message_key = "Message"


class QueueNotFound(ResourceNotFound):
    """No queue of that name."""

    def __init__(self, name: str) -> None:
        super().__init__(f"Queue not found: {name}")
        self.name = name


class InvalidParameter(RequestError):
    """A parameter has a value that the operation does not take."""


class LimitReached(InvalidParameter):
    """What is asked for and what there is already do not fit together. AWS sends it without ``Type`` (recorded)."""


class LayersRefused(InvalidParameter):
    """A function's layers cannot be laid together. ``function`` is its name."""

    def __init__(self, function: str, problem: str) -> None:
        super().__init__(problem)
        self.function = function


class InvalidSchedule(InvalidParameter):
    """A schedule expression, or its time zone, is none. The message names the field and says what is allowed."""


class InvalidPattern(InvalidParameter):
    """An event pattern is none. ``place`` is where in it (`detail.price[0].numeric`), ``problem`` what is wrong."""

    def __init__(self, place: str, problem: str) -> None:
        super().__init__(f"Event pattern is not valid. Reason: {f'{place}: ' if place else ''}{problem}")
        self.place = place
        self.problem = problem


class InvalidEntry(InvalidParameter):
    """An entry of PutEvents is refused. ``entry_code`` is its ErrorCode there."""

    def __init__(self, entry_code: str, problem: str) -> None:
        super().__init__(problem)
        self.entry_code = entry_code


class ValidationFailed(RequestError):
    """One or more parameters break a constraint of the API's model. ``problems`` are AWS's sentences, in order."""

    code = "ValidationException"

    def __init__(self, *problems: str) -> None:
        count = f"{len(problems)} validation error{'' if len(problems) == 1 else 's'} detected: "
        super().__init__(count + "; ".join(problems))


class InvalidRequestContent(RequestError):
    """The payload is not JSON."""

    code = "InvalidRequestContentException"


class UnsupportedMediaType(RequestError):
    """Invoke with a content type other than JSON."""

    status = 415
    code = "UnsupportedMediaTypeException"


class RequestTooLarge(RequestError):
    """The payload is over the limit of its invocation type."""

    status = 413
    code = "RequestEntityTooLargeException"


class Conflict(RequestError):
    """The resource is in a state that does not allow this."""

    status = 409
    code = "ResourceConflictException"


class UpdateInProgress(Conflict):
    """Another change of the function is being carried out, or it is not active yet."""


class QueueExists(Conflict):
    """There is a queue of that name with other settings, or of another owner."""


class StaleLease(Conflict):
    """The lease ran out and the message was received again, or the message is gone: nothing was changed."""


class RecordExists(Conflict):
    """A record of that id is kept already; ``record`` is it."""

    def __init__(self, message: str, record: Any) -> None:
        super().__init__(message)
        self.record = record


class PreconditionFailed(RequestError):
    """The caller has seen another revision than the one that is there."""

    status = 412
    code = "PreconditionFailedException"


class PolicyTooLong(RequestError):
    """A resource policy would be larger than it may be."""

    code = "PolicyLengthExceededException"


class ProvisionedNotFound(RequestError):
    """Nothing is provisioned for the version or the alias."""

    status = 404
    code = "ProvisionedConcurrencyConfigNotFoundException"


class NotSupported(RequestError):
    """Known to AWS or to the design, not built here: refused by name, never ignored."""


class MethodNotAllowed(RequestError):
    """The path exists and does not take this method."""

    status = 405


class Forbidden(RequestError):
    """The listener does not answer this Host or this origin, or nobody who is trusted signed what was sent."""

    status = 403
    code = "AccessDeniedException"
    message_key = "Message"


class NotAuthenticated(Forbidden):
    """Nobody whom the node knows signed the request. AWS refuses such requests before the service sees them, with
    ``message`` in small letters and without ``Type``."""

    message_key = "message"


class MissingAuthenticationToken(NotAuthenticated):
    """The request is not signed."""

    code = "MissingAuthenticationTokenException"

    def __init__(self, message: str = "Missing Authentication Token") -> None:
        super().__init__(message)


class IncompleteSignature(NotAuthenticated):
    """The signature lacks a part, or has one that cannot be read."""

    code = "IncompleteSignatureException"


class UnrecognizedClient(NotAuthenticated):
    """No credentials have that access key id, or its session token is another one."""

    code = "UnrecognizedClientException"

    def __init__(self, message: str = "The security token included in the request is invalid.") -> None:
        super().__init__(message)


class InvalidSignature(NotAuthenticated):
    """The signature is not that of this request, or not of this time."""

    code = "InvalidSignatureException"

    def __init__(
        self,
        message: str = "The request signature we calculated does not match the signature you provided. Check your AWS "
        "Secret Access Key and signing method. Consult the service documentation for details.",
    ) -> None:
        super().__init__(message)


class Throttled(RequestError):
    """Too many requests are held already. ``retry_after_s`` is an estimate from the ledger, in seconds."""

    status = 429
    code = "TooManyRequestsException"
    retryable = True

    def __init__(self, message: str, *, reason: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.reason = reason
        self.retry_after_s = retry_after_s


class QueueFull(Throttled):
    """The queue holds as many messages as its settings allow."""

    def __init__(self, name: str, capacity: int) -> None:
        super().__init__(f"Queue {name} is full ({capacity} messages)", reason="QueueFull", retry_after_s=1.0)
        self.name = name


class DefinitionError(GlowplugError):
    """A function's definition cannot be accepted. ``field`` is its path, such as ``Embed.Glowplug.Model.Engine``."""

    status = 400
    code = "InvalidParameterValueException"
    message_key = "message"

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class FunctionFault(GlowplugError):
    """Base of errors whose caller gets HTTP 200, ``X-Amz-Function-Error: Unhandled`` and Lambda's error body."""

    status = 200
    error_type = "Runtime.Unknown"

    def body(self) -> bytes:
        """Return the JSON error body. Platform errors put errorType first and have no stack trace (recorded)."""
        return json.dumps({"errorType": self.error_type, "errorMessage": str(self)}, separators=(",", ":")).encode()


class StartError(FunctionFault):
    """The function could not be started.

    ``reported_type`` and ``stack_trace`` are what the process said that failed; empty when it said nothing.
    """

    retryable = True
    reported_type: str = ""
    stack_trace: Sequence[str] = ()


class LoadFailed(StartError):
    """Importing the handler failed. ``payload`` is the error body as Lambda's runtime would have posted it."""

    def __init__(self, error_type: str, error_message: str, stack_trace: list[str]) -> None:
        super().__init__(error_message)
        self.reported_type = error_type
        self.stack_trace = stack_trace

    def body(self) -> bytes:
        """Return the body with ``requestId`` empty, as recorded for errors during import."""
        fields: dict[str, Any] = {
            "errorMessage": str(self),
            "errorType": self.reported_type,
            "requestId": "",
            "stackTrace": self.stack_trace,
        }
        return json.dumps(fields, ensure_ascii=False, separators=(",", ":")).encode()


class RestoreFailed(StartError):
    """Weights or engine could not be bound, by eager either."""

    error_type = "Glowplug.RestoreFailed"


class CheckFailed(StartError):
    """The engine's output is not the recorded one, not finite or of the wrong shape."""

    error_type = "Glowplug.CheckFailed"


class DeviceFull(StartError):
    """An instance does not fit into the device's memory. The message has the numbers."""

    error_type = "Glowplug.DeviceFull"


class StartTimeout(StartError):
    """The start took longer than InitTimeoutSeconds."""

    error_type = "Sandbox.Timedout"


class ResourceNotReady(GlowplugError):
    """The version could not be made: its state is Failed."""

    status = 502
    code = "ResourceNotReadyException"
    message_key = "message"


class QueueUnreachable(GlowplugError):
    """A queue of another server did not answer, or refused. The message has the ARN and what was said."""

    status = 502
    retryable = True


class InvalidRuntime(GlowplugError):
    """The function is of a runtime that this node does not have."""

    status = 502
    code = "InvalidRuntimeException"


class HoldTimeout(GlowplugError):
    """The request was held for as long as it may be and no instance was ready."""

    status = 504
    code = "ServiceException"
    error_type = "Glowplug.HoldTimeout"
    retryable = True


class InvocationError(FunctionFault):
    """The invocation began and did not end well."""


class HandlerTimeout(InvocationError):
    """The handler ran into its Timeout."""

    error_type = "Sandbox.Timedout"


class InvocationCancelled(InvocationError):
    """Whoever had caused the invocation cancelled it while it ran."""

    error_type = "Glowplug.Cancelled"


class WorkerExited(InvocationError):
    """The process ended in the middle of the invocation."""

    error_type = "Runtime.ExitError"


class OutOfMemory(InvocationError):
    """The worker added more than MemorySize."""

    error_type = "Runtime.OutOfMemory"


class ResponseTooLarge(InvocationError):
    """The handler's answer is over the response limit."""

    error_type = "Function.ResponseSizeTooLarge"

    def body(self) -> bytes:
        """Return the JSON error body with errorMessage first, as recorded of this error alone."""
        return json.dumps({"errorMessage": str(self), "errorType": self.error_type}, separators=(",", ":")).encode()


class StateError(GlowplugError):
    """The state directory cannot be used. The message says what to do."""


class InternalError(GlowplugError):
    """A fault of the runtime itself."""
