"""Snapshots that leave and enter a node as files (``snapshot/portable.py``). Node side; who signs is the command line.

Leaving: the node gives the file without its signature, which is the operator's to make; the private key need not be
where functions run.

Entering: the body is written into a staging directory of the snapshot store, never held whole, checked against the
trusted keys, published under the node's own signature like a bake, and the staging directory goes. One that a killed
node leaves is swept with those of bakes. Then every model with the same weights is asked whether it is the snapshot's
(``Snapshots.adopt``).

Errors of the snapshot layer become the caller's here:

    SnapshotFileInvalid, SnapshotCorrupt   InvalidParameter     400
    SignatureRefused                       Forbidden            403
    FingerprintMismatch                    Conflict             409
    SnapshotMissing                        ResourceNotFound     404
    SnapshotStoreFailed                    StateError           500
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import shutil
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from glowplug.cache.errors import CacheError
from glowplug.cache.files import make_directory, store_errors
from glowplug.snapshot import errors as snapshot
from glowplug.snapshot.portable import CHUNK_BYTES, Reader, ReceivedSnapshot, TrustedKeys, load_trusted_keys, unsigned
from glowplug.snapshot.store import SnapshotStore

from .errors import Conflict, Forbidden, GlowplugError, InvalidParameter, ResourceNotFound, StateError

SETTING = "GLOWPLUG_TRUSTED_KEYS"

_log = logging.getLogger(__name__)
_RAISED: dict[type[snapshot.SnapshotError], type[GlowplugError]] = {
    snapshot.SnapshotFileInvalid: InvalidParameter,
    snapshot.SnapshotCorrupt: InvalidParameter,
    snapshot.SignatureRefused: Forbidden,
    snapshot.FingerprintMismatch: Conflict,
    snapshot.SnapshotMissing: ResourceNotFound,
    snapshot.SnapshotStoreFailed: StateError,
}


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A snapshot that was published: ``key``, the digest of the weights it is for, the id of the key that signed it,
    and whether one with that key was here already and has been kept."""

    key: str
    source: str
    signer: str
    reused: bool


class Porting:
    """Gives and takes snapshot files. ``trusted`` are paths of public keys, read once.

    Raises ``StateError`` when one of those cannot be used.
    """

    def __init__(self, store: SnapshotStore, trusted: Sequence[Path]) -> None:
        self._store = store
        try:
            self._trusted: TrustedKeys = load_trusted_keys(trusted)
        except ValueError as error:
            raise StateError(f"{SETTING}: {error}") from error

    def __repr__(self) -> str:
        return f"Porting({self._store!r}, trusted={len(self._trusted)})"

    async def leaving(self, key: str) -> AsyncGenerator[bytes, None]:
        """Return the unsigned file of a snapshot, piece by piece. Raises ``ResourceNotFound`` or ``InvalidParameter``
        when there is none or it is not as it was published."""
        with _raised("the snapshot"):
            pieces = unsigned(await asyncio.to_thread(self._store.open, key))
            first = await asyncio.to_thread(next, pieces)
        return _following(first, pieces)

    async def entering(self, body: AsyncIterator[bytes]) -> ReceivedFile:
        """Take a file in and publish its snapshot. Raises the errors above; then nothing is published."""
        if not self._trusted:
            raise Forbidden(f"no snapshot file is taken in here: {SETTING} names no public key that signs them")
        with _raised("the file"):
            async with self._staging() as staging:
                received = await self._read(body, staging)
                reused = await asyncio.to_thread(self._is_good, received.key)
                if not reused:
                    await asyncio.to_thread(self._store.publish, staging)
        how = "was here already" if reused else "is published"
        _log.info("snapshot %s, signed by the key %s, %s", received.key, received.signer, how)
        return ReceivedFile(received.key, received.manifest.source, received.signer, reused)

    async def _read(self, body: AsyncIterator[bytes], staging: Path) -> ReceivedSnapshot:
        reader = Reader(staging, self._trusted)
        try:
            waiting = bytearray()
            async for part in body:
                waiting += part
                if len(waiting) >= CHUNK_BYTES:  # a thread for each packet would cost more than its work
                    await _to_its_end(_feed, reader, bytes(waiting), staging)
                    waiting.clear()
            await _to_its_end(_feed, reader, bytes(waiting), staging)
            return reader.finish()
        finally:
            reader.close()

    def _is_good(self, key: str) -> bool:
        """A snapshot that was baked or measured here stays; what came is the same engine with another's figures."""
        try:
            self._store.open(key)
        except (snapshot.SnapshotCorrupt, snapshot.SnapshotMissing):
            return False
        return True

    @contextlib.asynccontextmanager
    async def _staging(self) -> AsyncIterator[Path]:
        staging = self._store.root / f".staging-{secrets.token_hex(8)}"  # the store's sweep knows the name
        with _disk(staging):
            make_directory(self._store.root)
            staging.mkdir(mode=0o700)
        try:
            yield staging
        finally:
            # shielded: a client that goes away must not leave its gigabytes behind
            await asyncio.shield(asyncio.to_thread(shutil.rmtree, staging, True))


async def _to_its_end(work: Callable[..., None], *arguments: object) -> None:
    """Run ``work`` in a thread; when cancelled, return after it: what it writes to is removed then."""
    done = asyncio.ensure_future(asyncio.to_thread(work, *arguments))
    try:
        await asyncio.shield(done)
    except asyncio.CancelledError:
        await asyncio.wait([done])
        raise


def _feed(reader: Reader, data: bytes, staging: Path) -> None:
    with _disk(staging):
        reader.feed(data)


async def _following(first: bytes, pieces: Iterator[bytes]) -> AsyncGenerator[bytes, None]:
    yield first
    while (piece := await asyncio.to_thread(next, pieces, None)) is not None:
        yield piece


@contextlib.contextmanager
def _raised(what: str) -> Iterator[None]:
    try:
        yield
    except snapshot.SnapshotError as error:
        kind = next((_RAISED[base] for base in type(error).__mro__ if base in _RAISED), None)
        if kind is None:
            raise
        raise kind(f"{what} is not used: {error}" if kind is not StateError else str(error)) from error


@contextlib.contextmanager
def _disk(path: Path) -> Iterator[None]:
    try:
        with store_errors(path):
            yield
    except CacheError as error:
        raise snapshot.SnapshotStoreFailed(str(error)) from error
