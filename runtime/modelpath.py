"""The model path of a node, built together: sources, snapshots and bakes, read-ahead."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glowplug.cache.errors import CacheError
from glowplug.snapshot.store import SnapshotStore

from .baker import Baker
from .clock import Clock
from .codestore import CodeStore
from .config import NodeConfig
from .porting import Porting
from .process.sweep import Records
from .readahead import Pages
from .routing.environment import Roots, Site
from .routing.orders import load_order
from .snapshots import Snapshots
from .sources import Sources
from .spec import FunctionSpec
from .state import StateDirectory

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ModelPath:
    """What brings models to functions."""

    sources: Sources
    snapshots: Snapshots
    porting: Porting
    pages: Pages

    async def tidy(self, specs: Sequence[FunctionSpec]) -> None:
        """Forget what was kept for revisions other than those that are deployed, ``specs``: read orders, and pins of
        snapshots that nobody uses. For the start and after each change; what cannot be removed is logged."""
        try:
            await asyncio.to_thread(self.pages.only, {spec.revision for spec in specs})
            used = [snapshot for spec in specs for snapshot in self.snapshots.book.used(spec)]
            await asyncio.to_thread(self.sources.pins.only, used)
        except (CacheError, OSError) as error:
            log.warning("what nobody uses any more was not forgotten: %s", error)

    async def close(self) -> None:
        """End bakes and readings."""
        await self.snapshots.close()
        await asyncio.to_thread(self.pages.close)


def build(
    config: NodeConfig,
    state: StateDirectory,
    *,
    site: Site,
    code: CodeStore,
    environ: Mapping[str, str],
    clock: Clock,
    on_baked: Callable[[FunctionSpec], None],
    on_kept: Callable[[FunctionSpec, str], None],
    relieve: Callable[[str], Awaitable[str]],
) -> ModelPath:
    """Build it, and sweep what a killed node left of it. ``on_baked`` and ``on_kept`` as in ``Snapshots``, ``relieve``
    as in ``Sources``. Raises ``StateError`` for a trusted key that cannot be read."""
    sources = Sources(config, environ=environ, relieve=relieve, clock=clock)
    store = SnapshotStore(state.snapshots, state.hmac_key())
    store.sweep()
    baker = Baker(
        state.bake,
        state.snapshots,
        environ=environ,
        expose=(state.code, config.cache / "blobs"),
        records=Records(state.processes),
    )
    baker.sweep()
    snapshots = Snapshots(
        store,
        sources,
        baker,
        load_of=lambda spec, files: load_order(site, spec, Roots.real(spec, code), files),
        on_baked=on_baked,
        on_kept=on_kept,
        user_of=site.user_of,
        device_of=site.device_of,
    )
    pages = Pages(
        state.readahead,
        config.cache,
        roots=lambda spec: (
            *(Path(root) for root in (Roots.real(spec, code).task, Roots.real(spec, code).layers) if root),
            config.cache / "blobs",
            state.snapshots,
        ),
    )
    return ModelPath(sources, snapshots, Porting(store, config.trusted_keys), pages)
