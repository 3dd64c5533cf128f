"""Code as the API takes it: what is stored, and in which of Lambda's sentences the rest is refused."""

from __future__ import annotations

import base64
import hashlib
import io
import zipfile
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError, NoCredentialsError, ResponseStreamingError

from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.errors import GlowplugError, InvalidParameter, NotSupported, RequestTooLarge, StateError
from glowplug.runtime.packages import Package, Packages

LIMITS = Limits(code_zipped_bytes=400, code_unzipped_bytes=1000)


def zipped(content: bytes = b"x = 1\n") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("app.py", content)
    return buffer.getvalue()


class Bucket:
    """An S3 client with one object, or an error."""

    def __init__(self, data: bytes = b"", error: Exception | None = None) -> None:
        self.data, self.error = data, error
        self.asked: list[dict[str, str]] = []

    def get_object(self, **asked: str) -> dict[str, Any]:
        self.asked.append(asked)
        if self.error is not None:
            raise self.error
        return {"Body": io.BytesIO(self.data)}


def packages(directory: Path, bucket: Bucket | None = None) -> Packages:
    return Packages(CodeStore(directory / "code", LIMITS), LIMITS, client=lambda: bucket or Bucket())


def said(code: str, message: str) -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "GetObject")


async def test_a_zip_in_the_request_is_stored_by_its_digest(tmp_path: Path) -> None:
    data = zipped()
    package = await packages(tmp_path).take({"ZipFile": base64.b64encode(data).decode()})
    assert Package(hashlib.sha256(data).hexdigest(), len(data)) == package
    assert b"x = 1\n" == (tmp_path / "code" / package.digest / "app.py").read_bytes()


async def test_an_object_may_be_larger_than_a_zip_in_a_request(tmp_path: Path) -> None:
    data = zipped(b"#" * 600)
    assert len(data) > LIMITS.code_zipped_bytes
    bucket = Bucket(data)
    package = await packages(tmp_path, bucket).take({"S3Bucket": "b", "S3Key": "k", "S3ObjectVersion": "v"})
    assert hashlib.sha256(data).hexdigest() == package.digest
    assert [{"Bucket": "b", "Key": "k", "VersionId": "v"}] == bucket.asked
    with pytest.raises(RequestTooLarge, match=r"^Zipped size must be smaller than 400 bytes$"):
        await packages(tmp_path).take({"ZipFile": base64.b64encode(data).decode()})


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            said("NoSuchBucket", "The specified bucket does not exist"),
            "Error occurred while GetObject. S3 Error Code: NoSuchBucket. S3 Error Message: The specified bucket does not exist",
        ),
        (
            said("NoSuchKey", "The specified key does not exist."),
            "Error occurred while GetObject. S3 Error Code: NoSuchKey. S3 Error Message: The specified key does not exist.",
        ),
        (NoCredentialsError(), "Error occurred while GetObject: Unable to locate credentials"),
        (
            ResponseStreamingError(error="cut short"),
            "Error occurred while GetObject: An error occurred while reading from response stream: cut short",
        ),
    ],
    ids=["bucket", "key", "credentials", "cut short"],
)
async def test_what_s3_says_is_passed_on_as_lambda_does(tmp_path: Path, error: Exception, message: str) -> None:
    with pytest.raises(InvalidParameter) as refused:
        await packages(tmp_path, Bucket(error=error)).take({"S3Bucket": "b", "S3Key": "k"})
    assert message == str(refused.value)


