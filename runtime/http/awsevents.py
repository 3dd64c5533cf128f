"""EventBridge's PutEvents and SNS's Publish, as SDKs send them: JSON 1.1 with an X-Amz-Target, and the query protocol.

Nothing else of the two services is answered: rules and subscriptions are those of templates.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from urllib.parse import parse_qs
from xml.sax.saxutils import escape

from glowplug.runtime.errors import (
    Forbidden,
    GlowplugError,
    InvalidParameter,
    InvalidRequestContent,
    InvalidSignature,
    NotAuthenticated,
    NotSupported,
    ResourceNotFound,
    StateError,
    Throttled,
)
from glowplug.runtime.events.bus import Bus
from glowplug.runtime.events.topics import Published, Topics
from glowplug.runtime.queue.attributes import FORBIDDEN

from .messages import Reply, Request, compact_json, parse_json

_TARGET = "x-amz-target"
_SERVICE = "AWSEvents."
_FORM = "application/x-www-form-urlencoded"
_JSON = "application/x-amz-json-1.1"
_XMLNS = "http://sns.amazonaws.com/doc/2010-03-31/"
_BODY_BYTES = 4 * 2**20  # a mebibyte of events, percent-encoded


def service_of(request: Request) -> str | None:
    """Return which of the two a request is for, by the name that signatures have: ``events`` or ``sns``."""
    if request.method != "POST" or request.path != "/":
        return None
    if request.headers.get(_TARGET, "").startswith(_SERVICE):
        return "events"
    form = request.headers.get("content-type", "").partition(";")[0].strip() == _FORM
    return "sns" if form and _TARGET not in request.headers else None


class AwsEvents:
    """Answers PutEvents and Publish."""

    def __init__(self, bus: Bus, topics: Topics) -> None:
        self._bus = bus
        self._topics = topics

    async def answer(self, request: Request, service: str) -> Reply:
        """Answer a request for ``service``; errors are answers too."""
        try:
            if service == "events":
                return Reply(HTTPStatus.OK, compact_json(await self._put_events(request)), content_type=_JSON)
            message_id = await self._publish(request)
        except GlowplugError as error:
            return refusal_of(service, error, request.request_id)
        return _xml(HTTPStatus.OK, (
            f'<PublishResponse xmlns="{_XMLNS}"><PublishResult><MessageId>{message_id}</MessageId></PublishResult>'
            f"<ResponseMetadata><RequestId>{request.request_id}</RequestId></ResponseMetadata></PublishResponse>"
        ))  # fmt: skip

    async def _put_events(self, request: Request) -> Mapping[str, object]:
        _authorize(request, "events:PutEvents")
        name = request.headers[_TARGET].removeprefix(_SERVICE)
        if name != "PutEvents":
            raise NotSupported(f"{name} is not supported: rules are those of templates")
        text = await request.read(_BODY_BYTES, what=name)
        try:
            body = parse_json(text)
        except (ValueError, RecursionError) as error:
            raise InvalidRequestContent(f"The body is not JSON: {error}") from error
        return await self._bus.put(body.get("Entries") if isinstance(body, dict) else None)

    async def _publish(self, request: Request) -> str:
        _authorize(request, "sns:Publish")
        text = (await request.read(_BODY_BYTES, what="Publish")).decode(errors="replace")
        form = {name: values[-1] for name, values in parse_qs(text, keep_blank_values=True).items()}
        action = form.get("Action", "")
        if action != "Publish":
            raise NotSupported(
                f"{action} is not supported: of actions in forms only SNS's Publish is. Topics are those of templates, "
                "and SQS is asked in JSON, as boto3 has done since the end of 2023"
            )
        topic = form.get("TopicArn") or form.get("TargetArn") or ""
        if not topic.startswith("arn:"):
            raise InvalidParameter("Invalid parameter: TopicArn")
        published = Published(topic.rpartition(":")[2], form.get("Message", ""), form.get("Subject"), _attributes(form))
        return await self._topics.publish(published)


def refusal_of(service: str, error: GlowplugError, request_id: str) -> Reply:
    """Return an error in the form of the service that refuses the request."""
    if service == "events":
        body = {"__type": _code(error), "message": str(error)}
        return Reply(error.status, compact_json(body), content_type=_JSON)
    return _xml_error(error, request_id)


def _attributes(form: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    found = {}
    number = 1
    while (name := form.get(f"MessageAttributes.entry.{number}.Name")) is not None:
        value = f"MessageAttributes.entry.{number}.Value"
        given = form.get(f"{value}.StringValue") or form.get(f"{value}.BinaryValue") or ""
        found[name] = (form.get(f"{value}.DataType", ""), given)
        number += 1
    return found


def _authorize(request: Request, action: str) -> None:
    principal = request.principal
    if principal is not None and not principal.may("invoke"):
        raise Forbidden(
            f"User: {principal.arn} is not authorized to perform: {action} on this node because no identity-based "
            "policy allows it"
        )


def _code(error: GlowplugError) -> str:
    if isinstance(error, NotSupported):
        return "UnknownOperationException"
    return "SerializationException" if isinstance(error, InvalidRequestContent) else error.code


def _xml_error(error: GlowplugError, request_id: str) -> Reply:
    codes: tuple[tuple[type[GlowplugError], str], ...] = (
        (InvalidSignature, "SignatureDoesNotMatch"), (NotAuthenticated, "InvalidClientTokenId"),
        (ResourceNotFound, "NotFound"), (NotSupported, "InvalidAction"), (InvalidParameter, "InvalidParameter"),
        (Forbidden, "AuthorizationError"), (Throttled, "Throttling"), (StateError, "InternalError"),
    )  # fmt: skip
    code = next((code for kind, code in codes if isinstance(error, kind)), "InternalError")
    fault = "Sender" if error.status < 500 else "Receiver"
    return _xml(error.status, (
        f'<ErrorResponse xmlns="{_XMLNS}"><Error><Type>{fault}</Type><Code>{code}</Code>'
        f"<Message>{escape(str(error))}</Message></Error><RequestId>{request_id}</RequestId></ErrorResponse>"
    ))  # fmt: skip


def _xml(status: int, text: str) -> Reply:
    return Reply(status, FORBIDDEN.sub("\ufffd", text).encode(), content_type="text/xml")
