"""S3 as a source of events and as the place of a batch job's files, against moto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer

from glowplug.deploy.errors import JobError
from glowplug.deploy.jobfile import JobFile
from glowplug.deploy.jobinputs import inputs_of
from glowplug.runtime.bucketlisting import BucketListing
from glowplug.runtime.events.bucketchanges import changes


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.client("s3")
    made.create_bucket(Bucket="inbox")
    yield made
    for page in made.get_paginator("list_objects_v2").paginate(Bucket="inbox"):
        for one in page.get("Contents", ()):
            made.delete_object(Bucket="inbox", Key=one["Key"])
    made.delete_bucket(Bucket="inbox")
    made.close()


@pytest.mark.parametrize("given", ["", "aws"])
async def test_listings_differ_by_what_was_written_and_deleted(s3: Any, given: str) -> None:
    listed = BucketListing(given, "us-east-1")
    s3.put_object(Bucket="inbox", Key="a", Body=b"1")
    s3.put_object(Bucket="inbox", Key="gone", Body=b"1")
    before = await listed("inbox")
    s3.put_object(Bucket="inbox", Key="a", Body=b"22")
    s3.delete_object(Bucket="inbox", Key="gone")
    parts = s3.create_multipart_upload(Bucket="inbox", Key="large/one")
    part = s3.upload_part(Bucket="inbox", Key="large/one", UploadId=parts["UploadId"], PartNumber=1, Body=b"x" * 10)
    s3.complete_multipart_upload(
        Bucket="inbox", Key="large/one", UploadId=parts["UploadId"],
        MultipartUpload={"Parts": [{"PartNumber": 1, "ETag": part["ETag"]}]},
    )  # fmt: skip
    after = await listed("inbox")
    assert [("ObjectCreated:Put", "a"), ("ObjectRemoved:Delete", "gone"),
            ("ObjectCreated:CompleteMultipartUpload", "large/one")] == [
        (change.name, change.key) for change in changes(before, after)
    ]  # fmt: skip
    assert (2, 10) == (after["a"].size, after["large/one"].size)
    with pytest.raises(Exception, match="NoSuchBucket"):
        await listed("none")


def test_a_job_reads_and_writes_objects(s3: Any, tmp_path: Path) -> None:
    for name, text in (("in/b.jsonl", "3\n4"), ("in/a.jsonl", "1\n2\n"), ("in/c.txt", "9")):
        s3.put_object(Bucket="inbox", Key=name, Body=text.encode())
    inputs = inputs_of(("s3://inbox/in/*.jsonl",))
    assert [b"1", b"2", b"3", b"4"] == [line for one in inputs for line in one.lines()]
    with JobFile("s3://inbox/out.jsonl", tmp_path) as job:
        assert job.open("work", inputs, restart=False)
        job.write({"index": 0, "output": 1})
    with JobFile("s3://inbox/out.jsonl", tmp_path) as job:
        assert job.open("work", inputs, restart=False)
        assert 1 == job.done
        job.write({"index": 1, "output": 2})
        job.finish()
    body = s3.get_object(Bucket="inbox", Key="out.jsonl")["Body"].read()
    assert b'{"index":0,"output":1}\n{"index":1,"output":2}\n' == body
    s3.put_object(Bucket="inbox", Key="in/a.jsonl", Body=b"changed")
    with pytest.raises(JobError, match="PreconditionFailed"):
        list(inputs[0].lines())
    with pytest.raises(JobError, match="NoSuchBucket"):
        inputs_of(("s3://none/*",))
    with pytest.raises(JobError, match="no such file"):
        inputs_of(("s3://inbox/none*",))
