"""Sources elsewhere, through fsspec."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import fsspec

from glowplug.cache.digest import CHUNK_BYTES
from glowplug.cache.errors import CacheError, SourceForbidden, SourceInvalid, SourceNotFound, SourceUnreachable

from .listing import ListedFile, checked_name, select

REMOTE_SCHEMES = frozenset(
    "s3 s3a gs gcs hf http https abfs abfss az adl oci oss ftp sftp ssh hdfs webhdfs github memory".split()
)
"""What goes to fsspec. A list of what is allowed, because many of fsspec's other protocols (``local``, ``dir``,
``zip``, ``simplecache``, ``reference`` …) open local paths or further URLs and so would walk around the file roots."""


def open_remote(url: str) -> tuple[ListedFile, ...]:
    """List a URL through fsspec. Raises ``SourceError`` subclasses; see ``select`` for what is listed."""
    scheme = urlsplit(url).scheme
    if "::" in url:
        raise SourceInvalid(f"{url}: chained URLs are not read")
    with remote_errors(url):
        filesystem, root = fsspec.core.url_to_fs(url)
        if scheme in ("http", "https"):  # a page of links is not a directory
            return select([_remote_file(filesystem, filesystem.info(root), _base(urlsplit(url).path))], url)
        if filesystem.isfile(root):
            return select([_remote_file(filesystem, filesystem.info(root), _base(root))], url)
        below = filesystem.find(root, detail=True)
        prefix = filesystem._strip_protocol(root).rstrip("/") + "/"
        listed = []
        for path, details in below.items():
            if not path.startswith(prefix):
                raise SourceInvalid(f"{url}: the listing names {path!r}, which is not below it")
            listed.append(_remote_file(filesystem, details, path[len(prefix) :]))
    if not listed:
        raise SourceNotFound(f"{url}: nothing there")
    return select(listed, url)


class remote_errors:  # noqa: N801  (used as a with-statement; reads like contextlib's)
    """Turn whatever an fsspec implementation raises in the block into a ``SourceError`` that names ``url``.

    Implementations raise anything: botocore's, aiohttp's and huggingface_hub's own trees share no base below
    ``Exception``, so this one seam catches that.
    """

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        """Raise the mapped error."""
        if error is None or isinstance(error, CacheError) or not isinstance(error, Exception):
            return
        if isinstance(error, FileNotFoundError):
            raise SourceNotFound(f"{self._url}: nothing there") from error
        if isinstance(error, PermissionError):
            raise SourceForbidden(f"{self._url}: access refused: {error}") from error
        if isinstance(error, ImportError):
            raise SourceInvalid(f"{self._url}: {error}") from error
        raise SourceUnreachable(f"{self._url}: {type(error).__name__}: {error}") from error


def _remote_file(filesystem: Any, details: dict[str, Any], name: str) -> ListedFile:
    path = str(details["name"])
    version = details.get("ETag") or details.get("etag") or details.get("sha") or details.get("VersionId") or ""
    size = details.get("size")
    return ListedFile(
        name=checked_name(name),
        size=size if isinstance(size, int) else None,
        version=str(version),
        open=lambda start=0, stop=None: filesystem.open(path, "rb", block_size=CHUNK_BYTES),
    )


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
