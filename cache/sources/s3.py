"""Objects in S3 and whatever speaks its protocol: ``s3://bucket/key`` and ``s3://bucket/prefix/``, ``s3a://`` alike.

Credentials, region and endpoint are the usual AWS settings (environment with ``AWS_ENDPOINT_URL`` and
``AWS_ENDPOINT_URL_S3``, profile, instance metadata); without credentials requests go out unsigned, as public buckets
want them. ``s3://bucket/key?versionId=…`` names one version of one object.

How an object is kept from changing half way: each GET carries the listed ETag as ``If-Match``, and the version's id
where a single object has one (then it stays readable even when it is overwritten). A prefix is listed with its ETags
alone: ids would take a HEAD per object, and a change is noticed either way.

boto3 is imported when the first ``s3://`` URL is opened, because it takes 0.3 s that no other source should pay. Its
retries are off (the fetch retries, and says so), and so are its checksums: every byte is digested here anyway.
"""

from __future__ import annotations

import functools
import io
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, BinaryIO, cast
from urllib.parse import urlsplit

import urllib3

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)

from .agent import CONNECT_TIMEOUT_S, READ_TIMEOUT_S, transport_error, unreachable
from .listing import ListedFile, Opener, checked_name, select
from .shards import one_file
from .stream import SourceStream, check_content_range, source_errors

CONNECTIONS = 8
"""Streams at once of one object: S3 gives one connection some 80 to 100 MB/s, and more of them more."""

_URL = re.compile(r"s3a?://([A-Za-z0-9._-]{3,255})(?:/(.*?))?(?:\?versionId=([^?&#]+))?", re.DOTALL)
_REFUSED = frozenset({"AccessDenied", "ExpiredToken", "InvalidAccessKeyId", "InvalidToken", "SignatureDoesNotMatch"})
_NO_LOGIN = ("NoCredentials", "PartialCredentials", "Credential", "TokenRetrieval", "SSO", "Unauthorized")
_GONE = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchVersion"})


def open_s3(url: str) -> tuple[ListedFile, ...]:
    """List an object, or the objects below a prefix. Raises ``SourceError`` subclasses."""
    named = _URL.fullmatch(url)
    if named is None:
        raise SourceInvalid(f"{url}: write s3://bucket/key, s3://bucket/prefix/ or s3://bucket/key?versionId=…")
    key, version = named[2] or "", named[3] or ""
    bucket = _Bucket(url, named[1])
    if key and not key.endswith("/"):
        directory, _, name = key.rpartition("/")
        try:
            found = bucket.object(key, name, version)
        except SourceNotFound:
            if version:
                raise
        else:
            return one_file(found, lambda shard: bucket.object(f"{directory}/{shard}".lstrip("/"), shard), url)
    return select(bucket.below(key and key.rstrip("/") + "/"), url)


class _Bucket:
    """One bucket through one client, whose connections all of its files share."""

    def __init__(self, url: str, name: str) -> None:
        self._url = url
        self._name = name
        with _s3_errors(url):  # profiles that are not there, endpoints that are none
            self._client = _client()

    def object(self, key: str, name: str, version: str = "") -> ListedFile:
        """Return the listing of one object; asks S3. Raises ``SourceError`` subclasses."""
        which = {"Bucket": self._name, "Key": key, **({"VersionId": version} if version else {})}
        label = f"{self._url}: {name}"
        try:
            head = self._client.head_object(**which)
        except Exception as error:
            if _status(error) in (400, 403):  # an answer to HEAD has no body: GET says why it is refused
                with _s3_errors(label):
                    self._client.get_object(**which, Range="bytes=0-0")["Body"].close()
            raise _mapped(label, error) from error
        version = version or head.get("VersionId", "")
        version = "" if version == "null" else version  # what is written while versioning is suspended; not a version
        return self._listed(key, name, int(head["ContentLength"]), head.get("ETag", ""), version)

    def below(self, prefix: str) -> Iterator[ListedFile]:
        """List the objects whose keys begin with ``prefix``, folder markers aside. Raises as ``object``."""
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._name, Prefix=prefix)
        with _s3_errors(self._url):
            for page in pages:
                for entry in page.get("Contents", ()):
                    key, size = str(entry["Key"]), int(entry["Size"])
                    if not key.startswith(prefix):
                        raise SourceInvalid(f"{self._url}: the listing names {key!r}, which is not below it")
                    if size or not key.endswith("/"):
                        yield self._listed(key, key[len(prefix) :], size, entry.get("ETag", ""), "")

    def _listed(self, key: str, name: str, size: int, etag: str, version: str) -> ListedFile:
        opener = self._opener(key, checked_name(name, self._url), size, etag, version)
        told = version or etag.strip('"')  # without either, two ranges could be of two versions
        return ListedFile(name, size, told, opener, ranged=bool(told), connections=CONNECTIONS if told else 1)

    def _opener(self, key: str, name: str, size: int, etag: str, version: str) -> Opener:
        label = f"{self._url}: {name}"
        which = {"Bucket": self._name, "Key": key}
        which |= ({"IfMatch": etag} if etag else {}) | ({"VersionId": version} if version else {})

        def opener(start: int = 0, stop: int | None = None) -> BinaryIO:
            end = size if stop is None else min(stop, size)
            if start >= end:
                return io.BytesIO()
            whole = (start, end) == (0, size)
            with _s3_errors(label):
                answer = self._client.get_object(**which, **({} if whole else {"Range": f"bytes={start}-{end - 1}"}))
            body = answer["Body"].__enter__()  # urllib3's own answer: botocore's body reads in full blocks only
            try:
                if whole and answer["ContentLength"] != size:
                    raise SourceChanged(f"{label}: {answer['ContentLength']} bytes, {size} when it was listed")
                if not whole:
                    check_content_range(label, answer.get("ContentRange"), start, end, size)
                if etag and answer.get("ETag") != etag:
                    raise SourceChanged(f"{label}: ETag {answer.get('ETag')}, {etag} when it was listed")
            except SourceError:
                body.close()
                raise
            stream = SourceStream(body, length=end - start, label=label, mapped=lambda error: _mapped(label, error))
            return cast("BinaryIO", stream)

        return opener


