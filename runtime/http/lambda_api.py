"""Lambda's HTTP API: synchronous ``Invoke`` and the read-only operations that clients ask for on the way (spec 1).

Every other operation of Lambda's model is answered by name as not supported yet, in AWS's shape: a 404 would make a
client believe that its function is missing.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Protocol
from urllib.parse import parse_qsl

from glowplug.runtime.clock import Clock
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import (
    FunctionFault,
    InvalidParameter,
    InvalidRequestContent,
    NotSupported,
    UnsupportedMediaType,
    ValidationFailed,
)
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.registry import FunctionRecord
from glowplug.runtime.spec import FunctionSpec

from . import names
from .configurations import configuration_of
from .identifiers import new_trace_id
from .invoking import Invoke, hold_of, start_headers
from .messages import Reply, Request, json_reply, parse_json

API_PATH = re.compile(r"/20\d\d-\d\d-\d\d/")
_FUNCTIONS = "/2015-03-31/functions"
_INVOCATION_TYPES = ("Event", "RequestResponse", "DryRun")
_LOG_TYPES = ("None", "Tail")
_PAGE = 50  # ListFunctions' default and cap (botocore model)
_JSON_TYPES = frozenset(  # boto3 sends none; curl -d its form type, the CLI's and SDKs' blobs one of the others
    "application/json application/octet-stream binary/octet-stream application/x-www-form-urlencoded".split()
)


class Functions(Protocol):
    """What the API lists and describes. ``Registry`` is one."""

    def functions(self) -> list[FunctionRecord]:
        """Return every function, by name."""

    def get(self, name: str) -> FunctionRecord:
        """Return one function. Raises ``FunctionNotFound``."""

    def resolve(self, name: str, qualifier: str = "$LATEST") -> FunctionSpec:
        """Return the spec that the qualifier points to. Raises ``FunctionNotFound`` with the qualified ARN."""


class LambdaApi:
    """Answers requests whose path begins with an API version, such as ``/2015-03-31/``."""

    def __init__(
        self, functions: Functions, invoke: Invoke, *, region: str, account_id: str, clock: Clock, limits: Limits
    ) -> None:
        self._functions = functions
        self._invoke = invoke
        self._region = region
        self._account_id = account_id
        self._clock = clock
        self._limits = limits

    async def answer(self, request: Request) -> Reply:
        """Dispatch on the raw path. Raises ``GlowplugError``."""
        if request.path == _FUNCTIONS or request.path.startswith(_FUNCTIONS + "/"):
            match request.method, request.segments(_FUNCTIONS + "/"):
                case "POST", [given, "invocations"]:
                    return await self._answer_invoke(request, self._parse(request, given))
                case "GET", []:
                    return self._list(dict(parse_qsl(request.query)))
                case "GET", [given]:
                    return self._get(self._parse(request, given))
                case "GET", [given, "configuration"]:
                    return json_reply(self._configuration(self._parse(request, given)))
        raise NotSupported(f"{request.method} {request.path} is not supported yet")

    def _parse(self, request: Request, given: str) -> names.FunctionRef:
        qualifier = dict(parse_qsl(request.query)).get("Qualifier") if request.query else None
        return names.parse(given, qualifier, region=self._region, account_id=self._account_id)

    async def _answer_invoke(self, request: Request, ref: names.FunctionRef) -> Reply:
        """Check in AWS's order (spec 1.6): name, existence, payload; then DryRun stops, Event queues, the rest runs."""
        headers = request.headers
        spec = self._functions.resolve(ref.name, ref.qualifier)
        kind, log_type = _types(headers.get("x-amz-invocation-type"), headers.get("x-amz-log-type"))
        _check_content_type(headers.get("content-type", ""))
        payload = await request.read(self._limits.sync_request_bytes, what=f"the {kind} invocation type")
        if not payload:
            payload = b"{}"
        else:
            check_json(payload)
        if kind == "DryRun":
            return Reply(HTTPStatus.NO_CONTENT)
        if kind == "Event":
            raise NotSupported("Asynchronous invocation (InvocationType Event) is not supported yet")
        trace_id = headers.get("x-amzn-trace-id") or new_trace_id(self._clock.time())
        invocation = Invocation(
            request_id=request.request_id,
            function=ref.name,
            qualifier=ref.qualifier,
            function_arn=ref.arn,
            payload=payload,
            arrived_s=request.arrived_s,
            trace_id=trace_id,
            client_context=_client_context(headers.get("x-amz-client-context"), self._limits.client_context_bytes),
            log_tail=log_type == "Tail",
            hold_s=hold_of(headers.get("prefer")),
        )
        try:
            outcome = await self._invoke(invocation)
        except FunctionFault as fault:
            return Reply(
                HTTPStatus.OK, fault.body(), [*_common(spec.version, trace_id), ("X-Amz-Function-Error", "Unhandled")]
            )
        return _invoked(outcome, trace_id, with_log=log_type == "Tail")

    def _list(self, query: dict[str, str]) -> Reply:
        """Answer ListFunctions. The marker is the name of the last function of the page before."""
        try:
            size = min(int(query.get("MaxItems", _PAGE)), _PAGE)
        except ValueError:
            raise InvalidParameter(f"MaxItems: {query['MaxItems']!r} is not a number") from None
        if size < 1:
            raise InvalidParameter(f"MaxItems: {size} is less than 1")
        records = [record for record in self._functions.functions() if record.spec.name > query.get("Marker", "")]
        page: dict[str, object] = {"Functions": [self._describe(record, "") for record in records[:size]]}
        if len(records) > size:
            page["NextMarker"] = records[size - 1].spec.name
        return json_reply(page)

    def _get(self, ref: names.FunctionRef) -> Reply:
        return json_reply({"Configuration": self._configuration(ref), "Code": {"RepositoryType": "S3"}})

    def _configuration(self, ref: names.FunctionRef) -> dict[str, object]:
        suffix = f":{ref.qualifier}" if ref.arn.endswith(f":{ref.qualifier}") else ""
        if ref.qualifier != names.LATEST:
            self._functions.resolve(ref.name, ref.qualifier)  # raises: nothing is published yet
        return self._describe(self._functions.get(ref.name), suffix)

    def _describe(self, record: FunctionRecord, suffix: str) -> dict[str, object]:
        arn = f"arn:aws:lambda:{self._region}:{self._account_id}:function:{record.spec.name}{suffix}"
        return configuration_of(record, arn, region=self._region, account_id=self._account_id)


