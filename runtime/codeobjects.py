"""Zips in S3, as the Lambda API names them: a bucket, a key, and perhaps a version.

S3 is whatever the environment says it is (``AWS_ENDPOINT_URL_S3``, credentials, as for boto3 everywhere); what goes
wrong there is told in the sentences that Lambda tells it in (recorded).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from .errors import InvalidParameter

_PIECE_BYTES = 1024 * 1024
_CONNECT_S = 5.0
_READ_S = 30.0
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class CodeObject:
    """An object in S3. ``version`` is empty for the newest."""

    bucket: str
    key: str
    version: str = ""

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}{f'?versionId={self.version}' if self.version else ''}"


def s3_client() -> Any:
    """Return a client of S3, with the settings of this process's environment."""
    # Imported here: boto3 is half a second and 20 MB, which a node that is never given an S3 object does without.
    import boto3
    from botocore.config import Config

    patience = Config(connect_timeout=_CONNECT_S, read_timeout=_READ_S, retries={"total_max_attempts": _ATTEMPTS})
    return boto3.client("s3", config=patience)


def pieces_of(
    wanted: CodeObject, most_bytes: int, *, client: Callable[[], Any] = s3_client
) -> Generator[bytes, None, None]:
    """Yield the bytes of an object; ``client`` makes a client of S3 when the first is asked for.

    Raises ``InvalidParameter`` with Lambda's sentences where it cannot be read, or has more than ``most_bytes``: it
    cannot become smaller by unpacking.
    """
    from botocore.exceptions import BotoCoreError, ClientError

    which = {"VersionId": wanted.version} if wanted.version else {}
    size = 0
    try:
        found = client().get_object(Bucket=wanted.bucket, Key=wanted.key, **which)
        with closing(found["Body"]) as body:
            _refuse_size(int(found.get("ContentLength", 0)), most_bytes)
            while piece := _read(body):
                size += len(piece)
                _refuse_size(size, most_bytes)
                yield piece
    except ClientError as error:
        told = error.response["Error"]
        raise InvalidParameter(
            f"Error occurred while GetObject. S3 Error Code: {told.get('Code')}. "
            f"S3 Error Message: {told.get('Message')}"
        ) from error
    except (
        BotoCoreError,
        ValueError,
    ) as error:  # unreachable, no credentials, no bucket's name, cut short, no endpoint
        raise InvalidParameter(f"Error occurred while GetObject: {error}") from error


def _read(body: Any) -> bytes:
    try:
        piece: bytes = body.read(_PIECE_BYTES)
    except OSError as error:  # the connection's, told apart from those of the disk
        raise InvalidParameter(f"Error occurred while GetObject: {error}") from error
    return piece


def _refuse_size(size: int, most_bytes: int) -> None:
    if size > most_bytes:
        raise InvalidParameter(f"Unzipped size must be smaller than {most_bytes} bytes")
