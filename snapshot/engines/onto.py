"""Weights onto a device: read from their files into page-locked memory, and copied from there."""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping

from torch import Tensor

from glowplug.cache.device import CudaDevice
from glowplug.cache.errors import DeviceRefused
from glowplug.cache.pinned import PinnedRing

from ..checkpoint import Origin, TensorFiles
from ..errors import EngineFailed

Load = Callable[[str, str, Collection[str]], Mapping[str, Tensor]]
"""Gets place, file and tensor names, and returns these tensors on the device."""


@contextlib.contextmanager
def ring(device: str, tensors: TensorFiles) -> Iterator[Load]:
    """Give what copies tensors of a source or a snapshot to ``device``, through one set of page-locked buffers.

    Raises ``EngineFailed`` for the device's refusals, since another engine may need less of it, or none; and what
    ``cache.pinned`` raises for files.
    """
    try:
        with PinnedRing(CudaDevice(device)) as slots:

            def load(place: str, file: str, names: Collection[str]) -> Mapping[str, Tensor]:
                return slots.load(tensors.path(place, file), names)

            yield load
    except DeviceRefused as error:
        raise EngineFailed(str(error)) from error


def by_file(origins: Mapping[str, Origin], names: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Yield place, file, and those of ``names`` whose bytes are in it: each file is read once."""
    files: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name in names:
        files[origins[name].place, origins[name].file].append(name)
    for (place, file), held in files.items():
        yield place, file, held


def copied(device: str, tensors: TensorFiles, origins: Mapping[str, Origin]) -> dict[str, Tensor]:
    """Return the tensors of a weight map on ``device``, by the map's names. Raises as ``ring``."""
    found: dict[str, Tensor] = {}
    with ring(device, tensors) as load:
        for place, file, names in by_file(origins, origins):
            loaded = load(place, file, {origins[name].tensor for name in names})
            found |= {name: loaded[origins[name].tensor] for name in names}
    return found
