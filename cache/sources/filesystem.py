"""Sources elsewhere, through fsspec: Google and Azure storage, FTP, SSH, HDFS and others.

Its file systems know no conditional reads, so whether a file is still the listed one is asked again after its last
byte: from the same listing that gave its version.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import fsspec

from glowplug.cache.digest import CHUNK_BYTES
from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)

from .listing import ListedFile, checked_name, select
from .shards import one_file
from .stream import SourceStream, source_errors

REMOTE_SCHEMES = frozenset("gs gcs abfs abfss az adl oci oss ftp sftp ssh hdfs webhdfs github memory".split())
"""What goes to fsspec. A list of what is allowed, because many of fsspec's other protocols (``local``, ``dir``,
``zip``, ``simplecache``, ``reference`` …) open local paths or further URLs and so would walk around the file roots."""

_PARALLEL = dict.fromkeys(("gs", "gcs", "abfs", "abfss", "az", "adl"), 4)
"""Object stores that serve several ranges of one object at once, to file systems whose files are independent."""

_VERSIONS = "ETag etag sha VersionId version_id generation md5Hash mtime LastModified last_modified modify".split()
"""Where implementations put what changes with a file's content; the first that is there counts, with the size."""


def open_remote(url: str) -> tuple[ListedFile, ...]:
    """List a URL through fsspec. Raises ``SourceError`` subclasses; see ``select`` for what is listed."""
    if "::" in url:
        raise SourceInvalid(f"{url}: chained URLs are not read")
    with remote_errors(url):
        filesystem, root = fsspec.core.url_to_fs(url)
        if filesystem.isfile(root):
            parent, _, name = root.rstrip("/").rpartition("/")

            def beside(shard: str) -> ListedFile:
                with remote_errors(f"{url}: {shard}"):
                    return _remote_file(url, filesystem, filesystem.info(f"{parent}/{shard}"), shard)

            return one_file(_remote_file(url, filesystem, filesystem.info(root), name), beside, url)
        below = filesystem.find(root, detail=True)
        prefix = filesystem._strip_protocol(root).rstrip("/") + "/"
        listed = []
        for path, details in below.items():
            if not path.startswith(prefix):
                raise SourceInvalid(f"{url}: the listing names {path!r}, which is not below it")
            listed.append(_remote_file(url, filesystem, details, path[len(prefix) :]))
    return select(listed, url)


def remote_errors(url: str) -> AbstractContextManager[None]:
    """Turn whatever an fsspec implementation raises in the block into a ``SourceError`` that names ``url``."""
    return source_errors(lambda error: _mapped(url, error))


def _mapped(url: str, error: Exception) -> SourceError:
    if isinstance(error, FileNotFoundError):
        return SourceNotFound(f"{url}: nothing there")
    if isinstance(error, PermissionError):
        return SourceForbidden(f"{url}: access refused: {error}")
    if isinstance(error, ImportError):
        return SourceInvalid(f"{url}: {error}")
    return SourceUnreachable(f"{url}: {type(error).__name__}: {error}")


def _remote_file(url: str, filesystem: Any, details: dict[str, Any], name: str) -> ListedFile:
    path, label = str(details["name"]), f"{url}: {checked_name(name, url)}"
    size, version = _size(details), _version(details)

    def unchanged() -> None:
        with remote_errors(label):
            filesystem.invalidate_cache()  # else many answer from the listing that we are checking
            now = filesystem.info(path)
        if (_size(now), _version(now)) != (size, version):
            raise SourceChanged(f"{label}: changed while it was read: {version or size} before, {_version(now)} after")

    def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
        end = size if stop is None else stop if size is None else min(stop, size)
        length = None if end is None else max(0, end - start)
        with remote_errors(label):
            body = filesystem.open(path, "rb", block_size=CHUNK_BYTES)
            if start:
                body.seek(start)
        last = end == size
        stream = SourceStream(
            body,
            length=length,
            label=label,
            mapped=lambda error: _mapped(label, error),
            ended=unchanged if last else lambda: None,
        )
        return cast("BinaryIO", stream)

    connections = _PARALLEL.get(urlsplit(url).scheme, 1)
    return ListedFile(name, size, version, opener, ranged=bool(version), connections=connections if version else 1)


def _size(details: dict[str, Any]) -> int | None:
    size = details.get("size")
    return size if isinstance(size, int) else None


def _version(details: dict[str, Any]) -> str:
    for key in _VERSIONS:
        if details.get(key):
            return f"{details[key]} {_size(details)}"
    return ""