async def test_an_object_that_says_it_is_too_large_is_not_read_at_all(tmp_path: Path) -> None:
    class Unread(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise AssertionError("was read")

    bucket = Bucket()
    bucket.get_object = lambda **_: {"Body": Unread(), "ContentLength": 1001}  # type: ignore[method-assign]
    with pytest.raises(InvalidParameter, match=r"^Unzipped size must be smaller than 1000 bytes$"):
        await packages(tmp_path, bucket).take({"S3Bucket": "b", "S3Key": "k"})


async def test_an_object_goes_to_the_disk_piece_by_piece_and_leaves_only_what_is_stored(tmp_path: Path) -> None:
    data = zipped()
    stored = tmp_path / "code"
    seen: list[list[str]] = []

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            seen.append(sorted(path.name[:13] for path in stored.iterdir()))
            return super().read(50)

    bucket = Bucket()
    bucket.get_object = lambda **_: {"Body": Dripping(data)}  # type: ignore[method-assign]
    package = await packages(tmp_path, bucket).take({"S3Bucket": "b", "S3Key": "k"})
    assert len(seen) > 2
    assert [[".incoming-zip"]] * len(seen) == seen
    assert [package.digest, f"{package.digest}.zip"] == sorted(path.name for path in stored.iterdir())
    zip_file = stored / f"{package.digest}.zip"
    assert (data, 0o444) == (zip_file.read_bytes(), zip_file.stat().st_mode & 0o777)


@pytest.mark.parametrize("data", [b"no zip", b""])
async def test_an_object_that_is_no_zip_leaves_nothing(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(InvalidParameter):
        await packages(tmp_path, Bucket(data)).take({"S3Bucket": "b", "S3Key": "k"})
    assert [] == list((tmp_path / "code").iterdir())


async def test_a_connection_that_breaks_is_s3s_fault_and_a_full_disk_the_nodes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            raise ConnectionResetError("reset by peer")

    bucket = Bucket()
    bucket.get_object = lambda **_: {"Body": Breaking()}  # type: ignore[method-assign]
    with pytest.raises(InvalidParameter, match="Error occurred while GetObject: reset by peer"):
        await packages(tmp_path, bucket).take({"S3Bucket": "b", "S3Key": "k"})
    taking, really = packages(tmp_path, Bucket(zipped())), Path.open
    monkeypatch.setattr(
        Path, "open", lambda path, mode: really(Path("/dev/full"), "wb") if mode == "xb" else really(path, mode)
    )
    with pytest.raises(StateError, match="No space left"):
        await taking.take({"S3Bucket": "b", "S3Key": "k"})


async def test_an_object_without_end_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    class Endless(io.RawIOBase):
        read_bytes = 0

        def read(self, size: int = -1) -> bytes:
            self.read_bytes += size
            return bytes(size)

    endless, bucket = Endless(), Bucket()
    bucket.get_object = lambda **_: {"Body": endless}  # type: ignore[method-assign]
    with pytest.raises(InvalidParameter, match=r"^Unzipped size must be smaller than 1000 bytes$"):
        await packages(tmp_path, bucket).take({"S3Bucket": "b", "S3Key": "k"})
    assert endless.read_bytes == 1024 * 1024
    assert endless.closed


@pytest.mark.parametrize(
    ("code", "kind", "message"),
    [
        ({"ImageUri": "registry/image:1"}, NotSupported, "PackageType Image is not supported: code is a zip here"),
        ({}, InvalidParameter, "Please provide a source for function code."),
        ({"S3Bucket": "b"}, InvalidParameter, "Please provide a source for function code."),
        ({"ZipFile": "not base64!"}, InvalidParameter, "Could not unzip uploaded file: ZipFile is not base64"),
        ({"ZipFile": ""}, InvalidParameter, "Uploaded file must be a non-empty zip"),
        (
            {"ZipFile": base64.b64encode(b"no zip").decode()},
            InvalidParameter,
            "Could not unzip uploaded file. Please check your file, then try to upload again.",
        ),
        (
            {"ZipFile": base64.b64encode(zipped()).decode(), "S3Bucket": "b", "S3Key": "k"},
            InvalidParameter,
            "Please do not provide other FunctionCode parameters when providing a ZipFile.",
        ),
        (
            {"ZipFile": base64.b64encode(zipped(bytes(1001))).decode()},
            RequestTooLarge,
            "Zipped size must be smaller than 400 bytes",
        ),
    ],
)
async def test_what_is_refused(tmp_path: Path, code: dict[str, str], kind: type[GlowplugError], message: str) -> None:
    with pytest.raises(kind) as refused:
        await packages(tmp_path).take(code)
    assert message == str(refused.value)
    assert [] == list((tmp_path / "code").iterdir())
