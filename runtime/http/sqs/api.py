"""Answers SQS's API: finds the operation that ``X-Amz-Target`` names and lets it answer, in SQS's shapes."""

from __future__ import annotations

import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from glowplug.runtime.errors import Forbidden, GlowplugError, InternalError
from glowplug.runtime.http.messages import Reply, Request, compact_json, parse_json

from . import queues, receiving, sending
from .call import Call, Services
from .faults import JSON_TYPE, SqsError, fault_reply, translated
from .moves import Moves

TARGET = "x-amz-target"
_SERVICE = "AmazonSQS."
_PATH = re.compile(r"/(\d{12}/[^/]+/?)?")
_BODY_BYTES = 16 * 2**20  # a batch of 1 MiB whose characters are all escaped, and its attributes
_log = logging.getLogger(__name__)

Operation = Callable[[Call], Awaitable[dict[str, Any]]]


class SqsApi:
    """Queues for clients. ``close`` ends what goes on in the background."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._moves = Moves()
        self._operations: Mapping[str, Operation] = {
            "CreateQueue": queues.create,
            "DeleteQueue": queues.delete,
            "GetQueueUrl": queues.get_url,
            "ListQueues": queues.list_all,
            "ListDeadLetterSourceQueues": queues.list_sources,
            "GetQueueAttributes": queues.get_attributes,
            "SetQueueAttributes": queues.set_attributes,
            "PurgeQueue": queues.purge,
            "TagQueue": queues.tag,
            "UntagQueue": queues.untag,
            "ListQueueTags": queues.list_tags,
            "SendMessage": sending.send,
            "SendMessageBatch": sending.send_batch,
            "ReceiveMessage": receiving.receive,
            "DeleteMessage": receiving.delete,
            "DeleteMessageBatch": receiving.delete_batch,
            "ChangeMessageVisibility": receiving.change_visibility,
            "ChangeMessageVisibilityBatch": receiving.change_visibility_batch,
            "StartMessageMoveTask": self._moves.start,
            "CancelMessageMoveTask": self._moves.cancel,
            "ListMessageMoveTasks": self._moves.list,
        }

    async def close(self) -> None:
        """End move tasks."""
        await self._moves.close()

    async def answer(self, request: Request) -> Reply:
        """Answer one request; errors are answers too, and so are faults of ours, which the node's log has."""
        try:
            return Reply(200, compact_json(await self._answer(request)), content_type=JSON_TYPE)
        except GlowplugError as error:
            return fault_reply(translated(error))
        except Exception:
            _log.exception("request %s: %s failed", request.request_id, request.headers[TARGET])
            problem = f"Internal error; the node's log says more about request {request.request_id}"
            return fault_reply(translated(InternalError(problem)))

    async def _answer(self, request: Request) -> dict[str, Any]:
        name = request.headers[TARGET].removeprefix(_SERVICE)
        principal = request.principal
        if principal is not None and not principal.may("queue"):
            raise Forbidden(
                f"User: {principal.arn} is not authorized to perform: sqs:{name.lower()} on this node because no"
                " identity-based policy allows it"
            )
        operation = self._operations.get(name)
        if operation is None:
            raise SqsError("UnknownOperationException", f"{name} is not supported")
        text = await request.read(_BODY_BYTES, what=name)
        try:
            parameters = parse_json(text) if text else {}
        except (ValueError, RecursionError) as error:
            raise SqsError("SerializationException", f"The body is not JSON: {error}") from error
        if not isinstance(parameters, dict):
            raise SqsError("SerializationException", "The body is not an object")
        sender = "" if principal is None else principal.user_id
        return await operation(Call(self._services, parameters, f"http://{request.host}", sender))


def is_for_sqs(request: Request) -> bool:
    """Return whether a request to the control listener is one to SQS."""
    return (
        request.method == "POST"
        and request.headers.get(TARGET, "").startswith(_SERVICE)
        and _PATH.fullmatch(request.path) is not None
    )
