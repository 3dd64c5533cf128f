"""Safetensors files as NumPy arrays over one mapping of the file: what ``cache.weights`` is to torch, without torch.

Mapping a file and making arrays are two steps, because a function zygote takes only the first: it must not import NumPy
on an engine's account, whose OpenBLAS would start a thread.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glowplug.cache.errors import DtypeUnsupported
from glowplug.cache.header import TensorView, quoted
from glowplug.cache.weights import mapped

from ..checkpoint import Origin, located
from ..errors import WeightsMissing

if TYPE_CHECKING:
    import numpy

_NAMES = {
    "BOOL": "bool", "U8": "uint8", "I8": "int8", "U16": "uint16", "I16": "int16", "U32": "uint32", "I32": "int32",
    "U64": "uint64", "I64": "int64", "F16": "float16", "F32": "float32", "F64": "float64",
}  # fmt: skip


class ArrayFiles:
    """Maps each safetensors file of a source and of a snapshot once and hands out its arrays."""

    def __init__(self, files: Mapping[str, Path], snapshot: Path | None = None) -> None:
        self._files = files
        self._snapshot = snapshot
        self._mapped: dict[tuple[str, str], tuple[mmap.mmap, Mapping[str, TensorView]]] = {}

    def map(self, origins: Iterable[Origin]) -> int:
        """Map the files of ``origins``; returns the bytes of these tensors.

        Raises ``WeightsMissing``, ``cache.errors.WeightsError``.
        """
        views = [self._view(origin)[1] for origin in origins]
        return sum(view.end - view.begin for view in views)

    def of(self, place: str, file: str) -> dict[str, numpy.ndarray[Any, Any]]:
        """Return all arrays of one file. Raises as ``map``, and ``DtypeUnsupported``."""
        mapping, views = self._open(place, file)
        return {name: _array(name, mapping, view) for name, view in views.items()}

    def get(self, origin: Origin) -> numpy.ndarray[Any, Any]:
        """Return one array. Raises as ``map``, and ``DtypeUnsupported``."""
        return _array(origin.tensor, *self._view(origin))

    def _view(self, origin: Origin) -> tuple[mmap.mmap, TensorView]:
        mapping, views = self._open(origin.place, origin.file)
        view = views.get(origin.tensor)
        if view is None:
            raise WeightsMissing(f"{origin.file}: no tensor {origin.tensor}")
        return mapping, view

    def _open(self, place: str, file: str) -> tuple[mmap.mmap, Mapping[str, TensorView]]:
        found = self._mapped.get((place, file))
        if found is None:
            mapping, header = mapped(located(self._files, self._snapshot, place, file))
            found = self._mapped[place, file] = mapping, header.tensors
        return found


def _array(name: str, mapping: mmap.mmap, view: TensorView) -> numpy.ndarray[Any, Any]:
    import numpy  # late, as documented

    dtype = _NAMES.get(view.dtype)
    if dtype is None:
        raise DtypeUnsupported(f"{quoted(name)}: NumPy has no dtype for {view.dtype}")
    count = (view.end - view.begin) // numpy.dtype(dtype).itemsize
    if count == 0:  # frombuffer takes no empty range
        return numpy.empty(view.shape, dtype)
    return numpy.frombuffer(mapping, dtype, count, view.begin).reshape(view.shape)
