"""Snapshot files at the node: what is taken in, what is refused and leaves nothing, who uses it then."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from glowplug.runtime.bakereport import BakeVerdict
from glowplug.runtime.errors import Conflict, Forbidden, GlowplugError, InvalidParameter, ResourceNotFound, StateError
from glowplug.runtime.http.faults import error_reply
from glowplug.runtime.porting import Porting
from glowplug.runtime.process import wire
from glowplug.runtime.snapshots import Snapshots
from glowplug.runtime.spec import FunctionSpec, ModelSpec, SourceFile
from glowplug.snapshot import fingerprint, portable
from glowplug.snapshot.manifest import Artefact, EngineRecord, Manifest
from glowplug.snapshot.store import SnapshotStore

KEY = "ab" * 32
SIGNER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
ENGINE = b"\x7fELF" * 400
MODEL = ModelSpec("m", "file:///m", files=(SourceFile("model.safetensors", 7, "c" * 64),))
SPEC = FunctionSpec(name="f", handler="a.b", runtime="python3.11", code_digest="0" * 64, models=(MODEL,))


def stage(directory: Path, **changed: Any) -> Path:
    directory.mkdir(parents=True)
    (directory / "model.so").write_bytes(ENGINE)
    fields: dict[str, Any] = {
        "key": KEY, "source": MODEL.source_digest, "graph": "g", "fingerprint": fingerprint.current().to_json(),
        "signature": {}, "computed": {}, "aliases": {}, "verdict": "aot_inductor", "reason": "", "check": {},
        "engines": {"eager": EngineRecord(), "aot_inductor": EngineRecord("aot_inductor", artefact="model.so")},
        "artefacts": {"model.so": Artefact(hashlib.sha256(ENGINE).hexdigest(), len(ENGINE))},
    }  # fmt: skip
    (directory / "manifest.json").write_bytes(Manifest(**(fields | changed)).to_bytes())
    return directory


def exported(root: Path, signer: Ed25519PrivateKey = SIGNER, **changed: Any) -> bytes:
    """Return the file of a snapshot of another node."""
    elsewhere = SnapshotStore(root / "A" / "snapshots", b"a" * 32)
    elsewhere.publish(stage(root / "A" / "staging", **changed))
    portable.write_signed(root / "a.glowplug", portable.unsigned(elsewhere.open(KEY)), signer)
    return (root / "a.glowplug").read_bytes()


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "B" / "snapshots", b"b" * 32)


@pytest.fixture
def porting(store: SnapshotStore, tmp_path: Path) -> Porting:
    path = tmp_path / "signer.pem"
    path.write_bytes(SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Porting(store, [path])


async def sent(data: bytes, step: int = 1000) -> AsyncIterator[bytes]:
    for start in range(0, len(data), step):
        yield data[start : start + step]


def empty(store: SnapshotStore) -> bool:
    return not store.root.exists() or [] == list(store.root.iterdir())


async def test_what_comes_in_is_published_under_the_nodes_own_signature(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    received = await porting.entering(sent(exported(tmp_path)))
    assert (KEY, MODEL.source_digest, False) == (received.key, received.source, received.reused)
    assert portable.key_id(SIGNER.public_key()) == received.signer
    assert ENGINE == (store.open(KEY).directory / "model.so").read_bytes()
    assert [KEY] == [entry.name for entry in store.root.iterdir()]


async def test_what_leaves_again_is_the_same_file(porting: Porting, tmp_path: Path) -> None:
    data = exported(tmp_path)
    await porting.entering(sent(data))
    assert data[1024:] == b"".join([piece async for piece in await porting.leaving(KEY)])


async def test_a_snapshot_that_is_here_stays_and_one_that_was_altered_is_replaced(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    own = stage(tmp_path / "own", reason="measured here")
    store.publish(own)
    data = exported(tmp_path, reason="measured there")
    assert (await porting.entering(sent(data))).reused
    assert b"measured here" in store.open(KEY).manifest
    (store.root / KEY / "model.so").unlink()
    assert not (await porting.entering(sent(data))).reused
    assert b"measured there" in store.open(KEY).manifest


async def test_without_trusted_keys_nothing_is_read_and_the_setting_is_named(store: SnapshotStore) -> None:
    read: list[bytes] = []

    async def body() -> AsyncIterator[bytes]:
        read.append(b"x")
        yield b"x"

    with pytest.raises(Forbidden, match="GLOWPLUG_TRUSTED_KEYS names no public key"):
        await Porting(store, []).entering(body())
    assert [] == read


def foreign(root: Path) -> bytes:
    return exported(root, fingerprint={**fingerprint.current().to_json(), "machine": "z80"})


REFUSED: dict[str, tuple[Any, type[GlowplugError], int, str, str]] = {
    "unsigned": (lambda root: exported(root)[1024:], Forbidden, 403, "AccessDeniedException", "it is not signed"),
    "unknown key": (
        lambda root: exported(root, Ed25519PrivateKey.generate()), Forbidden, 403, "AccessDeniedException",
        "not trusted here",
    ),
    "another machine": (foreign, Conflict, 409, "ResourceConflictException", "machine z80"),
    "altered": (
        lambda root: exported(root).replace(b"ELF\x7fELF", b"ELF\x7fELG"), InvalidParameter, 400,
        "InvalidParameterValueException", "model.so: sha256",
    ),
    "cut off": (
        lambda root: exported(root)[:-1], InvalidParameter, 400, "InvalidParameterValueException", "cut off",
    ),
    "nothing": (lambda root: b"", InvalidParameter, 400, "InvalidParameterValueException", "cut off"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_refused_has_status_type_and_reason_and_leaves_nothing(
    porting: Porting, store: SnapshotStore, tmp_path: Path, case: str
) -> None:
    make, kind, status, code, words = REFUSED[case]
    with pytest.raises(kind, match=words) as caught:
        await porting.entering(sent(make(tmp_path)))
    reply = error_reply(caught.value)
    assert (status, ("x-amzn-ErrorType", code)) == (reply.status, reply.headers[0])
    assert empty(store)


@pytest.mark.parametrize(("where", "what"), [(os, "fsync"), (Path, "write_bytes")], ids=["published", "taken in"])
async def test_a_full_disk_is_the_nodes_fault_and_leaves_nothing(
    porting: Porting, store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, what: str
) -> None:
    data = exported(tmp_path)

    def full(*given: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(where, what, full)
    with pytest.raises(StateError, match="No space left"):
        await porting.entering(sent(data))
    monkeypatch.undo()
    assert empty(store)


async def test_a_client_that_goes_away_half_way_leaves_nothing(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    data, waits = exported(tmp_path), asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield data[: len(data) // 2]
        waits.set()
        await asyncio.Event().wait()

    taking = asyncio.create_task(porting.entering(half()))
    await waits.wait()
    taking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await taking
    assert empty(store)


async def test_what_is_not_here_cannot_leave(porting: Porting, store: SnapshotStore, tmp_path: Path) -> None:
    with pytest.raises(ResourceNotFound, match="no snapshot"):
        await porting.leaving(KEY)
    store.publish(stage(tmp_path / "own"))
    (store.root / KEY / "model.so").chmod(0o644)
    (store.root / KEY / "model.so").write_bytes(ENGINE[:-1] + b"G")
    with pytest.raises(InvalidParameter, match=r"model\.so: sha256"):
        await porting.leaving(KEY)


def test_a_trusted_key_that_cannot_be_read_stops_the_start(store: SnapshotStore, tmp_path: Path) -> None:
    with pytest.raises(StateError, match=r"GLOWPLUG_TRUSTED_KEYS: .*absent\.pem: No such file"):
        Porting(store, [tmp_path / "absent.pem"])


# --- who uses it ------------------------------------------------------------------------------------------------------


class Child:
    """A baker that finds in the store what was wanted, or makes nothing; as long as ``holds`` is not set it is at it."""

    def __init__(self, directory: Path, obstacle: str = "") -> None:
        self.directory = directory
        self.found = KEY
        self.baked = 0
        self.holds: asyncio.Event | None = None
        self._obstacle = obstacle

    def obstacle(self, engine: str = "auto") -> str:
        return self._obstacle

    @contextlib.asynccontextmanager
    async def bake(self, job: Any, on_progress: Any) -> AsyncIterator[tuple[BakeVerdict, Path]]:
        self.baked += 1
        if self.holds is not None:
            await self.holds.wait()
        if self.found:
            yield BakeVerdict(self.found, True, "aot_inductor", "least cost"), self.directory
        else:
            yield BakeVerdict("", False, "eager", "no compiler"), self.directory


class Weights:
    paths: dict[str, dict[str, str]] = {}  # noqa: RUF012

    def close(self) -> None: ...


class Files:
    pins = SimpleNamespace(keep=lambda owner, digests: None)

    async def files(self, spec: FunctionSpec) -> Weights:
        return Weights()


def snapshots_of(store: SnapshotStore, child: Child) -> Snapshots:
    def load_of(spec: FunctionSpec, files: Any) -> wire.Load:
        return wire.Load("f", "a.b", "/", [], {}, [], "on-demand", True, False)

    return Snapshots(
        store, Files(), child,  # type: ignore[arg-type]  # doubles that do as much as is used here
        load_of=load_of, on_baked=lambda spec: None, on_kept=lambda spec, reason: None,
    )  # fmt: skip


async def test_a_function_whose_graph_it_is_uses_it_without_a_compiler(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    snapshots = snapshots_of(store, Child(tmp_path, obstacle="no C++ compiler"))
    assert "unavailable" == snapshots.status(SPEC)[0].state
    await porting.entering(sent(exported(tmp_path)))
    done = snapshots.adopt(SPEC, MODEL, KEY)
    assert done is not None
    assert "baking" == snapshots.status(SPEC)[0].state or "queued" == snapshots.status(SPEC)[0].state
    await done
    (status,) = snapshots.status(SPEC)
    assert ("ready", "aot_inductor", KEY) == (status.state, status.engine, status.key)
    (plan,) = await snapshots.plan(SPEC)
    assert ("aot_inductor", str(store.root / KEY)) == (plan.engine, plan.snapshot_dir)
    assert snapshots.adopt(SPEC, MODEL, KEY) is None, "nothing is left to be seen"
    await snapshots.close()


async def test_a_function_that_is_deployed_later_uses_it_also_after_a_restart(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    await porting.entering(sent(exported(tmp_path)))
    snapshots = snapshots_of(store, Child(tmp_path, obstacle="no C++ compiler"))
    snapshots.request_bake(SPEC)
    (status,) = await snapshots.bake(SPEC)
    assert ("ready", KEY) == (status.state, status.key)
    await snapshots.close()


async def test_another_graph_with_the_same_weights_does_not(
    porting: Porting, store: SnapshotStore, tmp_path: Path
) -> None:
    child = Child(tmp_path)
    child.found = ""
    snapshots = snapshots_of(store, child)
    await porting.entering(sent(exported(tmp_path)))
    done = snapshots.adopt(SPEC, MODEL, KEY)
    assert done is not None
    await done
    assert ("eager", "") == (snapshots.status(SPEC)[0].engine, snapshots.status(SPEC)[0].key)
    await snapshots.close()


async def test_a_bake_under_way_is_ended_for_it(porting: Porting, store: SnapshotStore, tmp_path: Path) -> None:
    child = Child(tmp_path)
    child.holds = asyncio.Event()
    snapshots = snapshots_of(store, child)
    snapshots.request_bake(SPEC)
    await asyncio.sleep(0)
    await porting.entering(sent(exported(tmp_path)))
    child.holds = None
    done = snapshots.adopt(SPEC, MODEL, KEY)
    assert done is not None
    await done
    assert (KEY, 2) == (snapshots.status(SPEC)[0].key, child.baked)
    await snapshots.close()


async def test_a_bake_that_somebody_waits_for_goes_on(porting: Porting, store: SnapshotStore, tmp_path: Path) -> None:
    child = Child(tmp_path)
    child.holds = asyncio.Event()
    snapshots = snapshots_of(store, child)
    waiting = asyncio.create_task(snapshots.bake(SPEC, lambda name, progress: None))
    await asyncio.sleep(0)
    await porting.entering(sent(exported(tmp_path)))
    done = snapshots.adopt(SPEC, MODEL, KEY)
    child.holds.set()
    assert done is not None
    await done
    await waiting
    assert (KEY, 1) == (snapshots.status(SPEC)[0].key, child.baked)
    await snapshots.close()


async def test_one_that_was_altered_here_is_not_found_twice(store: SnapshotStore, tmp_path: Path) -> None:
    store.publish(stage(tmp_path / "own"))
    (store.root / KEY / "model.so").unlink()
    (store.root / KEY / "model.so").write_bytes(ENGINE[:-1] + b"G")
    child = Child(tmp_path)
    snapshots = snapshots_of(store, child)
    (status,) = await snapshots.bake(SPEC)
    assert ("failed", "eager", True) == (status.state, status.engine, "model.so: sha256" in status.reason)
    assert [] == store.keys()
    child.found = ""
    assert "ready" == (await snapshots.bake(SPEC))[0].state
    await snapshots.close()
