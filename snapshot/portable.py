"""A snapshot as one signed file, ``.glowplug``, that moves it between machines of one fingerprint.

An uncompressed tar (POSIX ustar) with these members, in this order:

    signature.ed25519    202 bytes, ``ed25519 <key id> <signature>\\n``, both in hex. The key id is the SHA-256 of the
                         raw public key, the signature is over ``glowplug portable snapshot\\0`` and the manifest
    manifest.json        the manifest, byte for byte as it was baked (``manifest.py``)
    <artefact> …         the files that the manifest lists, sorted by name

and 1024 zero bytes. Every header has mode 0444, no owner and no time.

What is refused, and why:

- Whatever is not byte for byte what ``export`` writes of the same manifest, key and signature: the headers of all
  members but the manifest's are known before they are read, and the manifest's is known but for its size. So there is
  no such thing as a member with a path, a link, an extra, missing or second member, an extended header, padding that
  holds something, or bytes after the end; and nothing here interprets what a hostile file says.
- Compression in any form: a small file must not become a large one, and weights do not shrink.
- A signature by a key that is not among the trusted ones, before one byte of the manifest is parsed: an engine is code,
  and who signs one may run any code here. The prefix keeps a signature over something else from being one of these.
- Artefacts that are not what the signed manifest says, by size and SHA-256: one signature holds for all of them.
- A manifest of more than ``MAX_MANIFEST_BYTES``, an artefact of 8 GiB or more (11 octal digits are what a ustar header
  has), a name of more than 100 bytes in UTF-8.
- A fingerprint that is not this machine's, before any artefact is read.

Why tar: it is written and checked in one pass, front to back, without a second look at the file (zip has its directory
at the end), and anybody can look into one with ``tar tf``. Why the signature comes first: see the third point.

The node that takes a file in signs the snapshot anew with its own key (``store.py``): the signature here says where it
came from, that one that it was found good. Torch-free.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from . import fingerprint
from .errors import FingerprintMismatch, SignatureRefused, SnapshotCorrupt, SnapshotFileInvalid
from .manifest import Manifest
from .store import MANIFEST, MAX_MANIFEST_BYTES, StoredFile, VerifiedSnapshot, chunks_of, contents_of

SIGNATURE = "signature.ed25519"
CHUNK_BYTES = 1024 * 1024

_SIGNED = b"glowplug portable snapshot\0"
_SIGNATURE_BYTES = 202  # "ed25519 " + 64 + " " + 128 + "\n"
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_MOST_BYTES = 8 * 1024**3 - 1
_NAME_BYTES = 100

PrivateKey = Ed25519PrivateKey
TrustedKeys = Mapping[str, Ed25519PublicKey]
"""Key id -> public key."""

Steps = Generator[int, bytes, "ReceivedSnapshot"]
"""A reader that yields how many bytes it wants next, and is sent just as many."""


@dataclass(frozen=True, slots=True)
class ReceivedSnapshot:
    """A file that was found good: the snapshot's ``key``, its manifest, and the id of the key that ``signer`` has
    (empty where no signature was asked for)."""

    key: str
    manifest: Manifest
    signer: str


def key_id(key: Ed25519PublicKey) -> str:
    """Return what names a key: the SHA-256 of its 32 bytes, in hex."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()


