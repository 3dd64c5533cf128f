"""What a child writes to its descriptors 1 and 2, on the node's side of the pipe.

The pipe is read whenever something is in it, so that a handler that prints much never waits for the node, and once more
at the moment an outcome arrives: the child flushes before it sends the outcome, so everything the call wrote is in the
pipe by then. No marker is needed for the end of a call. A child that prints nothing never wakes the node.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

MAX_BYTES = 256 * 1024
"""Kept between two calls of ``take``; Lambda's own lines are cut at 256 KiB too. What is over is read and dropped."""

_buffer = memoryview(bytearray(64 * 1024))  # the size of a pipe; one for all of them, as in ``channel``
_TRUNCATED = b"\n[truncated]\n"


class OutputPipe:
    """The reading end of a child's output. Owns the descriptor.

    ``on_output`` is called, inside the event loop, when something was read that nobody had asked for with ``take``.
    """

    def __init__(self, descriptor: int, on_output: Callable[[], None] | None = None) -> None:
        os.set_blocking(descriptor, False)
        self._loop = asyncio.get_running_loop()
        self._fd = descriptor
        self._open = True
        self._parts: list[bytes] = []
        self._room = MAX_BYTES
        self._on_output = on_output
        self._loop.add_reader(descriptor, self._readable)

    def take(self) -> bytes:
        """Return what was written since the last call, without waiting; works after ``close`` for what was left."""
        self._drain()
        if not self._parts:
            return b""
        taken = b"".join(self._parts)
        self._parts.clear()
        self._room = MAX_BYTES
        return taken

    def close(self) -> None:
        """Read what is there and close the pipe. A writer that is still alive gets SIGPIPE."""
        self._drain()
        self._end()

    def _readable(self) -> None:
        if self._read() and self._on_output is not None:
            self._on_output()

    def _drain(self) -> None:
        """Read until the pipe is empty; bounded, since a writer may be as fast as the reader."""
        budget = 2 * MAX_BYTES
        while self._open and budget > 0:
            size = self._read()
            if not size:
                return
            budget -= size

    def _read(self) -> int:
        try:
            size = os.readv(self._fd, (_buffer,))
        except BlockingIOError:
            return 0
        if not size:
            self._end()
            return 0
        if self._room > 0:
            kept = bytes(_buffer[: min(size, self._room)])
            self._room -= len(kept)
            self._parts.append(kept)
            if self._room == 0:
                self._parts.append(_TRUNCATED)
        return size

    def _end(self) -> None:
        if self._open:
            self._open = False
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
