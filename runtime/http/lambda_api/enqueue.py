"""``Invoke`` with the type Event: the event goes to disk, and 202 says that it is there."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.events.accepting import NewEvent
from glowplug.runtime.http.messages import Reply, Request, parse_json
from glowplug.runtime.http.names import FunctionRef
from glowplug.runtime.http.webhooks import HEADER, checked_webhook
from glowplug.runtime.queue.attributes import FORBIDDEN

from .call import Services

_KEY = "Idempotency-Key"
_KEY_LENGTH = 255
_NO_HEADERS = (("X-Amzn-Remapped-Content-Length", "0"),)


async def enqueue(services: Services, request: Request, ref: FunctionRef, payload: bytes, context: bytes) -> Reply:
    """Accept an event and answer 202 with its id; with an idempotency key, the first one's.

    Raises as ``Acceptor.accept``, and ``InvalidParameter`` for a header that cannot be.
    """
    headers = request.headers
    accepted = await services.events.accept(
        NewEvent(
            ref.name,
            ref.given,
            payload,
            trace_id=headers.get("x-amzn-trace-id", ""),
            client_context=context,
            idempotency_key=_idempotency_key(headers.get(_KEY.lower()), context),
            caller="" if request.principal is None else request.principal.access_key_id,
            webhook=checked_webhook(headers.get(HEADER.lower(), ""), request.principal, services.webhook_hosts),
        )
    )
    answered = (*_NO_HEADERS, ("X-Glowplug-Duplicate", "true")) if accepted.duplicate else _NO_HEADERS
    return Reply(HTTPStatus.ACCEPTED, b"", answered, request_id=accepted.request_id)


def _idempotency_key(header: str | None, context: bytes) -> str:
    key: Any = header
    if key is None and context and _KEY.encode() in context:
        custom = parse_json(context).get("custom")
        key = custom.get(_KEY) if isinstance(custom, dict) else None
    if key is None:
        return ""
    if not isinstance(key, str) or not 1 <= len(key) <= _KEY_LENGTH or FORBIDDEN.search(key):
        raise InvalidParameter(f"{_KEY}: must be a string of 1 to {_KEY_LENGTH} characters, without control characters")
    return key
