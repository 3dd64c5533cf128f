"""The frames: golden file per message, every way to cut them, hostile bytes, spilled payloads.

``python tests/unit/test_wire.py`` rewrites the golden files: a change of the wire is a diff that a reviewer sees.
"""

from __future__ import annotations

import dataclasses
import json
import os
import socket
from pathlib import Path
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from glowplug.runtime.process import wire

GOLDEN = Path(__file__).resolve().parent.parent / "golden" / "wire"

EXAMPLES: list[wire.Message] = [
    wire.Hello(
        pid=4711, protocol=4, preloaded=["json", "torch"], import_ms=1800.5, device="cuda:0", context_ms=310.5,
    ),
    wire.Failed(step="load", error_type="ValueError", error_message="boom", stack_trace=["  File …\n"]),
    wire.Loaded(import_ms=48.25, obstacle="", models=["minilm"]),
    wire.Bound(bind_ms=4.5, engines={"minilm": "aot_inductor"}, weight_bytes=90868376, obstacle=""),
    wire.Checked(check_ms=12.0, worst_error=2.5e-7, recorded=True, reads=[["/b/1", 0, 4096]]),
    wire.Ready(start_ms=0.5, vm_data_bytes=123456789),
    wire.Adopted(adopt_ms=0.25),
    wire.Spawned(child_id="w1", pid=4712, fork_ms=1.5),
    wire.Exited(child_id="w1", pid=4712, status=9, max_rss_kib=300000),
    wire.Spawn(child_id="w1", role="worker", uid=200003, gid=200003),
    wire.Load(
        function_name="embed", handler="embed.handler", task_root="/task", import_paths=["/task"],
        environment={"TZ": ":UTC"}, models=[{"name": "", "source": "package://m", "files": {"config.json": "/b/1"},
                                     "verify": 0.01}],
        initialization_type="on-demand", parked=True, observe=False, device="cpu",
    ),
    wire.Bind(plans=[{"name": "", "engine": "eager", "snapshot": "", "manifest": b""}]),
    wire.Check(threads=2),
    wire.Start(
        instance_id="i1", environment={"AWS_LAMBDA_LOG_STREAM_NAME": "s"}, restored=True, memory_bytes=2**30,
        memory_mb=1024, function_version="$LATEST", log_group="/aws/lambda/embed", log_stream="s", threads=2,
    ),
    wire.Stop(grace_s=2.0),
    wire.Adopt(uid=200003, gid=200003),
    wire.Invoke(
        invocation_id="8e3f", events=[b'{"text":"hi"}'], deadline_ms=1760000000000, function_arn="arn:aws:lambda:…",
        trace_id="Root=1-0", client_context=b"", identity=b"", threads=2, window_bytes=524288,
    ),
    wire.Chunk(invocation_id="8e3f", data=b"Once upon", content_type="application/octet-stream"),
    wire.Credit(invocation_id="8e3f", size_bytes=262144),
    wire.Cancel(invocation_id="8e3f"),
    wire.Outcome(
        invocation_id="8e3f", results=[b"[1,2]"], failed=False, error_type="", handler_ms=8.25,
        models=[["", "aot_inductor", 2, 8.5, 21.25, 0]], checking=True,
    ),
    wire.Verified(invocation_id="8e3f", models=[["", "aot_inductor", "wrong", 0.5, "output 0: value 3 is …"]]),
]  # fmt: skip


def golden(message: wire.Message) -> dict[str, Any]:
    fields = {
        field.name: repr(getattr(message, field.name))
        for field in dataclasses.fields(message)  # type: ignore[arg-type]
    }
    return {"message": type(message).__name__, "fields": fields, "hex": wire.encode(message).data.hex()}


def test_every_message_has_an_example() -> None:
    assert set(wire.MESSAGES.values()) == {type(example) for example in EXAMPLES}


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_frames_are_those_of_the_golden_files(message: wire.Message) -> None:
    recorded = json.loads((GOLDEN / f"{type(message).__name__}.json").read_text())
    assert recorded == golden(message)


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_frame_fed_byte_by_byte_is_the_message(message: wire.Message) -> None:
    decoder = wire.Decoder()
    seen = [one for byte in wire.encode(message).data for one in decoder.feed(bytes([byte]))]
    assert [message] == seen
    decoder.eof()


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_a_frame_cut_anywhere_is_an_error_at_the_end(message: wire.Message) -> None:
    data = wire.encode(message).data
    for cut in range(1, len(data)):
        decoder = wire.Decoder()
        assert [] == decoder.feed(data[:cut])
        with pytest.raises(wire.WireError, match="unfinished frame"):
            decoder.eof()


def test_several_messages_in_one_read_come_out_in_order() -> None:
    data = b"".join(wire.encode(example).data for example in EXAMPLES)
    assert EXAMPLES == wire.Decoder().feed(data)


@given(st.binary(max_size=200))
def test_any_bytes_are_messages_or_a_wire_error(data: bytes) -> None:
    decoder = wire.Decoder()
    try:
        for message in decoder.feed(data):
            assert isinstance(message, wire.Message)
    except wire.WireError:
        pass


