"""Message move tasks: from a dead-letter queue back to where messages came from, or to another queue.

A task belongs to the node that runs: after a restart it is gone and what it had not moved is still in the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from dataclasses import dataclass, field
from typing import Any

from glowplug.runtime.errors import GlowplugError

from .call import Call, Services
from .faults import SqsError, invalid

_PIECE = 100
_KEPT = 10
_log = logging.getLogger(__name__)


@dataclass(eq=False, slots=True)
class Task:
    """One task. ``per_second`` of None: as fast as the disk allows."""

    handle: str
    source: str
    target: str | None
    per_second: int | None
    started_ms: int
    to_move: int
    status: str = "RUNNING"
    moved: int = 0
    failure: str = ""
    work: asyncio.Task[None] | None = field(default=None, repr=False)


class Moves:
    """The move tasks of a node, ended by ``close``."""

    def __init__(self) -> None:
        self._tasks: list[Task] = []

    async def close(self) -> None:
        """End all tasks where they are."""
        for task in self._tasks:
            if task.work is not None:
                task.work.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task.work

    async def start(self, call: Call) -> dict[str, Any]:
        """StartMessageMoveTask."""
        services = call.services
        source = _queue_of(call, "SourceArn")
        if not any(queue.settings.dead_letter == source for queue in services.shown()):
            raise invalid("Source queue must be configured as a Dead Letter Queue.")
        target = None if call.maybe("DestinationArn") is None else _queue_of(call, "DestinationArn")
        per_second = call.number("MaxNumberOfMessagesPerSecond", 1, 500)
        counts = await services.store.counts(source)  # before the look at other tasks: nothing may come between
        if any(task.source == source and task.status == "RUNNING" for task in self._tasks):
            raise SqsError(
                "UnsupportedOperation", "There is already a task running. Only one active task is allowed for a queue."
            )
        started_ms = round(services.clock.time() * 1000)
        handle = f"{source}.{started_ms}.{len(self._tasks)}"
        task = Task(handle, source, target, per_second, started_ms, counts.visible)
        task.work = asyncio.create_task(_move(services, task), name=f"move from {source}")
        self._tasks = [*self._tasks, task]
        self._forget()
        return {"TaskHandle": handle}

    async def cancel(self, call: Call) -> dict[str, Any]:
        """CancelMessageMoveTask."""
        handle = call.text("TaskHandle")
        task = next((one for one in self._tasks if one.handle == handle), None)
        if task is None:
            raise SqsError(
                "ResourceNotFoundException", "The resource that you specified for the TaskHandle does not exist."
            )
        if task.status != "RUNNING" or task.work is None:
            raise SqsError("UnsupportedOperation", f"The task is not running: {task.status}")
        task.status = "CANCELLED"
        task.work.cancel()
        return {"ApproximateNumberOfMessagesMoved": task.moved}

    async def list(self, call: Call) -> dict[str, Any]:
        """ListMessageMoveTasks."""
        source = _queue_of(call, "SourceArn")
        most = call.number("MaxResults", 1, 10) or 1
        found = [task for task in reversed(self._tasks) if task.source == source][:most]
        return {"Results": [_shown(task, call.services) for task in found]}

    def _forget(self) -> None:
        ended = [task for task in self._tasks if task.status != "RUNNING"]
        for task in ended[:-_KEPT]:
            self._tasks.remove(task)


async def _move(services: Services, task: Task) -> None:
    piece = _PIECE if task.per_second is None else task.per_second
    try:
        async for moved in services.store.redriving(task.source, task.target, piece):
            task.moved += moved
            if moved and task.per_second is not None:
                await services.clock.sleep(1)
        task.status = "COMPLETED"
    except GlowplugError as error:
        task.status, task.failure = "FAILED", str(error)
        _log.warning("moving messages from %s failed: %s", task.source, error)
    except Exception:
        task.status, task.failure = "FAILED", "Internal error; the node's log says more"
        _log.exception("moving messages from %s failed", task.source)


def _queue_of(call: Call, name: str) -> str:
    queue = call.services.named_by(call.text(name))
    if queue is None or queue not in {one.name for one in call.services.shown()}:
        raise SqsError(
            "ResourceNotFoundException", f"The resource that you specified for the {name} parameter doesn't exist."
        )
    return queue


def _shown(task: Task, services: Services) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "Status": task.status,
        "SourceArn": services.arn(task.source),
        "ApproximateNumberOfMessagesMoved": task.moved,
        "ApproximateNumberOfMessagesToMove": task.to_move,
        "StartedTimestamp": task.started_ms,
    }
    if task.status == "RUNNING":
        shown["TaskHandle"] = task.handle
    if task.target is not None:
        shown["DestinationArn"] = services.arn(task.target)
    if task.per_second is not None:
        shown["MaxNumberOfMessagesPerSecond"] = task.per_second
    if task.failure:
        shown["FailureReason"] = task.failure
    return shown
