"""The Lambda API: names and qualifiers (spec 1.3), Invoke's checks and headers (1.6), error bodies (1.2)."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field, replace
from typing import Any

import botocore.session
import pytest

from glowplug.runtime.config import Limits
from glowplug.runtime.errors import (
    Conflict,
    DefinitionError,
    FunctionNotFound,
    GlowplugError,
    HandlerTimeout,
    InternalError,
    InvalidParameter,
    InvalidRequestContent,
    NotSupported,
    RequestTooLarge,
    Throttled,
    UnsupportedMediaType,
    ValidationFailed,
)
from glowplug.runtime.http.downloads import Downloads
from glowplug.runtime.http.faults import error_reply
from glowplug.runtime.http.lambda_api.api import LambdaApi
from glowplug.runtime.http.lambda_api.call import Services
from glowplug.runtime.http.lambda_api.retries import Retries
from glowplug.runtime.http.messages import Reply, Request
from glowplug.runtime.http.names import FunctionRef, parse
from glowplug.runtime.http.streaming import Streams
from glowplug.runtime.invocation import Invocation, Outcome
from glowplug.runtime.routing.tasks import OwnedTasks
from glowplug.runtime.spec import FunctionSpec
from glowplug.runtime.testing import FakeAcceptor, FakeMappings, ManualClock
from glowplug.runtime.testing.deployed import Deployed, a_function

ARN = "arn:aws:lambda:us-east-1:000000000000:function:"
UNUSED: Any = None  # no code is taken in here
INVOKE = "/2015-03-31/functions/{}/invocations"
ECHO = FunctionSpec(name="echo", handler="echo.handler", runtime="python3.11", code_digest="ab" * 32)


def ref(given: str, qualifier: str | None = None) -> FunctionRef:
    return parse(given, qualifier, region="us-east-1", account_id="000000000000")


@dataclass
class Body:
    """The socket's side of a request, in memory."""

    parts: list[bytes]
    read: int = 0

    @property
    def content(self) -> Body:
        return self

    async def readany(self) -> bytes:
        self.read += 1
        return self.parts.pop(0) if self.parts else b""

    def at_eof(self) -> bool:
        return not self.parts


@dataclass
class Fixture:
    """A Lambda API in front of a function that answers its payload."""

    answer: Outcome | GlowplugError = field(
        default_factory=lambda: Outcome("r", b'{"a": 1}', "$LATEST", "hot", duration_ms=1.0)
    )
    invocations: list[Invocation] = field(default_factory=list)
    events: FakeAcceptor = field(default_factory=FakeAcceptor)

    async def invoke(self, invocation: Invocation) -> Outcome:
        self.invocations.append(invocation)
        if isinstance(self.answer, GlowplugError):
            raise self.answer
        return self.answer

    async def ask(
        self,
        method: str,
        path: str,
        body: bytes | list[bytes] = b"",
        query: str = "",
        limit: int = 6291456,
        **headers: str,
    ) -> Reply:
        deployed = Deployed(*(a_function(replace(ECHO, name=name)) for name in ("echo", "beta", "alpha")))
        limits, clock = Limits(sync_request_bytes=limit), ManualClock()
        api = LambdaApi(
            Services(
                directory=deployed, deployments=deployed, invoke=self.invoke, events=self.events, retries=Retries(clock), clock=clock, limits=limits,
                streams=Streams(self.invoke, OwnedTasks(), clock=clock, limits=limits), region="us-east-1", account_id="000000000000",
                endpoint=lambda: "http://127.0.0.1:9000", packages=UNUSED, downloads=Downloads(UNUSED, b"", ManualClock()),
                sources=FakeMappings(), pollers=FakeMappings(),
            )
        )  # fmt: skip
        raw: Any = Body(body if isinstance(body, list) else [body])
        lower = {name.replace("_", "-"): value for name, value in headers.items()}
        request = Request("r-1", method, path, query, "localhost", lower, "HTTP/1.1", "127.0.0.1", 9000, 1000.0, raw)
        return await api.answer(request)


