"""The node's side of processes runs on uvloop in production and must not depend on it: each test here runs on both."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping

import pytest
import uvloop

from glowplug.runtime.process import wire
from glowplug.runtime.process.workers import Worker


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Name the event loops that every asynchronous test below this folder is run on."""
    return {"asyncio": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}


class Peer:
    """The child's ends of a worker's channels, driven by hand, and a process that only sleeps behind the pidfd.

    The process is the test's own child: like a forked worker's, its death is reported by ``worker.died``.
    """

    def __init__(self) -> None:
        control, self.control = socket.socketpair()
        data, self.data = socket.socketpair()
        output, self.output = os.pipe()
        self.process = subprocess.Popen(["sleep", "600"])
        self.worker = Worker("w1", self.process.pid, os.pidfd_open(self.process.pid), control, data, output)
        self._decoders = {self.control: wire.Decoder(), self.data: wire.Decoder()}
        self._waiting: dict[socket.socket, list[wire.Message]] = {self.control: [], self.data: []}

    async def receive(self, channel: socket.socket) -> wire.Message:
        """Return the next message that the node sent."""
        while not self._waiting[channel]:
            self._waiting[channel] += self._decoders[channel].feed(await asyncio.to_thread(channel.recv, 65536))
        return self._waiting[channel].pop(0)

    def send(self, channel: socket.socket, message: wire.Message) -> None:
        """Answer the node."""
        channel.sendall(wire.encode(message).data)

    def status(self) -> int:
        """Reap the process and return its wait status; it must be dying."""
        _, status = os.waitpid(self.process.pid, 0)
        self.process.returncode = os.waitstatus_to_exitcode(status)
        return status

    def close(self) -> None:
        """End everything that is still open."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        for end in (self.control, self.data):
            end.close()
        os.close(self.output)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    """A ``Worker`` and the other ends of its channels."""
    made = Peer()
    yield made
    made.close()