def load_private_key(path: Path) -> PrivateKey:
    """Read an Ed25519 private key, PEM without a password. Raises ``ValueError`` that says what is wrong with it."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError(f"{path}: {_reason(error)}; it must be a PEM file with an Ed25519 private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ValueError(f"{path}: not an Ed25519 private key; make one with `openssl genpkey -algorithm ed25519`")
    return key


def load_trusted_keys(paths: Sequence[Path]) -> TrustedKeys:
    """Read Ed25519 public keys, PEM: each path is a file, or a directory whose ``*.pem`` count.

    Raises ``ValueError`` naming the file: a key that cannot be read must not pass for one that was never there.
    """
    keys = {}
    for path in paths:
        for file in sorted(path.glob("*.pem")) if path.is_dir() else [path]:
            try:
                key = load_pem_public_key(file.read_bytes())
            except (OSError, ValueError, UnsupportedAlgorithm) as error:
                raise ValueError(f"{file}: {_reason(error)}; it must be a PEM file with a public key") from error
            if not isinstance(key, Ed25519PublicKey):
                raise ValueError(f"{file}: not an Ed25519 public key")
            keys[key_id(key)] = key
    return keys


# --- writing ----------------------------------------------------------------------------------------------------------


def unsigned(snapshot: VerifiedSnapshot) -> Iterator[bytes]:
    """Yield all of a file but its signature, which its first member is. Artefacts are checked while they are read.

    Raises ``SnapshotCorrupt``, ``SnapshotMissing`` and ``SnapshotFileInvalid`` (a name or a size that the form has no
    room for), the last before anything is yielded.
    """
    _, artefacts = contents_of(snapshot.manifest, str(snapshot.directory))
    headers = [_header(artefact.name, artefact.size) for artefact in artefacts]
    yield _header(MANIFEST, len(snapshot.manifest)) + snapshot.manifest + _padding(len(snapshot.manifest))
    for header, artefact in zip(headers, artefacts, strict=True):
        yield header
        yield from chunks_of(snapshot.directory / artefact.name, artefact)
        yield _padding(artefact.size)
    yield _END


def write_signed(path: Path, body: Iterable[bytes], key: PrivateKey) -> ReceivedSnapshot:
    """Write a file whose ``body`` (``unsigned``) came from elsewhere, signed with ``key``; all of it, or nothing.

    What is signed has been checked to be what its manifest says. Raises ``SnapshotFileInvalid`` and ``OSError``.
    """
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    steps = _Fed(_body(None))
    try:
        with fresh.open("xb") as file:
            file.write(bytes(_BLOCK + _SIGNATURE_BYTES) + _padding(_SIGNATURE_BYTES))
            for chunk in body:
                steps.feed(chunk)
                file.write(chunk)
            received = steps.finish()
            file.seek(0)
            file.write(_signature_member(received.manifest.to_bytes(), key))
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    finally:
        steps.close()
        fresh.unlink(missing_ok=True)
    return received


# --- reading ----------------------------------------------------------------------------------------------------------


class _Fed:
    """Gives steps their bytes, however those arrive."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps
        self._buffer = bytearray()
        self._result: ReceivedSnapshot | None = None
        self._wanted = next(steps)

    def feed(self, data: bytes) -> None:
        """Take the next bytes. Raises the errors of ``Reader``."""
        self._buffer += data
        while self._result is None and len(self._buffer) >= self._wanted:
            piece = bytes(self._buffer[: self._wanted])
            del self._buffer[: self._wanted]
            try:
                self._wanted = self._steps.send(piece)
            except StopIteration as end:
                self._result = end.value
        if self._result is not None and self._buffer:
            raise SnapshotFileInvalid("there are bytes after the end")

    def finish(self) -> ReceivedSnapshot:
        """Return what was read. Raises ``SnapshotFileInvalid`` when there is not all of it."""
        if self._result is None:
            raise SnapshotFileInvalid("cut off: the file ends before the snapshot does")
        return self._result

    def close(self) -> None:
        """Close what is open."""
        self._steps.close()


class Reader(_Fed):
    """Reads a signed file from pieces of any size into ``directory``, which is empty and the caller's to remove.

    Everything raises ``SnapshotFileInvalid``, ``SignatureRefused``, ``SnapshotCorrupt`` (an authentic manifest that no
    baker of this release wrote), ``FingerprintMismatch`` or ``OSError``; then the file is not to be used.
    """

    def __init__(self, directory: Path, trusted: TrustedKeys) -> None:
        super().__init__(_signed(directory, trusted))


def _signed(directory: Path, trusted: TrustedKeys) -> Steps:
    first = yield _BLOCK
    if _size_of_manifest(first) is not None:
        raise SignatureRefused("it is not signed")
    if first != _header(SIGNATURE, _SIGNATURE_BYTES):
        raise SnapshotFileInvalid("this is not a snapshot file: its first member is not the signature")
    text = yield _SIGNATURE_BYTES
    yield from _zeros(_SIGNATURE_BYTES)
    signer, signature = _signer_of(text)
    key = trusted.get(signer)
    if key is None:
        raise SignatureRefused(f"it is signed by the key {signer}, which is not trusted here")
    received = yield from _body(directory, key, signature)
    return ReceivedSnapshot(received.key, received.manifest, signer)


