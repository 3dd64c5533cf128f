"""Operations on queues: made, listed, described, changed, tagged, purged, deleted."""

from __future__ import annotations

import base64
from typing import Any

from glowplug.runtime.errors import QueueExists
from glowplug.runtime.queue.model import Queue, QueueSettings

from .call import Call
from .faults import SqsError, invalid
from .settings import FIFO, asked_for, checked_name, described, differing, settings_from

_PAGE = 1_000
_MOST_TAGS = 50


async def create(call: Call) -> dict[str, Any]:
    """CreateQueue: gives the queue that is there, if it has the attributes that were asked for."""
    name = checked_name(call.text("QueueName"))
    given = call.mapping("Attributes")
    services = call.services
    known = {queue.name: queue for queue in services.shown()}
    there = known.get(name)
    base = QueueSettings() if there is None else there.settings
    fifo = given.get("FifoQueue") == "true"
    if fifo != name.endswith(FIFO):
        raise invalid(
            "The name of a FIFO queue can only include alphanumeric characters, hyphens, or underscores, must end with"
            " .fifo suffix and be 1 to 80 in length."
        )
    wanted = settings_from(given, base, name_of=services.named_by, queues=known)
    if there is None:
        tags = _tags(name, call.mapping("tags"))
        try:
            await services.store.create(name, wanted.evolve(tags=tags))
        except QueueExists:  # made by somebody else meanwhile
            there = services.queue(name)
    if there is not None and (different := differing(given, there, wanted)) is not None:
        raise SqsError(
            "QueueNameExists",
            f"A queue already exists with the same name and a different value for attribute {different}",
        )
    return {"QueueUrl": call.url(name)}


async def delete(call: Call) -> dict[str, Any]:
    """DeleteQueue."""
    await call.services.store.remove(call.queue().name)
    return {}


async def get_url(call: Call) -> dict[str, Any]:
    """GetQueueUrl."""
    return {"QueueUrl": call.url(call.services.queue(call.text("QueueName")).name)}


async def list_all(call: Call) -> dict[str, Any]:
    """ListQueues."""
    prefix = call.maybe("QueueNamePrefix") or ""
    names = [queue.name for queue in call.services.shown() if queue.name.startswith(prefix)]
    return _page(call, "QueueUrls", names)


async def list_sources(call: Call) -> dict[str, Any]:
    """ListDeadLetterSourceQueues."""
    name = call.queue().name
    names = [queue.name for queue in call.services.shown() if queue.settings.dead_letter == name]
    return {"queueUrls": [], **_page(call, "queueUrls", names)}


async def get_attributes(call: Call) -> dict[str, Any]:
    """GetQueueAttributes."""
    queue = call.queue()
    names = call.names("AttributeNames")
    counts = await call.services.store.counts(queue.name)
    chosen = asked_for(names, described(queue, counts, arn_of=call.services.arn))
    return {"Attributes": chosen} if chosen else {}


async def set_attributes(call: Call) -> dict[str, Any]:
    """SetQueueAttributes."""
    given = call.mapping("Attributes")
    if "FifoQueue" in given:
        raise SqsError("InvalidAttributeName", "Unknown Attribute FifoQueue.")
    async with call.services.changing:
        queue = call.queue()
        known = {one.name: one for one in call.services.shown()}
        await _change(call, queue, settings_from(given, queue.settings, name_of=call.services.named_by, queues=known))
    return {}


async def purge(call: Call) -> dict[str, Any]:
    """PurgeQueue."""
    await call.services.store.purge(call.queue().name)
    return {}


async def tag(call: Call) -> dict[str, Any]:
    """TagQueue."""
    async with call.services.changing:
        queue = call.queue()
        tags = _tags(queue.name, {**queue.settings.tags, **call.mapping("Tags")})
        await _change(call, queue, queue.settings.evolve(tags=tags))
    return {}


async def untag(call: Call) -> dict[str, Any]:
    """UntagQueue."""
    gone = set(call.names("TagKeys"))
    async with call.services.changing:
        queue = call.queue()
        tags = {key: value for key, value in queue.settings.tags.items() if key not in gone}
        await _change(call, queue, queue.settings.evolve(tags=tags))
    return {}


async def list_tags(call: Call) -> dict[str, Any]:
    """ListQueueTags."""
    tags = dict(call.queue().settings.tags)
    return {"Tags": tags} if tags else {}


async def _change(call: Call, queue: Queue, settings: QueueSettings) -> None:
    if settings != queue.settings:
        await call.services.store.change(queue.name, settings)


def _tags(name: str, given: dict[str, Any]) -> dict[str, str]:
    if len(given) > _MOST_TAGS:
        raise invalid(f"Too many tags for queue {name}: {len(given)}, at most {_MOST_TAGS}")
    for key, value in given.items():
        if not isinstance(value, str) or not 1 <= len(key) <= 128 or len(value) > 256:
            raise invalid(f"Tag {key}: a key has 1 to 128 characters and a value at most 256")
    return given


def _page(call: Call, field: str, names: list[str]) -> dict[str, Any]:
    """Return one page of queue URLs; pages are only made where ``MaxResults`` asks for them, as SQS does."""
    most = call.number("MaxResults", 1, _PAGE)
    if token := call.maybe("NextToken"):
        try:
            after = base64.urlsafe_b64decode(token.encode()).decode()
        except ValueError:
            raise invalid("Invalid NextToken value.") from None
        names = [name for name in names if name > after]
    page = names[: most or _PAGE]
    answer: dict[str, Any] = {field: [call.url(name) for name in page]} if page else {}
    if most is not None and len(names) > len(page):
        answer["NextToken"] = base64.urlsafe_b64encode(page[-1].encode()).decode()
    return answer
