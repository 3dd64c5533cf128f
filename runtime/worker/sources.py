"""The files of a model in a process without a node: found where its source says, or fetched once.

Under a node nothing here runs: it says which files belong to which model.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from glowplug.snapshot.errors import ModelUnknown

if TYPE_CHECKING:
    from glowplug.cache.holds import Hold

SOURCE_VARIABLE = "GLOWPLUG_MODEL_SOURCE"

_held: list[Hold] = []  # what this process fetched by itself; the kernel lets go when it ends


def source_of(name: str, written: str) -> str:
    """Return the source of the model ``name``: the one written in the code, else the environment's.

    Raises ``ModelUnknown``.
    """
    source = written or os.environ.get(SOURCE_VARIABLE, "")
    if not source:
        raise ModelUnknown(
            f"model {name} has no source: declare it in the template (Metadata.Glowplug.Model), write "
            f'@model(source="…") or onnx_model(…, source="…"), or set {SOURCE_VARIABLE}'
        )
    return source


def locate(source: str) -> dict[str, Path]:
    """Return file name -> path of a model source, for a process without a node. Local sources are used in place;
    others are fetched once into ``GLOWPLUG_CACHE`` or ``~/.cache/glowplug``, and held there for this process's life.

    Raises ``cache.errors.CacheError``.
    """
    from glowplug.cache.fetch import fetch  # late: a worker under a node never needs them
    from glowplug.cache.sources.table import open_source
    from glowplug.cache.store import BlobStore

    roots = (Path("/"),)  # the process is its user's own: what it may read, it may name
    if source.startswith(("package://", "file://")):
        paths = {}
        for file in open_source(source, file_roots=roots):
            with file.open() as stream:
                paths[file.name] = Path(os.readlink(f"/proc/self/fd/{stream.fileno()}"))
        return paths
    store = BlobStore(Path(os.environ.get("GLOWPLUG_CACHE") or Path.home() / ".cache" / "glowplug"))
    manifest = fetch(source, store, file_roots=roots).manifest
    hold = store.hold(manifest.blobs)
    _held.append(hold)
    return {file.name: hold.paths[file.sha256] for file in manifest.files}
