"""What a handler yields, on its way out of a worker: items, windows, cancellation, and answers wanted whole."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.process import wire
from glowplug.runtime.worker import streaming
from glowplug.runtime.worker.connection import Connection, NodeGone
from glowplug.runtime.worker.faults import Fault, MarshalError, ResponseTooLarge
from glowplug.runtime.worker.outlet import HTTP_INTEGRATION, Collector, Outlet


def invoke(window_bytes: int, request_id: str = "r1") -> wire.Invoke:
    return wire.Invoke(request_id, [b"{}"], 0, "arn", "", b"", b"", 1, window_bytes)


class Ends:
    """An outlet, and the node's end of its channel."""

    def __init__(self, window_bytes: int = 1000) -> None:
        ours, theirs = socket.socketpair()
        self.node, self.data = Connection(ours.detach()), Connection(theirs.detach())
        self.outlet = Outlet(self.data, invoke(window_bytes))

    def sent(self) -> list[tuple[bytes, str]]:
        messages = self.node.receive_what_is_there()
        return [(message.data, message.content_type) for message in messages]

    def close(self) -> None:
        self.node.close()
        self.data.close()


@pytest.fixture
def ends() -> Iterator[Ends]:
    made = Ends()
    yield made
    made.close()


def whole(source: Any) -> Any:
    (result,) = streaming.drain(source, Collector())
    return json.loads(result)


async def later(*items: Any) -> AsyncIterator[Any]:
    for item in items:
        yield item


BOTH = pytest.mark.parametrize("make", [lambda *items: iter(items), later], ids=["generator", "asynchronous"])


@pytest.mark.parametrize(
    ("item", "sent"),
    [
        (b"\xff\0", b"\xff\0"),
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"ab"), b"ab"),
        ("é", b"\xc3\xa9"),
        (None, b""),
        ({"a": 1}, b'{"a": 1}\n'),
        ([1, "x"], b'[1, "x"]\n'),
        (1.5, b"1.5\n"),
        (True, b"true\n"),
    ],
)
def test_what_an_item_is_sent_as(item: Any, sent: bytes) -> None:
    assert streaming.chunk_of(item) == sent


@pytest.mark.parametrize("item", [object(), "\ud800", {1, 2}])
def test_what_cannot_be_sent_is_a_marshal_error(item: Any) -> None:
    with pytest.raises(MarshalError, match="Unable to marshal response"):
        streaming.chunk_of(item)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ((number for number in [1]), True),
        (iter([]), True),
        (map(str, ()), True),
        (later(), True),
        ([], False),
        ({}, False),
        ((1,), False),
        ("text", False),
        (None, False),
        (range(3), False),
    ],
)
def test_iterators_are_streams_and_collections_are_not(result: Any, *, expected: bool) -> None:
    assert streaming.streams(result) is expected


@BOTH
def test_each_item_is_a_chunk_and_the_first_one_says_what_they_are(ends: Ends, make: Any) -> None:
    assert streaming.drain(make("a", None, b"b"), ends.outlet) == []
    assert ends.sent() == [(b"a", "application/octet-stream"), (b"b", "")]


@BOTH
def test_a_response_as_the_first_item_is_the_prelude(ends: Ends, make: Any) -> None:
    first = {"statusCode": 404, "headers": {"a": "b"}, "body": "bm8=", "isBase64Encoded": True}
    streaming.drain(make(None, first, {"statusCode": 1}), ends.outlet)
    assert ends.sent() == [
        (b'{"statusCode": 404, "headers": {"a": "b"}}' + b"\0" * 8, HTTP_INTEGRATION),
        (b"no", ""),
        (b'{"statusCode": 1}\n', ""),
    ]


@BOTH
def test_a_buffered_stream_is_its_text(make: Any) -> None:
    assert whole(make("a", b"\xc3", b"\xa9", {"b": 1})) == 'aé{"b": 1}\n'


@BOTH
def test_a_buffered_response_is_what_a_handler_without_a_stream_would_return(make: Any) -> None:
    assert whole(make({"statusCode": 200, "headers": {"a": "b"}}, "x", "y")) == {
        "statusCode": 200, "headers": {"a": "b"}, "body": "xy", "isBase64Encoded": False,
    }  # fmt: skip
    assert whole(make({"statusCode": 200}, b"\xff"))["body"] == "/w=="


@BOTH
def test_an_empty_buffered_stream_is_an_empty_text(make: Any) -> None:
    assert whole(make()) == ""


def test_buffered_bytes_that_are_no_text_are_refused_with_what_to_do() -> None:
    with pytest.raises(MarshalError, match=r"not UTF-8 text \(invalid start byte at byte 1\); bytes reach"):
        whole(iter(["a", b"\xff"]))


