"""What a gateway itself answers, in the words of each kind of API: no route, not allowed, failed, late, too many.

A client of an API is the public: it learns a status and a message that is always the same, and nothing of the
function's error. HTTP APIs and REST APIs differ in status and wording (spec 4.3, and the gateway responses of API
Gateway's developer guide).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

from glowplug.runtime.apis import Protocol
from glowplug.runtime.errors import (
    Forbidden,
    FunctionFault,
    FunctionNotFound,
    GlowplugError,
    HoldTimeout,
    NotAuthenticated,
    RequestError,
    RequestTooLarge,
    Throttled,
)

from .messages import JSON, Reply, compact_json


@dataclass(frozen=True, slots=True)
class Replies:
    """The answers of one kind of API."""

    no_route: Reply
    forbidden: Reply
    failed: Reply
    late: Reply
    throttled: Reply
    too_large: Reply
    explains: bool

    def of(self, error: GlowplugError) -> Reply | None:
        """Return the answer to a request that ended in ``error``; None where the error is the node's own."""
        if isinstance(error, FunctionFault | FunctionNotFound):  # the second: its alias is gone
            return self.failed
        if isinstance(error, HoldTimeout):
            return self.late
        if isinstance(error, Throttled):
            wait = ("Retry-After", str(max(1, math.ceil(error.retry_after_s))))
            return Reply(self.throttled.status, self.throttled.body, [*self.throttled.headers, wait])
        if isinstance(error, RequestTooLarge):
            return self.too_large
        if isinstance(error, NotAuthenticated) and self.explains:
            return _reply(HTTPStatus.FORBIDDEN, str(error), error.code)
        if isinstance(error, Forbidden):
            return self.forbidden
        if isinstance(error, RequestError):
            return _reply(error.status, str(error), error.code if self.explains else "")
        return None


def _reply(status: int, message: str, error_type: str = "") -> Reply:
    headers = (("x-amzn-ErrorType", error_type),) if error_type else ()
    return Reply(status, compact_json({"message": message}), headers, JSON)


REPLIES: Mapping[Protocol, Replies] = {
    "HTTP": Replies(
        no_route=_reply(HTTPStatus.NOT_FOUND, "Not Found"),
        forbidden=_reply(HTTPStatus.FORBIDDEN, "Forbidden"),
        failed=_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "Internal Server Error"),
        late=_reply(HTTPStatus.SERVICE_UNAVAILABLE, "Service Unavailable"),
        throttled=_reply(HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests"),
        too_large=_reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request Entity Too Large"),
        explains=False,
    ),
    "REST": Replies(
        no_route=_reply(HTTPStatus.FORBIDDEN, "Missing Authentication Token", "MissingAuthenticationTokenException"),
        forbidden=_reply(HTTPStatus.FORBIDDEN, "Forbidden", "ForbiddenException"),
        failed=_reply(HTTPStatus.BAD_GATEWAY, "Internal server error", "InternalServerErrorException"),
        late=_reply(HTTPStatus.GATEWAY_TIMEOUT, "Endpoint request timed out", "InternalServerErrorException"),
        throttled=_reply(HTTPStatus.TOO_MANY_REQUESTS, "Too Many Requests", "TooManyRequestsException"),
        too_large=_reply(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "Request Too Long", "RequestTooLargeException"),
        explains=True,
    ),
}

UNKNOWN_API = _reply(HTTPStatus.FORBIDDEN, "Forbidden", "ForbiddenException")
"""The answer for an id that no API has: that of a host which AWS does not know."""
