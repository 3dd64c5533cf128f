"""Code as Lambda's API takes it: a zip in the request, or an object in S3. Brought into the code store, by digest.

As on AWS, a zip in a request may be much smaller than one in S3, which only the size of its contents limits: such an
object goes straight to the disk.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from .codeobjects import CodeObject, pieces_of, s3_client
from .codestore import CodeStore
from .config import Limits
from .errors import InvalidParameter, NotSupported, RequestTooLarge

_EMPTY = "Uploaded file must be a non-empty zip"


@dataclass(frozen=True, slots=True)
class Package:
    """Code in the store: the SHA-256 (hex) of its zip, and that zip's bytes."""

    digest: str
    size: int


class Packages:
    """Takes code in. ``client`` makes an S3 client, in a thread, when an object is asked for."""

    def __init__(self, store: CodeStore, limits: Limits, *, client: Callable[[], Any] = s3_client) -> None:
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
            return await self._from_s3(CodeObject(str(bucket), str(key), code.get("S3ObjectVersion") or ""))
        raise InvalidParameter("Please provide a source for function code.")

    async def _from_s3(self, wanted: CodeObject) -> Package:
        """Bring an object into the store by way of its disk: a zip in S3 may be as large as its contents."""
        with self._store.incoming() as target:  # closed below the thread if nobody waits any more, which ends it
            package = await asyncio.to_thread(self._fetch, wanted, target)
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

    def _fetch(self, wanted: CodeObject, target: BinaryIO) -> Package:
        """Write an object down, as far as a zip may reach, and return what it is. In a thread. Raises ``OSError``."""
        digest, size = hashlib.sha256(), 0
        with closing(pieces_of(wanted, self._limits.code_unzipped_bytes, client=self._client)) as pieces:
            for piece in pieces:
                size += len(piece)
                digest.update(piece)
                target.write(piece)
        target.flush()
        if not size:
            raise InvalidParameter(_EMPTY)
        return Package(digest.hexdigest(), size)
