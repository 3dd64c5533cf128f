"""Code that a template names in S3, as ``sam package`` and ``aws cloudformation package`` write it.

It is read when the template is translated, on this machine and with its AWS settings, by what reads it for the Lambda
API. From there on it is an archive like any other.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from glowplug.runtime.codeobjects import CodeObject, pieces_of
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter

from .archive import Archive, zipped
from .errors import ArchiveError
from .keys import only
from .template import KeyPath, Template

Fetch = Callable[[CodeObject], bytes]
"""Reads an object. Raises ``ArchiveError``."""

Names = tuple[str, str, str]
"""How a property calls bucket, key and version."""

SAMS: Names = ("Bucket", "Key", "Version")
LAMBDAS: Names = ("S3Bucket", "S3Key", "S3ObjectVersion")

_URI = re.compile(r"s3://(?P<bucket>[^/?]+)/(?P<key>[^?]+)(?:\?versionId=(?P<version>[^&]+))?")


def fetched(wanted: CodeObject) -> bytes:
    """Read an object from S3. Raises ``ArchiveError``."""
    try:
        with closing(pieces_of(wanted, Limits().code_unzipped_bytes)) as pieces:
            return b"".join(pieces)
    except InvalidParameter as error:
        raise ArchiveError(f"{wanted}: {error}") from error


def object_of(template: Template, path: KeyPath, given: Any, names: Names) -> CodeObject | None:
    """Return the object that a property's value, evaluated, names; None where it names none.

    Raises ``TemplateError`` for a mapping or an ``s3://`` that says only half of it.
    """
    if isinstance(given, str) and given.startswith("s3://"):
        found = _URI.fullmatch(given)
        if found is None:
            raise template.error(path, f"{given!r} is not s3://bucket/key, nor s3://bucket/key?versionId=ID")
        return CodeObject(found["bucket"], found["key"], found["version"] or "")
    if not isinstance(given, Mapping):
        return None
    only(template, path, given, names, {"ImageUri", "SourceKMSKeyArn"})
    bucket, key, version = (given.get(name, "") for name in names)
    for name, value in zip(names, (bucket, key, version), strict=True):
        if not isinstance(value, str) or (not value and name != names[2]):
            raise template.error((*path, name), "is missing" if not value else f"must be text, not {value!r}")
    return CodeObject(bucket, key, version)


def archive_of(wanted: CodeObject, fetch: Fetch) -> Archive:
    """Return the archive that an object in S3 is. Raises ``ArchiveError`` where it cannot be read or is no zip."""
    return zipped(fetch(wanted), str(wanted))
