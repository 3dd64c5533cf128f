"""Code as Lambda's API takes it: a zip in the request, or an object in S3. Brought into the code store, by digest.

S3 is whatever the node's own environment says it is (``AWS_ENDPOINT_URL_S3``, credentials, as for boto3 everywhere);
what goes wrong there is told in the sentences that Lambda tells it in (recorded).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

from .codestore import CodeStore
from .config import Limits
from .errors import InvalidParameter, NotSupported, RequestTooLarge

_PIECE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Package:
    """Code in the store: the SHA-256 (hex) of its zip, and that zip's bytes."""

    digest: str
    size: int


def _s3() -> Any:
    return boto3.client("s3")


class Packages:
    """Takes code in. ``client`` makes an S3 client, in a thread, when the first object is asked for."""

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
        data = await self._bytes(code)
        if len(data) > self._limits.code_zipped_bytes:
            raise RequestTooLarge(f"Zipped size must be smaller than {self._limits.code_zipped_bytes} bytes")
        digest = await asyncio.to_thread(lambda: hashlib.sha256(data).hexdigest())
        await self._store.put(digest, data)
        return Package(digest, len(data))

    async def _bytes(self, code: Mapping[str, Any]) -> bytes:
        if code.get("ZipFile") is not None:
            try:
                return base64.b64decode(code["ZipFile"], validate=True)
            except (binascii.Error, ValueError, TypeError) as error:
                raise InvalidParameter("Could not unzip uploaded file: ZipFile is not base64") from error
        if code.get("S3Bucket") and code.get("S3Key"):
            return await asyncio.to_thread(self._fetch, code)
        raise InvalidParameter("Please provide a source for function code.")

    def _fetch(self, code: Mapping[str, Any]) -> bytes:
        version = {"VersionId": code["S3ObjectVersion"]} if code.get("S3ObjectVersion") else {}
        parts: list[bytes] = []
        size = 0
        try:
            found = self._client().get_object(Bucket=code["S3Bucket"], Key=code["S3Key"], **version)
            while part := found["Body"].read(_PIECE_BYTES):
                parts.append(part)
                size += len(part)
                if size > self._limits.code_unzipped_bytes:  # what is fetched may be larger than what is sent
                    raise InvalidParameter(
                        f"Unzipped size must be smaller than {self._limits.code_unzipped_bytes} bytes"
                    )
        except ClientError as error:
            told = error.response["Error"]
            raise InvalidParameter(
                f"Error occurred while GetObject. S3 Error Code: {told.get('Code')}. "
                f"S3 Error Message: {told.get('Message')}"
            ) from error
        except BotoCoreError as error:
            raise InvalidParameter(f"Error occurred while GetObject: {error}") from error
        return b"".join(parts)
