"""The node's side of one socket of a child: frames in and out of a non-blocking Unix socket on the event loop.

One ``recvmsg`` per readiness, one ``sendmsg`` per frame while the peer keeps up; no task and no stream object per
frame. What the kernel does not take is queued, and ``send`` then waits until it has left: that is the back-pressure.
A frame once begun is always finished, also when the sender was cancelled: half a frame would take the channel with it.

Anything malformed ends the channel, and with it the process behind it, and nobody else.
"""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable

from . import wire

BUFFER_BYTES = 256 * 1024
"""What one ``recvmsg`` asks for: as much as a socket holds by default (net.core.rmem_default is 208 KiB), so that a
frame of MAX_FRAME_BYTES takes about 20 reads."""

_buffer = memoryview(bytearray(BUFFER_BYTES))
"""Every channel reads into this one: they all belong to one event loop, and the decoder copies what it keeps."""

_ANCILLARY_BYTES = socket.CMSG_SPACE(wire.MAX_DESCRIPTORS * array.array("i").itemsize)


class ChannelClosed(Exception):
    """The other end is gone; the frame was not delivered in full."""


class Channel:
    """Sends and receives messages over a connected Unix stream socket, which it owns.

    ``on_message`` gets each message with the descriptors of a ``Spawn`` or ``Spawned``, which it then owns; it may
    raise ``wire.WireError`` for a message that has no place here.
    ``on_closed`` is called once: with None at end of file, with the ``wire.WireError`` or ``OSError`` otherwise; not
    after ``close``. Both run inside the event loop and must not block.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        on_message: Callable[[wire.Message, list[int]], None],
        on_closed: Callable[[Exception | None], None],
    ) -> None:
        sock.setblocking(False)
        self._loop = asyncio.get_running_loop()
        self._socket = sock
        self._fd = sock.fileno()
        self._on_message = on_message
        self._on_closed = on_closed
        self._decoder = wire.Decoder()
        self._queue: deque[_Pending] = deque()
        self._closed = False
        self._broken = False  # nothing goes out any more; what came in is still read
        self._loop.add_reader(self._fd, self._readable)

    def __repr__(self) -> str:
        return f"Channel(fd={self._fd}, queued={len(self._queue)}, closed={self._closed})"

    @property
    def closed(self) -> bool:
        """Whether nothing more comes in or goes out."""
        return self._closed

    async def send(self, message: wire.Message, descriptors: Iterable[int] = ()) -> None:
        """Send one message and wait until the kernel has all of it.

        ``descriptors`` belong to the channel from here on: it closes them once they are sent, or cannot be.
        Raises ``ChannelClosed`` when the peer is gone, ``ValueError`` when the message is over a limit of the wire.
        """
        pending = self.post(message, descriptors)
        if pending is not None:
            await pending

    def post(self, message: wire.Message, descriptors: Iterable[int] = ()) -> asyncio.Future[None] | None:
        """Send one message without waiting: None when it has left, else the future of its leaving. Raises as ``send``.

        The future may be dropped or cancelled; the frame is sent all the same.
        """
        owned = tuple(descriptors)
        try:
            if self._broken:
                raise ChannelClosed(f"{type(message).__name__} cannot be sent: the peer is gone")
            frame = wire.encode(message, owned)
        except BaseException:
            _close_all(owned)
            raise
        pending = _Pending(frame.data, frame.descriptors)
        if not self._queue:
            try:
                if self._transmit(pending):
                    return None
            except OSError as error:
                self._break(pending)
                raise ChannelClosed(f"{type(message).__name__} cannot be sent: {error}") from error
            self._loop.add_writer(self._fd, self._writable)
        self._queue.append(pending)
        pending.sent = self._loop.create_future()
        return pending.sent

    def close(self) -> None:
        """Close the socket. Frames still queued are lost and their senders get ``ChannelClosed``."""
        if self._closed:
            return
        self._closed = True
        self._loop.remove_reader(self._fd)
        self._break()
        self._decoder.close()
        self._socket.close()

    def _transmit(self, pending: _Pending) -> bool:
        """Give the kernel what it takes of a frame; True when that was all. Descriptors go with the first byte."""
        try:
            if pending.descriptors:
                rights = array.array("i", pending.descriptors)
                sent = self._socket.sendmsg([pending.data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
                _close_all(pending.descriptors)
                pending.descriptors = ()
            else:
                sent = self._socket.send(pending.data)
        except (BlockingIOError, InterruptedError):
            return False
        if sent == len(pending.data):
            return True
        pending.data = memoryview(pending.data)[sent:]
        return False

    def _writable(self) -> None:
        try:
            while self._queue:
                if not self._transmit(self._queue[0]):
                    return
                sent = self._queue.popleft().sent
                if sent is not None and not sent.done():
                    sent.set_result(None)
            self._loop.remove_writer(self._fd)
        except OSError:
            self._break()

    def _break(self, *unsent: _Pending) -> None:
        """Give up sending. What the peer said before it went is still read: end of file closes the channel."""
        self._broken = True
        if self._queue:
            self._loop.remove_writer(self._fd)
        for pending in (*unsent, *self._queue):
            _close_all(pending.descriptors)
            if pending.sent is not None and not pending.sent.done():
                pending.sent.set_exception(ChannelClosed("the peer went before the message was sent"))
                pending.sent.exception()  # marks it as seen: whoever only posted does not look
        self._queue.clear()

    def _readable(self) -> None:
        try:
            size, ancillary, flags, _ = self._socket.recvmsg_into((_buffer,), _ANCILLARY_BYTES, socket.MSG_CMSG_CLOEXEC)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._fail(error)
            return
        descriptors = _descriptors(ancillary) if ancillary else []
        try:
            if flags & socket.MSG_CTRUNC:
                _close_all(descriptors)
                raise wire.WireError(f"more than {wire.MAX_DESCRIPTORS} descriptors at once")
            if not size:
                self._decoder.eof()
                self._fail(None)
                return
            self._deliver(self._decoder.feed(_buffer[:size], descriptors))
        except wire.WireError as error:
            self._fail(error)

    def _deliver(self, messages: list[wire.Message]) -> None:
        for message in messages:
            if self._closed:  # by the handler of the message before; the decoder closed what came with this one
                return
            handed = self._decoder.take_descriptors() if isinstance(message, wire.Spawn | wire.Spawned) else []
            self._on_message(message, handed)

    def _fail(self, error: Exception | None) -> None:
        if not self._closed:
            self.close()
            self._on_closed(error)


class _Pending:
    """A frame, or what is left of one, with the descriptors that have not left yet."""

    __slots__ = ("data", "descriptors", "sent")

    def __init__(self, data: bytes | memoryview, descriptors: tuple[int, ...]) -> None:
        self.data = data
        self.descriptors = descriptors
        self.sent: asyncio.Future[None] | None = None


def _descriptors(ancillary: list[tuple[int, int, bytes]]) -> list[int]:
    found = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _close_all(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        os.close(descriptor)
