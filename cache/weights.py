"""Safetensors files as tensors that share one mapping of the file.

The format: 8 bytes little-endian header length N, N bytes of JSON, then the tensors' bytes. The JSON maps names to
``{"dtype", "shape", "data_offsets": [begin, end]}``, offsets counted from the end of the header, plus an optional
``"__metadata__"`` of strings (https://github.com/huggingface/safetensors#format). What ``read_header`` enforces, and
why:

- the header starts with ``{`` and is at most ``MAX_HEADER_BYTES``: nobody parses gigabytes of JSON for a tensor list;
- it is UTF-8 JSON without doubled names: two readers must not see two files in one;
- tensors lie one after the other from 0 to the end of the file, no holes, no overlaps, each of exactly the size that
  dtype and shape give: nothing hides between them, and no view reaches outside the file.

The header part needs no torch. ``tensors`` maps the file once, private and copy-on-write: pages come from the page
cache and are shared by every process that maps the blob, until somebody writes to one, who then has that page to
himself. The mapping is writable only so that a handler that changes a weight in place gets its own copy instead of a
signal, and so that torch need not warn of a read-only buffer. It reserves no swap (MAP_NORESERVE): mapping a file
larger than memory is not a promise to write to all of it. A file that is truncated while it is mapped raises SIGBUS in
whoever touches what is gone; blobs are never truncated, they are replaced by rename.
"""

from __future__ import annotations

import errno
import json
import math
import mmap
import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .errors import DtypeUnsupported, WeightsError, WeightsMalformed, WeightsTruncated
from .sources.listing import is_pickled, pickled

if TYPE_CHECKING:
    import torch

MAX_HEADER_BYTES = 100_000_000
"""The format's own limit (safetensors' reference implementation, ``MAX_HEADER_SIZE``)."""

_MAX_ELEMENTS = 2**63 - 1  # what torch can count
_MAP_NORESERVE = 0x4000  # linux/mman.h on x86-64 and arm64; the mmap module of Python 3.11 does not name it

