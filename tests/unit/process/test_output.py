"""``OutputPipe``: what a child printed, taken at any moment."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator

import pytest

from glowplug.runtime.process.output import MAX_BYTES, OutputPipe


class Pipe:
    """An output pipe and the writing end of it."""

    def __init__(self) -> None:
        reading, self.writing = os.pipe()
        self.woken = 0
        self.output = OutputPipe(reading, self._on_output)

    def _on_output(self) -> None:
        self.woken += 1

    def write(self, data: bytes) -> None:
        assert len(data) == os.write(self.writing, data)


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    made = Pipe()
    yield made
    made.output.close()
    os.close(made.writing)


async def test_take_returns_what_is_in_the_pipe_without_a_turn_of_the_loop(pipe: Pipe) -> None:
    pipe.write(b"one\n")
    pipe.write(b"two\n")
    assert (b"one\ntwo\n", b"") == (pipe.output.take(), pipe.output.take())


async def test_a_writer_never_waits_for_take(pipe: Pipe) -> None:
    text = b"x" * 1000
    for _ in range(200):  # three times what the pipe holds
        await asyncio.to_thread(pipe.write, text)
    assert text * 200 == pipe.output.take()
    assert pipe.woken > 0


async def test_nothing_is_read_of_a_silent_child(pipe: Pipe) -> None:
    await asyncio.sleep(0.01)
    assert (b"", 0) == (pipe.output.take(), pipe.woken)


async def test_output_over_the_bound_is_cut_and_says_so(pipe: Pipe) -> None:
    for _ in range(MAX_BYTES // 1024 + 50):
        await asyncio.to_thread(pipe.write, b"x" * 1024)
    taken = pipe.output.take()
    assert (b"x" * MAX_BYTES + b"\n[truncated]\n") == taken
    pipe.write(b"next call\n")
    assert pipe.output.take() == b"next call\n"


async def test_what_was_left_is_there_after_close(pipe: Pipe) -> None:
    pipe.write(b"last words\n")
    pipe.output.close()
    assert pipe.output.take() == b"last words\n"


async def test_a_child_that_closes_its_output_is_not_read_again() -> None:
    reading, writing = os.pipe()
    output = OutputPipe(reading)
    os.write(writing, b"bye\n")
    os.close(writing)
    await asyncio.sleep(0.01)
    assert output.take() == b"bye\n"
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(reading)
    output.close()
