"""Queues of stacks. They are in another file than the catalog, so the order is what keeps events:

1. Before a stack is committed its new queues are made, and the settings of those that it has are changed. Where the
   commit fails that is taken back. A node that is killed in between has queues that no stack names, and nobody was told
   of: the next start removes them.
2. After the commit, which has taken out the mappings that read them, queues go that the stack names no longer. A node
   that is killed in between removes them at its next start.

So no mapping is ever without its queue, and no message that was accepted for a stack that stays is lost. A queue with a
DeletionPolicy (or UpdateReplacePolicy) of Retain stays with its messages, whatever happens to its stack, which finds it
again when it is put again: who owns a queue says which of both it is, from the moment it is made.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from typing import Any

from .catalog import Catalog, Stack
from .errors import Conflict, DefinitionError, GlowplugError, QueueNotFound
from .management.drift import DELETED
from .queue.embedded import arn_of
from .queue.model import Queue, QueueSettings
from .queue.store import QueueStore
from .wantedqueues import WantedQueue, differing_settings, queue_of

_OWNER, _KEPT = "stack:", "kept of stack:"
_log = logging.getLogger(__name__)


class StackQueues:
    """Makes and removes the queues of stacks."""

    def __init__(self, store: QueueStore, *, region: str, account_id: str) -> None:
        self._store = store
        self._region = region
        self._account_id = account_id

    def arn(self, name: str) -> str:
        """Return the ARN of a queue of this node."""
        return arn_of(self._region, self._account_id, name)

    def wanted(self, stack: str, definitions: Mapping[str, Mapping[str, Any]]) -> dict[str, WantedQueue]:
        """Return the queues of a stack by logical id. Raises ``DefinitionError``, or ``Conflict`` for one that another
        has."""
        found: dict[str, WantedQueue] = {}
        names: dict[str, str] = {}
        for logical_id, definition in definitions.items():
            queue = queue_of(definition, logical_id)
            if queue.name in names:
                problem = f"{queue.name!r} is {names[queue.name]}'s name already"
                raise DefinitionError(f"{logical_id}.QueueName", problem)
            names[queue.name] = logical_id
            known = self._known(queue.name)
            if known is not None and known.settings.owner not in (_OWNER + stack, _KEPT + stack):
                owner = known.settings.owner
                whose = f"the stack {owner.rpartition(':')[2]}" if owner else "no stack: it was made by the SQS API"
                raise Conflict(f"{logical_id}: queue {queue.name} belongs to {whose}")
            found[logical_id] = queue
        here = names.keys() | {queue.name for queue in self._store.queues}
        for logical_id, queue in found.items():
            if queue.dead_letter_arn and self._name_of(queue.dead_letter_arn) not in here:
                problem = f"{queue.dead_letter_arn} is no queue of this node"
                raise DefinitionError(f"{logical_id}.RedrivePolicy.deadLetterTargetArn", problem)
        return found

    @contextlib.asynccontextmanager
    async def made(self, stack: str, wanted: Mapping[str, WantedQueue]) -> AsyncIterator[None]:
        """Make and change queues for the length of a block that commits the stack; take that back where it fails."""
        before: list[Queue] = []
        new: list[str] = []
        try:
            for queue in wanted.values():
                settings = self._settings(stack, queue)
                known = self._known(queue.name)
                if known is None:
                    await self._store.create(queue.name, settings)
                    new.append(queue.name)
                elif known.settings != settings:
                    await self._store.change(queue.name, settings)
                    before.append(known)
            yield
        except BaseException:
            for queue_before in before:
                with contextlib.suppress(GlowplugError):
                    await self._store.change(queue_before.name, queue_before.settings)
            for name in new:
                with contextlib.suppress(GlowplugError):
                    await self._store.remove(name)
            raise

    async def remove(self, stack: str, before: Stack | None, after: Stack | None) -> None:
        """Remove the queues that a stack had and has not any more, but for those that are kept. After the commit."""
        named = set() if after is None else set(after.names.queues.values())
        for name in set() if before is None else set(before.names.queues.values()) - named:
            known = self._known(name)
            if known is None or known.settings.owner != _OWNER + stack:
                continue
            try:
                await self._store.remove(name)
            except GlowplugError as error:  # the stack is put: the next start removes it
                _log.warning("queue %s of stack %s stays for now: %s", name, stack, error)

    def drift(self, stack: Stack) -> dict[str, tuple[str, ...]]:
        """Return the names of what the SQS API has changed of a stack's queues since it was put, by logical id."""
        found: dict[str, tuple[str, ...]] = {}
        for logical_id, definition in stack.definitions.queues.items():
            try:
                asked = queue_of(definition)
            except DefinitionError:  # put by a release that took it
                continue
            known = self._known(asked.name)
            if known is None or known.settings.owner not in (_OWNER + stack.name, _KEPT + stack.name):
                found[logical_id] = (DELETED,)
            elif differing := differing_settings(known.settings, self._settings(stack.name, asked)):
                found[logical_id] = differing
        return found

    async def tidy(self, catalog: Catalog) -> None:
        """Remove queues of stacks that no stack names: what a killed node had not finished."""
        named = {(stack.name, name) for stack in catalog.stacks.values() for name in stack.names.queues.values()}
        for queue in self._store.queues:
            owner = queue.settings.owner
            if owner.startswith(_OWNER) and (owner.removeprefix(_OWNER), queue.name) not in named:
                _log.warning("queue %s of the %s was left by a deploy that did not end; it goes", queue.name, owner)
                await self._store.remove(queue.name)

    def _settings(self, stack: str, queue: WantedQueue) -> QueueSettings:
        """Return the settings of a stack's queue."""
        return replace(
            queue.settings,
            owner=(_KEPT if queue.kept else _OWNER) + stack,
            dead_letter=self._name_of(queue.dead_letter_arn) if queue.dead_letter_arn else None,
        )

    def _known(self, name: str) -> Queue | None:
        try:
            return self._store.queue(name)
        except QueueNotFound:
            return None

    def _name_of(self, arn: str) -> str:
        """Return the name of a queue of this node's account and region; empty for another's."""
        name = arn.rpartition(":")[2]
        return name if arn == self.arn(name) else ""