_BITS = {
    "BOOL": 8, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8,
    "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "F32": 32,
    "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip
_TORCH_NAMES = {
    "BOOL": "bool", "F4": "float4_e2m1fn_x2", "U8": "uint8", "I8": "int8", "F8_E5M2": "float8_e5m2",
    "F8_E4M3": "float8_e4m3fn", "F8_E8M0": "float8_e8m0fnu", "F8_E4M3FNUZ": "float8_e4m3fnuz",
    "F8_E5M2FNUZ": "float8_e5m2fnuz", "I16": "int16", "U16": "uint16", "F16": "float16", "BF16": "bfloat16",
    "I32": "int32", "U32": "uint32", "F32": "float32", "C64": "complex64", "F64": "float64", "I64": "int64",
    "U64": "uint64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class TensorView:
    """Where a tensor is in its file: ``begin`` and ``end`` in bytes from the start of the file, ``dtype`` as the format
    spells it (``F32``, ``BF16`` …)."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Header:
    """What a safetensors file says of itself."""

    tensors: Mapping[str, TensorView]
    metadata: Mapping[str, str]


def weight_files(files: Mapping[str, str]) -> dict[str, str]:
    """Return the safetensors among a source's ``files`` (name -> path), by name.

    Raises ``PickledWeights`` when the only weights are pickled.
    """
    chosen = {name: files[name] for name in sorted(files) if name.endswith(".safetensors")}
    refused = sorted(name for name in files if is_pickled(name))
    if refused and not chosen:
        raise pickled(refused[0])
    return chosen


def read_header(path: str | Path) -> Header:
    """Return the checked header of a safetensors file.

    Raises ``WeightsMalformed``, ``WeightsTruncated``, ``PickledWeights`` (by name), or ``WeightsError`` when the file
    cannot be read.
    """
    descriptor = _open(path)
    try:
        return _read_header(path, descriptor)
    finally:
        os.close(descriptor)


def tensors(path: str | Path) -> dict[str, torch.Tensor]:
    """Map a safetensors file and return its tensors by name; no bytes are read until they are used.

    A tensor whose place in the file is not aligned to its element size (only files written by hand have those) is
    copied into memory of its own. Raises as ``read_header``, and ``DtypeUnsupported``.
    """
    descriptor = _open(path)
    try:
        header = _read_header(path, descriptor)
        mapping = mmap.mmap(
            descriptor, 0, flags=mmap.MAP_PRIVATE | _MAP_NORESERVE, prot=mmap.PROT_READ | mmap.PROT_WRITE
        )
    except OSError as error:
        raise WeightsError(f"{path}: cannot be mapped: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        return {name: _tensor(view, mapping) for name, view in header.tensors.items()}
    except DtypeUnsupported as error:
        raise DtypeUnsupported(f"{path}: {error}") from None


def _open(path: str | Path) -> int:
    if is_pickled(str(path)):
        raise pickled(str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise WeightsError(f"{path}: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise WeightsError(f"{path}: {os.strerror(errno.EINVAL)}: not a regular file")
    return descriptor


def _read_header(path: str | Path, descriptor: int) -> Header:
    size = os.fstat(descriptor).st_size
    if size < 8:
        raise WeightsTruncated(f"{path}: {size} bytes; a safetensors file has at least 8")
    length = int.from_bytes(os.pread(descriptor, 8, 0), "little")
    if length > MAX_HEADER_BYTES:
        raise WeightsMalformed(f"{path}: not safetensors, or a header of {length} bytes; limit {MAX_HEADER_BYTES}")
    if 8 + length > size:
        raise WeightsTruncated(f"{path}: header of {length} bytes in a file of {size}")
    text = os.pread(descriptor, length, 8)
    try:
        return _checked(_parse(text), start=8 + length, size=size)
    except WeightsTruncated as error:
        raise WeightsTruncated(f"{path}: {error}") from None
    except WeightsMalformed as error:
        raise WeightsMalformed(f"{path}: {error}") from None


def _parse(text: bytes) -> dict[str, Any]:
    if not text.startswith(b"{"):
        raise WeightsMalformed("not safetensors: the header does not start with '{'")
    try:
        return dict(json.loads(text.decode(), object_pairs_hook=_unique, parse_constant=_refuse_constant))
    except (ValueError, RecursionError) as error:  # ValueError: not JSON, not UTF-8, an integer of 5,000 digits
        raise WeightsMalformed(f"the header is not JSON: {str(error)[:200]}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise WeightsMalformed(f"{next(name for name in names if names.count(name) > 1)!r} appears twice")
    return found


def _refuse_constant(text: str) -> None:
    raise WeightsMalformed(f"{text} is not JSON")


def _checked(header: dict[str, Any], *, start: int, size: int) -> Header:
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise WeightsMalformed("__metadata__ is not a mapping of strings")
    views = {name: _view(name, entry, start) for name, entry in header.items()}
    reached, before = start, "the header"
    for name, view in sorted(views.items(), key=lambda item: (item[1].begin, item[1].end)):
        if view.begin != reached:
            kind = "overlap" if view.begin < reached else "have a hole between them"
            raise WeightsMalformed(f"{before} and {name!r} {kind}")
        reached, before = view.end, repr(name)
    if reached > size:
        raise WeightsTruncated(f"{size} bytes, but {before} ends at {reached}")
    if reached < size:
        raise WeightsMalformed(f"{size - reached} bytes after the last tensor belong to nothing")
    return Header(views, metadata)


def _view(name: str, entry: Any, start: int) -> TensorView:
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise WeightsMalformed(f"{name!r} has not exactly dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    bits = _BITS.get(dtype) if isinstance(dtype, str) else None
    if bits is None:
        raise WeightsMalformed(f"{name!r} has the unknown dtype {dtype!r:.40}")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise WeightsMalformed(f"{name!r}: shape and data_offsets must be lists of non-negative integers")
    begin, end = offsets
    if math.prod(extent for extent in shape if extent) > _MAX_ELEMENTS:  # an extent of 0 must not hide the others
        raise WeightsMalformed(f"{name!r} has more elements than can be counted")
    if math.prod(shape) * bits != (end - begin) * 8:
        raise WeightsMalformed(f"{name!r} of {dtype} {shape!s:.80} does not take {end - begin} bytes")
    return TensorView(dtype, tuple(shape), start + begin, start + end)


def _counts(value: Any) -> bool:
    # type() rather than isinstance(): True is an int
    return isinstance(value, list) and all(type(item) is int and 0 <= item <= _MAX_ELEMENTS for item in value)


def _tensor(view: TensorView, mapping: mmap.mmap) -> torch.Tensor:
    import torch  # late, as documented: reading headers must not cost the import of torch

    name = _TORCH_NAMES.get(view.dtype)
    dtype = getattr(torch, name, None) if name is not None else None
    if dtype is None:
        raise DtypeUnsupported(f"torch {torch.__version__} has no dtype for {view.dtype}")
    shape = view.shape
    if view.dtype == "F4":  # torch packs two of them in an element
        if not shape or shape[-1] % 2:
            raise DtypeUnsupported(f"F4 of shape {shape}: the last extent must be even")
        shape = (*shape[:-1], shape[-1] // 2)
    size = view.end - view.begin
    if size == 0:
        return torch.empty(shape, dtype=dtype)
    if view.begin % dtype.itemsize:
        return (
            torch.frombuffer(mapping, dtype=torch.uint8, count=size, offset=view.begin).clone().view(dtype).view(shape)
        )
    return torch.frombuffer(mapping, dtype=dtype, count=size // dtype.itemsize, offset=view.begin).view(shape)