@pytest.mark.parametrize(
    ("given", "qualifier", "expected"),
    [
        ("echo", None, FunctionRef("echo", "$LATEST", f"{ARN}echo")),
        ("echo:live", None, FunctionRef("echo", "live", f"{ARN}echo:live")),
        ("echo", "7", FunctionRef("echo", "7", f"{ARN}echo:7")),
        ("echo:$LATEST", None, FunctionRef("echo", "$LATEST", f"{ARN}echo:$LATEST")),
        ("echo:live", "live", FunctionRef("echo", "live", f"{ARN}echo:live")),
        ("000000000000:function:echo", None, FunctionRef("echo", "$LATEST", f"{ARN}echo")),
        ("function:echo:1", None, FunctionRef("echo", "1", f"{ARN}echo:1")),
        (f"{ARN}echo:live", None, FunctionRef("echo", "live", f"{ARN}echo:live")),
        (f"{ARN}echo".removesuffix(":echo"), None, FunctionRef("function", "$LATEST", f"{ARN}function")),  # recorded
    ],
)
def test_names(given: str, qualifier: str | None, expected: FunctionRef) -> None:
    assert expected == ref(given, qualifier)


@pytest.mark.parametrize(
    "given",
    ["*", "my-function!", "invalid-account:function:my-function", f"{ARN}f:1:2", f"{ARN}f:$LATES", "f:$latest:x",
     "arn:aws:lambda::000000000000:function:f", "arn:aws:ec2:us-east-1:000000000000:instance:i-1"],
)  # fmt: skip
def test_names_that_break_the_pattern(given: str) -> None:
    with pytest.raises(ValidationFailed) as caught:
        ref(given)
    assert str(caught.value).startswith(
        f"1 validation error detected: Value '{given}' at 'functionName' failed to satisfy constraint: "
        r"Member must satisfy regular expression pattern: (arn:(aws[a-zA-Z-]*)?:lambda:)?((eusc-)?[a-z]{2}"
    )


def test_two_problems_are_counted_and_the_qualifier_comes_first() -> None:
    with pytest.raises(ValidationFailed) as caught:
        ref("*", "a" * 129)
    assert str(caught.value).startswith(f"2 validation errors detected: Value '{'a' * 129}' at 'qualifier' failed")


def test_qualifiers_that_differ() -> None:
    with pytest.raises(InvalidParameter, match="The derived qualifier from the function name does not match"):
        ref("echo:live", "test")


def test_another_region() -> None:
    with pytest.raises(FunctionNotFound) as caught:
        ref("arn:aws:lambda:eu-west-1:000000000000:function:echo")
    assert "Functions from 'eu-west-1' are not reachable in this region ('us-east-1')" == str(caught.value)


def test_another_account() -> None:
    with pytest.raises(FunctionNotFound) as caught:
        ref("arn:aws:lambda:us-east-1:111111111111:function:echo")
    assert "Function not found: arn:aws:lambda:us-east-1:111111111111:function:echo:$LATEST" == str(caught.value)


async def test_invoke_answers_the_payload_as_the_function_wrote_it() -> None:
    api = Fixture()
    reply = await api.ask("POST", INVOKE.format("echo"), b'{"x": 1}', x_amzn_trace_id="Root=1-a")
    assert (
        Reply(
            200,
            b'{"a": 1}',
            [
                ("X-Amz-Executed-Version", "$LATEST"),
                ("X-Amzn-Trace-Id", "Root=1-a"),
                ("X-Amzn-Remapped-Content-Length", "0"),
                ("X-Glowplug-Tier", "hot"),
                ("Server-Timing", "handler;dur=1.00"),
            ],
            request_id="r",
        )
        == reply
    )
    assert [
        Invocation("r-1", "echo", "$LATEST", f"{ARN}echo", b'{"x": 1}', 1000.0, trace_id="Root=1-a")
    ] == api.invocations


async def test_the_arn_keeps_the_qualifier_of_the_caller() -> None:
    api = Fixture()
    await api.ask("POST", INVOKE.format("echo%3A%24LATEST"))
    await api.ask("POST", INVOKE.format("echo"), query="Qualifier=%24LATEST")
    assert [f"{ARN}echo:$LATEST"] * 2 == [invocation.function_arn for invocation in api.invocations]


