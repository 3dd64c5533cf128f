"""Model sources: what is at a URL, as a list of files that can be read.

    package://<name>/<path>    files shipped inside an installed Python package; ``<name>`` is a top-level module or a
                               distribution. Located through its metadata: the package is never imported (``local.py``)
    file:///<path>             below one of the file roots only (``local.py``)
    s3://<bucket>/<key>        an object or a prefix, with the usual AWS settings (``s3.py``)
    hf://<org>/<name>/<path>   the Hugging Face Hub, pinned to a commit (``hub.py``)
    https://<host>/<path>      one file (``web.py``)
    gs://, abfs://, …          through fsspec (``filesystem.py``)

A URL names a single file, or a directory: then everything below it, in order of name, except hidden files, byte code,
and pickled weights that have safetensors beside them. Pickled weights alone are refused: reading them runs code that
the file brings along. A URL of a ``model.safetensors.index.json`` means the index and the shards that it names.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

from glowplug.cache.errors import SourceInvalid

from .listing import ListedFile
from .local import open_file, open_package

KNOWN_SCHEMES = (
    *("package", "file", "s3", "s3a", "hf", "http", "https"),
    *("abfs", "abfss", "adl", "az", "ftp", "gcs", "github", "gs", "hdfs", "oci", "oss", "sftp", "ssh", "webhdfs"),
)
"""What a source's URL may begin with."""


def open_source(url: str, *, file_roots: Sequence[Path] = ()) -> tuple[ListedFile, ...]:
    """Return the files at a source URL (see the module's docstring).

    Raises ``SourceInvalid`` (no such scheme, unsafe names), ``SourceForbidden`` (outside ``file_roots``, access
    refused), ``SourceNotFound``, ``SourceUnreachable``, ``SourceChanged`` (between two questions), ``PickledWeights``.
    """
    scheme = _scheme(url)
    if scheme == "package":
        return open_package(url)
    if scheme == "file":
        return open_file(url, file_roots)
    opener = _remote_opener(scheme)
    if opener is None:
        raise SourceInvalid(
            f"{url}: {scheme or 'no scheme'}: not a source that can be read; known: {', '.join(sorted(KNOWN_SCHEMES))}"
        )
    return opener(url)


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError as error:
        raise SourceInvalid(f"{url}: {error}") from error


def _remote_opener(scheme: str) -> Callable[[str], tuple[ListedFile, ...]] | None:
    """Return what reads ``scheme``. Imported late: urllib3, boto3 and fsspec cost 0.1 s and more, and most starts read
    local files or nothing at all."""
    if scheme in ("s3", "s3a"):
        from .s3 import open_s3

        return open_s3
    if scheme in ("http", "https"):
        from .web import open_web

        return open_web
    if scheme == "hf":
        from .hub import open_hub

        return open_hub
    from .filesystem import REMOTE_SCHEMES, open_remote

    return open_remote if scheme in REMOTE_SCHEMES else None
