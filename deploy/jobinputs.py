"""The inputs of a batch job: files of lines, here or in S3, by name or pattern, in the order of their names."""

from __future__ import annotations

import fnmatch
import glob
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import JobError

_CHUNK_BYTES = 1024 * 1024
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class Input:
    """One file. ``version`` changes when its contents do: a time, or an ETag."""

    name: str
    size: int
    version: str

    def lines(self) -> Iterator[bytes]:
        """Yield its lines, without their ends; one without an end at the end of the file is one too."""
        rest = b""
        for chunk in self._chunks():
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
        if rest:
            yield rest

    def _chunks(self) -> Iterator[bytes]:
        if self.name.startswith("s3://"):
            bucket, key = split(self.name)
            # Only this very object: one that is written meanwhile is an error, not a mixture.
            with s3(self.name) as client:
                body = client.get_object(Bucket=bucket, Key=key, IfMatch=self.version)["Body"]
                yield from body.iter_chunks(_CHUNK_BYTES)
            return
        with Path(self.name).open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                yield chunk


def inputs_of(patterns: tuple[str, ...]) -> list[Input]:
    """Return the files of names and patterns. Raises ``JobError`` for a pattern that none has."""
    found: dict[str, Input] = {}
    for pattern in patterns:
        matching = _in_s3(pattern) if pattern.startswith("s3://") else _here(pattern)
        if not matching:
            raise JobError(f"{pattern}: there is no such file")
        found |= {one.name: one for one in matching}
    for name in found:
        if name.endswith((".parquet", ".csv", ".gz", ".zst")):
            raise JobError(f"{name}: inputs are files with one JSON value a line (.jsonl)")
    return [found[name] for name in sorted(found)]


def _here(pattern: str) -> list[Input]:
    names = [pattern] if Path(pattern).exists() else glob.glob(pattern, recursive=True)
    found = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            raise JobError(f"{name} is a directory; give a pattern, such as {name.rstrip('/')}/*.jsonl")
        status = path.stat()
        found.append(Input(str(path.absolute()), status.st_size, str(status.st_mtime_ns)))
    return found


def _in_s3(pattern: str) -> list[Input]:
    bucket, key = split(pattern)
    wild = _WILD.search(key)
    prefix = key[: wild.start()] if wild else key
    with s3(pattern) as client:
        pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix)
        listed = [one for page in pages for one in page.get("Contents", ())]
    return [
        Input(f"s3://{bucket}/{one['Key']}", one["Size"], one["ETag"])
        for one in listed
        if one["Key"] == key or (wild and fnmatch.fnmatchcase(one["Key"], key))
    ]


def split(url: str) -> tuple[str, str]:
    """Return bucket and key of an ``s3://`` URL. Raises ``JobError``."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not bucket or not key:
        raise JobError(f"{url}: an object in S3 looks like s3://bucket/key")
    return bucket, key


@contextmanager
def s3(about: str) -> Iterator[Any]:
    """Give a client of S3, as the environment configures it (``AWS_ENDPOINT_URL_S3``, ``AWS_PROFILE``, …).

    What goes wrong with it is a ``JobError`` about ``about``.
    """
    import boto3  # here: half a second, which jobs with local files should not pay
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        yield boto3.client("s3")
    except (Boto3Error, BotoCoreError, ClientError) as error:
        raise JobError(f"{about}: {error}") from error
