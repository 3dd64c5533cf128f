"""``Invoke``: check in AWS's order, run, answer (spec 1.6)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from http import HTTPStatus

from glowplug.runtime.catalog import Version
from glowplug.runtime.errors import (
    FunctionFault,
    InvalidRequestContent,
    InvalidRuntime,
    ResourceNotReady,
    UnsupportedMediaType,
    UpdateInProgress,
    ValidationFailed,
)
from glowplug.runtime.http.invoking import hold_of, start_headers
from glowplug.runtime.http.messages import Reply, Request, parse_json
from glowplug.runtime.identifiers import new_trace_id
from glowplug.runtime.invocation import Invocation, Outcome

from .call import Call, Services
from .enqueue import enqueue

_INVOCATION_TYPES = ("Event", "RequestResponse", "DryRun")
_LOG_TYPES = ("None", "Tail")
_JSON_TYPES = frozenset(  # boto3 sends none; curl -d its form type, the CLI's and SDKs' blobs one of the others
    "application/json application/octet-stream binary/octet-stream application/x-www-form-urlencoded".split()
)


async def invoke(services: Services, call: Call) -> Reply:
    """Check in AWS's order: name, existence, payload; then DryRun stops, Event queues, the rest runs."""
    invocation = await prepared(services, call, _INVOCATION_TYPES)
    if isinstance(invocation, Reply):
        return invocation
    version, trace_id = invocation.version, invocation.trace_id
    try:
        outcome = await _run(services, call.request, invocation)
    except FunctionFault as fault:
        return Reply(HTTPStatus.OK, fault.body(), [*_common(version, trace_id), ("X-Amz-Function-Error", "Unhandled")])
    return _invoked(outcome, trace_id, with_log=invocation.log_tail)


async def prepared(services: Services, call: Call, kinds: Sequence[str]) -> Invocation | Reply:
    """Return the invocation that a request asks for, checked in AWS's order, or the answer to a DryRun or an Event.
    ``kinds`` are the invocation types that its operation has."""
    ref, request, limits = services.parse(call), call.request, services.limits
    headers = request.headers
    target = services.directory.target(ref.name, ref.qualifier)
    refuse_unready(target, f"{services.arn_prefix}{ref.name}")
    kind, log_type = _types(headers.get("x-amz-invocation-type"), headers.get("x-amz-log-type"), kinds)
    _check_content_type(headers.get("content-type", ""))
    most = limits.async_request_bytes if kind == "Event" else limits.sync_request_bytes
    payload = await request.read(most, what=f"the {kind} invocation type")
    if not payload:
        payload = b"{}"
    else:
        check_json(payload)
    if kind == "DryRun":
        return Reply(HTTPStatus.NO_CONTENT)
    if kind == "Event":
        context = client_context(headers.get("x-amz-client-context"), limits.client_context_bytes)
        return await enqueue(services, request, ref, payload, context)
    return Invocation(
        request_id=request.request_id,
        function=ref.name,
        version=target.number,
        function_arn=ref.arn,
        payload=payload,
        arrived_s=request.arrived_s,
        trace_id=headers.get("x-amzn-trace-id") or new_trace_id(services.clock.time()),
        client_context=client_context(headers.get("x-amz-client-context"), limits.client_context_bytes),
        log_tail=log_type == "Tail",
        hold_s=hold_of(headers.get("prefer")),
    )


async def _run(services: Services, request: Request, invocation: Invocation) -> Outcome:
    """Run it, or wait with who asked for the same before: the same caller, function, event and SDK's invocation id."""
    repeated = request.headers.get("amz-sdk-invocation-id")
    if repeated is None:
        return await services.invoke(invocation)
    caller = None if request.principal is None else request.principal.access_key_id
    same = invocation.function_arn, invocation.payload, invocation.client_context, invocation.log_tail
    return await services.retries.join(
        (caller, repeated, *same), lambda: services.invoke(invocation), event_bytes=len(invocation.payload)
    )