def _s3_errors(label: str) -> AbstractContextManager[None]:
    return source_errors(lambda error: _mapped(label, error))


def _client() -> Any:
    import boto3  # late: see the module's docstring
    from botocore import UNSIGNED
    from botocore.config import Config
    from botocore.session import Session

    base = Session()  # settings and credentials as they are now, but S3's description is parsed once per process
    base.register_component("data_loader", _loader())
    session = boto3.session.Session(botocore_session=base)
    settings: dict[str, Any] = {
        "retries": {"total_max_attempts": 1, "mode": "standard"},
        "connect_timeout": CONNECT_TIMEOUT_S,
        "read_timeout": READ_TIMEOUT_S,
        "max_pool_connections": CONNECTIONS + 1,
        "response_checksum_validation": "when_required",
        "user_agent_extra": "glowplug",
    }
    if session.get_credentials() is None:
        settings["signature_version"] = UNSIGNED
    client = session.client("s3", config=Config(**settings))
    host = urlsplit(client.meta.endpoint_url).hostname or ""
    if not (client.meta.config.s3 or {}).get("addressing_style") and ".amazonaws." not in host:
        # a server of one's own seldom has a DNS name per bucket, which is what botocore would ask for
        client = session.client("s3", config=Config(**settings, s3={"addressing_style": "path"}))
    return client


@functools.cache
def _loader() -> Any:
    from botocore.loaders import create_loader  # late: as boto3

    return create_loader(os.environ.get("AWS_DATA_PATH"))


def _mapped(label: str, error: Exception) -> SourceError:
    """Return the ``SourceError`` for what boto3 raised. Its own errors share no base; S3's are all ``ClientError``."""
    answer = getattr(error, "response", None)
    if isinstance(error, urllib3.exceptions.HTTPError):  # while the body is read
        return transport_error(label, error)
    if not isinstance(answer, dict):
        kind = type(error).__name__
        if kind.startswith(_NO_LOGIN):
            return SourceForbidden(f"{label}: no usable AWS credentials: {error}")
        if isinstance(error, ValueError) or kind in ("ProfileNotFound", "ParamValidationError", "ConfigParseError"):
            return SourceInvalid(f"{label}: {error}")
        return SourceUnreachable(f"{label}: {kind}: {error}")
    code, status = str(answer.get("Error", {}).get("Code", "")), _status(error)
    said = f"{label}: {code}: {answer.get('Error', {}).get('Message', '')} (HTTP {status})"
    if code == "InvalidObjectState":
        return SourceForbidden(f"{said}; the object is archived (Glacier): restore it first")
    if code in _GONE or status == 404:
        return SourceNotFound(said)
    if code in _REFUSED or status in (401, 403):
        return SourceForbidden(said)
    if status in (412, 416):
        return SourceChanged(f"{said}: not what it was when it was listed")
    if status in (408, 429) or status >= 500 or code in ("SlowDown", "RequestTimeout", "Throttling"):
        return unreachable(said, answer.get("ResponseMetadata", {}).get("HTTPHeaders", {}).get("retry-after"))
    return SourceInvalid(said)


def _status(error: Exception) -> int:
    answer = getattr(error, "response", None)
    if not isinstance(answer, dict):
        return 0
    return int(answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
