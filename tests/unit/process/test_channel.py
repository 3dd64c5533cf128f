"""``Channel`` over a socketpair whose other end is driven by hand with the codec."""

from __future__ import annotations

import array
import asyncio
import os
import socket
from collections.abc import AsyncIterator

import pytest

from glowplug.runtime.process import wire
from glowplug.runtime.process.channel import Channel, ChannelClosed

STOP = wire.Stop(grace_s=2.0)
OUTCOME = wire.Outcome("r1", [b"{}"], False, "", 0.5)


class Ends:
    """A channel, what it delivered, and the peer's socket."""

    def __init__(self) -> None:
        ours, self.peer = socket.socketpair()
        self.fd = ours.fileno()
        self.messages: list[wire.Message] = []
        self.descriptors: list[list[int]] = []
        self.closed: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()
        self.arrived = asyncio.Event()
        self.channel = Channel(ours, on_message=self._on_message, on_closed=self.closed.set_result)

    def _on_message(self, message: wire.Message, descriptors: list[int]) -> None:
        self.messages.append(message)
        self.descriptors.append(descriptors)
        self.arrived.set()

    async def until(self, count: int) -> None:
        while len(self.messages) < count:
            self.arrived.clear()
            await self.arrived.wait()

    def close(self) -> None:
        self.channel.close()
        self.peer.close()


@pytest.fixture
async def ends() -> AsyncIterator[Ends]:
    made = Ends()
    yield made
    made.close()


def is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def receive(peer: socket.socket, count: int) -> list[wire.Message]:
    decoder = wire.Decoder()
    messages: list[wire.Message] = []
    while len(messages) < count:
        messages += decoder.feed(peer.recv(65536))
    return messages


async def test_frames_cut_anywhere_arrive_whole_and_in_order(ends: Ends) -> None:
    frames = wire.encode(STOP).data + wire.encode(OUTCOME).data
    for at in range(len(frames)):
        ends.peer.send(frames[at : at + 1])
        await asyncio.sleep(0)
    await ends.until(2)
    assert [STOP, OUTCOME] == ends.messages


async def test_a_frame_larger_than_the_buffer_arrives_whole(ends: Ends) -> None:
    large = wire.Outcome("r1", [b"x" * wire.MAX_INLINE_BYTES] * 8, False, "", 0.5)
    await asyncio.gather(asyncio.to_thread(ends.peer.sendall, wire.encode(large).data), ends.until(1))
    assert [large] == ends.messages