async def test_an_empty_body_is_an_empty_event() -> None:
    api = Fixture()
    await api.ask("POST", INVOKE.format("echo") + "/")
    assert b"{}" == api.invocations[0].payload


@pytest.mark.parametrize("body", [b"{", b"hello", b" ", b"NaN", b"\xff\xfe1\x00", b"{}{}", b"[" * 100_000])
async def test_a_payload_that_is_not_json(body: bytes) -> None:
    api = Fixture()
    with pytest.raises(InvalidRequestContent) as caught:
        await api.ask("POST", INVOKE.format("echo"), body)
    assert str(caught.value).startswith("Could not parse request body into json: Could not parse payload into json: ")
    assert [] == api.invocations


async def test_a_function_error_is_200_with_a_header() -> None:
    api = Fixture(Outcome("r", b'{"errorType":"E"}', "$LATEST", "hot", function_error="Unhandled"))
    reply = await api.ask("POST", INVOKE.format("echo"))
    assert (200, b'{"errorType":"E"}', "Unhandled") == (
        reply.status, reply.body, dict(reply.headers)["X-Amz-Function-Error"],
    )  # fmt: skip


async def test_a_fault_that_the_router_raises_is_a_function_error_too() -> None:
    api = Fixture(HandlerTimeout("RequestId: r Error: Task timed out after 3.00 seconds"))
    reply = await api.ask("POST", INVOKE.format("echo"))
    assert (200, "Unhandled", "Sandbox.Timedout") == (
        reply.status, dict(reply.headers)["X-Amz-Function-Error"], json.loads(reply.body)["errorType"],
    )  # fmt: skip


async def test_the_log_tail_comes_only_when_it_is_asked_for() -> None:
    api = Fixture(Outcome("r", b"1", "$LATEST", "hot", log_tail=b"START"))
    plain = await api.ask("POST", INVOKE.format("echo"), x_amz_log_type="None")
    tailed = await api.ask("POST", INVOKE.format("echo"), x_amz_log_type="Tail")
    assert "X-Amz-Log-Result" not in dict(plain.headers)
    assert base64.b64encode(b"START").decode() == dict(tailed.headers)["X-Amz-Log-Result"]
    assert [False, True] == [invocation.log_tail for invocation in api.invocations]


async def test_dry_run_checks_and_runs_nothing() -> None:
    api = Fixture()
    assert Reply(204) == await api.ask("POST", INVOKE.format("echo"), x_amz_invocation_type="DryRun")
    with pytest.raises(InvalidRequestContent):
        await api.ask("POST", INVOKE.format("echo"), b"{", x_amz_invocation_type="DryRun")
    with pytest.raises(FunctionNotFound):
        await api.ask("POST", INVOKE.format("nobody"), x_amz_invocation_type="DryRun")
    assert [] == api.invocations


async def test_event_is_accepted_with_an_id_of_its_own_and_nothing_is_run() -> None:
    api = Fixture()
    reply = await api.ask("POST", INVOKE.format("echo"), b'{"a":1}', x_amz_invocation_type="Event")
    assert (202, b"", "00000000-0000-7000-8000-000000000001") == (reply.status, reply.body, reply.request_id)
    assert not {name.lower() for name, _ in reply.headers} & {"x-amz-executed-version", "x-amz-function-error"}
    ((event, also),) = api.events.accepted
    assert ("echo", "", b'{"a":1}', ()) == (event.function, event.qualifier, event.payload, also)
    assert [] == api.invocations


async def test_event_is_checked_before_it_is_accepted() -> None:
    api = Fixture()
    for error, name, body in ((FunctionNotFound, "nobody", b""), (InvalidRequestContent, "echo", b"{")):
        with pytest.raises(error):
            await api.ask("POST", INVOKE.format(name), body, x_amz_invocation_type="Event")
    with pytest.raises(RequestTooLarge, match="too large for the Event invocation type \\(limit 1048576 bytes\\)"):
        await api.ask("POST", INVOKE.format("echo"), b'"' + b"x" * 2**20 + b'"', x_amz_invocation_type="Event")
    with pytest.raises(InvalidParameter, match="X-Glowplug-Webhook"):
        await api.ask(
            "POST", INVOKE.format("echo"), x_amz_invocation_type="Event", x_glowplug_webhook="file:///etc/passwd"
        )
    assert [] == api.events.accepted