def test_an_endless_buffered_stream_ends_at_what_a_node_would_read() -> None:
    chunk, closed = b"x" * (1 << 20), []

    def endless() -> Iterator[bytes]:
        try:
            while True:
                yield chunk
        finally:
            closed.append(True)

    with pytest.raises(ResponseTooLarge):
        whole(endless())
    assert closed == [True]


@given(st.lists(st.binary(min_size=1, max_size=60), max_size=8), st.integers(1, 30))
def test_no_more_leaves_than_the_node_asks_for(items: list[bytes], window_bytes: int) -> None:
    """The node asks again for what it has read; in the end it has everything, in order."""
    ends, got = Ends(window_bytes), b""
    try:
        for item in items:
            rest: bytes | memoryview = item
            while rest:
                rest = ends.outlet.send_some(rest)
                chunks = ends.sent()
                arrived = b"".join(data for data, _ in chunks)
                assert len(arrived) <= window_bytes
                got += arrived
                if arrived:
                    ends.node.send(wire.Credit("r1", len(arrived)))
        assert got == b"".join(items)
    finally:
        ends.close()


def test_large_items_are_cut_so_that_no_chunk_spills(ends: Ends, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "MAX_INLINE_BYTES", 400)
    assert not ends.outlet.send_some(b"x" * 1000)
    assert [400, 400, 200] == [len(data) for data, _ in ends.sent()]


def test_a_cancelled_generator_gets_generator_exit_at_its_yield(ends: Ends) -> None:
    seen: list[str] = []

    def handler() -> Iterator[str]:
        try:
            yield "a"
            ends.node.send(wire.Cancel("r1"))
            yield "b"
            seen.append("went on")
        except GeneratorExit:
            seen.append("exit")
            raise
        finally:
            seen.append("finally")

    assert streaming.drain(handler(), ends.outlet) == []
    assert (seen, ends.sent()) == (["exit", "finally"], [(b"a", "application/octet-stream")])


def test_nothing_but_yields_hears_of_a_cancellation_too(ends: Ends) -> None:
    """``yield None`` sends nothing and is a place to end at."""

    def handler() -> Iterator[None]:
        ends.node.send(wire.Cancel("r1"))
        yield None
        raise AssertionError("went on")

    assert streaming.drain(handler(), ends.outlet) == []


def test_a_cancelled_asynchronous_generator_is_cancelled_where_it_waits(ends: Ends) -> None:
    seen: list[str] = []

    async def handler() -> AsyncIterator[str]:
        try:
            yield "a"
            ends.node.send(wire.Cancel("r1"))
            ends.node.send(wire.Credit("r1", 1))  # what comes later must not cut the cleaning up
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            seen.append("cancelled")
            raise
        finally:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            seen.append("finally")

    assert streaming.drain(handler(), ends.outlet) == []
    assert seen == ["cancelled", "finally"]


def test_an_asynchronous_generator_that_waits_for_credit_is_cancelled_too(ends: Ends) -> None:
    seen: list[str] = []

    async def handler() -> AsyncIterator[bytes]:
        try:
            ends.node.send(wire.Cancel("other"))
            yield b"x" * 999
            asyncio.get_running_loop().call_soon(ends.node.send, wire.Cancel("r1"))
            yield b"x" * 1000
        finally:
            seen.append("finally")

    assert streaming.drain(handler(), ends.outlet) == []
    assert seen == ["finally"]


@BOTH
def test_an_invocation_that_comes_in_the_middle_of_a_stream_waits_for_its_turn(ends: Ends, make: Any) -> None:
    following = invoke(0, "r2")
    ends.node.send(following)
    ends.node.send(wire.Credit("r0", 1))
    streaming.drain(make("a", "b"), ends.outlet)
    assert (ends.data.pending, ends.data.receive()) == (True, following)


@BOTH
def test_a_node_that_is_gone_ends_the_stream(ends: Ends, make: Any) -> None:
    ends.node.close()
    with pytest.raises(NodeGone):
        streaming.drain(make("a"), ends.outlet)


def test_an_error_of_the_handler_passes_through_with_its_own_frames_alone() -> None:
    async def handler() -> AsyncIterator[str]:
        yield "a"
        raise ValueError("boom")

    with pytest.raises(ValueError, match="boom") as caught:
        whole(handler())
    traceback = caught.value.__traceback__
    assert traceback is not None
    frames = Fault.of(caught.value.with_traceback(traceback.tb_next)).stack_trace
    assert ["handler"] == [line.partition(", in ")[2].partition("\n")[0] for line in frames][-1:]
    assert not any("asyncio" in line for line in frames)