def refuse_unready(version: Version, arn: str) -> None:
    """Raise unless requests may go to this version: ``UpdateInProgress`` while it is Pending, ``ResourceNotReady`` when
    it could not be made, ``InvalidRuntime`` where it is of a runtime that is not here."""
    if version.spec.foreign:
        raise InvalidRuntime(f"The runtime {version.spec.runtime} is not supported on this node: python3.x is")
    if version.state == "Pending" and version.spec.snap_start and version.number != "$LATEST":
        raise UpdateInProgress(
            "The operation cannot be performed at this time. The function is currently in the following state: Pending"
        )
    if version.state == "Failed":
        raise ResourceNotReady(f"{arn}:{version.number} is in the state Failed: {version.state_reason}")


def check_json(payload: bytes) -> None:
    """Raise ``InvalidRequestContent`` with Lambda's sentence unless ``payload`` is one JSON value in UTF-8."""
    try:
        parse_json(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContent(
            f"Could not parse request body into json: Could not parse payload into json: {error}"
        ) from error


def _types(invocation_type: str | None, log_type: str | None, kinds: Sequence[str]) -> tuple[str, str]:
    kind, log = invocation_type or "RequestResponse", log_type or "None"
    problems = [
        f"Value '{given}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set: "
        f"[{', '.join(allowed)}]"
        for given, name, allowed in ((kind, "invocationType", kinds), (log, "logType", _LOG_TYPES))
        if given not in allowed
    ]
    if problems:
        raise ValidationFailed(*problems)
    return kind, log


def _check_content_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind not in _JSON_TYPES and not kind.startswith("application/x-amz-json") and kind[-5:] != "+json":
        raise UnsupportedMediaType(f"Unsupported content type: {content_type}")


def client_context(given: str | None, limit_bytes: int) -> bytes:
    """Return the decoded ClientContext. Its limit counts bytes before base64 (spec 1.5)."""
    if not given:
        return b""
    try:
        context = base64.b64decode(given, validate=True)
        if not isinstance(parse_json(context), dict):
            raise ValueError("not an object")
    except (binascii.Error, ValueError, RecursionError) as error:
        raise InvalidRequestContent("Client context must be a valid Base64-encoded JSON object.") from error
    if len(context) > limit_bytes:
        raise ValidationFailed(
            "Value at 'clientContext' failed to satisfy constraint: "
            f"Member must have length less than or equal to {limit_bytes}"
        )
    return context


def _common(version: str, trace_id: str) -> list[tuple[str, str]]:
    return [
        ("X-Amz-Executed-Version", version),
        ("X-Amzn-Trace-Id", trace_id),
        ("X-Amzn-Remapped-Content-Length", "0"),
    ]


def _invoked(outcome: Outcome, trace_id: str, *, with_log: bool) -> Reply:
    headers: Sequence[tuple[str, str]] = [*_common(outcome.executed_version, trace_id), *start_headers(outcome)]
    if outcome.function_error is not None:
        headers = [*headers, ("X-Amz-Function-Error", outcome.function_error)]
    if with_log:
        headers = [*headers, ("X-Amz-Log-Result", base64.b64encode(outcome.log_tail).decode())]
    return Reply(HTTPStatus.OK, outcome.payload, headers, request_id=outcome.request_id)


async def invoke_async(services: Services, call: Call) -> Reply:
    """Answer InvokeAsync, Invoke's predecessor: an event, with a smaller limit."""
    ref, limits = services.parse(call), services.limits
    refuse_unready(services.directory.target(ref.name, ref.qualifier), f"{services.arn_prefix}{ref.name}")
    payload = await call.request.read(limits.invoke_async_bytes, what="the InvokeAsync operation")
    if payload:
        check_json(payload)
    return await enqueue(services, call.request, ref, payload or b"{}", b"")
