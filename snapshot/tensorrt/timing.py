"""The timing cache: how fast each kernel ran on this GPU, measured by earlier builds.

It takes a build from minutes to seconds, since most of a build is trying kernels. It is only true on the GPU and the
TensorRT it was measured with, so it lies in the snapshot under a name made of them, and a bake takes the newest one of
that name among the published snapshots: they are signed, and what a bake leaves elsewhere is thrown away. TensorRT
checks a cache again and refuses one that is not its own.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

from .gpu import Gpu


def file_name(gpu: Gpu) -> str:
    """Return the artefact's name for one GPU. The driver is not in it: a newer one does not make the times wrong."""
    text = "\0".join((gpu.name, gpu.sm, gpu.tensorrt))
    return f"timing-{hashlib.sha256(text.encode()).hexdigest()[:16]}.cache"


def earlier(gpu: Gpu, staging: Path, published: Path | None) -> bytes:
    """Return the cache of an earlier build: of this bake, or the newest one published; empty when there is none."""
    name = file_name(gpu)
    found = [staging / name] if (staging / name).exists() else []
    if not found and published is not None and published.is_dir():
        found = sorted(published.glob(f"*/{name}"), key=_age)
    for path in reversed(found):
        try:
            return path.read_bytes()
        except OSError:
            continue  # removed with its snapshot meanwhile
    return b""


def keep(gpu: Gpu, staging: Path, cache: bytes) -> str:
    """Write the cache into the snapshot that is being made and return its name."""
    (staging / file_name(gpu)).write_bytes(cache)
    return file_name(gpu)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0
