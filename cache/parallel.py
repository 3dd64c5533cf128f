"""A large file over several connections at once, digested while it arrives.

Each of the file's ``connections`` threads takes the lowest pieces that nobody has, reads them in large steps and writes
them at their place. One more thread, the follower, reads back the finished front of the file, from the page cache where
it was written a moment ago, and digests it; because the lowest pieces are always taken first the front moves on
steadily, and when the last byte arrives there is little left to digest. Another one, the flusher, has the disk write
what arrived while the rest is still on its way, which leaves little to the fsync of the commit (500 MB: 0.03 s instead
of 0.22 s). Reading, writing, hashing and flushing all release the interpreter's lock, so the threads do run side by
side.

A piece whose connection fails is continued at the byte it had reached. What an earlier process left is digested like
everything else.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from .errors import SourceChanged, SourceUnreachable
from .files import store_errors
from .partial import Partial
from .retry import Backoff, Retries
from .sources.listing import ListedFile
from .streams import BUFFER_BYTES, arriving

FLUSH_BYTES = 64 * 1024 * 1024
"""How much may arrive before the disk is told to begin with it."""

LEAD_BYTES = 32 * 1024 * 1024
"""How far a new piece may begin ahead of the digest, pieces under way aside. Where cores are scarce the threads that
bring would otherwise take them all, and one core would digest for a while at the end with the others idle."""

SPAN_PIECES = 4
"""Most pieces that one of several connections asks for at a time. A request costs a round trip, and some servers far
more (one that reads a whole object for each range of it); shorter spans keep the front of the file together."""

SPANS_EACH = 2
"""Least spans for each connection: one that is slow must not have half of a small file to itself."""

REPORT_S = 0.1
"""Time between two reports."""

_JOIN_S = 1.0  # for threads that bring to see that all is over; one that is blocked in a read stays behind


@dataclass(slots=True)
class _Span:
    """Bytes that one stream brings: from ``at``, which moves on, up to ``stop``."""

    at: int
    stop: int


class ParallelTransfer:
    """Brings the missing pieces of ``partial`` from ``file``. ``where`` names both in messages. Used once.

    ``fetched_bytes`` and ``retries`` count while it runs.
    """

    def __init__(
        self,
        file: ListedFile,
        partial: Partial,
        *,
        where: str,
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._file = file
        self._partial = partial
        self._where = where
        self._backoff = backoff
        self._clock = clock
        span_bytes = _span_pieces(len(partial.missing()), file.connections) * partial.piece_bytes
        self._spans = _plan(partial, span_bytes)
        self._connections = max(1, min(file.connections, len(self._spans)))
        missing = set(partial.missing())
        self._filled = [0 if piece in missing else partial.length(piece) for piece in range(partial.pieces)]
        self._front_piece = 0  # all before it are full
        self._front = 0  # bytes from the start of the file without a hole, as last announced
        self._digested = 0
        # what was left behind is still to be digested too, and must not keep the rest waiting meanwhile
        self._lead = LEAD_BYTES + self._connections * span_bytes + partial.resumed_bytes
        self._moved = threading.Condition()  # the front has; guards everything that threads change
        self._over = threading.Event()
        self._error: BaseException | None = None
        self._digest = ""
        self._bringers: list[threading.Thread] = []
        self.fetched_bytes = 0
        self.retries = 0

    def __repr__(self) -> str:
        return f"ParallelTransfer({self._where}, {self._connections} connections, {self.fetched_bytes} bytes fetched)"

    def run(self, report: Callable[[], None]) -> str:
        """Transfer and return the digest of the whole file. ``report`` is called every ``REPORT_S``, in this thread.

        Raises ``SourceError`` and ``StoreError`` subclasses. Whole pieces stay marked whatever happens.
        """
        self._announce()
        followers = [self._thread(self._follow), self._thread(self._flush)]
        self._bringers = [self._thread(self._bring) for _ in range(self._connections)]
        try:
            while not self._over.wait(REPORT_S):
                report()
        finally:
            self._stop()
            until_s = time.monotonic() + _JOIN_S
            for thread in self._bringers:
                thread.join(max(0.0, until_s - time.monotonic()))
            for thread in followers:
                thread.join()
        if self._error is not None:
            raise self._error
        return self._digest

    @property
    def blocked(self) -> bool:
        """Whether a thread has stayed behind in a read that does not end. Until it does the partial file must not be
        closed: its descriptor's number could become another file's."""
        return any(thread.is_alive() for thread in self._bringers)

    def _thread(self, target: Callable[[], None]) -> threading.Thread:
        thread = threading.Thread(target=self._watched, args=(target,), name=f"{target.__name__} {self._where}")
        thread.daemon = True  # one that is blocked in a read must not keep the process from ending
        thread.start()
        return thread

    def _watched(self, target: Callable[[], None]) -> None:
        try:
            target()
        except BaseException as error:  # raised again by ``run``
            with self._moved:
                self._error = self._error or error
            self._stop()

    def _stop(self) -> None:
        self._over.set()
        with self._moved:
            self._moved.notify_all()

    # --- threads that bring -------------------------------------------------------------------------------------------

    def _bring(self) -> None:
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while (span := self._next_span()) is not None:
            self._bring_span(span, buffer)

    def _next_span(self) -> _Span | None:
        """Take the lowest span once the digest is not too far behind it; None when there is nothing to do any more."""
        with self._moved:
            self._moved.wait_for(
                lambda: self._over.is_set() or not self._spans or self._spans[0].at - self._digested <= self._lead
            )
            return self._spans.popleft() if self._spans and not self._over.is_set() else None

    def _bring_span(self, span: _Span, buffer: memoryview) -> None:
        retries = Retries(self._backoff, sleep=self._over.wait)
        while span.at < span.stop and not self._over.is_set():
            began = span.at
            try:
                self._read_span(span, buffer)
                if span.at < span.stop and not self._over.is_set():
                    raise SourceUnreachable(f"{self._where}: the stream ended at byte {span.at} of {span.stop}")
            except SourceUnreachable as error:
                retries.arrived(span.at - began)
                retries.failed(error)
                with self._moved:
                    self.retries += 1

    def _read_span(self, span: _Span, buffer: memoryview) -> None:
        last = span.stop == self._partial.size
        stop = None if last else span.stop  # to the end, so that a file that is longer than listed is noticed
        stream = arriving(self._file, span.at, stop, buffer=buffer, where=self._where, clock=self._clock)
        with contextlib.closing(stream):
            for chunk in stream:
                if self._over.is_set():
                    return
                wanted = chunk[: span.stop - span.at]
                self._partial.write(wanted, span.at)
                self._arrived(span, len(wanted))
                if len(wanted) < len(chunk):
                    if last:
                        raise SourceChanged(f"{self._where} sends more than the {self._partial.size} bytes listed")
                    return  # a source that takes no end; the next piece has a stream of its own

    def _arrived(self, span: _Span, size: int) -> None:
        full = []
        with self._moved:
            self.fetched_bytes += size
            while size:
                piece = span.at // self._partial.piece_bytes
                taken = min(size, self._partial.length(piece) - self._filled[piece])
                self._filled[piece] += taken
                span.at, size = span.at + taken, size - taken
                if self._filled[piece] == self._partial.length(piece):
                    full.append(piece)
        for piece in full:
            self._partial.mark(piece)
        self._announce()

    def _announce(self) -> None:
        """Wake the threads that follow the front, if it has moved far enough to be worth it."""
        with self._moved:
            pieces, size = self._partial.pieces, self._partial.size
            while self._front_piece < pieces and self._filled[self._front_piece] == self._partial.length(
                self._front_piece
            ):
                self._front_piece += 1
            front = size
            if self._front_piece < pieces:
                front = self._front_piece * self._partial.piece_bytes + self._filled[self._front_piece]
            if front - self._front >= BUFFER_BYTES or front == size:
                self._front = front
                self._moved.notify_all()

    # --- threads that follow ------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        digest, done = hashlib.sha256(), 0
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while done < self._partial.size:
            front = self._wait_for_front(done + 1)
            while done < front and not self._over.is_set():
                size = self._partial.read(buffer[: min(len(buffer), front - done)], done)
                digest.update(buffer[:size])
                done += size
            if self._over.is_set():
                return
            with self._moved:
                self._digested = done
                self._moved.notify_all()
        self._digest = digest.hexdigest()
        self._stop()

    def _flush(self) -> None:
        flushed = 0
        while flushed + FLUSH_BYTES < self._partial.size:
            front = self._wait_for_front(flushed + FLUSH_BYTES)
            if self._over.is_set():
                return
            with store_errors(self._partial.path):
                os.fdatasync(self._partial.descriptor)
            flushed = front

    def _wait_for_front(self, least: int) -> int:
        with self._moved:
            self._moved.wait_for(lambda: self._front >= least or self._over.is_set())
            return self._front


def _span_pieces(missing: int, connections: int) -> int:
    """Return how many pieces at most a connection asks for at a time; one connection alone asks for all."""
    if connections <= 1:
        return max(1, missing)
    return max(1, min(SPAN_PIECES, missing // (SPANS_EACH * connections)))


def _plan(partial: Partial, longest_bytes: int) -> deque[_Span]:
    """Return the spans to bring, lowest first: missing pieces that follow each other, ``longest_bytes`` at most."""
    spans: deque[_Span] = deque()
    for piece in partial.missing():
        start = piece * partial.piece_bytes
        stop = start + partial.length(piece)
        if spans and spans[-1].stop == start and stop - spans[-1].at <= longest_bytes:
            spans[-1].stop = stop
        else:
            spans.append(_Span(start, stop))
    return spans
