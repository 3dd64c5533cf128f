"""Snapshots as files: what is written is read, and nothing else is."""

from __future__ import annotations

import dataclasses
import gzip
import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glowplug.snapshot import fingerprint, portable
from glowplug.snapshot.errors import (
    FingerprintMismatch,
    SignatureRefused,
    SnapshotCorrupt,
    SnapshotError,
    SnapshotFileInvalid,
)
from glowplug.snapshot.manifest import Artefact, EngineRecord, Manifest
from glowplug.snapshot.store import SnapshotStore

KEY = "ab" * 32
FILES = {"model.so": b"\x7fELF" * 300, "check.safetensors": b"check", "empty": b""}
SIGNER = ed25519.Ed25519PrivateKey.from_private_bytes(b"s" * 32)
TRUSTED = {portable.key_id(SIGNER.public_key()): SIGNER.public_key()}


def manifest_of(files: dict[str, bytes], **changed: Any) -> Manifest:
    fields: dict[str, Any] = {
        "key": KEY, "source": "s" * 64, "graph": "g",
        "fingerprint": fingerprint.current().to_json(), "signature": {}, "computed": {}, "aliases": {},
        "engines": {"eager": EngineRecord(cold_ms=30.5, warm_ms=12.25)}, "verdict": "eager", "reason": "é", "check": {},
        "artefacts": {name: Artefact(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()},
    }  # fmt: skip
    return Manifest(**(fields | changed))


def staged(directory: Path, manifest: bytes, files: dict[str, bytes]) -> Path:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    (directory / "manifest.json").write_bytes(manifest)
    return directory


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., bytes]:
    """Return a signed file of a snapshot with these files and this manifest."""

    def write_(files: dict[str, bytes] = FILES, signer: Any = SIGNER, name: str = "one", **changed: Any) -> bytes:
        store = SnapshotStore(tmp_path / f"{name}-snapshots", b"k" * 32)
        manifest = manifest_of(files, **changed)
        store.publish(staged(tmp_path / f"{name}-staging", manifest.to_bytes(), files))
        path = tmp_path / f"{name}.glowplug"
        portable.write_signed(path, portable.unsigned(store.open(manifest.key)), signer)
        return path.read_bytes()

    return write_


def read(data: bytes, directory: Path, trusted: portable.TrustedKeys = TRUSTED, step: int = 1 << 20) -> Any:
    directory.mkdir(exist_ok=True)
    reader = portable.Reader(directory, trusted)
    try:
        for start in range(0, len(data), step):
            reader.feed(data[start : start + step])
        return reader.finish()
    finally:
        reader.close()


