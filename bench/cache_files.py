"""The files that the cache's benches read: a checkpoint of 2.2 GB, and how to make it cold.

The shapes are those of TinyLlama 1.1B in bf16 (201 tensors, https://huggingface.co/TinyLlama), the smallest well-known
model above 2 GB; the values are noise. Everything is written once per run below one directory, which ``workspace``
removes again, whatever happens.
"""

from __future__ import annotations

import contextlib
import functools
import json
import math
import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from glowplug.cache.disk import DiskProfile, measure, write_profile
from glowplug.cache.residency import drop as drop_pages
from glowplug.cache.residency import resident_bytes

LAYERS = 22
HIDDEN = 2048
INTERMEDIATE = 5632
KEY_VALUE = 256
VOCABULARY = 32_000
_BF16_BYTES = 2
_NOISE_BYTES = 64 * 1024 * 1024

ATTEMPTS = 10
"""How often a file is read again that the kernel has taken pages of meanwhile. Some machines reclaim what is cold all
the time, with memory to spare (DAMON-based reclaim, Documentation/admin-guide/mm/damon/reclaim.rst)."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A safetensors file: how many tensors it holds and how many bytes it is long."""

    path: Path
    tensors: int
    size: int

    def __str__(self) -> str:
        return f"{self.size / 1e9:.2g} GB of safetensors ({self.tensors} tensors)"


class NotDropped(Exception):
    """The page cache keeps a file that was dropped: a cold read cannot be measured there."""


class Workspace:
    """A directory for one run's files. ``scale`` in (0, 1] makes all of them smaller, to try whether a bench works."""

    def __init__(self, directory: Path, scale: float) -> None:
        self.directory = directory
        self.scale = scale

    def scaled(self, full: int, least: int = 1) -> int:
        """Return ``full`` at this run's scale, and no less than ``least``."""
        return max(least, round(full * self.scale))

    @functools.cached_property
    def checkpoint(self) -> Checkpoint:
        """The checkpoint, written (and on disk) the first time somebody asks."""
        return write_checkpoint(self.directory / "model.safetensors", self.scale)

    @functools.cached_property
    def profile(self) -> DiskProfile:
        """How this disk is read, measured the first time somebody asks and kept in ``directory`` as in a store."""
        print("measuring the disk …", flush=True)
        profile = measure(self.directory)
        write_profile(self.directory, profile)
        return profile

    def blob(self, name: str, size: int) -> Path:
        """Return a file of ``size`` bytes of noise below ``directory``, written the first time."""
        path = self.directory / name
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                _write_noise(file.fileno(), size)
        return path


@contextlib.contextmanager
def workspace(parent: Path, scale: float) -> Iterator[Workspace]:
    """Give a workspace below ``parent`` and remove it with everything in it.

    ``parent`` must be on the disk to be measured: /var/tmp is by definition (FHS 5.15), /tmp is memory on many systems.
    """
    with tempfile.TemporaryDirectory(prefix="glowplug-bench-", dir=parent) as directory:
        yield Workspace(Path(directory), scale)


def write_checkpoint(path: Path, scale: float) -> Checkpoint:
    """Write the checkpoint, with ``scale`` of the layers and of the vocabulary, and wait until it is on disk."""
    shapes = _shapes(max(1, round(LAYERS * scale)), max(64, round(VOCABULARY * scale)))
    header: dict[str, object] = {}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * _BF16_BYTES
        header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the data begins at a multiple of 8, as the format asks
    with path.open("xb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.flush()
        _write_noise(file.fileno(), end)
    return Checkpoint(path, len(shapes), path.stat().st_size)


def _shapes(layers: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, HIDDEN)}
    for layer in range(layers):
        for name, shape in (
            ("input_layernorm", (HIDDEN,)),
            ("self_attn.q_proj", (HIDDEN, HIDDEN)),
            ("self_attn.k_proj", (KEY_VALUE, HIDDEN)),
            ("self_attn.v_proj", (KEY_VALUE, HIDDEN)),
            ("self_attn.o_proj", (HIDDEN, HIDDEN)),
            ("post_attention_layernorm", (HIDDEN,)),
            ("mlp.gate_proj", (INTERMEDIATE, HIDDEN)),
            ("mlp.up_proj", (INTERMEDIATE, HIDDEN)),
            ("mlp.down_proj", (HIDDEN, INTERMEDIATE)),
        ):
            shapes[f"model.layers.{layer}.{name}.weight"] = shape
    return shapes | {"model.norm.weight": (HIDDEN,), "lm_head.weight": (vocabulary, HIDDEN)}


def _write_noise(descriptor: int, size: int) -> None:
    """Append ``size`` bytes that do not compress, in place of minutes of generating them all, and fsync."""
    noise = random.Random(0).randbytes(min(size, _NOISE_BYTES))
    left = size
    while left:
        left -= os.write(descriptor, memoryview(noise)[:left])
    os.fsync(descriptor)


def drop(path: Path) -> None:
    """Make ``path`` cold. Raises ``NotDropped`` when its pages stay: a memory file system, or somebody maps it."""
    if left := drop_pages(path):
        raise NotDropped(f"{path}: {left} bytes stay in the page cache; pass a directory on a disk with --work")


def is_resident(path: Path) -> bool:
    """Return whether every byte of ``path`` is in the page cache."""
    return resident_bytes(path) >= path.stat().st_size


def warm(path: Path) -> None:
    """Make ``path`` hot: read what is not in the page cache. Raises ``RuntimeError`` when it does not stay there."""
    buffer = bytearray(8 * 1024 * 1024)
    for _ in range(ATTEMPTS):
        if is_resident(path):
            return
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    raise RuntimeError(f"{path}: does not stay in the page cache; is there memory for it?")
