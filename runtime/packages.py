"""Code as Lambda's API takes it: a zip in the request, or an object in S3. Brought into the code store, by digest.

S3 is whatever the node's own environment says it is (``AWS_ENDPOINT_URL_S3``, credentials, as for boto3 everywhere);
what goes wrong there is told in the sentences that Lambda tells it in (recorded). As on AWS, a zip in a request may be
much smaller than one in S3, which only the size of its contents limits: such an object goes straight to the disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Generator, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .codestore import CodeStore
from .config import Limits
from .errors import InvalidParameter, NotSupported, RequestTooLarge

_PIECE_BYTES = 1024 * 1024
_CONNECT_S = 5.0
_READ_S = 30.0
_ATTEMPTS = 3
_EMPTY = "Uploaded file must be a non-empty zip"


@dataclass(frozen=True, slots=True)
class Package:
    """Code in the store: the SHA-256 (hex) of its zip, and that zip's bytes."""

    digest: str
    size: int


def _s3() -> Any:
    # Imported here: boto3 is half a second and 20 MB, which a node that is never given an S3 object does without.
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": _ATTEMPTS})
    return boto3.client("s3", config=patience)


class Packages:
    """Takes code in. ``client`` makes an S3 client, in a thread, when an object is asked for."""

    def __init__(self, store: CodeStore, limits: Limits, *, client: Callable[[], Any] = _s3) -> None:
        self._store = store
        self._limits = limits
        self._client = client

    def __repr__(self) -> str:
        return f"<Packages {self._store!r}>"

    async def take(self, code: Mapping[str, Any]) -> Package:
        """Store what a ``Code`` or a layer's ``Content`` names, and return what it is.

        Raises ``InvalidParameter`` or ``RequestTooLarge`` with Lambda's sentences, ``NotSupported`` for container
        images, ``StateError`` when it cannot be written.
        """
        if code.get("ImageUri"):
            raise NotSupported("PackageType Image is not supported: code is a zip here")
        inline, bucket, key = code.get("ZipFile"), code.get("S3Bucket"), code.get("S3Key")
        if inline is not None and (bucket or key):
            raise InvalidParameter("Please do not provide other FunctionCode parameters when providing a ZipFile.")
        if inline is not None:
            data, digest = await asyncio.to_thread(self._decoded, inline)  # decoding 50 MB takes a while
            await self._store.put(digest, data)
            return Package(digest, len(data))
        if bucket and key:
            return await self._from_s3(str(bucket), str(key), code.get("S3ObjectVersion"))
        raise InvalidParameter("Please provide a source for function code.")

    async def _from_s3(self, bucket: str, key: str, version: str | None) -> Package:
        """Bring an object into the store by way of its disk: a zip in S3 may be as large as its contents."""
        with self._store.incoming() as target:  # closed below the thread if nobody waits any more, which ends it
            package = await asyncio.to_thread(self._fetch, self._object(bucket, key, version), target)
            await self._store.put_file(package.digest, Path(target.name))
        return package

    def _decoded(self, inline: Any) -> tuple[bytes, str]:
        """Return a zip and its digest. In a thread."""
        try:
            data = base64.b64decode(inline, validate=True)
        except (binascii.Error, ValueError, TypeError) as error:
            raise InvalidParameter("Could not unzip uploaded file: ZipFile is not base64") from error
        if len(data) > self._limits.code_zipped_bytes:
            raise RequestTooLarge(f"Zipped size must be smaller than {self._limits.code_zipped_bytes} bytes")
        if not data:
            raise InvalidParameter(_EMPTY)
        return data, hashlib.sha256(data).hexdigest()

    def _fetch(self, pieces: Generator[bytes, None, None], target: BinaryIO) -> Package:
        """Write an object down, as far as a zip may reach, and return what it is. In a thread. Raises ``OSError``."""
        digest, size = hashlib.sha256(), 0
        with closing(pieces):
            for piece in pieces:
                size += len(piece)
                self._refuse_size(size)
                digest.update(piece)
                target.write(piece)
        target.flush()
        if not size:
            raise InvalidParameter(_EMPTY)
        return Package(digest.hexdigest(), size)

    def _object(self, bucket: str, key: str, version: str | None) -> Generator[bytes, None, None]:
        """Yield the bytes of an object in S3."""
        from botocore.exceptions import BotoCoreError, ClientError

        which = {"VersionId": version} if version else {}
        try:
            found = self._client().get_object(Bucket=bucket, Key=key, **which)
            with closing(found["Body"]) as body:
                self._refuse_size(int(found.get("ContentLength", 0)))
                while piece := _read(body):
                    yield piece
        except ClientError as error:
            told = error.response["Error"]
            raise InvalidParameter(
                f"Error occurred while GetObject. S3 Error Code: {told.get('Code')}. "
                f"S3 Error Message: {told.get('Message')}"
            ) from error
        except BotoCoreError as error:  # unreachable, no credentials, a name that can be none, cut short
            raise InvalidParameter(f"Error occurred while GetObject: {error}") from error

    def _refuse_size(self, size: int) -> None:
        """Refuse what cannot become smaller by unpacking."""
        limit = self._limits.code_unzipped_bytes
        if size > limit:
            raise InvalidParameter(f"Unzipped size must be smaller than {limit} bytes")


def _read(body: Any) -> bytes:
    try:
        piece: bytes = body.read(_PIECE_BYTES)
    except OSError as error:  # the connection's, told apart from those of the disk
        raise InvalidParameter(f"Error occurred while GetObject: {error}") from error
    return piece