@pytest.mark.parametrize("by", ["header", "context"])
async def test_event_of_a_known_idempotency_key_gives_the_first_id(by: str) -> None:
    api = Fixture()
    context = base64.b64encode(b'{"custom": {"Idempotency-Key": "k"}}').decode()
    given: dict[str, Any] = {"idempotency_key": "k"} if by == "header" else {"x_amz_client_context": context}
    first = await api.ask("POST", INVOKE.format("echo"), x_amz_invocation_type="Event", **given)
    second = await api.ask("POST", INVOKE.format("echo"), x_amz_invocation_type="Event", **given)
    assert (202, first.request_id) == (second.status, second.request_id)
    assert ("X-Glowplug-Duplicate", "true") in second.headers
    assert 1 == len(api.events.accepted)


@pytest.mark.parametrize("key", ["", "k" * 256, "\ud800", "a\x00b", 1])
async def test_a_key_that_cannot_be_kept_is_refused(key: object) -> None:
    """From boto3 it comes in the ClientContext, as any JSON value."""
    context = base64.b64encode(json.dumps({"custom": {"Idempotency-Key": key}}).encode()).decode()
    with pytest.raises(InvalidParameter, match="Idempotency-Key: must be a string of 1 to 255"):
        await Fixture().ask("POST", INVOKE.format("echo"), x_amz_invocation_type="Event", x_amz_client_context=context)


async def test_invoke_async_takes_an_event_with_a_smaller_limit() -> None:
    api = Fixture()
    reply = await api.ask("POST", "/2014-11-13/functions/echo/invoke-async/", b'{"a":1}')
    assert (202, b"") == (reply.status, reply.body)
    with pytest.raises(RequestTooLarge):
        await api.ask("POST", "/2014-11-13/functions/echo/invoke-async", b'"' + b"x" * 2**18 + b'"')
    assert [b'{"a":1}'] == [event.payload for event, _ in api.events.accepted]


async def test_unknown_invocation_and_log_types() -> None:
    with pytest.raises(ValidationFailed) as caught:
        await Fixture().ask("POST", INVOKE.format("echo"), x_amz_invocation_type="Now", x_amz_log_type="All")
    assert (
        "2 validation errors detected: Value 'Now' at 'invocationType' failed to satisfy constraint: Member must satisfy "
        "enum value set: [Event, RequestResponse, DryRun]; Value 'All' at 'logType' failed to satisfy constraint: "
        "Member must satisfy enum value set: [None, Tail]" == str(caught.value)
    )


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        (
            "/2019-09-25/functions/echo/event-invoke-config",
            {"DestinationConfig": {"OnSuccess": {"Destination": "arn:aws:sqs:us-east-1:000000000000:q.fifo"}}},
            "DestinationConfig.OnSuccess.Destination",
        ),
        (
            "/2015-03-31/functions/echo/configuration",
            {"DeadLetterConfig": {"TargetArn": "arn:aws:sqs:us-east-1:000000000000:q.fifo"}},
            "DeadLetterConfig.TargetArn",
        ),
    ],
)
async def test_what_is_fifo_takes_no_records_and_no_dead_letters(path: str, body: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidParameter, match=f"{field}: arn:aws:sqs:us-east-1:000000000000:q.fifo is FIFO"):
        await Fixture().ask("PUT", path, json.dumps(body).encode())


