"""The child's side of a channel."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from glowplug.runtime.process import wire
from glowplug.runtime.worker.connection import Connection, NodeGone


@pytest.fixture
def pair() -> Iterator[Any]:
    ours, theirs = socket.socketpair()
    connection = Connection(theirs.detach())
    yield ours, connection
    ours.close()
    connection.close()


def outcome(result: bytes) -> wire.Outcome:
    return wire.Outcome("r-1", [result], False, "", 1.0)


def test_messages_that_arrive_together_are_returned_one_by_one(pair: Any) -> None:
    ours, connection = pair
    ours.sendall(wire.encode(wire.Stop(1.0)).data + wire.encode(wire.Check(2)).data)

    assert (wire.Stop(1.0), True) == (connection.receive(), connection.pending)
    assert (wire.Check(2), False) == (connection.receive(), connection.pending)


def test_a_node_that_made_the_socket_nonblocking_changes_nothing() -> None:
    ours, theirs = socket.socketpair()
    theirs.setblocking(False)
    connection = Connection(theirs.detach())

    assert os.get_blocking(connection.fileno())
    ours.close()
    connection.close()


def test_descriptors_arrive_close_on_exec_and_belong_to_the_taker(pair: Any) -> None:
    ours, connection = pair
    read, write = os.pipe()
    frame = wire.encode(wire.Spawn("w", "zygote", -1, -1), (read, write))
    socket.send_fds(ours, [frame.data], list(frame.descriptors))
    os.close(read)
    os.close(write)

    assert "w" == connection.receive().child_id
    taken = connection.take_descriptors()

    assert [False, False] == [os.get_inheritable(descriptor) for descriptor in taken]
    os.write(taken[1], b"x")
    assert b"x" == os.read(taken[0], 1)
    for descriptor in taken:
        os.close(descriptor)


def test_a_large_payload_leaves_no_descriptor_behind(pair: Any) -> None:
    ours, connection = pair
    before = len(os.listdir("/proc/self/fd"))

    connection.send(outcome(b"x" * 1_000_000))
    data, descriptors, _, _ = socket.recv_fds(ours, 65536, 4)

    assert [outcome(b"x" * 1_000_000)] == wire.Decoder().feed(data, descriptors)
    assert before == len(os.listdir("/proc/self/fd"))


def test_a_frame_larger_than_the_socket_buffer_is_sent_whole(pair: Any) -> None:
    ours, connection = pair
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    message = wire.Outcome("r-1", [b"x" * 200_000] * 2, False, "", 1.0)
    decoder = wire.Decoder()
    got: list[Any] = []
    pid = os.fork()
    if pid == 0:
        connection.send(message)
        os._exit(0)
    while not got:
        got = decoder.feed(ours.recv(65536))

    assert [message] == got
    os.waitpid(pid, 0)


def test_end_of_stream_is_the_node_gone(pair: Any) -> None:
    ours, connection = pair
    ours.close()

    with pytest.raises(NodeGone):
        connection.receive()
    with pytest.raises(NodeGone):
        connection.send(wire.Stop(1.0))


def test_end_of_stream_inside_a_frame_is_a_wire_error(pair: Any) -> None:
    ours, connection = pair
    ours.sendall(wire.encode(wire.Stop(1.0)).data[:-1])
    ours.close()

    with pytest.raises(wire.WireError):
        connection.receive()
