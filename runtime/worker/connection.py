"""The child's side of a channel: one blocking socket, frames in and out.

Nothing here waits with a timeout or retries: a child that cannot reach its node has nothing left to do.
"""

from __future__ import annotations

import contextlib
import os
import socket
from array import array
from collections import deque
from collections.abc import Iterable
from typing import Any

from glowplug.runtime.process import wire

RECEIVE_BYTES = 64 * 1024
"""Bytes per ``recvmsg``: most requests fit in one, and a larger one costs a call per 64 KiB."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(wire.MAX_DESCRIPTORS * 4)


class NodeGone(Exception):
    """The node closed its end, or died."""


class Connection:
    """Frames over the socket ``descriptor``, which this object owns from now on.

    >>> left, right = socket.socketpair()
    >>> Connection(left.detach()).send(wire.Stop(grace_s=0.5))
    >>> Connection(right.detach()).receive()
    Stop(grace_s=0.5)
    """

    def __init__(self, descriptor: int) -> None:
        # Said, not asked of the kernel: three system calls less on the path of a cold request.
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, descriptor)
        self._socket.setblocking(True)  # the flag lives in the file description, which the node made
        self._decoder = wire.Decoder()
        self._messages: deque[Any] = deque()

    def __repr__(self) -> str:
        return f"Connection(fd={self._socket.fileno()}, waiting={len(self._messages)})"

    def fileno(self) -> int:
        """Return the socket's descriptor, for ``poll``."""
        return self._socket.fileno()

    @property
    def pending(self) -> bool:
        """Whether a message was received that nobody has asked for yet: ``poll`` does not see those."""
        return bool(self._messages)

    def send(self, message: wire.Message, descriptors: Iterable[int] = ()) -> None:
        """Send one frame; block until it is in the socket's buffer.

        Raises ``NodeGone`` when nobody can receive it any more.
        """
        frame = wire.encode(message, descriptors)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, _pack(frame.descriptors))] if frame.descriptors else []
        try:
            # MSG_NOSIGNAL: a handler may have set SIGPIPE back to its default.
            sent = self._socket.sendmsg((frame.data,), rights, socket.MSG_NOSIGNAL)
            if sent < len(frame.data):
                self._socket.sendall(memoryview(frame.data)[sent:], socket.MSG_NOSIGNAL)
        except (BrokenPipeError, ConnectionResetError):
            raise NodeGone from None
        finally:
            for descriptor in frame.spilled:
                os.close(descriptor)

    def receive(self) -> Any:
        """Return the next message; block until there is one.

        Raises ``NodeGone`` at the end of the stream, ``wire.WireError`` when what came is not a message.
        """
        while not self._messages:
            self._read(0)
        return self._messages.popleft()

    def receive_what_is_there(self) -> list[Any]:
        """Return the messages that have come, without waiting for any. Raises as ``receive``."""
        with contextlib.suppress(BlockingIOError):
            self._read(socket.MSG_DONTWAIT)
        messages = list(self._messages)
        self._messages.clear()
        return messages

    def put_back(self, messages: Iterable[Any]) -> None:
        """Let ``receive`` return these first: they are not for who has read them."""
        self._messages.extendleft(reversed(list(messages)))

    def _read(self, flags: int) -> None:
        try:
            data, ancillary, _, _ = self._socket.recvmsg(
                RECEIVE_BYTES, _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC | flags
            )
        except ConnectionResetError:
            raise NodeGone from None
        if not data:
            self._decoder.eof()
            raise NodeGone
        self._messages.extend(self._decoder.feed(data, _unpack(ancillary) if ancillary else ()))

    def take_descriptors(self) -> list[int]:
        """Return the descriptors that came with the ``Spawn`` just received; the caller owns them."""
        return self._decoder.take_descriptors()

    def close(self) -> None:
        """Close the socket, and every descriptor that came over it and was not taken."""
        self._decoder.close()
        self._socket.close()


def _pack(descriptors: Iterable[int]) -> bytes:
    return array("i", descriptors).tobytes()


def _unpack(ancillary: Iterable[tuple[int, int, bytes]]) -> list[int]:
    received = array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(data[: len(data) - len(data) % received.itemsize])
    return received.tolist()
