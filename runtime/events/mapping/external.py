"""A queue of SQS itself, or of another server that speaks its API, through boto3.

boto3 blocks, so its calls run in threads of the queue's own: a receive sits in one for up to 20 seconds. They are
daemons, because nobody should wait so long for the end of a node; messages that come for somebody who has gone are
made visible again. boto3 itself is imported with the first queue, because that takes 0.3 s which no node without such
mappings should pay.

Calls are repeated by botocore when they fail for the moment ("standard" mode: three attempts with jittered back-off);
what then still fails is ``QueueUnreachable``, and whoever polls decides when to try again. A message whose answer got
lost on the way comes again when its lease ends.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from queue import SimpleQueue
from typing import Any, TypeVar

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import GlowplugError, QueueNotFound, QueueUnreachable
from glowplug.runtime.queue.attributes import MessageAttribute
from glowplug.runtime.queue.ports import Incoming

SQS_BATCH = 10
"""Messages in one call of SQS."""
SQS_WAIT_S = 20.0
"""The longest that SQS waits for a message."""
_FRESH_S = 60.0  # how long the queue's visibility timeout is believed
_GONE = frozenset({"AWS.SimpleQueueService.NonExistentQueue", "QueueDoesNotExist"})
_STALE = frozenset(
    "ReceiptHandleIsInvalid InvalidParameterValue AWS.SimpleQueueService.MessageNotInflight MessageNotInflight".split()
)
"""What a batch says of a message that is not ours any more. Anything else, such as RequestThrottled or AccessDenied,
says nothing about the message, whosever fault it is."""
_T = TypeVar("_T")
_log = logging.getLogger(__name__)


class ExternalQueue:
    """The queue of ``arn``. ``endpoint`` is the URL of the server; empty for AWS's own of the ARN's region."""

    RECEIVERS = 5
    """How many receives wait at once when there is much to do (Lambda begins with as many pollers)."""

    def __init__(self, arn: str, endpoint: str, clock: Clock) -> None:
        self._arn = arn
        self._endpoint = endpoint
        self._clock = clock
        self._threads = _Threads(f"sqs {arn.rpartition(':')[2]}", self.RECEIVERS + 5)
        self._client: Any = None
        self._url = ""
        self._lock = threading.Lock()
        self._visibility_s: int | None = None
        self._looked_s = 0.0

    def __repr__(self) -> str:
        return f"<ExternalQueue {self._arn} at {self._endpoint or 'AWS'}>"

    def close(self) -> None:
        """End the threads as their calls end."""
        self._threads.close()

    async def visibility_s(self) -> int:
        """Return for how long messages are hidden where a receive does not say; it is believed for a minute."""
        now_s = self._clock.monotonic()
        if self._visibility_s is None or now_s - self._looked_s >= _FRESH_S:
            self._visibility_s = await self._call(self._look)
            self._looked_s = now_s
        return self._visibility_s

    async def receive(self, limit: int, *, wait_s: float, visibility_s: float | None = None) -> list[Incoming]:
        """Receive up to ``limit`` messages (10 at most), once there is one; none after ``wait_s`` (20 at most)."""
        given: dict[str, Any] = {
            "MaxNumberOfMessages": min(limit, SQS_BATCH),
            "WaitTimeSeconds": max(0, min(math.ceil(wait_s), round(SQS_WAIT_S))),
            "MessageSystemAttributeNames": ["All"],
            "MessageAttributeNames": ["All"],
        }
        if visibility_s is not None:
            given["VisibilityTimeout"] = round(visibility_s)

        def receive() -> list[Any]:
            client, url = self._ready()
            found: list[Any] = client.receive_message(QueueUrl=url, **given).get("Messages") or []
            return found

        return [_incoming(one) for one in await self._call(receive, unwanted=self._give_back)]

    async def delete(self, handles: Sequence[str]) -> list[str]:
        """Acknowledge messages; return the handles that were stale."""
        return await self._batches(handles, "delete_message", {})

    async def extend(self, handles: Sequence[str], visibility_s: float) -> list[str]:
        """Keep messages invisible for ``visibility_s`` from now, 0 to give them back; return the stale handles."""
        more = {"VisibilityTimeout": round(visibility_s)}
        return await self._batches(handles, "change_message_visibility", more)

    async def _batches(self, handles: Sequence[str], call: str, more: Mapping[str, Any]) -> list[str]:
        """Make one call for ten handles, several at once. Raises ``QueueUnreachable`` unless it was done, or the
        message is not ours."""
        chunks = [handles[at : at + SQS_BATCH] for at in range(0, len(handles), SQS_BATCH)]
        entries = [[{"Id": str(number), "ReceiptHandle": one, **more} for number, one in enumerate(c)] for c in chunks]
        answers = await asyncio.gather(*(self._call(partial(self._batch, call, given)) for given in entries))
        stale: list[str] = []
        for chunk, answer in zip(chunks, answers, strict=True):
            for failure in answer.get("Failed") or ():
                if failure.get("Code") not in _STALE:
                    raise QueueUnreachable(f"{self._arn}: {failure.get('Code')}: {failure.get('Message', '')}")
                stale.append(chunk[int(failure["Id"])])
        return stale

    # --- in a thread --------------------------------------------------------------------------------------------------

    def _batch(self, call: str, entries: list[dict[str, Any]]) -> Any:
        client, url = self._ready()
        return getattr(client, f"{call}_batch")(QueueUrl=url, Entries=entries)

    def _ready(self) -> tuple[Any, str]:
        """Return the client and the queue's URL, made and looked up by whoever needs them first."""
        with self._lock:
            if self._client is None:
                self._client = _client(self._arn.split(":")[3], self._endpoint)
            url = self._url  # read once: it is forgotten on the event loop, which waits for no lock
            if not url:
                _, _, _, _, account, name = self._arn.split(":")
                found = self._client.get_queue_url(QueueName=name, QueueOwnerAWSAccountId=account)
                url = self._url = found["QueueUrl"]
            return self._client, url

    def _look(self) -> int:
        client, url = self._ready()
        found = client.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])["Attributes"]
        return int(found["VisibilityTimeout"])

    def _give_back(self, messages: list[Any]) -> None:
        """Messages came for somebody who has gone: make them visible again."""
        if messages:
            self._batch(
                "change_message_visibility",
                [
                    {"Id": str(number), "ReceiptHandle": one["ReceiptHandle"], "VisibilityTimeout": 0}
                    for number, one in enumerate(messages)
                ],
            )

    async def _call(self, work: Callable[[], _T], unwanted: Callable[[_T], None] | None = None) -> _T:
        try:
            return await self._threads.run(work, unwanted)
        except GlowplugError:
            raise
        except Exception as error:  # botocore's share no base with those of its transport
            answer = getattr(error, "response", None)
            code = answer.get("Error", {}).get("Code", "") if isinstance(answer, dict) else ""
            if code in _GONE:
                self._url, self._visibility_s = "", None  # one that is made again has another
                raise QueueNotFound(self._arn) from error
            raise QueueUnreachable(f"{self._arn}: {code or type(error).__name__}: {error}") from error


