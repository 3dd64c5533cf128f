"""The queues of a stack: ``AWS::SQS::Queue`` as definitions, and what must be done for the node to have exactly these.

A definition is ``{"QueueName", "Attributes", "Tags"}``, attributes being strings under SQS's own names, as CreateQueue
takes them. A queue belongs to the stack that made it: no stack changes, or deletes, a queue of somebody else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .errors import DefinitionError, RequestError
from .http.sqs.settings import FIFO, checked_name, settings_from
from .queue.model import CreateQueue, DeleteQueue, Queue, QueueSettings
from .queue.store import QueueStore

_KEYS = {"QueueName", "Attributes", "Tags"}
Definitions = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class QueuePlan:
    """What to do: ``make`` before functions are deployed that name queues, ``remove`` after the last has gone.

    ``undo`` is for a deployment that fails in between.
    """

    make: Sequence[CreateQueue] = ()
    remove: Sequence[DeleteQueue] = ()
    undo: Sequence[CreateQueue | DeleteQueue] = ()


def planned(
    stack: str, definitions: Definitions, there: Mapping[str, Queue], *, name_of: Callable[[str], str | None]
) -> QueuePlan:
    """Decide. ``there``: all queues by name; ``name_of``: the name of the queue of an ARN, None for a foreign one.

    Raises ``DefinitionError`` naming logical id and field.
    """
    owner = f"stack:{stack}"
    plain: dict[str, Queue] = {}
    for logical_id, definition in definitions.items():
        name, attributes, tags = _read(logical_id, definition)
        if any(queue.name == name for queue in plain.values()):
            raise DefinitionError(f"{logical_id}.QueueName", f"another queue of the stack is called {name}")
        settings = QueueSettings(owner=owner, tags=tags)
        without = {key: value for key, value in attributes.items() if key != "RedrivePolicy"}
        settings = _settings(logical_id, without, settings, name_of, {})
        if settings.fifo != name.endswith(FIFO):
            raise DefinitionError(
                f"{logical_id}.FifoQueue", f"the name of a FIFO queue, and no other, ends with {FIFO}"
            )
        _check_there(logical_id, there.get(name), owner)
        plain[logical_id] = Queue(0, name, settings, 0, 0)
    known = {**there, **{queue.name: queue for queue in plain.values()}}
    make = [
        CreateQueue(
            queue.name,
            _settings(logical_id, _read(logical_id, definitions[logical_id])[1], queue.settings, name_of, known),
            replace=True,
        )
        for logical_id, queue in plain.items()
    ]
    wanted = {step.name for step in make}
    gone = sorted(name for name, queue in there.items() if queue.settings.owner == owner and name not in wanted)
    changed = [step for step in make if step.name not in there or there[step.name].settings != step.settings]
    undo = [
        CreateQueue(step.name, there[step.name].settings, replace=True)
        if step.name in there
        else DeleteQueue(step.name)
        for step in changed
    ]
    return QueuePlan(changed, [DeleteQueue(name) for name in gone], undo)


def _read(logical_id: str, definition: Mapping[str, Any]) -> tuple[str, dict[str, Any], dict[str, str]]:
    unknown = sorted(definition.keys() - _KEYS)
    if unknown:
        raise DefinitionError(f"{logical_id}.{unknown[0]}", f"unknown; known: {', '.join(sorted(_KEYS))}")
    name, attributes, tags = definition.get("QueueName"), definition.get("Attributes", {}), definition.get("Tags", {})
    if not isinstance(name, str):
        raise DefinitionError(f"{logical_id}.QueueName", "a queue needs a name")
    if not isinstance(attributes, dict) or not isinstance(tags, dict):
        raise DefinitionError(logical_id, "Attributes and Tags are objects")
    try:
        return checked_name(name), attributes, tags
    except RequestError as error:
        raise DefinitionError(f"{logical_id}.QueueName", str(error)) from error


def _settings(
    logical_id: str,
    attributes: Mapping[str, Any],
    base: QueueSettings,
    name_of: Callable[[str], str | None],
    known: Mapping[str, Queue],
) -> QueueSettings:
    try:
        return settings_from(attributes, base, name_of=name_of, queues=known)
    except RequestError as error:
        field = next((name for name in attributes if name in str(error)), "Attributes")
        raise DefinitionError(f"{logical_id}.{field}", str(error)) from error


def _check_there(logical_id: str, queue: Queue | None, owner: str) -> None:
    if queue is None or queue.settings.owner == owner:
        return
    whose = queue.settings.owner or "a client"
    raise DefinitionError(f"{logical_id}.QueueName", f"there is a queue {queue.name} already, made by {whose}")


class StackQueues:
    """Carries out plans. ``arn_prefix``: what the ARN of every queue of this node begins with."""

    def __init__(self, store: QueueStore, *, arn_prefix: str) -> None:
        self._store = store
        self._arn_prefix = arn_prefix

    def plan(self, stack: str, definitions: Definitions) -> QueuePlan:
        """Decide what a stack's queues need. Raises ``DefinitionError``."""
        return planned(stack, definitions, {one.name: one for one in self._store.queues}, name_of=self._named)

    async def make(self, plan: QueuePlan) -> None:
        """Make and change queues, all or none. Raises ``StateError``, ``InvalidParameter``."""
        if plan.make:
            await self._store.apply(*plan.make)

    async def undo(self, plan: QueuePlan) -> None:
        """Put back what ``make`` changed."""
        if plan.undo:
            await self._store.apply(*plan.undo)

    async def remove(self, plan: QueuePlan) -> None:
        """Delete queues that the stack has no more, with their messages."""
        for step in plan.remove:
            await self._store.remove(step.name)

    def _named(self, arn: str) -> str | None:
        return arn.removeprefix(self._arn_prefix) if arn.startswith(self._arn_prefix) else None