def _body(directory: Path | None, key: Ed25519PublicKey | None = None, signature: bytes = b"") -> Steps:
    """Read manifest and artefacts. Without a ``directory`` nothing is kept, without a ``key`` nothing authenticated."""
    size = _size_of_manifest((yield _BLOCK))
    if size is None:
        raise SnapshotFileInvalid("where the manifest should be is another member, or one that is too large")
    manifest = yield size
    yield from _zeros(size)
    if key is not None:
        try:
            key.verify(signature, _SIGNED + manifest)
        except InvalidSignature:
            raise SignatureRefused("the signature is of another manifest: the file was altered") from None
    read = Manifest.from_bytes(manifest)
    if read.to_bytes() != manifest:
        raise SnapshotCorrupt("manifest: not the canonical text")
    name, artefacts = contents_of(manifest, "the file")
    if directory is not None:
        differences = fingerprint.compare(read.fingerprint)
        if differences:
            raise FingerprintMismatch(f"it was baked elsewhere: {'; '.join(differences)}")
        (directory / MANIFEST).write_bytes(manifest)
    for artefact in artefacts:
        yield from _artefact(directory, artefact)
    if (yield len(_END)) != _END:
        raise SnapshotFileInvalid("there are more members than the manifest lists")
    return ReceivedSnapshot(name, read, "")


def _artefact(directory: Path | None, artefact: StoredFile) -> Generator[int, bytes, None]:
    if (yield _BLOCK) != _header(artefact.name, artefact.size):
        raise SnapshotFileInvalid(f"where {artefact.name!r} should be is another member, or one of another size")
    digest = hashlib.sha256()
    left = artefact.size
    with open(os.devnull if directory is None else directory / artefact.name, "wb") as file:
        while left:
            chunk = yield min(left, CHUNK_BYTES)
            digest.update(chunk)
            file.write(chunk)
            left -= len(chunk)
    if digest.hexdigest() != artefact.sha256:
        raise SnapshotFileInvalid(f"{artefact.name}: sha256 {digest.hexdigest()}, the manifest says {artefact.sha256}")
    yield from _zeros(artefact.size)


def _zeros(size: int) -> Generator[int, bytes, None]:
    """Read the padding behind a member of ``size`` bytes."""
    padding = _padding(size)
    if padding and (yield len(padding)) != padding:
        raise SnapshotFileInvalid("there are bytes between two members")


# --- the form ---------------------------------------------------------------------------------------------------------


def _header(name: str, size: int) -> bytes:
    """Return the one header that a member of this name and size has. Raises ``SnapshotFileInvalid``."""
    encoded = name.encode()
    if len(encoded) > _NAME_BYTES or size > _MOST_BYTES:
        raise SnapshotFileInvalid(f"{name[:_NAME_BYTES]!r}: name or size ({size} bytes) do not fit this form")
    before = encoded.ljust(_NAME_BYTES, b"\0") + b"0000444\0" + b"0000000\0" * 2 + b"%011o\0" % size + b"0" * 11 + b"\0"
    after = b"0" + bytes(_NAME_BYTES) + b"ustar\x0000" + bytes(247)  # type, link name, magic, owners, devices, prefix
    checksum = sum(before) + sum(after) + 8 * ord(" ")
    return before + b"%06o\0 " % checksum + after


def _size_of_manifest(header: bytes) -> int | None:
    """Return the size that the manifest's header announces; None for any other header, or one that is too large."""
    digits = header[124:135]
    if not digits.isdigit() or b"8" in digits or b"9" in digits:
        return None
    size = int(digits, 8)
    return size if size <= MAX_MANIFEST_BYTES and header == _header(MANIFEST, size) else None


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _signature_member(manifest: bytes, key: PrivateKey) -> bytes:
    text = f"ed25519 {key_id(key.public_key())} {key.sign(_SIGNED + manifest).hex()}\n".encode()
    return _header(SIGNATURE, len(text)) + text + _padding(len(text))


def _signer_of(text: bytes) -> tuple[str, bytes]:
    """Return key id and signature; the text is the only one that stands for them."""
    try:
        kind, signer, signature = text.decode("ascii").removesuffix("\n").split(" ")
        read = bytes.fromhex(signer), bytes.fromhex(signature)
        if text != f"{kind} {read[0].hex()} {read[1].hex()}\n".encode() or kind != "ed25519":
            raise ValueError(kind)
    except ValueError:
        raise SignatureRefused("its signature is not one of this form") from None
    return signer, read[1]


def _reason(error: Exception) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "cannot be read as such"
