"""Code that is uploaded in pieces: written to the disk as it arrives, so that a large one is never held in memory."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path

from .codestore import CodeStore
from .errors import InvalidParameter

_PIECE_BYTES = 1024 * 1024  # what is hashed and written at once, in a thread


async def receive(store: CodeStore, digest: str, parts: AsyncIterator[bytes]) -> int:
    """Store the zip that ``parts`` make together and return its bytes.

    Raises as ``CodeStore.put``, and what ``parts`` raises; nothing is stored then, and nothing left.
    """
    store.has(digest)  # what is no digest is refused before anything is read
    hashed, size, piece = hashlib.sha256(), 0, bytearray()
    with store.incoming() as file:

        def take(data: bytes) -> None:
            hashed.update(data)
            file.write(data)

        async for part in parts:
            piece += part
            if len(piece) >= _PIECE_BYTES:
                size += len(piece)
                await asyncio.to_thread(take, bytes(piece))
                piece.clear()
        take(bytes(piece))
        file.flush()
        if hashed.hexdigest() != digest:
            raise InvalidParameter(f"the uploaded code has SHA-256 {hashed.hexdigest()}, not {digest}")
        await store.put_file(digest, Path(file.name))
    return size + len(piece)
