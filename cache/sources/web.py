"""Files on web servers: ``http://`` and ``https://``, read in ranges where the server can.

A URL names one file (a page of links is no directory), or the index of a sharded checkpoint with its shards beside it.

What keeps a file from changing half way: a strong ETag goes along as ``If-Match``, else ``Last-Modified`` as
``If-Unmodified-Since`` (RFC 9110, 13.1), and the answer's own validator, range and length are compared as well, because
many servers ignore conditions. A weak ETag (``W/"…"``) promises the same meaning, not the same bytes: such a file has
no version and is never put together from ranges. Nor is one without any validator.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO, cast
from urllib.parse import quote, unquote, urljoin

from glowplug.cache.errors import SourceChanged, SourceError, SourceInvalid

from .agent import Agent, Answer, checked_url, status_error, transport_error
from .listing import ListedFile, checked_name
from .shards import one_file
from .stream import SourceStream, check_content_range

CONNECTIONS = 4
"""Streams at once of one file. More is rude to a server that others use too, and gains little."""

_NO_HEAD = frozenset({403, 405, 501})
"""What servers answer that do not do HEAD; 403 is S3's for a URL that is signed for GET."""


@dataclass(frozen=True, slots=True)
class _Validator:
    """How a file is told from its next version: one of the two, or none."""

    etag: str = ""
    modified: str = ""

    @classmethod
    def of(cls, answer: Answer) -> _Validator:
        etag = answer.header("etag")
        if etag:
            return cls(etag="" if etag.startswith("W/") else etag)
        return cls(modified=answer.header("last-modified"))

    @property
    def condition(self) -> dict[str, str]:
        if self.etag:
            return {"If-Match": self.etag}
        return {"If-Unmodified-Since": self.modified} if self.modified else {}


_NO_VALIDATOR = _Validator()


def open_web(url: str) -> tuple[ListedFile, ...]:
    """List an http(s) URL. Raises ``SourceError`` subclasses."""
    parts = checked_url(url)
    name = checked_name(unquote(parts.path.rpartition("/")[2]) or "/", url)
    agent = Agent(url, connections=CONNECTIONS)

    def beside(shard: str) -> ListedFile:
        return _listed(agent, urljoin(url, quote(shard)), shard)

    return one_file(_listed(agent, url, name), beside, url)


def _listed(agent: Agent, url: str, name: str) -> ListedFile:
    """Ask a server what it has at ``url``: by HEAD, and by a GET of one byte where HEAD leaves something open."""
    answer = agent.ask("HEAD", url, url)
    status, length = answer.response.status, answer.header("content-length")
    answer.close()
    if status != 200 and status not in _NO_HEAD:
        raise status_error(url, status, answer.response.headers)
    size, ranges = _length(length), answer.header("accept-ranges").lower()
    if status != 200 or size is None or ranges not in ("bytes", "none"):
        answer, size, ranges = _probe(agent, url)
    validator = _Validator.of(answer)
    version = validator.etag or (f"{validator.modified} {size}" if validator.modified else "")
    ranged = ranges == "bytes" and size is not None and bool(version)
    file = WebFile(agent, url, url, size=size, ranged=ranged, final=answer.url, validator=validator)
    return ListedFile(name, size, version, file.open, ranged=ranged, connections=CONNECTIONS if ranged else 1)


def _probe(agent: Agent, url: str) -> tuple[Answer, int | None, str]:
    answer = agent.ask("GET", url, url, {"Range": "bytes=0-0"})
    status, said = answer.response.status, answer.header("content-range")
    answer.close()
    complete = said.rpartition("/")[2]
    if status == 206 and said.startswith("bytes 0-0/"):
        return answer, _length(complete), "bytes"
    if status == 416 and complete == "0":  # an empty file has no first byte
        return answer, 0, "none"
    if status != 200:
        raise status_error(url, status, answer.response.headers)
    return answer, _length(answer.header("content-length")), "none"


def _length(text: str) -> int | None:
    """A size in a header; None for what is no number, or none of a file's: int() refuses 5,000 digits."""
    return int(text) if re.fullmatch("[0-9]{1,18}", text) else None


class WebFile:
    """One file on a web server, of a known version.

    ``final`` is where redirects ended: ranges go there directly. Such a target may be signed and expire, so when it
    refuses, the URL itself is asked once more.
    """

    def __init__(
        self,
        agent: Agent,
        url: str,
        label: str,
        *,
        size: int | None,
        ranged: bool,
        final: str = "",
        validator: _Validator = _NO_VALIDATOR,
    ) -> None:
        self._agent = agent
        self._url = url
        self._label = label
        self._size = size
        self._ranged = ranged
        self._final = final or url
        self._validator = validator

    def open(self, start: int = 0, stop: int | None = None) -> BinaryIO:
        """Open bytes ``start`` to ``stop``; an ``Opener``. Raises ``SourceError`` subclasses."""
        end = self._size if stop is None else stop if self._size is None else min(stop, self._size)
        length = None if end is None else max(0, end - start)
        if length == 0:
            return io.BytesIO()
        part = (start, end) if self._ranged and end is not None and (start, end) != (0, self._size) else None
        if start and part is None:
            raise SourceInvalid(f"{self._label}: not read in ranges, and byte {start} was asked for")
        wanted = {"Range": f"bytes={part[0]}-{part[1] - 1}"} if part else {}
        answer = self._ask({**self._validator.condition, **wanted})
        try:
            self._check(answer, part)
        except SourceError:
            answer.close()
            raise
        return cast("BinaryIO", SourceStream(answer.response, length=length, label=self._label, mapped=self._mapped))

    def _ask(self, headers: Mapping[str, str]) -> Answer:
        answer = self._agent.ask("GET", self._final, self._label, headers)
        if self._final != self._url and answer.response.status in (400, 401, 403, 404, 410):
            answer.close()
            answer = self._agent.ask("GET", self._url, self._label, headers)
        self._final = answer.url
        return answer

    def _check(self, answer: Answer, part: tuple[int, int] | None) -> None:
        status, length = answer.response.status, answer.header("content-length")
        if part and status == 200:
            raise SourceChanged(f"{self._label}: does not do ranges: the whole file in answer to a part of it")
        if status != (206 if part else 200):
            raise status_error(self._label, status, answer.response.headers)
        if part:
            check_content_range(self._label, answer.header("content-range"), *part, self._size)
        elif self._size is not None and length and length != str(self._size):
            raise SourceChanged(f"{self._label}: {length} bytes, {self._size} when it was listed")
        now = _Validator.of(answer)
        if self._validator.condition and now != self._validator:
            was, found = self._validator.condition, now.condition or "nothing"
            raise SourceChanged(f"{self._label}: changed since it was listed: {was} then, {found} now")

    def _mapped(self, error: Exception) -> SourceError:
        return transport_error(self._label, error)
