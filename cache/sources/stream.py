"""What every ``Opener`` returns: a stream that gives no more than was asked for and raises ``SourceError`` only."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Iterator
from typing import Any, Protocol

from glowplug.cache.errors import CacheError, SourceChanged, SourceError, SourceInvalid

MAX_UNSIZED_BYTES = 1024**3
"""How much is read of a file whose size nobody states: without a bound an answer that never ends fills the disk."""

_CONTENT_RANGE = re.compile(r"bytes ([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)")


class Body(Protocol):
    """What urllib3's answers, fsspec's and local files have in common."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most ``size`` bytes, none at the end."""

    def close(self) -> object:
        """Let go of the connection."""


@contextlib.contextmanager
def source_errors(mapped: Callable[[Exception], SourceError]) -> Iterator[None]:
    """Raise whatever a library raises in the block as the ``SourceError`` that ``mapped`` makes of it.

    It catches ``Exception``: the trees of botocore, urllib3, huggingface_hub and of fsspec's implementations share no
    base below that. Errors that are the cache's already pass through.
    """
    try:
        yield
    except CacheError:
        raise
    except Exception as error:
        raise mapped(error) from error


class SourceStream(io.RawIOBase):
    """Bytes of one file, from where it was opened. Raw: a read returns what has arrived, and so may be short.

    ``length`` is how many there have to be: what a body has beyond that is not read; None where the size is unknown.
    ``mapped`` turns whatever the body raises into the ``SourceError`` to raise. ``ended`` is called once all bytes
    are there and before the last are handed out: it looks whether the file is still the one that was opened, and
    raises ``SourceChanged``. A body that ends early ends this stream early; the caller knows the size and notices.
    """

    def __init__(
        self,
        body: Body,
        *,
        length: int | None,
        label: str,
        mapped: Callable[[Exception], SourceError],
        ended: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__()
        self._body = body
        # read1 where there is one: read waits for all that was asked for, and would hide that a server only drips
        self._read: Callable[[int], bytes | None] = getattr(body, "read1", body.read)
        self._left = MAX_UNSIZED_BYTES if length is None else length
        self._sized = length is not None
        self._label = label
        self._mapped = mapped
        self._ended = ended
        if length == 0:
            ended()

    def readable(self) -> bool:
        """Return True."""
        return True

    def read(self, size: int = -1, /) -> bytes:
        """Return at most ``size`` bytes, all that are left when it is negative. Raises ``SourceError`` subclasses."""
        if size is None or size < 0:
            return self.readall()
        wanted = min(size, self._left)
        if not wanted:
            return b""
        with source_errors(self._mapped):
            chunk = self._read(wanted) or b""
        self._count(len(chunk))
        return chunk

    def readinto(self, buffer: Any, /) -> int:
        """Fill the start of ``buffer`` and return how many bytes it was. Raises ``SourceError`` subclasses."""
        view = memoryview(buffer).cast("B")[: self._left]
        if not view:
            return 0
        into = None if hasattr(self._body, "read1") else getattr(self._body, "readinto", None)
        with source_errors(self._mapped):
            if into is not None:
                count = int(into(view) or 0)
            else:
                chunk = self._read(len(view)) or b""
                count = len(chunk)
                view[:count] = chunk
        self._count(count)
        return count

    def fileno(self) -> int:
        """Return the descriptor of a local file, so that who may can map it in place. Raises
        ``io.UnsupportedOperation`` for a body that has none of its own."""
        descriptor = getattr(self._body, "fileno", None)
        if descriptor is None:
            raise io.UnsupportedOperation(f"{self._label}: has no descriptor")
        return int(descriptor())

    def close(self) -> None:
        """Close the body; a connection that has more to say is dropped."""
        if not self.closed:
            self._body.close()
        super().close()

    def _count(self, count: int) -> None:
        self._left -= count
        at_end = count and not self._left if self._sized else not count
        if at_end:
            self._ended()
        if not self._sized and not self._left:
            raise SourceInvalid(f"{self._label}: states no size and goes on after {MAX_UNSIZED_BYTES} bytes")


def check_content_range(label: str, header: str | None, start: int, stop: int, size: int | None) -> None:
    """Raise ``SourceChanged`` unless a ``Content-Range`` says what was asked: bytes ``start`` to ``stop`` of ``size``.

    RFC 9110, 14.4: ``bytes first-last/complete`` with ``last`` included and ``*`` for a length that is not known.
    """
    said = _CONTENT_RANGE.fullmatch(header or "")
    if said is None:
        raise SourceChanged(f"{label}: asked for bytes {start} to {stop}, got a range of {header!r}")
    first, last, complete = int(said[1]), int(said[2]), said[3]
    if (first, last + 1) != (start, stop) or (size is not None and complete not in ("*", str(size))):
        raise SourceChanged(f"{label}: asked for bytes {start} to {stop} of {size}, got {header!r}")
