"""Streams of real workers: windows, cancellation, what the next call finds, what a fork in a generator does."""

from __future__ import annotations

import json
from typing import Any

import pytest

from glowplug.runtime.process import wire

WORDS = """
import os
def handler(event, context):
    try:
        for word in event:
            yield word
    finally:
        print("finally", flush=True)
"""

ASYNC_WORDS = """
import asyncio
lock = asyncio.Lock()
async def handler(event, context):
    try:
        async with lock:
            for word in event:
                await asyncio.sleep(0)
                yield word
    finally:
        print("finally", flush=True)
"""


def begun(worker: Any, programs: Any, event: object, window_bytes: int, request_id: str = "r-1") -> None:
    worker.data.send(programs.invoke_frame(json.dumps(event), request_id, window_bytes=window_bytes))


def received(worker: Any) -> tuple[list[bytes], wire.Outcome]:
    """Return the chunks up to the outcome."""
    chunks = []
    while isinstance(message := worker.data.receive(), wire.Chunk):
        chunks.append(message.data)
    assert isinstance(message, wire.Outcome), message
    return chunks, message


@pytest.fixture(params=[WORDS, ASYNC_WORDS], ids=["generator", "asynchronous"])
def worker(request: pytest.FixtureRequest, worker_of: Any) -> Any:
    return worker_of(request.param)


def test_call_after_call_streams(worker: Any, programs: Any) -> None:
    """An asynchronous one in the same event loop: the module's lock belongs to it."""
    for number in range(3):
        begun(worker, programs, ["a", "b", f"{number}"], 100)
        chunks, outcome = received(worker)
        assert (chunks, outcome.results, outcome.failed) == ([b"a", b"b", b"%d" % number], [], False)
    assert worker.result('["a", "b"]') == '"ab"', "and answers whole where that is asked for"
    assert worker.log() == "finally\n" * 4


def test_a_worker_waits_where_its_window_is_full_and_goes_on_with_credit(worker: Any, programs: Any) -> None:
    begun(worker, programs, ["abc", "def"], 4)
    assert [b"abc", b"d"] == [worker.data.receive().data for _ in range(2)]
    worker.data.send(wire.Credit("r-1", 1))
    assert worker.data.receive().data == b"e"
    worker.data.send(wire.Credit("r-1", 100))
    chunks, outcome = received(worker)
    assert (chunks, outcome.failed) == ([b"f"], False)


def test_a_cancelled_stream_ends_and_the_worker_serves_on(worker: Any, programs: Any) -> None:
    begun(worker, programs, ["abc", "def", "ghi"], 4)
    assert [b"abc", b"d"] == [worker.data.receive().data for _ in range(2)]
    worker.data.send(wire.Cancel("r-1"))
    chunks, outcome = received(worker)
    assert (chunks, outcome.results, outcome.failed) == ([], [], False)
    assert worker.log() == "finally\n"
    for late in (wire.Cancel("r-1"), wire.Credit("r-1", 5)):  # they crossed the outcome
        worker.data.send(late)
    begun(worker, programs, ["a"], 4, "r-2")
    assert received(worker)[0] == [b"a"]


def test_the_end_of_the_node_ends_a_worker_that_waits_for_credit(worker: Any, programs: Any) -> None:
    begun(worker, programs, ["abc", "def"], 4)
    worker.data.receive()
    worker.data.close()
    assert programs.wait_gone(worker.pid)


def test_a_child_that_comes_out_of_a_generator_sends_nothing(worker_of: Any, programs: Any) -> None:
    worker = worker_of(
        "import os\n"
        "def handler(event, context):\n"
        "    yield 'a'\n"
        "    child = os.fork()\n"
        "    if child:\n"
        "        os.waitpid(child, 0)\n"
        "    yield 'b'\n"
    )
    begun(worker, programs, {}, 100)
    assert received(worker)[0] == [b"a", b"b"]


@pytest.mark.parametrize(
    ("body", "error_type"),
    [
        ("    yield 'a'\n    raise ValueError('boom')\n", "ValueError"),
        ("    yield 'a'\n    yield object()\n", "Runtime.MarshalError"),
        ("    yield 'a'\n    raise StopIteration\n", "RuntimeError"),
    ],
)
@pytest.mark.parametrize("word", ["def", "async def"])
def test_what_goes_wrong_after_a_chunk_is_an_error_with_the_authors_frames(
    worker_of: Any, programs: Any, word: str, body: str, error_type: str
) -> None:
    worker = worker_of(f"{word} handler(event, context):\n{body}")
    begun(worker, programs, {}, 100)
    chunks, outcome = received(worker)
    error = json.loads(outcome.results[0])
    assert (chunks, outcome.failed, outcome.error_type, error["errorType"]) == ([b"a"], True, error_type, error_type)
    assert not any("asyncio" in line or "glowplug" in line for line in error["stackTrace"])


@pytest.mark.parametrize("word", ["def", "async def"])
def test_a_handler_that_ends_the_process_in_its_stream_ends_it(worker_of: Any, programs: Any, word: str) -> None:
    worker = worker_of(f"import sys\n{word} handler(event, context):\n    yield 'a'\n    sys.exit(3)\n")
    begun(worker, programs, {}, 100)
    assert worker.data.receive().data == b"a"
    with pytest.raises(EOFError):
        worker.data.receive()
    assert programs.wait_gone(worker.pid)


def test_an_iterator_that_a_handler_returns_is_a_stream_like_a_file(worker_of: Any, programs: Any) -> None:
    worker = worker_of("def handler(event, context):\n    return open(__file__, 'rb')\n")
    begun(worker, programs, {}, 1000)
    assert received(worker)[0] == [b"def handler(event, context):\n", b"    return open(__file__, 'rb')\n"]


def test_the_event_loop_of_asynchronous_handlers_is_imported_before_the_fork_and_no_obstacle(programs: Any) -> None:
    zygote = programs.function_zygote(ASYNC_WORDS)
    assert (zygote.loaded.obstacle, zygote.loaded.shadowed) == ("", False)
    source = "def handler(event, context):\n    import sys\n    yield str('asyncio' in sys.modules)\n"
    plain = programs.function_zygote(source).worker()
    assert plain.result() == '"False"', "who does not need it does not pay for it"