@pytest.mark.parametrize(
    ("path", "body", "problem"),
    [
        (
            "/2019-09-25/functions/echo/event-invoke-config",
            {"DestinationConfig": {"OnSuccess": {"Destination": "arn:aws:s3:::bucket"}}},
            "destination config .*arn:aws:s3:::bucket.* is invalid",
        ),
        (
            "/2015-03-31/functions/echo/configuration",
            {"DeadLetterConfig": {"TargetArn": "dead"}},
            "Value 'dead' at 'deadLetterConfig.targetArn' failed to satisfy constraint",
        ),
        (
            "/2015-03-31/functions/echo/configuration",
            {"DeadLetterConfig": {"TargetArn": "arn:aws:s3:::bucket"}},
            "DeadLetterConfig.TargetArn: arn:aws:s3:::bucket is neither a queue nor a topic",
        ),
    ],
)
async def test_what_could_never_be_delivered_is_refused(path: str, body: dict[str, Any], problem: str) -> None:
    with pytest.raises((InvalidParameter, ValidationFailed), match=problem):
        await Fixture().ask("PUT", path, json.dumps(body).encode())


async def test_a_missing_function_is_named_with_its_qualifier() -> None:
    with pytest.raises(FunctionNotFound) as missing:
        await Fixture().ask("POST", INVOKE.format("nobody"))
    with pytest.raises(FunctionNotFound) as no_alias:
        await Fixture().ask("POST", INVOKE.format("echo"), query="Qualifier=live")
    assert f"Function not found: {ARN}nobody:$LATEST" == str(missing.value)
    assert f"Function not found: {ARN}echo:live" == str(no_alias.value)


async def test_a_declared_length_over_the_limit_is_refused_unread() -> None:
    api, parts = Fixture(), [b"x" * 101]
    with pytest.raises(RequestTooLarge) as caught:
        await api.ask("POST", INVOKE.format("echo"), parts, limit=100, content_length="101")
    assert "101 byte payload is too large for the RequestResponse invocation type (limit 100 bytes)" == str(
        caught.value
    )
    assert [b"x" * 101] == parts


async def test_a_chunked_body_is_read_no_further_than_the_limit() -> None:
    parts = [b"x" * 60, b"x" * 60, b"x" * 60]
    with pytest.raises(RequestTooLarge):
        await Fixture().ask("POST", INVOKE.format("echo"), parts, limit=100)
    assert 1 == len(parts)


async def test_a_body_of_exactly_the_limit_passes() -> None:
    api = Fixture()
    await api.ask("POST", INVOKE.format("echo"), [b'"' + b"x" * 49, b"x" * 49 + b'"'], limit=100, content_length="100")
    assert 100 == len(api.invocations[0].payload)


@pytest.mark.parametrize("content_type", ["", "application/json; charset=utf-8", "application/x-www-form-urlencoded"])
async def test_content_types_that_clients_send(content_type: str) -> None:
    assert 200 == (await Fixture().ask("POST", INVOKE.format("echo"), b"{}", content_type=content_type)).status


async def test_other_content_types() -> None:
    with pytest.raises(UnsupportedMediaType):
        await Fixture().ask("POST", INVOKE.format("echo"), b"{}", content_type="text/plain")


async def test_client_context_is_decoded_and_limited() -> None:
    api = Fixture()
    context = json.dumps({"custom": {"a": "b"}}).encode()
    await api.ask("POST", INVOKE.format("echo"), x_amz_client_context=base64.b64encode(context).decode())
    assert context == api.invocations[0].client_context
    largest = b'{"custom":{"a":"' + b"x" * (3583 - 19) + b'"}}'
    await api.ask("POST", INVOKE.format("echo"), x_amz_client_context=base64.b64encode(largest).decode())
    for wrong in (b"not base64", base64.b64encode(b"[1]"), base64.b64encode(b"{")):
        with pytest.raises(InvalidRequestContent):
            await api.ask("POST", INVOKE.format("echo"), x_amz_client_context=wrong.decode())
    too_long = base64.b64encode(largest.replace(b"xx", b"xxx", 1)).decode()
    with pytest.raises(ValidationFailed):
        await api.ask("POST", INVOKE.format("echo"), x_amz_client_context=too_long)