def _client(region: str, endpoint: str) -> Any:
    import boto3  # late: see the module's docstring
    from botocore.config import Config

    config = Config(
        retries={"total_max_attempts": 3, "mode": "standard"},
        connect_timeout=5,
        read_timeout=SQS_WAIT_S + 10,
        max_pool_connections=ExternalQueue.RECEIVERS + 5,
        user_agent_extra="glowplug",
    )
    return boto3.session.Session().client("sqs", region_name=region, endpoint_url=endpoint or None, config=config)


def _incoming(message: Mapping[str, Any]) -> Incoming:
    attributes = {
        name: MessageAttribute(one["DataType"], one["BinaryValue"] if "BinaryValue" in one else one["StringValue"])
        for name, one in (message.get("MessageAttributes") or {}).items()
    }
    return Incoming(
        id=message["MessageId"],
        handle=message["ReceiptHandle"],
        body=message["Body"],
        body_md5=message["MD5OfBody"],
        system=dict(message.get("Attributes") or {}),
        attributes=attributes,
        attributes_md5=message.get("MD5OfMessageAttributes"),
    )


class _Threads:
    """Up to ``most`` daemon threads that run calls. (Those of ``concurrent.futures`` are waited for at the end of the
    process.) All but the calls is done on the event loop."""

    def __init__(self, name: str, most: int) -> None:
        self._name = name
        self._most = most
        self._work: SimpleQueue[Callable[[], None] | None] = SimpleQueue()
        self._started = self._busy = 0
        self._closed = False

    async def run(self, work: Callable[[], _T], unwanted: Callable[[_T], None] | None = None) -> _T:
        """Run ``work`` in a thread and return its result. ``unwanted`` gets that, in a thread too, when the caller was
        cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[_T] = loop.create_future()

        def call() -> None:
            try:
                result = work()
            except Exception as error:
                loop.call_soon_threadsafe(fail, error)
            else:
                loop.call_soon_threadsafe(hand_over, result)

        def hand_over(result: _T) -> None:
            self._busy -= 1
            if not done.done():
                done.set_result(result)
            elif unwanted is not None:
                self._submit(partial(unwanted, result))

        def fail(error: Exception) -> None:
            self._busy -= 1
            if not done.done():
                done.set_exception(error)

        self._busy += 1
        self._submit(call)
        try:
            return await done
        except asyncio.CancelledError:
            # Cancelled when the result was here and had not been looked at: it would be nobody's.
            if unwanted is not None and done.done() and not done.cancelled() and done.exception() is None:
                self._submit(partial(unwanted, done.result()))
            raise

    def close(self) -> None:
        """End each thread when it is idle."""
        self._closed = True
        for _ in range(self._started):
            self._work.put(None)

    def _submit(self, call: Callable[[], None]) -> None:
        self._work.put(call)
        if self._closed:
            self._work.put(None)
        if self._closed or self._started < min(self._busy, self._most):
            self._started += 1
            threading.Thread(target=self._serve, name=self._name, daemon=True).start()

    def _serve(self) -> None:
        while (call := self._work.get()) is not None:
            try:
                call()
            except Exception as error:  # nobody waits for it: what was to be given back comes back by itself
                _log.info("%s: %s", self._name, error)