def members(data: bytes) -> list[tuple[str, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(one.name, (archive.extractfile(one) or io.BytesIO()).read()) for one in archive]


def tarred(parts: list[tuple[str, bytes]]) -> bytes:
    return b"".join(
        portable._header(name, len(data)) + data + portable._padding(len(data)) for name, data in parts
    ) + bytes(1024)  # fmt: skip


@pytest.mark.parametrize("step", [1, 511, 1 << 20])
def test_what_is_written_is_read_however_it_arrives(write: Callable[..., bytes], tmp_path: Path, step: int) -> None:
    data = write()
    received = read(data, tmp_path / "in", step=step)
    assert (KEY, next(iter(TRUSTED))) == (received.key, received.signer)
    assert manifest_of(FILES) == received.manifest
    assert FILES == {name: (tmp_path / "in" / name).read_bytes() for name in FILES}
    assert SnapshotStore(tmp_path / "B", b"other" * 8).publish(tmp_path / "in").key == KEY


def test_it_is_a_tar_that_anybody_can_look_into(write: Callable[..., bytes]) -> None:
    found = members(write())
    assert ["signature.ed25519", "manifest.json", "check.safetensors", "empty", "model.so"] == [n for n, _ in found]
    assert FILES == {name: data for name, data in found if name in FILES}


def test_equal_snapshots_make_equal_files(write: Callable[..., bytes]) -> None:
    assert write() == write(name="again")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_changed_file_is_ever_accepted(write: Callable[..., bytes], tmp_path: Path, data: st.DataObject) -> None:
    path = tmp_path / "one.glowplug"
    good = path.read_bytes() if path.exists() else write()
    start = data.draw(st.integers(0, len(good)))
    end = data.draw(st.integers(start, min(len(good), start + 1100)))
    bad = good[:start] + data.draw(st.binary(max_size=1100)) + good[end:]
    if bad == good:
        assert KEY == read(bad, tmp_path / "in").key
        return
    with pytest.raises(SnapshotError):
        read(bad, tmp_path / "in")


def test_flipped_bits_of_signature_manifest_and_headers_are_caught(write: Callable[..., bytes], tmp_path: Path) -> None:
    good = write({"model.so": b"x"})
    for position in range(0, len(good), 11):  # not all of them, for the time it takes; 11 has no factor of a block
        bad = bytearray(good)
        bad[position] ^= 1 << position % 8
        with pytest.raises(SnapshotError):
            read(bytes(bad), tmp_path / "in")


def test_a_file_that_is_cut_off_anywhere_is_refused(write: Callable[..., bytes], tmp_path: Path) -> None:
    good = write({"model.so": b"x" * 600})
    for length in range(0, len(good), 64):
        with pytest.raises(SnapshotFileInvalid, match="cut off"):
            read(good[:length], tmp_path / "in")
    with pytest.raises(SnapshotFileInvalid, match="after the end"):
        read(good + b"\0", tmp_path / "in")


def with_member(at: int, name: str, content: bytes) -> Callable[[list[tuple[str, bytes]]], list[tuple[str, bytes]]]:
    return lambda parts: [*parts[:at], (name, content), *parts[at:]]


@pytest.mark.parametrize(
    ("change", "kind", "words"),
    [
        (with_member(5, "more.so", b"x"), SnapshotFileInvalid, "more members"),
        (with_member(3, "../../evil", b"x"), SnapshotFileInvalid, "another member"),
        (with_member(3, "check.safetensors", b"check"), SnapshotFileInvalid, "another member"),
        (with_member(2, "manifest.json", b"{}"), SnapshotFileInvalid, "another member"),
        (lambda parts: parts[1:], SignatureRefused, "not signed"),
        (lambda parts: parts[:-1], SnapshotFileInvalid, "another member"),
        (lambda parts: [*parts[:2], parts[3], parts[2], parts[4]], SnapshotFileInvalid, "another member"),
        (lambda parts: [*parts[:4], ("model.so", b"y" * 1200)], SnapshotFileInvalid, "sha256"),
        (lambda parts: [*parts[:4], ("model.so", b"\x7fELF" * 299)], SnapshotFileInvalid, "another size"),
        (lambda parts: [("signature.ed25519", b"x" * 202), *parts[1:]], SignatureRefused, "not one of this form"),
        (lambda parts: [(parts[0][0], parts[0][1].upper()), *parts[1:]], SignatureRefused, "not one of this form"),
        (
            lambda parts: [parts[0], ("manifest.json", parts[1][1].replace(b"30.5", b"10.5")), *parts[2:]],
            SignatureRefused, "altered",
        ),
    ],
)  # fmt: skip
def test_other_members_are_refused_with_the_reason(
    write: Callable[..., bytes], tmp_path: Path, change: Any, kind: type[Exception], words: str
) -> None:
    parts = members(write())
    with pytest.raises(kind, match=words):
        read(tarred(change(parts)), tmp_path / "in")
    assert not (tmp_path / "evil").exists()


def test_compression_and_other_formats_are_not_looked_into(write: Callable[..., bytes], tmp_path: Path) -> None:
    for data in (gzip.compress(write()), b"PK\x03\x04" + bytes(600), bytes(2048)):
        with pytest.raises(SnapshotFileInvalid, match="not a snapshot file"):
            read(data, tmp_path / "in")


def test_a_huge_manifest_is_refused_by_its_header(write: Callable[..., bytes], tmp_path: Path) -> None:
    parts = members(write())
    start = tarred(parts[:1])[:-1024] + portable._header("manifest.json", 8 * 1024**3 - 1)
    with pytest.raises(SnapshotFileInvalid, match="too large"):
        read(start, tmp_path / "in")
    assert [] == list((tmp_path / "in").iterdir())


def test_a_key_that_is_not_trusted_is_refused_before_the_manifest(write: Callable[..., bytes], tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    signed = write(signer=other)
    with pytest.raises(SignatureRefused, match=portable.key_id(other.public_key())):
        read(signed[:1024], tmp_path / "in")
    with pytest.raises(SignatureRefused, match="not trusted here"):
        read(signed, tmp_path / "in", trusted={})


def test_a_signature_of_the_bare_manifest_is_not_one_of_a_snapshot(write: Callable[..., bytes], tmp_path: Path) -> None:
    parts = members(write())
    bare = f"ed25519 {next(iter(TRUSTED))} {SIGNER.sign(parts[1][1]).hex()}\n".encode()
    with pytest.raises(SignatureRefused, match="altered"):
        read(tarred([(parts[0][0], bare), *parts[1:]]), tmp_path / "in")


def test_another_machines_snapshot_is_refused_before_its_artefacts(write: Callable[..., bytes], tmp_path: Path) -> None:
    foreign = {**fingerprint.current().to_json(), "torch": "9.9"}
    with pytest.raises(FingerprintMismatch, match=r"torch 9\.9, here"):
        read(write(fingerprint=foreign), tmp_path / "in")
    assert [] == list((tmp_path / "in").iterdir())


@pytest.mark.parametrize("manifest", [b"{}", b"[" * 100, json.dumps({"format": 1}).encode(), b"\xff" * 40, b" " * 20])
def test_an_authentic_manifest_that_is_none_is_refused(tmp_path: Path, manifest: bytes) -> None:
    signature = portable._signature_member(manifest, SIGNER)
    with pytest.raises(SnapshotCorrupt):
        read(signature + tarred([("manifest.json", manifest)]), tmp_path / "in")


def test_an_authentic_manifest_cannot_name_a_path(tmp_path: Path) -> None:
    manifest = dataclasses.replace(manifest_of({}), artefacts={"../evil": Artefact("0" * 64, 0)})
    signature = portable._signature_member(manifest.to_bytes(), SIGNER)
    with pytest.raises(SnapshotCorrupt):
        read(signature + tarred([("manifest.json", manifest.to_bytes()), ("../evil", b"")]), tmp_path / "in")
    assert not (tmp_path / "evil").exists()


def test_a_name_that_no_header_holds_is_refused_at_the_export(tmp_path: Path) -> None:
    name = "n" * 101
    store = SnapshotStore(tmp_path / "snapshots", b"k" * 32)
    store.publish(staged(tmp_path / "staging", manifest_of({name: b""}).to_bytes(), {name: b""}))
    with pytest.raises(SnapshotFileInvalid, match="name or size"):
        next(portable.unsigned(store.open(KEY)))


def test_what_is_not_as_it_was_published_is_neither_signed_nor_written(
    write: Callable[..., bytes], tmp_path: Path
) -> None:
    body = write()[1024:]
    path = tmp_path / "out.glowplug"
    path.write_bytes(b"before")
    for bad in (body[:-1], body.replace(b"check" + bytes(507), b"chock" + bytes(507)), b""):
        with pytest.raises(SnapshotFileInvalid):
            portable.write_signed(path, [bad], SIGNER)
        assert b"before" == path.read_bytes()
    assert [] == list(tmp_path.glob(".out*"))


def pem(key: Any) -> bytes:
    if hasattr(key, "private_bytes"):
        private = serialization.PrivateFormat.PKCS8
        return bytes(key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption()))
    public = serialization.PublicFormat.SubjectPublicKeyInfo
    return bytes(key.public_bytes(serialization.Encoding.PEM, public))


def test_keys_are_files_or_directories_of_them(tmp_path: Path) -> None:
    other = ed25519.Ed25519PrivateKey.generate()
    directory = tmp_path / "trusted"
    directory.mkdir()
    (directory / "a.pem").write_bytes(pem(SIGNER.public_key()))
    (directory / "README").write_text("not a key, and not asked")
    (tmp_path / "b.pem").write_bytes(pem(other.public_key()))
    found = portable.load_trusted_keys([directory, tmp_path / "b.pem"])
    assert {portable.key_id(key.public_key()) for key in (SIGNER, other)} == set(found)
    assert {} == portable.load_trusted_keys([])
    (tmp_path / "private.pem").write_bytes(pem(SIGNER))
    assert portable.load_private_key(tmp_path / "private.pem").private_bytes_raw() == b"s" * 32


@pytest.mark.parametrize(
    "content", [None, b"", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", pem(SIGNER),
                pem(ec.generate_private_key(ec.SECP256R1()).public_key())],
    ids=["missing", "empty", "broken", "private", "elliptic"],
)  # fmt: skip
def test_a_key_that_cannot_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "key.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=r"key\.pem: "):
        portable.load_trusted_keys([path])
    path.write_bytes(pem(SIGNER.public_key()))
    with pytest.raises(ValueError, match=r"key\.pem: .*private key"):
        portable.load_private_key(path)