async def test_descriptors_come_with_their_message_and_are_the_handlers(ends: Ends) -> None:
    reading, writing = os.pipe()
    frame = wire.encode(wire.Spawned("w1", 7, 0.5), (writing,))
    rights = array.array("i", frame.descriptors)
    ends.peer.sendmsg([frame.data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    os.close(writing)
    await ends.until(1)
    (received,) = ends.descriptors[0]
    os.write(received, b"through")
    assert (b"through", False) == (os.read(reading, 7), os.get_inheritable(received))
    os.close(received)
    os.close(reading)


async def test_sent_descriptors_are_closed_here(ends: Ends) -> None:
    reading, writing = os.pipe()
    await ends.channel.send(wire.Spawn("w1", "worker", -1, -1), (writing,))
    assert not is_open(writing)
    _, ancillary, _, _ = ends.peer.recvmsg(65536, 64)
    (theirs,) = array.array("i", ancillary[0][2])
    os.write(theirs, b"through")
    assert os.read(reading, 7) == b"through"
    os.close(theirs)
    os.close(reading)


async def test_a_sender_waits_while_the_peer_does_not_read(ends: Ends) -> None:
    messages = [wire.Outcome(str(number), [b"x" * 100_000], False, "", 0.5) for number in range(20)]
    sending = asyncio.gather(*(ends.channel.send(message) for message in messages))
    await asyncio.sleep(0.01)
    assert not sending.done()
    assert messages == await asyncio.to_thread(receive, ends.peer, len(messages))
    await sending
    assert f"Channel(fd={ends.fd}, queued=0, closed=False)" == repr(ends.channel)


async def test_a_cancelled_sender_leaves_no_half_frame(ends: Ends) -> None:
    large = wire.Outcome("large", [b"x" * 200_000] * 10, False, "", 0.5)
    sending = asyncio.create_task(ends.channel.send(large))
    await asyncio.sleep(0)
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    ends.channel.post(STOP)
    assert [large, STOP] == await asyncio.to_thread(receive, ends.peer, 2)


@pytest.mark.parametrize(
    "bad",
    [
        wire.HEADER.pack(wire.MAX_FRAME_BYTES + 1, 0),
        wire.HEADER.pack(3, 0) + b"\xff\xff\xff",
        wire.HEADER.pack(1, 1) + b"\x90",
        wire.encode(OUTCOME).data.replace(b"\x1f", b"\x63", 1),
    ],
    ids=["oversize", "not msgpack", "descriptor missing", "unknown code"],
)
async def test_anything_malformed_ends_the_channel(ends: Ends, bad: bytes) -> None:
    ends.peer.send(bad)
    error = await ends.closed
    assert isinstance(error, wire.WireError)
    assert (True, False) == (ends.channel.closed, is_open(ends.fd))


async def test_a_message_that_the_handler_refuses_ends_the_channel() -> None:
    ours, peer = socket.socketpair()
    closed = asyncio.get_running_loop().create_future()

    def refuse(message: wire.Message, descriptors: list[int]) -> None:
        raise wire.WireError("not now")

    Channel(ours, on_message=refuse, on_closed=closed.set_result)
    peer.send(wire.encode(STOP).data)
    assert "not now" == str(await closed)
    peer.close()


async def test_end_of_file_is_no_error(ends: Ends) -> None:
    ends.peer.close()
    assert await ends.closed is None


async def test_end_of_file_in_a_frame_is_an_error(ends: Ends) -> None:
    ends.peer.send(wire.encode(STOP).data[:-1])
    ends.peer.close()
    assert isinstance(await ends.closed, wire.WireError)


async def test_more_descriptors_than_a_frame_may_have_are_not_kept(ends: Ends) -> None:
    reading, writing = os.pipe()
    before = len(os.listdir("/proc/self/fd"))
    rights = array.array("i", [writing] * 40)
    ends.peer.sendmsg([b"\0"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert isinstance(await ends.closed, wire.WireError)
    assert before - 1 == len(os.listdir("/proc/self/fd"))  # the channel's own socket is gone too
    os.close(reading)
    os.close(writing)


async def test_descriptors_that_no_frame_announces_end_the_channel(ends: Ends) -> None:
    reading, writing = os.pipe()
    rights = array.array("i", [writing] * wire.MAX_DESCRIPTORS)
    for _ in range(2):
        ends.peer.sendmsg([wire.encode(STOP).data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
    assert isinstance(await ends.closed, wire.WireError)
    os.close(reading)
    os.close(writing)


async def test_sending_to_a_peer_that_is_gone_fails_and_keeps_no_descriptor(ends: Ends) -> None:
    reading, writing = os.pipe()
    ends.peer.close()
    with pytest.raises(ChannelClosed):
        await ends.channel.send(wire.Spawn("w1", "worker", -1, -1), (writing,))
    assert not is_open(writing)
    with pytest.raises(ChannelClosed):
        await ends.channel.send(STOP)
    os.close(reading)


async def test_what_a_peer_said_before_it_went_is_read_after_a_failed_send(ends: Ends) -> None:
    ends.peer.send(wire.encode(OUTCOME).data)
    ends.peer.close()
    with pytest.raises(ChannelClosed):
        ends.channel.post(STOP)
    assert await ends.closed is None
    assert [OUTCOME] == ends.messages


async def test_closing_fails_those_who_wait_to_send(ends: Ends) -> None:
    sending = asyncio.create_task(ends.channel.send(wire.Outcome("r", [b"x" * 200_000] * 10, False, "", 0.5)))
    await asyncio.sleep(0)
    ends.channel.close()
    with pytest.raises(ChannelClosed):
        await sending


async def test_a_message_over_the_limit_is_refused_and_the_channel_lives(ends: Ends) -> None:
    reading, writing = os.pipe()
    with pytest.raises(ValueError, match="over the frame limit"):
        ends.channel.post(wire.Outcome("r", [b"x" * wire.MAX_INLINE_BYTES] * 17, False, "", 0.5), (writing,))
    assert not is_open(writing)
    os.close(reading)
    ends.channel.post(STOP)
    assert [STOP] == receive(ends.peer, 1)


async def test_nothing_is_delivered_after_the_handler_closed_the_channel() -> None:
    ours, peer = socket.socketpair()
    seen: list[wire.Message] = []

    def take(message: wire.Message, descriptors: list[int]) -> None:
        seen.append(message)
        channel.close()

    channel = Channel(ours, on_message=take, on_closed=lambda error: None)
    spawned = wire.encode(wire.Spawned("w1", 7, 0.5)).data
    peer.send(wire.encode(STOP).data + spawned + wire.encode(OUTCOME).data)
    await asyncio.sleep(0.01)
    assert [STOP] == seen
    peer.close()
