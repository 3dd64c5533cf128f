"""From a listed file to a blob.

A file is brought in pieces (``parallel.py``, ``partial.py``) when it is large, can be read from any byte, and something
tells its bytes from those of another version. Then it may come over several connections and survives the death of this
process. Everything else comes as one stream into an anonymous partial file, and begins again at its first byte when the
stream breaks.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass

from .errors import DigestMismatch, SourceChanged, SourceUnreachable
from .parallel import ParallelTransfer
from .partial import PIECE_BYTES, Partial, Partials
from .retry import Backoff, Retries
from .sources.listing import ListedFile
from .store import Blob, BlobStore
from .streams import BUFFER_BYTES, arriving

ROOM_BYTES = 64 * 1024 * 1024
"""How much of a file of unknown size arrives between two looks at the room that is left for as much again."""

Report = Callable[[int, int], None]
"""Called with (bytes of the file that are there, bytes that came over the network for it)."""


@dataclass(frozen=True, slots=True)
class Transferred:
    """A file that has become ``blob``: what came over the network, what an earlier process had left, and how often a
    stream had to be opened again."""

    blob: Blob
    fetched_bytes: int
    resumed_bytes: int
    retries: int


class Transfer:
    """Transfers files of one URL. Whoever uses it holds the URL's lock.

    ``room`` is asked for so many more bytes now and then while a file of unknown size arrives; it raises ``StoreFull``
    when they do not fit.
    """

    def __init__(
        self,
        url: str,
        store: BlobStore,
        *,
        room: Callable[[int], None],
        backoff: Backoff,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self._url = url
        self._store = store
        self._room = room
        self._backoff = backoff
        self._clock = clock
        self._sleep = sleep
        self.partials = Partials(store, url)

    def __repr__(self) -> str:
        return f"Transfer({self._url!r}, {self._store!r})"

    def bring(self, file: ListedFile, key: str | None, *, expected: str, report: Report) -> Transferred:
        """Make ``file`` a blob. ``key`` is its key among the partial files, ``expected`` the digest that it has to
        have, empty if nobody knows.

        Raises ``DigestMismatch`` with both digests, ``SourceError`` and ``StoreError`` subclasses.
        """
        if key is not None and file.ranged and file.size is not None and file.size > PIECE_BYTES:
            done = self._bring_pieces(file, key, file.size, expected, report)
        else:
            done = self._bring_whole(file, expected, report)
        if key is not None:
            self.partials.finish(key, done.blob)
        return done

    def _where(self, file: ListedFile) -> str:
        return f"{self._url}: {file.name}"

    def _bring_pieces(self, file: ListedFile, key: str, size: int, expected: str, report: Report) -> Transferred:
        done = self._try_pieces(file, self.partials.open(key, size, piece_bytes=PIECE_BYTES), expected, report)
        if isinstance(done, Transferred):
            return done
        # What an earlier process left may have been damaged since. It is gone now, and only a second transfer, all from
        # the source, can tell that from a source whose bytes are wrong.
        again = self._try_pieces(file, self.partials.open(key, size, piece_bytes=PIECE_BYTES), expected, report)
        if isinstance(again, Transferred):
            return Transferred(again.blob, done.fetched_bytes + again.fetched_bytes, 0, done.retries + again.retries)
        raise again.error

    def _try_pieces(self, file: ListedFile, partial: Partial, expected: str, report: Report) -> Transferred | _Spoilt:
        moving = ParallelTransfer(file, partial, where=self._where(file), backoff=self._backoff, clock=self._clock)
        resumed = partial.resumed_bytes
        try:
            sha256 = moving.run(lambda: report(resumed + moving.fetched_bytes, moving.fetched_bytes))
            if expected and sha256 != expected:
                partial.discard()
                error = DigestMismatch(f"expected sha256 {expected}, got {sha256}")
                if not resumed:
                    raise error
                return _Spoilt(error, moving.fetched_bytes, moving.retries)
            return Transferred(partial.commit(sha256), moving.fetched_bytes, resumed, moving.retries)
        finally:
            if not moving.blocked:
                partial.close()

    def _bring_whole(self, file: ListedFile, expected: str, report: Report) -> Transferred:
        retries, fetched = Retries(self._backoff, sleep=self._sleep), 0
        buffer = memoryview(bytearray(BUFFER_BYTES))
        while True:
            with self._store.writing() as writer:
                try:
                    stream = arriving(file, 0, None, buffer=buffer, where=self._where(file), clock=self._clock)
                    with contextlib.closing(stream):
                        for chunk in stream:
                            writer.write(chunk)
                            fetched += len(chunk)
                            self._check_size(file, writer.size, len(chunk))
                            report(writer.size, fetched)
                    if file.size is not None and writer.size < file.size:
                        raise SourceUnreachable(f"{self._where(file)}: expected {file.size} bytes, got {writer.size}")
                    return Transferred(writer.commit(expected=expected), fetched, 0, retries.total)
                except SourceUnreachable as error:
                    failure = error
            retries.failed(failure)  # outside the block: nothing half written lies about while this waits

    def _check_size(self, file: ListedFile, size: int, step: int) -> None:
        if file.size is None:
            if size // ROOM_BYTES > (size - step) // ROOM_BYTES:
                self._room(ROOM_BYTES)
        elif size > file.size:
            raise SourceChanged(f"{self._where(file)} sends more than the {file.size} bytes listed")


@dataclass(frozen=True, slots=True)
class _Spoilt:
    """A transfer that went on from an earlier process's pieces and ended in another digest."""

    error: DigestMismatch
    fetched_bytes: int
    retries: int
