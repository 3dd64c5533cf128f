"""A stream between worker and client: nothing lost, nothing reordered, never more than a window held."""

from __future__ import annotations

import asyncio
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.responsestream import Origin, ResponseStream, WindowExceeded
from glowplug.runtime.testing import settle

ORIGIN = Origin("hot", (), 0.0)
TYPE = "application/octet-stream"


class Producer:
    """A worker that keeps to its window."""

    def __init__(self, stream: ResponseStream) -> None:
        self.stream, self.credit, self.stopped = stream, stream.window_bytes, 0
        stream.attach(ORIGIN, grant=self.grant, stop=self.stop)

    def grant(self, size_bytes: int) -> None:
        self.credit += size_bytes

    def stop(self) -> None:
        self.stopped += 1

    def send(self, data: bytes) -> bytes:
        """Send what fits and return the rest."""
        part, rest = data[: self.credit], data[self.credit :]
        if part:
            self.credit -= len(part)
            self.stream.feed(part, TYPE)
        return rest


@given(st.lists(st.one_of(st.binary(min_size=1, max_size=40), st.none()), max_size=40), st.integers(1, 16))
def test_all_bytes_arrive_in_order_and_never_more_than_a_window_is_held(
    steps: list[bytes | None], window_bytes: int
) -> None:
    """Bytes are produced; None: the client reads. A producer that keeps to its window is never stuck."""

    async def run() -> None:
        stream = ResponseStream(10**6, window_bytes)
        producer, waiting, got = Producer(stream), b"", b""
        for step in steps:
            if step is not None:
                waiting += step
            elif stream.size_bytes > len(got):
                got += await stream.next() or b""
            waiting = producer.send(waiting)
            assert stream.size_bytes - len(got) <= window_bytes
        while waiting or stream.size_bytes > len(got):
            reading = asyncio.create_task(stream.next())
            await asyncio.sleep(0)  # it asks for more before it waits
            waiting = producer.send(waiting)
            arrived = await asyncio.wait_for(reading, 5)
            got += arrived or b""
        stream.end()
        assert await stream.next() is None
        assert got == b"".join(step for step in steps if step is not None)

    asyncio.run(run())


def test_a_worker_that_sends_more_than_its_window_breaks_the_protocol() -> None:
    stream = ResponseStream(100, 4)
    Producer(stream)
    stream.feed(b"abc", TYPE)
    with pytest.raises(WindowExceeded, match="chunk of 2 bytes, 1 were asked for"):
        stream.feed(b"de", TYPE)


def test_an_empty_chunk_breaks_the_protocol() -> None:
    """It would cost the worker nothing and the node a turn of its loop."""
    with pytest.raises(WindowExceeded):
        ResponseStream(100, 4).feed(b"", TYPE)


async def test_credit_is_for_what_was_passed_on_and_not_for_what_was_only_taken() -> None:
    """The chunk that a client is being sent counts: else a client that does not read would have two windows."""
    stream = ResponseStream(100, 4)
    producer = Producer(stream)
    producer.send(b"abcd")
    assert await stream.next() == b"abcd"
    assert producer.credit == 0
    waiting = asyncio.create_task(stream.next())
    await settle()
    assert producer.credit == 4
    producer.send(b"e")
    assert await waiting == b"e"


async def test_what_passes_the_limit_is_cut_and_stops_the_worker() -> None:
    stream = ResponseStream(5, 10)
    producer = Producer(stream)
    producer.send(b"abcdefg")
    producer.send(b"h")  # was on its way
    assert (await stream.next(), stream.overflowed, stream.size_bytes, producer.stopped) == (b"abcde", True, 5, 1)


def test_nobody_needs_to_stop_a_stream_without_a_worker() -> None:
    assert not ResponseStream(100).abandon()


async def test_an_abandoned_stream_takes_what_is_on_its_way_and_asks_for_no_more() -> None:
    stream = ResponseStream(100, 4)
    producer = Producer(stream)
    producer.send(b"ab")
    assert stream.abandon()
    producer.send(b"cd")
    assert (producer.stopped, producer.credit, stream.size_bytes) == (1, 0, 2)


async def test_a_worker_that_comes_after_the_client_has_gone_is_told_behind_its_invocation() -> None:
    """The instance of the first attempt died before the request reached it, and the client went meanwhile."""
    stream = ResponseStream(100)
    stream.abandon()
    producer = Producer(stream)
    assert producer.stopped == 0, "the invocation is sent in this turn; a Cancel ahead of it would be for nothing"
    await settle()
    assert producer.stopped == 1


async def test_small_chunks_are_joined_while_the_client_is_slow() -> None:
    stream = ResponseStream(10_000)
    for first, second in pairwise(b"0123456789"):
        stream.feed(bytes((first, second)), TYPE)
    assert await stream.next() == b"011223344556677889"
