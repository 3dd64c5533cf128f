"""Asking a zygote for forks, and hearing from it what became of them.

A function zygote has run its author's code, so what it says is checked before it is believed: the process it announces
must be its own child, and the descriptor that came along must be that process' pidfd. Otherwise a function could have
the node kill, or call healthy, a process of somebody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from typing import Any, TypeVar

from glowplug.runtime.errors import StartError

from . import wire
from .channel import Channel, ChannelClosed
from .child import Child
from .death import Exit, WorkerDied, is_dead
from .roster import Roster
from .sweep import process_status
from .view import Place
from .workers import Worker

ChildType = TypeVar("ChildType", bound=Child)


class Spawner:
    """The children of one zygote. ``pid`` is the zygote's, ``control`` its channel."""

    def __init__(self, name: str, pid: int, control: Channel, roster: Roster) -> None:
        self._name = name
        self._pid = pid
        self._control = control
        self._roster = roster
        self._asked: dict[str, _Request] = {}
        self._children: dict[str, Child] = {}
        self._closed = False

    def __repr__(self) -> str:
        return f"Spawner({self._name}, asked={len(self._asked)}, children={len(self._children)})"

    @property
    def children(self) -> list[Child]:
        """The processes that are not known to be dead."""
        return list(self._children.values())

    async def worker(self, worker_id: str, *, uid: int, gid: int, place: Place | None = None) -> Worker:
        """Fork a worker; ``place`` is for one that has nothing of a function's yet.

        Raises ``StartError`` when the fork fails, ``WorkerDied`` when the zygote is dead.
        """
        control, theirs = socket.socketpair()
        data, their_data = socket.socketpair()
        output, their_output = os.pipe()

        def build(pid: int, pidfd: int) -> Worker:
            return Worker(worker_id, pid, pidfd, control, data, output)

        def discard() -> None:
            control.close()
            data.close()
            os.close(output)

        given = (theirs.detach(), their_output, their_data.detach())
        return await self._spawn(_spawn(worker_id, "worker", uid, gid, place), given, build, discard)

    async def zygote(
        self,
        zygote_id: str,
        *,
        uid: int,
        gid: int,
        kind: Callable[[str, int, int, socket.socket, int], ChildType],
        place: Place | None = None,
    ) -> ChildType:
        """Fork an empty function zygote of class ``kind``. Raises as ``worker``."""
        control, theirs = socket.socketpair()
        output, their_output = os.pipe()

        def build(pid: int, pidfd: int) -> ChildType:
            return kind(zygote_id, pid, pidfd, control, output)

        def discard() -> None:
            control.close()
            os.close(output)

        given = (theirs.detach(), their_output)
        return await self._spawn(_spawn(zygote_id, "zygote", uid, gid, place), given, build, discard)

    def close(self) -> None:
        """Take no more requests."""
        self._closed = True

    async def gone(self, grace_s: float) -> None:
        """Wait until no child is left; after ``grace_s`` seconds kill those that are."""
        exits = [child.exited for child in self._children.values()]
        if exits:
            await asyncio.wait(exits, timeout=grace_s)
            for child in self.children:
                child.kill(f"{self._name} retires")
            await asyncio.wait(exits)

    def handle(self, message: wire.Message, descriptors: list[int]) -> bool:
        """Take a message from the zygote; False when it is not about its children. Raises ``wire.WireError``."""
        if isinstance(message, wire.Spawned):
            self._spawned(message, descriptors)
        elif isinstance(message, wire.Exited):
            child = self._children.pop(message.child_id, None)
            if child is None:
                raise wire.WireError(f"{self._name} reports the end of {message.child_id!r}, which it never forked")
            child.died(Exit(message.status, message.max_rss_kib))
        elif isinstance(message, wire.Failed) and message.step.startswith("spawn:"):
            request = self._asked.pop(message.step.removeprefix("spawn:"), None)
            if request is None:
                raise wire.WireError(f"{self._name} failed at {message.step!r}, which was not asked for")
            error = StartError(f"{self._name} could not fork: {message.error_message}")
            error.reported_type = message.error_type
            request.fail(error)
        else:
            return False
        return True

    def zygote_died(self, ended: Exit) -> None:
        """Say that the zygote is dead: nothing that was asked will be done, and the children report themselves."""
        self._closed = True
        asked, self._asked = self._asked, {}
        for request in asked.values():
            request.fail(WorkerDied(self._name, ended, sent=False))
        children, self._children = self._children, {}
        for child in children.values():
            child.zygote_died()

    async def _spawn(
        self,
        message: wire.Spawn,
        given: tuple[int, ...],
        build: Callable[[int, int], ChildType],
        discard: Callable[[], None],
    ) -> ChildType:
        future: asyncio.Future[ChildType] = asyncio.get_running_loop().create_future()
        request = _Request(message.role, build, discard, future)
        if self._closed or message.child_id in self._asked or message.child_id in self._children:
            request.discard()
            for descriptor in given:
                os.close(descriptor)
            why = "takes no more requests" if self._closed else "was asked for it already"
            raise StartError(f"{message.child_id} cannot be forked: {self._name} {why}")
        self._asked[message.child_id] = request
        with contextlib.suppress(ChannelClosed):  # the zygote is gone or going: its death is the answer
            self._control.post(message, given)
        return await future

    def _spawned(self, message: wire.Spawned, descriptors: list[int]) -> None:
        request = self._asked.pop(message.child_id, None)
        try:
            if request is None or len(descriptors) != 1:
                raise wire.WireError(f"{self._name} announces {message.child_id!r}, which was not asked for")
            self._verify(message.pid, descriptors[0])
        except wire.WireError as error:
            for descriptor in descriptors:
                os.close(descriptor)
            if request is not None:
                request.fail(StartError(str(error)))
            raise
        child = request.build(message.pid, descriptors[0])
        self._children[message.child_id] = child
        self._roster.add(child, "zygote" if request.role == "zygote" else "worker")
        if request.future.done():
            child.kill("nobody waits for it any more")
        else:
            request.future.set_result(child)

    def _verify(self, pid: int, pidfd: int) -> None:
        """Raise ``wire.WireError`` unless ``pidfd`` names ``pid``, and that is a child of the zygote, or dead."""
        with open(f"/proc/self/fdinfo/{pidfd}") as lines:
            named = [line.split()[1] for line in lines if line.startswith("Pid:")]
        if named not in ([str(pid)], ["-1"]):  # -1: dead and reaped (fs/pidfs.c)
            raise wire.WireError(f"{self._name} sent a descriptor that is not the pidfd of {pid}")
        status = process_status(pid)
        if status is not None and status.parent != self._pid and not is_dead(pidfd):
            raise wire.WireError(f"{self._name} announces process {pid}, which is not its child")


def _spawn(child_id: str, role: str, uid: int, gid: int, place: Place | None) -> wire.Spawn:
    where = place or Place()
    return wire.Spawn(child_id, role, uid, gid, where.code, where.layers, where.tmp_mb)


class _Request:
    """A fork that was asked for: what to make of the process, or how to undo the preparations."""

    __slots__ = ("_discard", "build", "future", "role")

    def __init__(
        self, role: str, build: Callable[[int, int], Child], discard: Callable[[], None], future: asyncio.Future[Any]
    ) -> None:
        self.role = role
        self.build = build
        self.future = future
        self._discard = discard

    def discard(self) -> None:
        self._discard()

    def fail(self, error: Exception) -> None:
        self._discard()
        if not self.future.done():
            self.future.set_exception(error)