@given(st.recursive(st.none() | st.integers(-(2**63), 2**63) | st.text() | st.binary() | st.floats(), st.lists))
def test_any_msgpack_value_in_a_frame_is_a_message_or_a_wire_error(value: Any) -> None:
    body = msgpack.packb(value)
    try:
        (message,) = wire.Decoder().feed(wire.HEADER.pack(len(body), 0) + body)
        assert isinstance(message, wire.Message)
    except wire.WireError:
        pass


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ([wire.Stop.CODE, "soon"], "Stop.grace_s is str"),
        ([wire.Stop.CODE], "Stop has 1 fields, got 0"),
        ([99], "no known message"),
        ({"a": 1}, "no known message"),
        ([wire.Outcome.CODE, "id", [], True, "", 1.0, [], 1], "Outcome.checking is int"),
    ],
)
def test_what_is_wrong_with_a_frame_is_said(fields: Any, problem: str) -> None:
    body = msgpack.packb(fields)
    with pytest.raises(wire.WireError, match=problem):
        wire.Decoder().feed(wire.HEADER.pack(len(body), 0) + body)


def test_a_header_over_the_limit_is_refused_before_the_body_is_awaited() -> None:
    with pytest.raises(wire.WireError, match="announces"):
        wire.Decoder().feed(wire.HEADER.pack(wire.MAX_FRAME_BYTES + 1, 0))


def test_a_message_over_the_frame_limit_is_not_sent() -> None:
    many = wire.Loaded(1.0, "", ["x" * 1000] * 5000)
    with pytest.raises(ValueError, match="frame limit"):
        wire.encode(many)


def test_the_largest_inline_payload_stays_in_the_frame() -> None:
    outcome = wire.Outcome("i", [b"x" * wire.MAX_INLINE_BYTES], False, "", 1.0)
    assert () == wire.encode(outcome).descriptors


def test_a_larger_payload_travels_in_a_memfd_through_a_real_socket() -> None:
    payload = os.urandom(1024) * 2048
    outcome = wire.Outcome("i", [b"small", payload], False, "", 1.0)
    encoded = wire.encode(outcome)
    assert len(encoded.data) < 100
    ours, theirs = socket.socketpair()
    with ours, theirs:
        socket.send_fds(ours, [encoded.data], list(encoded.descriptors))
        for descriptor in encoded.spilled:
            os.close(descriptor)
        data, descriptors, _, _ = socket.recv_fds(theirs, 65536, 16)
    assert [outcome] == wire.Decoder().feed(data, descriptors)
    for descriptor in descriptors:  # the decoder has closed them
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)


def spilled_frame(position: int, size: int) -> bytes:
    extension = msgpack.ExtType(1, msgpack.packb((position, size)))
    body = msgpack.packb([wire.Outcome.CODE, "i", [extension], False, "", 1.0, [], False])
    return wire.HEADER.pack(len(body), 1) + body


def test_a_spilled_payload_shorter_than_announced_is_refused() -> None:
    descriptor = os.memfd_create("short")
    os.write(descriptor, b"four")
    with pytest.raises(wire.WireError, match="not in the file"):
        wire.Decoder().feed(spilled_frame(0, 5), [descriptor])


def test_a_spilled_payload_in_a_pipe_is_refused_rather_than_waited_for() -> None:
    reading, writing = os.pipe()
    with pytest.raises(wire.WireError, match="not in the file"):
        wire.Decoder().feed(spilled_frame(0, 5), [reading])
    os.close(writing)


def test_a_sparse_payload_of_any_size_is_not_read() -> None:
    descriptor = os.memfd_create("sparse")
    os.truncate(descriptor, 2**40)
    with pytest.raises(wire.WireError, match="over the limit"):
        wire.Decoder().feed(spilled_frame(0, 2**40), [descriptor])


def test_a_payload_that_names_no_descriptor_of_its_frame_is_refused() -> None:
    descriptor = os.memfd_create("one")
    with pytest.raises(wire.WireError, match="names descriptor 3 of 1"):
        wire.Decoder().feed(spilled_frame(3, 0), [descriptor])


def test_descriptors_of_a_spawn_are_handed_out_once_and_the_rest_is_closed() -> None:
    decoder = wire.Decoder()
    given_away, kept = os.pipe()
    frame = wire.encode(wire.Spawn("w", "worker", -1, -1), [given_away, kept])
    decoder.feed(frame.data, frame.descriptors)
    decoder.feed(b"\0", [os.memfd_create("never asked for")])
    assert [given_away, kept] == decoder.take_descriptors()
    decoder.close()
    os.close(given_away)
    os.close(kept)


if __name__ == "__main__":
    for example in EXAMPLES:
        text = json.dumps(golden(example), indent=1, ensure_ascii=False) + "\n"
        (GOLDEN / f"{type(example).__name__}.json").write_text(text)
