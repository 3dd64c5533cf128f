"""Functions with layers: laid together before they are placed, refused before anything changes, gone with the last."""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from glowplug.runtime.catalog import Catalog, Function, Version
from glowplug.runtime.codestore import CodeStore
from glowplug.runtime.config import Limits
from glowplug.runtime.deployments import Deployments
from glowplug.runtime.errors import LayersRefused
from glowplug.runtime.registry import Registry
from glowplug.runtime.routing.allotment import Quota
from glowplug.runtime.spec import FunctionSpec, LayerSpec


class Router:
    """Notes, for each function that is placed, the directory of its layers at that moment."""

    def __init__(self, code: CodeStore) -> None:
        self.code = code
        self.placed: dict[str, Path | None] = {}

    def place(self, spec: FunctionSpec) -> None:
        self.placed[spec.name] = self.code.opt([layer.digest for layer in spec.layers])

    replace = place

    def allot(self, name: str, quota: Quota) -> None:
        """Nothing is limited here."""

    def remove(self, name: str, version: str | None = None) -> None:
        del self.placed[name]

    def request_bake(self, spec: FunctionSpec) -> None:
        """No models here."""

    def drop(self, revision: str) -> None:
        """No models here."""


@dataclass
class Rig:
    deployments: Deployments
    registry: Registry
    code: CodeStore
    router: Router
    now: list[float]

    async def upload(self, name: str, size: int = 10) -> str:
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr(zipfile.ZipInfo(name), "x" * size)
        digest = hashlib.sha256(archive.getvalue()).hexdigest()
        await self.code.put(digest, archive.getvalue())
        return digest

    async def deploy(self, name: str, code: str, *layers: str) -> None:
        specs = tuple(LayerSpec(f"arn:{digest}", digest, 10) for digest in layers)
        spec = FunctionSpec(name=name, handler="h.handler", runtime="python3.11", code_digest=code, layers=specs)

        def decide(catalog: Catalog) -> tuple[Catalog, None]:
            known = catalog.functions.get(name)
            version = Version(spec, "rev", "now")
            made = Function(name, catalog.slot_for(name), version) if known is None else replace(known, latest=version)
            return catalog.with_function(made), None

        await self.deployments.change(decide)

    async def delete(self, name: str) -> None:
        await self.deployments.change(lambda catalog: (catalog.without_function(name), None))

    def merged(self) -> list[Path]:
        return list(self.code.path(self.code.digests()[0]).parent.glob("opt-*"))


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    now = [1_000_000.0]
    registry = await Registry.open(tmp_path / "registry.db")
    code = CodeStore(tmp_path / "code", Limits(code_unzipped_bytes=1000), now=lambda: now[0])
    router = Router(code)

    async def changed(specs: Sequence[FunctionSpec]) -> None:
        """Nobody else wants to know."""

    deployments = Deployments(
        registry=registry,
        code=code,
        placement=router,  # type: ignore[arg-type]  # the part of it that a change uses
        engines=router,  # type: ignore[arg-type]
        on_removed=lambda name: None,
        on_changed=changed,
    )
    yield Rig(deployments, registry, code, router, now)
    await deployments.close()
    await registry.close()


async def test_layers_are_laid_together_before_their_function_is_placed(rig: Rig) -> None:
    code, one, two = [await rig.upload(name) for name in ("h.py", "a", "b")]
    await rig.deploy("f", code, one, two)
    path = rig.router.placed["f"]
    assert path is not None
    assert {"a", "b"} == {entry.name for entry in path.iterdir()}


async def test_what_is_too_large_together_changes_nothing(rig: Rig) -> None:
    code, one, two = [await rig.upload(name, 400) for name in ("h.py", "a", "b")]
    await rig.deploy("f", code, one)
    with pytest.raises(LayersRefused, match="combined with layers exceeds the maximum allowed size of 1000 bytes"):
        await rig.deploy("f", code, one, two)
    assert (one,) == tuple(layer.digest for layer in rig.registry.get("f").spec.layers)
    assert [] == rig.merged()


async def test_a_new_code_is_measured_with_the_layers_that_are_there(rig: Rig) -> None:
    small, large, layer = await rig.upload("h.py"), await rig.upload("h2.py", 700), await rig.upload("a", 400)
    await rig.deploy("f", small, layer)
    with pytest.raises(LayersRefused, match="The actual size is 1100 bytes"):
        await rig.deploy("f", large, layer)


async def test_what_layers_make_together_goes_when_no_function_has_them(rig: Rig) -> None:
    code, one, two = [await rig.upload(name) for name in ("h.py", "a", "b")]
    await rig.deploy("f", code, one, two)
    await rig.deploy("g", code, one, two)
    await rig.deploy("f", code, two, one)  # no digest is gone, and yet g's order is now one of two
    assert 2 == len(rig.merged())
    await rig.delete("g")
    rig.now[0] += 1_000_000
    await rig.deploy("f", code)
    assert 1 == len(rig.merged())  # f's, which may still drain
    rig.now[0] += 1_000_000
    await rig.delete("f")
    assert [] == rig.merged()


async def test_a_start_lays_together_what_somebody_deleted(rig: Rig) -> None:
    code, one, two = [await rig.upload(name) for name in ("h.py", "a", "b")]
    await rig.deploy("f", code, one, two)
    for merged in rig.merged():
        merged.rename(merged.with_name("elsewhere"))
    await rig.deployments.resume()
    assert rig.router.placed["f"] == rig.merged()[0]


async def test_a_node_starts_without_the_layers_that_are_gone(rig: Rig, caplog: pytest.LogCaptureFixture) -> None:
    code, one, two = [await rig.upload(name) for name in ("h.py", "a", "b")]
    await rig.deploy("f", code, one, two)
    for merged in rig.merged():
        merged.rename(merged.with_name("elsewhere"))
    rig.code.path(one).rename(rig.code.path(one).with_name("lost"))
    await rig.deployments.resume()
    assert rig.router.placed["f"] is None
    assert "layers were not prepared" in caplog.text
