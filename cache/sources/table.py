"""Model sources: what is at a URL, as a list of files that can be read.

    package://<name>/<path>   files shipped inside an installed Python package; ``<name>`` is a top-level module or a
                              distribution. Located through its metadata: the package is never imported (``local.py``)
    file:///<path>            below one of the file roots only (``local.py``)
    s3://, hf://, gs://, …    through fsspec (``filesystem.py``)

A URL names a single file, or a directory: then everything below it, in order of name, except hidden files, byte code,
and pickled weights that have safetensors beside them. Pickled weights alone are refused: reading them runs code that
the file brings along.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from urllib.parse import urlsplit

from glowplug.cache.errors import SourceInvalid

from .filesystem import REMOTE_SCHEMES, open_remote
from .listing import ListedFile
from .local import open_file, open_package


def open_source(url: str, *, file_roots: Sequence[Path] = ()) -> tuple[ListedFile, ...]:
    """Return the files at a source URL (see the module's docstring).

    Raises ``SourceInvalid`` (no such scheme, unsafe names), ``SourceForbidden`` (outside ``file_roots``),
    ``SourceNotFound``, ``SourceUnreachable``, ``PickledWeights``.
    """
    scheme = urlsplit(url).scheme
    if scheme == "package":
        return open_package(url)
    if scheme == "file":
        return open_file(url, file_roots)
    if scheme in REMOTE_SCHEMES:
        return open_remote(url)
    known = ", ".join(sorted({"package", "file"} | REMOTE_SCHEMES - {"memory"}))
    raise SourceInvalid(f"{url}: {scheme or 'no scheme'}: not a source that can be read; known: {known}")
