"""Runs a batch job: pieces of the inputs to the node, several at a time, their results to the job's file in order.

The node is sent a piece again when it was killed meanwhile: what of it was accepted has its results, by its key.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from glowplug.runtime.errors import InternalError, StateError

from .client import NodeClient
from .errors import NodeUnreachable
from .jobfile import JobFile
from .jobinputs import Input

PIECE_LINES = 64
_PIECE_BYTES = 4 * 1024 * 1024  # the node takes 6 MiB
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 5.0


@dataclass(frozen=True, slots=True)
class Order:
    """What to run: ``patience_s`` is how long a node may not answer before the job is left for later."""

    function: str
    concurrency: int
    retries: int | None
    max_errors: int | None
    patience_s: float = 60.0

    def query(self, first: int) -> dict[str, str]:
        """Return the parameters of a piece."""
        name, _, qualifier = self.function.partition(":")
        query = {"function": name, "first": str(first), "concurrency": str(self.concurrency)}
        if qualifier:
            query["qualifier"] = qualifier
        return query if self.retries is None else query | {"retries": str(self.retries)}


@dataclass(slots=True)
class _Piece:
    first: int
    lines: list[bytes]
    results: queue.Queue[dict[str, Any] | BaseException] = field(default_factory=queue.Queue)


def run(
    order: Order,
    job: JobFile,
    inputs: Sequence[Input],
    connect: Callable[[], NodeClient],
    on_progress: Callable[[int, int, int], None],
) -> bool:
    """Run what is left of a job; return whether that is all of it, and not one error too many.

    ``connect`` finds the node, anew after it did not answer; ``on_progress`` hears of bytes, lines and errors. Raises
    what the node refuses, and ``NodeUnreachable`` when it did not answer for too long.
    """
    pieces = _pieces(inputs, job.done)
    out: deque[_Piece] = deque()
    done_bytes = sum(one.size for one in inputs) - sum(len(line) + 1 for line in _lines(inputs, job.done))
    wide = max(2, 1 + -(-2 * order.concurrency // PIECE_LINES))
    while True:
        while len(out) < wide and (piece := next(pieces, None)) is not None:
            threading.Thread(target=_send, args=(order, job.id, piece, connect), daemon=True).start()
            out.append(piece)
        if not out:
            return True
        piece = out.popleft()
        for line in piece.lines:
            result = piece.results.get()
            if isinstance(result, BaseException):
                raise result
            job.write(result)
            done_bytes += len(line) + 1
            on_progress(done_bytes, job.done, job.errors)
            if order.max_errors is not None and job.errors > order.max_errors:
                return False


def _lines(inputs: Sequence[Input], skipped: int) -> Iterator[bytes]:
    number = 0
    for one in inputs:
        for line in one.lines():
            if number >= skipped:
                yield line
            number += 1


def _pieces(inputs: Sequence[Input], skipped: int) -> Iterator[_Piece]:
    piece, size = _Piece(skipped, []), 0
    for line in _lines(inputs, skipped):
        if piece.lines and (len(piece.lines) == PIECE_LINES or size + len(line) > _PIECE_BYTES):
            yield piece
            piece, size = _Piece(piece.first + len(piece.lines), []), 0
        piece.lines.append(line)
        size += len(line) + 1
    if piece.lines:
        yield piece


def _send(order: Order, job: str, piece: _Piece, connect: Callable[[], NodeClient]) -> None:
    """In a thread: put the results of a piece, in order, or what went wrong."""
    if len(piece.lines) == 1 and len(piece.lines[0]) > _PIECE_BYTES:
        problem = f"the line has {len(piece.lines[0])} bytes; no event is as large"
        error = {"errorType": "RequestTooLarge", "errorMessage": problem}
        piece.results.put({"index": piece.first, "error": error})
        return
    sent, pause_s, last_s = 0, _FIRST_PAUSE_S, time.monotonic()
    while sent < len(piece.lines):
        body = b"".join(line + b"\n" for line in piece.lines[sent:])
        try:
            for result in connect().run_piece(job, order.query(piece.first + sent), body):
                piece.results.put(_checked(result, piece.first + sent))
                sent += 1
                pause_s, last_s = _FIRST_PAUSE_S, time.monotonic()
        except (NodeUnreachable, StateError, InternalError) as error:  # it is down, starts, or its disk is full
            if time.monotonic() - last_s > order.patience_s:
                piece.results.put(error)
                return
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        except BaseException as error:  # whatever it is, the main thread raises it
            piece.results.put(error)
            return


def _checked(result: Mapping[str, Any], index: int) -> dict[str, Any]:
    if result.get("index") != index:
        raise NodeUnreachable(f"the node answered for line {result.get('index')} in place of {index}")
    return dict(result)
