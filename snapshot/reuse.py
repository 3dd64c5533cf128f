"""A finished snapshot in place of a new bake: the same weights, the same graph, the same machine, engines enough.

A snapshot's key also has what its bake was asked for (engines, precisions, batch sizes), and a bake is asked only for
what its machine can make. A snapshot that came from elsewhere, or from a template with other wishes, may hold all that
is wanted under another key: it is then taken as it is. Enough is: every candidate that would be made is in it, made,
and the batch sizes that the template names were measured; the latter may be lacking where it has an engine that would
not be made here, which is worth more than a figure.

Its engines may be more than this machine can run (a package that is missing here): those count as refused here.
Torch-free, for models of either kind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from .candidates import CPU, EAGER
from .errors import SnapshotCorrupt
from .manifest import FILE, EngineRecord, Manifest


def find(
    published: Path,
    key: str,
    options: Mapping[str, Any],
    *,
    source: str,
    graph: str,
    signature: Mapping[str, Any],
    here: Mapping[str, Any],
    again: str = "",
) -> Manifest | None:
    """Return the manifest of the snapshot ``key``, or of another that will do, or None. ``options`` are those of the
    bake that would make it: ``candidates`` and ``batch_sizes``, the ``versions`` that its engines would run in, and the
    ``device`` where that is not the CPU.

    Of several it is ``again``, else the one with the most engines: what a machine that lacks the compilers has baked
    for itself must not stand in the way of what was brought to it. Nothing is authenticated here: the node does that
    with the one that is returned.
    """

    labels, sizes = set(options["candidates"]), {str(size) for size in options["batch_sizes"]}
    versions = options.get("versions", {}).items()

    def will_do(manifest: Manifest) -> bool:
        same = (manifest.source, manifest.graph, manifest.signature, manifest.fingerprint)
        if manifest.options.get("device", CPU) != options.get("device", CPU):
            return False  # its figures are of another device, and it may have engines for that alone
        if same != (source, graph, signature, here) or not versions <= manifest.options.get("versions", {}).items():
            return False
        made, eager = _made(manifest), manifest.engines.get(EAGER, EngineRecord())
        return made >= labels if sizes <= set(eager.batches) else made > labels

    found = [manifest for manifest in _all(published) if manifest.key == key or will_do(manifest)]
    return max(found, key=lambda one: (one.key == again, len(_made(one)), one.key == key), default=None)


def sources(published: Path) -> set[str]:
    """Return the source digests of all snapshots: which weights something can be reused for without a bake."""
    return {manifest.source for manifest in _all(published)}


def usable(engines: Mapping[str, EngineRecord], obstacle: Callable[[str], str]) -> dict[str, EngineRecord]:
    """Return ``engines`` with those refused that cannot serve here: ``obstacle`` says of an engine why."""
    return {
        label: dataclasses.replace(record, refused=record.refused or obstacle(record.engine))
        for label, record in engines.items()
    }


def _made(manifest: Manifest) -> set[str]:
    return {label for label, record in manifest.engines.items() if label == EAGER or record.artefact}


def _all(published: Path) -> Iterator[Manifest]:
    for path in sorted(published.glob(f"[!.]*/{FILE}")):
        try:
            yield Manifest.from_bytes(path.read_bytes())
        except (OSError, SnapshotCorrupt):  # going away, or of another release: its own bake says so
            continue
