"""Uploads in pieces: stored as they were sent, by way of the disk, and nothing is left of those that come to nothing."""

from __future__ import annotations

import hashlib
import io
import random
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.errors import InvalidParameter, RequestTooLarge
from glowplug.runtime.receiving import receive


@pytest.fixture
def store(tmp_path: Path) -> CodeStore:
    return CodeStore(tmp_path / "code")


def zipped(size: int) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("data", random.Random(1).randbytes(size))
    return buffer.getvalue()


async def pieces(data: bytes, size: int, failure: Exception | None = None) -> AsyncIterator[bytes]:
    for start in range(0, len(data), size):
        yield data[start : start + size]
    if failure is not None:
        raise failure


def left(tmp_path: Path) -> list[str]:
    return sorted(path.name for path in (tmp_path / "code").iterdir())


@pytest.mark.parametrize(("size", "piece"), [(10, 7), (3_000_000, 65_536), (3_000_000, 2_500_000)])
async def test_pieces_are_stored_as_one_zip(store: CodeStore, tmp_path: Path, size: int, piece: int) -> None:
    data = zipped(size)
    digest = hashlib.sha256(data).hexdigest()
    assert len(data) == await receive(store, digest, pieces(data, piece))
    assert data == (tmp_path / "code" / f"{digest}.zip").read_bytes()
    assert size == len((store.path(digest) / "data").read_bytes())
    assert len(data) == await receive(store, digest, pieces(data, piece))  # again
    assert [digest, f"{digest}.zip"] == left(tmp_path)


async def test_what_is_not_what_it_was_said_to_be_leaves_nothing(store: CodeStore, tmp_path: Path) -> None:
    data = zipped(10)
    actual, said = hashlib.sha256(data).hexdigest(), "0" * 64
    with pytest.raises(InvalidParameter, match=f"^the uploaded code has SHA-256 {actual}, not {said}$"):
        await receive(store, said, pieces(data, 10))
    with pytest.raises(InvalidParameter, match="Could not unzip uploaded file"):
        await receive(store, hashlib.sha256(b"no zip").hexdigest(), pieces(b"no zip", 2))
    with pytest.raises(InvalidParameter, match="is not a SHA-256 digest"):
        await receive(store, "../evil", pieces(data, 10))
    assert [] == left(tmp_path)


async def test_an_upload_that_breaks_off_leaves_nothing(store: CodeStore, tmp_path: Path) -> None:
    data = zipped(2_000_000)
    with pytest.raises(RequestTooLarge):
        await receive(store, "0" * 64, pieces(data, 65_536, RequestTooLarge("too large")))
    assert [] == left(tmp_path)
