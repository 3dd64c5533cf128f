"""A module's weights onto a device: those that a file holds are read from it, the others copied."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import TYPE_CHECKING

from glowplug.cache.device import CudaDevice
from glowplug.cache.pinned import PinnedRing

from ..architecture import Assembled, relocate
from ..checkpoint import TensorFiles

if TYPE_CHECKING:
    from torch import Tensor


def move(assembled: Assembled, tensors: TensorFiles, device: str) -> None:
    """Put the tensors of a module on ``device`` (``cuda:0``), in place of its own.

    Makes a CUDA context. Raises ``cache.errors.DeviceRefused``, and what ``cache.pinned`` raises for the files.
    """
    with PinnedRing(CudaDevice(device)) as ring:
        relocate(assembled, lambda held: _carried(ring, assembled, tensors, held))


def _carried(
    ring: PinnedRing, assembled: Assembled, tensors: TensorFiles, held: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    files: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    for name in held:
        origin = assembled.origins.get(name)
        if origin is not None:
            files[origin.place, origin.file][name] = origin.tensor
    moved = ring.copy({name: tensor for name, tensor in held.items() if name not in assembled.origins})
    for (place, file), names in files.items():
        loaded = ring.load(tensors.path(place, file), set(names.values()))
        moved |= {name: loaded[tensor] for name, tensor in names.items()}
    return moved