async def test_prefer_wait_bounds_the_hold() -> None:
    api = Fixture()
    await api.ask("POST", INVOKE.format("echo"), prefer="wait=7")
    assert 7.0 == api.invocations[0].hold_s


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/2015-03-31/functions/echo/invocations"),
        ("GET", "/2015-03-31/functionsx"),
        ("GET", "/2015-03-31/functions/echo/invocations/more"),
    ],
)
async def test_paths_that_are_no_operation_are_not_supported(method: str, path: str) -> None:
    with pytest.raises(NotSupported) as caught:
        await Fixture().ask(method, path)
    assert f"{method} {path} is not supported" == str(caught.value)


async def test_every_operation_of_the_service_is_answered_or_refused_by_name() -> None:
    model = botocore.session.get_session().get_service_model("lambda")
    refused = {}
    for name in model.operation_names:
        http = model.operation_model(name).http
        path = re.sub(r"{\w+}", "x", http["requestUri"].partition("?")[0])
        try:
            await Fixture().ask(http["method"], path, b"{}")
        except NotSupported as error:
            refused[name] = str(error)
        except (GlowplugError, AttributeError):  # it is answered, and not with this
            pass
    assert refused == {name: f"{name} is not supported" for name in refused}
    assert {
        "SendDurableExecutionCallbackSuccess",
        "CreateCodeSigningConfig",
        "AddLayerVersionPermission",
    } < refused.keys()
    assert not {"Invoke", "CreateFunction", "GetCapacityProvider", "GetLayerVersionByArn"} & refused.keys()


async def test_list_functions_pages_by_name() -> None:
    first = json.loads((await Fixture().ask("GET", "/2015-03-31/functions/", query="MaxItems=2")).body)
    second = json.loads(
        (await Fixture().ask("GET", "/2015-03-31/functions", query=f"Marker={first['NextMarker']}")).body
    )
    assert ["alpha", "beta"] == [function["FunctionName"] for function in first["Functions"]]
    assert ["echo"] == [function["FunctionName"] for function in second["Functions"]]
    assert "NextMarker" not in second


async def test_get_function_carries_the_qualifier_in_its_arn_only_when_given() -> None:
    plain = json.loads((await Fixture().ask("GET", "/2015-03-31/functions/echo")).body)["Configuration"]
    latest = json.loads((await Fixture().ask("GET", "/2015-03-31/functions/echo:$LATEST/configuration")).body)
    assert [f"{ARN}echo", f"{ARN}echo:$LATEST"] == [plain["FunctionArn"], latest["FunctionArn"]]
    assert base64.b64encode(b"\xab" * 32).decode() == plain["CodeSha256"]


@pytest.mark.parametrize(
    ("error", "status", "code", "body"),
    [
        (FunctionNotFound("m"), 404, "ResourceNotFoundException", {"Type": "User", "Message": "m"}),
        (Conflict("m"), 409, "ResourceConflictException", {"Type": "User", "message": "m"}),
        (ValidationFailed("m"), 400, "ValidationException", {"message": "1 validation error detected: m"}),
        (InternalError("m"), 500, "ServiceException", {"Type": "Service", "Message": "m"}),
        (
            DefinitionError("Echo.Timeout", "m"), 400, "InvalidParameterValueException",
            {"Type": "User", "message": "Echo.Timeout: m", "field": "Echo.Timeout"},
        ),
        (
            Throttled("Rate Exceeded.", reason="ConcurrentInvocationLimitExceeded", retry_after_s=0.2), 429,
            "TooManyRequestsException",
            {"Reason": "ConcurrentInvocationLimitExceeded", "Type": "User", "message": "Rate Exceeded."},
        ),
    ],
)  # fmt: skip
def test_errors_have_the_shape_of_aws(error: GlowplugError, status: int, code: str, body: dict[str, str]) -> None:
    reply = error_reply(error)
    assert (status, code, body) == (reply.status, dict(reply.headers)["x-amzn-ErrorType"], json.loads(reply.body))


def test_retry_after_is_whole_seconds_and_at_least_one() -> None:
    replies = [error_reply(Throttled("m", reason="r", retry_after_s=seconds)) for seconds in (0.0, 1.2)]
    assert ["1", "2"] == [dict(reply.headers)["Retry-After"] for reply in replies]
