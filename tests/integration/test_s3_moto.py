"""S3 as a real server speaks it: boto3 against moto on the loopback."""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import urllib3
from moto.server import ThreadedMotoServer

from glowplug.cache.errors import SourceChanged, SourceNotFound
from glowplug.cache.sources.table import open_source
from glowplug.deploy.errors import TemplateError
from glowplug.deploy.template import load
from glowplug.deploy.translate import translate
from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import InvalidParameter
from glowplug.runtime.packages import Packages

BYTES = os.urandom(3_000_000)


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def client(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of an empty account with the bucket ``models``; the settings are in the environment, as users have them."""
    for name, value in {
        "AWS_ENDPOINT_URL_S3": endpoint,
        "AWS_ACCESS_KEY_ID": "made-up",
        "AWS_SECRET_ACCESS_KEY": "made-up",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    made = boto3.client("s3")
    made.create_bucket(Bucket="models")
    yield made
    made.close()
    urllib3.request("POST", f"{endpoint}/moto-api/reset")


def test_a_model_below_a_prefix_is_listed_and_read_in_ranges(client: Any) -> None:
    client.put_object(Bucket="models", Key="m/", Body=b"")
    client.put_object(Bucket="models", Key="m/config.json", Body=b"{}")
    client.put_object(Bucket="models", Key="m/model.safetensors", Body=BYTES)
    client.put_object(Bucket="models", Key="mm/other.json", Body=b"o")
    config, weights = open_source("s3://models/m")
    assert ["config.json", "model.safetensors"] == [config.name, weights.name]
    assert b"{}" == config.open().read()
    cut = 1_000_001
    with weights.open(0, cut) as front, weights.open(cut) as back:
        assert BYTES == front.read() + back.read()


def test_more_objects_than_one_page_holds(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "10")  # the server runs in this process
    for number in range(25):
        client.put_object(Bucket="models", Key=f"many/{number:02}.json", Body=b"{}")
    assert 10 == len(client.list_objects_v2(Bucket="models")["Contents"])
    assert [f"{number:02}.json" for number in range(25)] == [file.name for file in open_source("s3://models/many/")]


def test_an_object_that_is_overwritten_half_way_is_noticed(client: Any) -> None:
    client.put_object(Bucket="models", Key="model.safetensors", Body=b"first")
    (file,) = open_source("s3://models/model.safetensors")
    assert b"fi" == file.open(0, 2).read()
    client.put_object(Bucket="models", Key="model.safetensors", Body=b"later")
    with pytest.raises(SourceChanged):
        file.open(2, 5)


def test_a_version_stays_readable_when_it_is_overwritten(client: Any) -> None:
    client.put_bucket_versioning(Bucket="models", VersioningConfiguration={"Status": "Enabled"})
    first = client.put_object(Bucket="models", Key="model.safetensors", Body=b"first")["VersionId"]
    (file,) = open_source("s3://models/model.safetensors")
    client.put_object(Bucket="models", Key="model.safetensors", Body=b"later")
    assert (first, b"first") == (file.version, file.open().read())
    (named,) = open_source(f"s3://models/model.safetensors?versionId={first}")
    assert b"first" == named.open().read()


@pytest.mark.parametrize("url", ["s3://models/absent", "s3://absent-bucket/m", "s3://absent-bucket"])
def test_nothing_there(client: Any, url: str) -> None:
    with pytest.raises(SourceNotFound, match=url):
        open_source(url)


def test_a_public_bucket_needs_no_credentials(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    client.put_object(Bucket="models", Key="config.json", Body=b"{}", ACL="public-read")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    (file,) = open_source("s3://models/config.json")
    assert b"{}" == file.open().read()


def test_no_other_source_pays_for_boto3() -> None:
    program = (
        "import sys; from glowplug.cache.sources.table import open_source; open_source('package://email/mime');"
        "print(sorted({'boto3', 'urllib3', 'fsspec', 'huggingface_hub'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "[]\n" == done.stdout


async def test_a_package_over_the_limit_of_requests_is_taken_from_a_bucket(client: Any, tmp_path: Path) -> None:
    limits = Limits()
    incompressible, packed = os.urandom(limits.code_zipped_bytes + 1), io.BytesIO()
    with zipfile.ZipFile(packed, "w") as file:
        file.writestr("app.py", "def handler(event, context): ...\n")
        file.writestr("weights.bin", incompressible)
    client.create_bucket(Bucket="packages")
    client.put_object(Bucket="packages", Key="large.zip", Body=packed.getvalue())
    store = CodeStore(tmp_path / "code", limits)
    packages = Packages(store, limits)
    package = await packages.take({"S3Bucket": "packages", "S3Key": "large.zip"})
    assert hashlib.sha256(packed.getvalue()).hexdigest() == package.digest
    assert len(incompressible) == (store.path(package.digest) / "weights.bin").stat().st_size
    for code, message in (
        ({"S3Bucket": "packages", "S3Key": "nothing"}, "S3 Error Code: NoSuchKey"),
        ({"S3Bucket": "nowhere", "S3Key": "k"}, "S3 Error Code: NoSuchBucket"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            await packages.take(code)
    small = Packages(store, Limits(code_unzipped_bytes=1_000_000))
    with pytest.raises(InvalidParameter, match="Unzipped size must be smaller than 1000000 bytes"):
        await small.take({"S3Bucket": "packages", "S3Key": "large.zip"})
    assert 2 == len(list((tmp_path / "code").iterdir()))


TEMPLATE = """\
Transform: AWS::Serverless-2016-10-31
Resources:
  Deps: {Type: AWS::Serverless::LayerVersion, Properties: {ContentUri: deps}}
  App:
    Type: AWS::Serverless::Function
    Properties: {Handler: app.handler, Runtime: python3.11, CodeUri: src, Layers: [!Ref Deps]}
  Plain:
    Type: AWS::Lambda::Function
    Properties: {Handler: app.handler, Runtime: python3.11, Role: "arn:aws:iam::000000000000:role/r", Code: src}
"""


def test_what_aws_cloudformation_package_writes_is_translated_as_it_is(client: Any, tmp_path: Path) -> None:
    for name in ("src/app.py", "deps/python/words.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("def handler(event, context): return 1\n")
    (tmp_path / "template.yaml").write_text(TEMPLATE)
    client.create_bucket(Bucket="packages")
    command = [sys.executable, "-m", "awscli", "cloudformation", "package", "--template-file", "template.yaml",
               "--s3-bucket", "packages", "--output-template-file", "packaged.yaml"]  # fmt: skip
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=60)
    for name in ("src", "deps"):
        shutil.rmtree(tmp_path / name)  # from here on they are in the bucket alone

    stack = translate(load(tmp_path / "packaged.yaml"), stack="main")
    code = {
        key: stack.archives[given["CodeSha256"]]
        for key, given in {**stack.definitions.functions, **stack.definitions.layers}.items()
    }
    assert {"App": ("app.py",), "Plain": ("app.py",), "Deps": ("python/words.py",)} == {
        key: archive.names for key, archive in code.items()
    }
    assert ({}, ()) == (stack.builds, stack.notes)

    for entry in client.list_objects_v2(Bucket="packages")["Contents"]:
        client.delete_object(Bucket="packages", Key=entry["Key"])
    with pytest.raises(TemplateError) as caught:
        translate(load(tmp_path / "packaged.yaml"), stack="main")
    line = next(
        number
        for number, text in enumerate((tmp_path / "packaged.yaml").read_text().splitlines(), 1)
        if "CodeUri" in text
    )
    said = str(caught.value)
    assert said.startswith(f"{tmp_path}/packaged.yaml:{line}: App.Properties.CodeUri: s3://packages/")
    assert "S3 Error Code: NoSuchKey" in said