def check_json(payload: bytes) -> None:
    """Raise ``InvalidRequestContent`` with Lambda's sentence unless ``payload`` is one JSON value in UTF-8."""
    try:
        parse_json(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidRequestContent(
            f"Could not parse request body into json: Could not parse payload into json: {error}"
        ) from error


def _types(invocation_type: str | None, log_type: str | None) -> tuple[str, str]:
    kind, log = invocation_type or "RequestResponse", log_type or "None"
    problems = [
        f"Value '{given}' at '{name}' failed to satisfy constraint: Member must satisfy enum value set: "
        f"[{', '.join(allowed)}]"
        for given, name, allowed in ((kind, "invocationType", _INVOCATION_TYPES), (log, "logType", _LOG_TYPES))
        if given not in allowed
    ]
    if problems:
        raise ValidationFailed(*problems)
    return kind, log


def _check_content_type(content_type: str) -> None:
    kind = content_type.partition(";")[0].strip().lower()
    if kind and kind not in _JSON_TYPES and not kind.startswith("application/x-amz-json") and kind[-5:] != "+json":
        raise UnsupportedMediaType(f"Unsupported content type: {content_type}")


def _client_context(given: str | None, limit_bytes: int) -> bytes:
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
    return Reply(HTTPStatus.OK, outcome.payload, headers)
