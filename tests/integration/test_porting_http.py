"""Snapshot files over HTTP: the command line's client against the node's listener and its real ``Porting``."""

from __future__ import annotations

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from glowplug.deploy.client import NodeClient
from glowplug.deploy.errors import NodeUnreachable
from glowplug.deploy.exchange import Exchange
from glowplug.deploy.exporting import export
from glowplug.runtime.clock import SystemClock
from glowplug.runtime.config import Limits, NodeConfig
from glowplug.runtime.control import ImportResult
from glowplug.runtime.errors import Forbidden, GlowplugError, InvalidParameter, RequestTooLarge
from glowplug.runtime.http.admin import AdminApi
from glowplug.runtime.http.dispatch import ControlSurface
from glowplug.runtime.http.hosts import ControlGuard
from glowplug.runtime.http.server import HttpServer
from glowplug.runtime.metrics import Metrics
from glowplug.runtime.porting import Porting
from glowplug.snapshot import fingerprint
from glowplug.snapshot.manifest import Artefact, EngineRecord, Manifest
from glowplug.snapshot.store import SnapshotStore

KEY = "ab" * 32
LIMIT_BYTES = 24 * 1024 * 1024
ENGINE = os.urandom(1024) * 8 * 1024
SIGNER = Ed25519PrivateKey.generate()


class Control:
    """Of a control plane, what moves snapshots: all there is belongs to one function."""

    def __init__(self, porting: Porting) -> None:
        self.porting = porting

    async def export_snapshot(self, name: str, model: str | None) -> AsyncGenerator[bytes, None]:
        return await self.porting.leaving(KEY)

    async def import_snapshot(self, body: AsyncIterator[bytes], *, wait: bool) -> ImportResult:
        received = await self.porting.entering(body)
        return ImportResult(received.key, received.signer, received.reused, ())


@dataclass
class Rig:
    """A listener in front of the store of a node, and files beside it."""

    client: NodeClient
    store: SnapshotStore
    home: Path

    async def run(self, work: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        return await asyncio.to_thread(work, *arguments, **named)

    def publish(self) -> None:
        """Have a snapshot with an engine of 8 MiB."""
        staging = self.home / "staging"
        staging.mkdir()
        (staging / "model.so").write_bytes(ENGINE)
        manifest = Manifest(
            key=KEY, source="s" * 64, graph="g", fingerprint=fingerprint.current().to_json(), signature={},
            computed={}, aliases={}, verdict="eager", reason="", check={}, engines={"eager": EngineRecord()},
            artefacts={"model.so": Artefact(hashlib.sha256(ENGINE).hexdigest(), len(ENGINE))},
        )  # fmt: skip
        (staging / "manifest.json").write_bytes(manifest.to_bytes())
        self.store.publish(staging)

    async def export(self) -> Path:
        path = self.home / "a.glowplug"
        await self.run(export, self.client, "f", None, path, self.home / "signing.pem")
        return path

    async def take(self, path: Path) -> Any:
        return await self.run(self._take, path)

    def _take(self, path: Path) -> dict[str, Any]:
        with path.open("rb") as file:
            return self.client.import_snapshot(file, path.stat().st_size, wait=False)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    (tmp_path / "signing.pem").write_bytes(SIGNER.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public = SIGNER.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (tmp_path / "trusted.pem").write_bytes(public)
    config = NodeConfig(tmp_path, tmp_path, port=0, limits=replace(Limits(), snapshot_file_bytes=LIMIT_BYTES))
    server = HttpServer(config, clock=SystemClock())
    store = SnapshotStore(tmp_path / "snapshots", b"k" * 32)
    control: Any = Control(Porting(store, [tmp_path / "trusted.pem"]))
    admin = AdminApi(control, control, Metrics(statuses=list), limits=config.limits)
    nothing: Any = None
    server.bind()
    try:
        surface = ControlSurface(nothing, nothing, admin, ControlGuard(()), nothing)
        await server.serve(control=surface, public=nothing)
        yield Rig(NodeClient(server.endpoint), store, tmp_path)
    finally:
        await server.close(1.0)


async def test_what_is_exported_is_taken_in_again(rig: Rig) -> None:
    rig.publish()
    path = await rig.export()
    rig.store.retire(KEY, "to be brought back")
    rig.store.sweep()
    assert (KEY, False) == ((answer := await rig.take(path))["key"], answer["reused"])
    assert ENGINE == (rig.store.open(KEY).directory / "model.so").read_bytes()


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda data: data[1024:], Forbidden, "it is not signed"),
        (lambda data: data[: len(data) // 2], InvalidParameter, "cut off"),
        (lambda data: data + data + data, RequestTooLarge, "is too large for a snapshot file"),
    ],
    ids=["in its first bytes", "at its end", "before it is read"],
)
async def test_a_refusal_reaches_who_sends_wherever_it_is_found(
    rig: Rig, spoil: Callable[[bytes], bytes], kind: type[GlowplugError], words: str
) -> None:
    """The node answers while the client is still sending megabytes."""
    rig.publish()
    path = await rig.export()
    path.write_bytes(spoil(path.read_bytes()))
    rig.store.retire(KEY, "")
    rig.store.sweep()
    with pytest.raises(kind, match=words):
        await rig.take(path)
    assert [] == list(rig.store.root.iterdir())


async def test_an_export_that_breaks_off_leaves_no_file(rig: Rig) -> None:
    rig.publish()

    def half(*given: Any) -> Any:
        yield ENGINE[: len(ENGINE) // 2]
        raise OSError(5, "Input/output error")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("glowplug.snapshot.portable.chunks_of", half)
        with pytest.raises(NodeUnreachable, match="did not answer"):
            await rig.export()
    assert [] == [entry.name for entry in rig.home.iterdir() if "glowplug" in entry.name]


async def test_what_is_no_answer_is_a_usage_fault(rig: Rig) -> None:
    asked = Exchange(rig.client.endpoint, None)
    for method, path in (("GET", "/_glowplug/snapshots"), ("POST", "/_glowplug/functions/f/snapshot")):
        with pytest.raises(GlowplugError, match="takes"):
            await rig.run(asked.read, method, path, b"{}")
    with pytest.raises(InvalidParameter, match="wait: 'perhaps' is not true or false"):
        await rig.run(asked.read, "POST", "/_glowplug/snapshots?wait=perhaps", b"")
