"""S3 without a server: what a URL means, what a listing may say, what each of botocore's errors becomes."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from botocore import UNSIGNED
from botocore.exceptions import (
    ClientError,
    ConnectTimeoutError,
    EndpointConnectionError,
    NoCredentialsError,
    ParamValidationError,
    ProfileNotFound,
)

from glowplug.cache.errors import (
    SourceChanged,
    SourceError,
    SourceForbidden,
    SourceInvalid,
    SourceNotFound,
    SourceUnreachable,
)
from glowplug.cache.sources import s3
from glowplug.cache.sources.listing import MAX_FILES
from glowplug.cache.sources.table import open_source


def refusal(code: str, status: int, **headers: str) -> ClientError:
    answer = {
        "Error": {"Code": code, "Message": "said so"},
        "ResponseMetadata": {"HTTPStatusCode": status, "HTTPHeaders": headers},
    }
    return ClientError(answer, "GetObject")


class Body(io.BytesIO):
    """What botocore gives: a body whose with-statement is the stream."""


class Bucket:
    """A client that answers from a table and remembers what it was asked."""

    def __init__(self, objects: dict[str, bytes] | None = None) -> None:
        self.objects = objects or {}
        self.listing: Iterator[dict[str, Any]] | None = None
        self.version: str | None = None
        self.etag = '"e1"'
        self.lies: dict[str, Any] = {}
        self.asked: list[tuple[str, dict[str, Any]]] = []

    def head_object(self, **which: Any) -> dict[str, Any]:
        self.asked.append(("head", which))
        if which["Key"] not in self.objects:
            raise refusal("404", 404)
        version = {"VersionId": self.version} if self.version else {}
        return {"ContentLength": len(self.objects[which["Key"]]), "ETag": self.etag, **version}

    def get_object(self, **which: Any) -> dict[str, Any]:
        self.asked.append(("get", which))
        body = self.objects[which["Key"]]
        answer: dict[str, Any] = {"ETag": self.etag}
        if "Range" in which:
            first, last = map(int, which["Range"].removeprefix("bytes=").split("-"))
            answer["ContentRange"] = f"bytes {first}-{last}/{len(body)}"
            body = body[first : last + 1]
        return {**answer, "ContentLength": len(body), "Body": Body(body), **self.lies}

    def get_paginator(self, name: str) -> Bucket:
        assert "list_objects_v2" == name
        return self

    def paginate(self, **which: Any) -> Iterator[dict[str, Any]]:
        self.asked.append(("list", which))
        if self.listing is not None:
            yield from self.listing
            return
        for key, body in self.objects.items():  # a page each
            if key.startswith(which["Prefix"]):
                yield {"Contents": [{"Key": key, "Size": len(body), "ETag": self.etag}]}
        yield {}


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Bucket:
    made = Bucket({"m/config.json": b"{}", "m/": b"", "m/sub/x.safetensors": b"0123456789", "mm/no.json": b"n"})
    monkeypatch.setattr(s3, "_client", lambda: made)
    return made


@pytest.mark.parametrize("url", ["s3://models/m", "s3://models/m/", "s3a://models/m"])
def test_a_prefix_lists_what_is_below_it_without_asking_for_each_object(bucket: Bucket, url: str) -> None:
    files = open_source(url)
    assert [("config.json", 2, "e1"), ("sub/x.safetensors", 10, "e1")] == [(f.name, f.size, f.version) for f in files]
    assert {True} == {file.ranged for file in files}
    assert "m/" == bucket.asked[-1][1]["Prefix"]
    assert "get" not in [what for what, _ in bucket.asked]


def test_a_whole_bucket_is_a_prefix_too(bucket: Bucket) -> None:
    assert ["m/config.json", "m/sub/x.safetensors", "mm/no.json"] == [file.name for file in open_source("s3://models")]
    assert ["m/config.json", "m/sub/x.safetensors", "mm/no.json"] == [file.name for file in open_source("s3://models/")]


def test_every_get_is_bound_to_the_listed_etag(bucket: Bucket) -> None:
    file = open_source("s3://models/m")[1]
    assert b"0123456789" == file.open().read()
    assert b"345" == file.open(3, 6).read()
    assert b"789" == file.open(7).read()
    assert b"" == file.open(10).read()
    gets = [which for what, which in bucket.asked if what == "get"]
    assert [None, "bytes=3-5", "bytes=7-9"] == [which.get("Range") for which in gets]
    assert {'"e1"'} == {which["IfMatch"] for which in gets}


def test_one_object_of_a_versioned_bucket_is_pinned_to_its_version(bucket: Bucket) -> None:
    bucket.version = "v7"
    (file,) = open_source("s3://models/m/config.json")
    file.open()
    assert ("v7", "v7") == (file.version, bucket.asked[-1][1]["VersionId"])
    (file,) = open_source("s3://models/m/config.json?versionId=v3")
    file.open()
    assert ["v3", "v3"] == [which["VersionId"] for _, which in bucket.asked[-2:]]


def test_what_was_written_while_versioning_was_suspended_has_no_version_of_its_own(bucket: Bucket) -> None:
    bucket.version = "null"
    (file,) = open_source("s3://models/m/config.json")
    assert "e1" == file.version
    file.open()
    assert "VersionId" not in bucket.asked[-1][1]


def test_a_version_that_is_gone_is_no_prefix(bucket: Bucket) -> None:
    with pytest.raises(SourceNotFound):
        open_source("s3://models/m?versionId=v1")
    assert ["head"] == [what for what, _ in bucket.asked]


def test_an_index_lists_its_shards(bucket: Bucket) -> None:
    bucket.objects = {
        "m/model.safetensors.index.json": b'{"weight_map": {"t": "a.safetensors"}}',
        "m/a.safetensors": b"a",
        "m/b.safetensors": b"b",
    }
    files = open_source("s3://models/m/model.safetensors.index.json")
    assert ["a.safetensors", "model.safetensors.index.json"] == [file.name for file in files]


@pytest.mark.parametrize(
    "lies",
    [
        {"ETag": '"e2"'},
        {"ETag": None},
        {"ContentRange": "bytes 0-1/10"},
        {"ContentRange": "bytes 3-5/11"},
        {"ContentRange": None},
        {"ContentRange": "pages 3-5/10"},
    ],
)
def test_an_answer_that_is_not_what_was_asked_for(bucket: Bucket, lies: dict[str, Any]) -> None:
    file = open_source("s3://models/m")[1]
    bucket.lies = lies
    with pytest.raises(SourceChanged):
        file.open(3, 6)


def test_a_whole_object_of_another_length_is_another_object(bucket: Bucket) -> None:
    file = open_source("s3://models/m")[1]
    bucket.lies = {"ContentLength": 11}
    with pytest.raises(SourceChanged, match="11 bytes, 10 when it was listed"):
        file.open()


@pytest.mark.parametrize("keys", [["m/../../x"], ["m//x"], ["elsewhere"], ["m/a\nb"], ["m/a", "m/a"], ["m/x/"]])
def test_listings_that_name_what_they_may_not(bucket: Bucket, keys: list[str]) -> None:
    bucket.listing = iter([{"Contents": [{"Key": key, "Size": 1, "ETag": '"e"'} for key in keys]}])
    with pytest.raises(SourceInvalid):
        open_source("s3://models/m/")


def test_a_listing_without_end_is_given_up_after_the_last_file_that_a_source_may_have(bucket: Bucket) -> None:
    seen: list[int] = []

    def pages() -> Iterator[dict[str, Any]]:
        while True:
            seen.append(len(seen))
            yield {"Contents": [{"Key": f"m/{seen[-1]}-{n}", "Size": 1, "ETag": '"e"'} for n in range(1000)]}

    bucket.listing = pages()
    with pytest.raises(SourceInvalid, match=f"more than {MAX_FILES} files"):
        open_source("s3://models/m/")
    assert 11 == len(seen)


def test_a_refused_head_is_explained_by_a_get(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(code: str) -> Any:
        def refused(**which: Any) -> None:
            raise refusal(code, 403)

        return refused

    monkeypatch.setattr(bucket, "head_object", refuse("403"))
    monkeypatch.setattr(bucket, "get_object", refuse("InvalidAccessKeyId"))
    with pytest.raises(SourceForbidden, match="InvalidAccessKeyId"):
        open_source("s3://models/m/config.json")


@pytest.mark.parametrize("url", ["s3://", "s3:///key", "s3://b/key", "s3://bucket@x/key", "s3://bu%63ket/key"])
def test_urls_that_name_no_object(url: str) -> None:
    with pytest.raises(SourceInvalid):
        open_source(url)


@pytest.mark.parametrize(
    ("raised", "kind", "said"),
    [
        (refusal("NoSuchBucket", 404), SourceNotFound, "NoSuchBucket"),
        (refusal("NoSuchKey", 404), SourceNotFound, "NoSuchKey"),
        (refusal("AccessDenied", 403), SourceForbidden, "AccessDenied"),
        (refusal("ExpiredToken", 400), SourceForbidden, "ExpiredToken"),
        (refusal("InvalidObjectState", 403), SourceForbidden, "Glacier"),
        (refusal("PreconditionFailed", 412), SourceChanged, "PreconditionFailed"),
        (refusal("InvalidRange", 416), SourceChanged, "InvalidRange"),
        (refusal("InternalError", 500), SourceUnreachable, "InternalError"),
        (refusal("SlowDown", 503), SourceUnreachable, "SlowDown"),
        (refusal("RequestTimeout", 400), SourceUnreachable, "RequestTimeout"),
        (refusal("PermanentRedirect", 301), SourceInvalid, "PermanentRedirect"),
        (NoCredentialsError(), SourceForbidden, "no usable AWS credentials"),
        (ProfileNotFound(profile="p"), SourceInvalid, "p"),
        (ParamValidationError(report="bad"), SourceInvalid, "bad"),
        (EndpointConnectionError(endpoint_url="http://e"), SourceUnreachable, "http://e"),
        (ConnectTimeoutError(endpoint_url="http://e"), SourceUnreachable, "http://e"),
        (urllib3.exceptions.IncompleteRead(3, 4), SourceUnreachable, "IncompleteRead"),
    ],
)  # fmt: skip
def test_what_an_error_becomes(raised: Exception, kind: type[SourceError], said: str) -> None:
    error = s3._mapped("s3://b/k: k", raised)
    assert kind is type(error)
    assert "s3://b/k: k" in str(error)
    assert said in str(error)


def test_slow_down_says_for_how_long() -> None:
    error = s3._mapped("m", refusal("SlowDown", 503, **{"retry-after": "3"}))
    assert isinstance(error, SourceUnreachable)
    assert 3.0 == error.retry_after_s


# --- the client -------------------------------------------------------------------------------------------------------


def test_without_credentials_requests_are_unsigned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    client = s3._client()
    assert UNSIGNED is client.meta.config.signature_version
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "a")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "b")
    client = s3._client()
    assert UNSIGNED is not client.meta.config.signature_version
    assert "https://s3.eu-central-1.amazonaws.com" == client.meta.endpoint_url
    assert client.meta.config.s3 is None


def test_a_server_of_ones_own_is_asked_by_path_and_nothing_is_retried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://minio:9000")
    config = s3._client().meta.config
    assert ("path", 1) == (config.s3["addressing_style"], config.retries["total_max_attempts"])
    assert config.max_pool_connections >= s3.CONNECTIONS


def test_a_profile_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "absent")
    with pytest.raises(SourceInvalid, match="absent"):
        open_source("s3://models/m")
