"""Which queue an ARN names: one of this node, or one of the SQS that the operator names.

A queue of this node's account and region that exists here is embedded; every other ARN goes to the
``GLOWPLUG_SQS_ENDPOINT`` (else ``AWS_ENDPOINT_URL_SQS``), where there is one. ``aws`` stands for AWS's own endpoint of
the ARN's region.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from glowplug.runtime.clock import Clock
from glowplug.runtime.errors import InvalidParameter, QueueNotFound
from glowplug.runtime.queue.embedded import EmbeddedQueue, arn_of
from glowplug.runtime.queue.ports import MessageQueue
from glowplug.runtime.queue.store import QueueStore

from .external import SQS_BATCH, SQS_WAIT_S, ExternalQueue

_ARN = re.compile(
    r"arn:aws[a-z-]*:sqs:(?P<region>[a-z0-9-]+):(?P<account>\d{12}):(?P<name>[A-Za-z0-9_-]{1,80}(\.fifo)?)"
)
_NO_QUEUE = (
    "Error occurred while ReceiveMessage. SQS Error Code: AWS.SimpleQueueService.NonExistentQueue. SQS Error Message: "
    "The specified queue does not exist."
)
_EMBEDDED_WAIT_S = 20.0  # it is woken by what happens; this bounds how long a change of settings may go unnoticed
_EMBEDDED_BATCH = 100


@dataclass(frozen=True, slots=True)
class Source:
    """A queue, and how to ask it: at most ``batch`` messages at a time, waiting ``wait_s`` for the first, with up to
    ``receivers`` such calls at once. ``prompt``: what it leases is here in that moment, as nothing of another host is.
    """

    queue: MessageQueue
    batch: int
    wait_s: float
    receivers: int
    prompt: bool = False

    def close(self) -> None:
        """Let go of what the queue holds open."""
        if isinstance(self.queue, ExternalQueue):
            self.queue.close()


OpenSource = Callable[[str], Source]
"""Returns the source of an ARN. Raises ``QueueNotFound``."""


@dataclass(frozen=True, slots=True)
class Sources:
    """Opens the queues that mappings name. ``endpoint`` is empty where no SQS but the node's own is known."""

    store: QueueStore
    clock: Clock
    region: str
    account_id: str
    endpoint: str = ""

    def open(self, arn: str) -> Source:
        """Return the queue of an ARN. Raises ``QueueNotFound`` where no queue of this node has it and there is no other
        SQS to ask."""
        found = _ARN.fullmatch(arn)
        if found is None:
            raise QueueNotFound(arn)
        name = found["name"]
        if arn == arn_of(self.region, self.account_id, name) and self.store.known(name):
            queue = EmbeddedQueue(self.store, name, region=self.region, account_id=self.account_id)
            return Source(queue, _EMBEDDED_BATCH, _EMBEDDED_WAIT_S, receivers=1, prompt=True)
        if not self.endpoint:
            raise QueueNotFound(arn)
        external = ExternalQueue(arn, "" if self.endpoint == "aws" else self.endpoint, self.clock)
        return Source(external, SQS_BATCH, SQS_WAIT_S, receivers=external.RECEIVERS)

    async def check(self, arn: str, timeout_s: float) -> None:
        """Look whether a mapping can receive from a queue for a function of that timeout. Raises ``InvalidParameter``
        with Lambda's sentences, ``QueueUnreachable``."""
        try:
            source = self.open(arn)
            try:
                hidden_s = await source.queue.visibility_s()
            finally:
                source.close()
        except QueueNotFound as error:
            raise InvalidParameter(_NO_QUEUE) from error
        refuse_short(hidden_s, timeout_s)


def refuse_short(visibility_s: float, timeout_s: float) -> None:
    """Raise ``InvalidParameter`` where a queue hides messages for less time than a function may take."""
    if visibility_s < timeout_s:
        raise InvalidParameter(
            f"Queue visibility timeout: {visibility_s:g} seconds is less than Function timeout: {timeout_s:g} seconds"
        )
